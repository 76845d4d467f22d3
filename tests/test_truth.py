"""Truth tables: accepted and refused ones."""

from pathlib import Path

import pytest

from yt8m.common.errors import UserError
from yt8m.scoring.ratings import read_truth, read_video_labels

NAMES = "Index,TrainVideoCount,Name\n4,9,dog\n9,8,bicycle\n11,7,dog bicycle\n"


@pytest.fixture(name="names")
def fixture_names(tmp_path: Path) -> Path:
    """A `vocabulary.csv`."""
    path = tmp_path / "vocabulary.csv"
    path.write_text(NAMES, encoding="utf-8")
    return path


@pytest.fixture(name="path")
def fixture_path(tmp_path: Path) -> Path:
    """Where the table is to be."""
    return tmp_path / "truth.csv"


def _table(path: Path, *rows: str, header: str = "vid,start,label,score") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_ids_that_look_like_something_else_stay_text(path: Path, names: Path) -> None:
    ids = ["0012", "NA", "null", "1e55", "nan", "True", "-inf", "12"]
    table = read_truth(_table(path, *(f"{video_id},30,5,1" for video_id in ids)), names)
    assert table["vid"].tolist() == ids


def test_a_truth_table_in_another_column_order_with_more_columns(path: Path, names: Path) -> None:
    table = read_truth(_table(path, "x,1,7,30,abcd", "y,0,8,35,efgh", header="note,score,label,start,vid"), names)
    assert list(table.columns) == ["vid", "start", "label", "score"]
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["efgh", 35, 8, 0]]
    assert [kind.kind for kind in table.dtypes[1:]] == ["i", "i", "i"]


def test_labels_may_be_names(path: Path, names: Path) -> None:
    table = read_truth(_table(path, "abcd,30,dog,1", "abcd,35, bicycle ,0", "abcd,30,dog bicycle,0"), names)
    assert table["label"].tolist() == [4, 9, 11]
    labels = read_video_labels(_table(path, "abcd,bicycle", "efgh,dog", header="vid,label"), names)
    assert labels.to_numpy().tolist() == [["abcd", 9], ["efgh", 4]]
    with pytest.raises(UserError, match=r"no name 'dogg' of .*truth.csv, line 2 \(there is 'dog'\)"):
        read_truth(_table(path, "abcd,30,dogg,1"), names)
    with pytest.raises(UserError, match="'dog' is a name, but '3' of .*truth.csv, line 3, is a label id"):
        read_truth(_table(path, "abcd,30,dog,1", "abcd,30,3,1"), names)


def test_names_need_a_list_of_them(path: Path, names: Path) -> None:
    names.unlink()
    with pytest.raises(UserError, match=f"^{names}: missing, but {path} names labels, such as 'cat'; .* or write ids$"):
        read_truth(_table(path, "abcd,30,dog,1", "abcd,30,cat,1"), names)
    assert read_truth(_table(path, "abcd,30,4,1"), names)["label"].tolist() == [4]


def test_agreeing_ratings_count_once_and_conflicting_ones_are_named(path: Path, names: Path) -> None:
    table = read_truth(_table(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,07,1", "abcd,35,7,0"), names)
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["abcd", 30, 8, 0], ["abcd", 35, 7, 0]]
    assert table.index.tolist() == [0, 1, 2]
    labels = read_video_labels(_table(path, "abcd,7", "abcd,8", "abcd,07", header="vid,label"), names)
    assert labels["label"].tolist() == [7, 8]
    with pytest.raises(
        UserError, match=f"^{path}: line 4: rates the segment and label of line 2 again, with another score$"
    ):
        read_truth(_table(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,7,0"), names)


@pytest.mark.parametrize(
    "header, row, parts",
    [
        ("vid,start,label", "abcd,30,7", ["columns vid,start,label,score", "'vid,start,label'"]),
        ("vid,start,class,score", "abcd,30,7,1", ["columns vid,start,label,score"]),
        ("abcd,30,7,1", "abcd,30,7,1", ["columns vid,start,label,score"]),
        ("vid,start,label,score", "abcd,35,7,2", ["line 2: score: expected 0 or 1, found '2'"]),
        ("vid,start,label,score", "abcd,35,7,-1", ["line 2: score: expected 0 or 1, found '-1'"]),
        ("vid,start,label,score", "abcd,30,7,0.5", ["line 2: score"]),
        ("vid,start,label,score", "abcd,30.5,7,1", ["line 2: start"]),
        ("vid,start,label,score", "abcd,,7,1", ["line 2: start"]),
        ("vid,start,label,score", "abcd,30,7", ["line 2: expected 4 fields"]),
        ("vid,start,label,score", f"abcd,{10**20},7,1", ["line 2: start"]),
        ("vid,start,label,score", f"abcd,30,{10**20},1", ["line 2: label: expected a name or an id"]),
        ("vid,start,label,score", f"abcd,30,{'9' * 5000},1", ["no name '999"]),
        ("vid,start,label,score", '"abcd,30,7,1', ["cannot be read as CSV"]),
    ],
)
def test_a_malformed_truth_table_is_named(header: str, row: str, parts: list[str], path: Path, names: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_truth(_table(path, row, header=header), names)
    message = str(caught.value)
    assert message.startswith((f"{path}: ", f"{names}: ")) and all(part in message for part in parts), message
    assert "\n" not in message


def test_an_unreadable_table_is_named(path: Path, names: Path) -> None:
    path.write_bytes(b"")
    for odd, reason in (
        (path, "expected a header"),
        (path.parent, "cannot be read"),
        (path.parent / "no.csv", "no such"),
    ):
        with pytest.raises(UserError, match=f"^{odd}: {reason}"):
            read_video_labels(odd, names)
