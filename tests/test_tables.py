"""Users' tables: dialects of spreadsheets and csv.writer; anything else is named."""

import csv
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.common.errors import UserError
from yt8m.data.tables import read_column, read_table, whole_number
from yt8m.data.vocabulary import (
    LabelText,
    plain_label,
    read_labels,
    read_ratings,
    read_video_ids,
    read_vocabulary,
    resolve_labels,
)

COLUMNS = ["vid", "label", "start", "a note"]
_FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\x1f"), max_size=6) | st.sampled_from(
    [",", ";", "\t", '"', "\n", "\r\n", ' "a', "0012", "NA"]
)


@st.composite
def _tables(draw: st.DrawFn) -> dict[str, Any]:
    """A header, rows, and how csv.writer is to write them."""
    header = draw(st.permutations(COLUMNS))[: draw(st.integers(1, len(COLUMNS)))]
    rows = draw(st.lists(st.lists(_FIELDS, min_size=len(header), max_size=len(header)), min_size=1, max_size=5))
    return {
        "header": header,
        "rows": [*rows, ["x"] * len(header)],
        "wanted": draw(st.permutations(header))[: draw(st.integers(1, len(header)))],
        "delimiter": draw(st.sampled_from(",;\t")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig"])),
    }


@settings(max_examples=200, deadline=None)
@given(table=_tables())
def test_tables_of_csv_writers_are_read_back(table: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", newline="", encoding=table["encoding"]) as file:
            writer = csv.writer(file, delimiter=table["delimiter"], quoting=table["quoting"])
            writer.writerows([table["header"], *table["rows"]])
        found = list(read_table(path, table["wanted"], ["lacking", *table["header"]]))
        for name in table["header"]:
            column = [row[table["header"].index(name)] for row in table["rows"] if any(map(str.strip, row))]
            assert [field for _, field in read_column(path, name)] == column
    places = [table["header"].index(name) for name in table["wanted"]]
    assert [fields for _, fields in found] == [
        (*(row[place] for place in places), "", *row) for row in table["rows"] if any(map(str.strip, row))
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"label,vid\ndog,v1", [(2, ("v1", "dog"))]),
        (b"\xef\xbb\xbfvid;label\r\nv1;a,b\r\n", [(2, ("v1", "a,b"))]),
        (b'"vid"\t" label "\tnote\nv1\tdog\t"1\n2"\n\n \nv2\tcat\t\n', [(2, ("v1", "dog")), (6, ("v2", "cat"))]),
        (b'\n"vid";"label"\n"v1";"d""g"\n;\n', [(3, ("v1", 'd"g'))]),
        (b"vid,label\rv1,dog\r", [(2, ("v1", "dog"))]),
        (b"sep=;\r\nvid;label\r\nv1;a,b\r\n", [(3, ("v1", "a,b"))]),
        (b"\xef\xbb\xbfsep=,\nvid,label\nv1,dog\n", [(3, ("v1", "dog"))]),
        (b"sep=\t\nvid\tlabel\nv1\tdog\n", [(3, ("v1", "dog"))]),
        (b"vid;label\nsep=;x\n", [(2, ("sep=", "x"))]),
    ],
)
def test_tables_of_many_programs(tmp_path: Path, content: bytes, rows: list[tuple[int, tuple[str, str]]]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert list(read_table(path, ("vid", "label"))) == rows
    assert [(row.line, (row.video_id, row.label)) for row in read_labels(path)] == rows
    assert read_video_ids(path) == [video_id for _, (video_id, _) in rows]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("vid,label\nä,b\n".encode("utf-16"), 'is UTF-16; save it as "CSV UTF-8"'),
        ("vid,label\nv,b\n".encode("utf-16-le"), 'is UTF-16, or no text at all; save it as "CSV UTF-8"'),
        ("vid,label\nv,b\nä,b\n".encode("latin-1"), 'line 3: is not UTF-8; save it as "CSV UTF-8"'),
        (b"PK\x03\x04\x14\0", 'is a workbook or another zip file; save it as "CSV UTF-8"'),
        (b"", "expected a header with the columns vid,label, found ''"),
        (b"\nvid;name\nv1;a\n", "expected a header with the columns vid,label, found 'vid;name'"),
        (b"vid,label,vid\nv1,a,v1\n", "found 'vid,label,vid'"),
        (b"vid,label\n\n,\n", "no row below the header vid,label"),
        (b"sep=;\nvid,label\n", "no row below the header vid,label"),
        (b"sep=;\nvid;label\nv1\n", "line 3: expected 2 fields, as the header has, found 1"),
        (b"sep=;\nvid;name\nv1;a\n", "expected a header with the columns vid,label, found 'vid;name'"),
        (b"sep=;", "expected a header with the columns vid,label, found 'sep=;'"),
        (b"vid,label\n\nv1,a,b\n", "line 3: expected 2 fields, as the header has, found 3"),
        (b"vid;label\nv1,a\n", "line 2: expected 2 fields, as the header has, found 1"),
        (b'vid,label\nv1,a\nv2,"b\nv3,c\n', "line 3: cannot be read as CSV (unexpected end of data); fix the quot"),
        (b"vid,label,note,note\nv1,a,b,c\n", "has the column note 2 times; keep one"),
        (None, "no such file"),
    ],
)
def test_files_without_the_columns_are_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_table(path, ("vid", "label"), ("note",)))
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        list(read_table(tmp_path, ("vid",)))


def test_lists_of_ids_need_no_header(tmp_path: Path) -> None:
    path = tmp_path / "videos.txt"
    for text in (
        'v1\n\n"v,2"\n v3 \n',
        "\ufeffvid\nv1\nv,2\nv3\n",
        "note;vid\n;v1\nx;v,2\n;v3\n",
        "sep=;\nvid\nv1\nv,2\nv3\n",
        "sep=;\nv1\nv,2\nv3\n",
    ):
        path.write_text(text, encoding="utf-8")
        assert read_video_ids(path) == ["v1", "v,2", "v3"]
    for text, said in (("note,vid\na,v1\nb,\n", "line 3: vid is empty"), ("v1\nv2\nv1", "line 3: .*was on line 1")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            read_video_ids(path)


def test_blanks_around_ids_and_labels_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("vid; start; label; score\nv1 ;30; dog ;1\n v1;30;dog;1\n", encoding="utf-8")
    assert [(row.video_id, row.label) for row in read_ratings(path)] == [("v1", "dog")]
    path.write_text("vid,start,label,score\n,30, ,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: vid is empty; line 2: label is empty"):
        read_ratings(path)


def test_names_in_a_spreadsheets_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.csv"
    label = LabelText(tmp_path / "labels.csv", 2, "Änderung")
    path.write_bytes("\ufeffIndex;Name\r\n7; Änderung\r\n9;dog\r\n".encode())
    assert resolve_labels([label], path).ids == {"Änderung": 7}
    path.write_text("Index,Name\n7,dog\nx,cat\n7,Änderung\n", encoding="utf-8")
    with pytest.raises(
        UserError, match="line 3: Index 'x' is not a label id; line 4: Index 7 is on line 2 already; expected"
    ):
        resolve_labels([label], path)


@pytest.mark.parametrize(
    "text, number",
    [
        ("12", 12),
        (" 12.0 ", 12),
        ("12.", 12),
        ("+007", 7),
        ("-3.00", -3),
        ("1e3", 1000),
        ("1.2E+03", 1200),
        ("1.5e1", 15),
        ("0e0", 0),
        ("9" * 1000, int("9" * 1000)),
        *((text, None) for text in ("1.50", "1e-3", "true", "Infinity", "nan", "1_000", "0x10", "", "-", "1.0.0", "٣")),
    ],
)
def test_whole_numbers_as_spreadsheets_and_pandas_write_them(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@given(
    st.integers(0, 2**31 - 1), st.sampled_from(["{}", "{}.0", "{:.1f}", "{:e}", "{:.9E}", "+{}", "00{}", " {}.000 "])
)
def test_a_label_is_the_same_however_it_is_written(label: int, form: str) -> None:
    written = form.format(label)
    assert plain_label(written) == str(int(Decimal(written.strip())))  # "{:e}" keeps seven digits


def test_tables_that_pandas_has_made_floats_of(tmp_path: Path) -> None:
    ratings, labels, table = tmp_path / "ratings.csv", tmp_path / "labels.csv", tmp_path / "vocabulary.csv"
    ratings.write_text("vid,start,label,score\nv,30.0,12.0,1.0\nv,3.5e1,1e3,0.0\n", encoding="utf-8")
    assert [(row.start, row.label, row.score) for row in read_ratings(ratings)] == [(30, "12", 1), (35, "1000", 0)]
    labels.write_text("vid,label\nv,12.0\nv,12\nw,1000.0\n", encoding="utf-8")
    assert [(row.video_id, row.label) for row in read_labels(labels)] == [("v", "12"), ("w", "1000")]
    table.write_text("Index,Name\n12.0,1.50\n1e3,Infinity\n7,true\n", encoding="utf-8")
    vocabulary = read_vocabulary(table)
    assert vocabulary.labels.tolist() == [12, 1000, 7] and vocabulary.names == ("1.50", "Infinity", "true")
    for text in ("7.5", "nan", "1e-3"):
        ratings.write_text(f"vid,start,label,score\nv,{text},12,1\n", encoding="utf-8")
        with pytest.raises(UserError, match="line 2: start: expected a multiple of 5 seconds"):
            read_ratings(ratings)
