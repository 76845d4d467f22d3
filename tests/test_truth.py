"""Truth tables: what is read as it stands, and what is refused."""

from pathlib import Path

import pytest

from yt8m.common.errors import UserError
from yt8m.scoring.truth import read_table, read_truth


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "truth.csv"


def _truth(path: Path, *rows: str, header: str = "vid,start,label,score") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_ids_that_look_like_something_else_stay_text(path: Path) -> None:
    ids = ["0012", "NA", "null", "1e55", "nan", "True", "-inf", "12"]
    table = read_truth(_truth(path, *(f"{video_id},30,5,1" for video_id in ids)))
    assert table["vid"].tolist() == ids


def test_a_truth_table_in_another_column_order_with_more_columns(path: Path) -> None:
    table = read_truth(_truth(path, "x,1,7,30,abcd", "y,0,8,35,efgh", header="note,score,label,start,vid"))
    assert list(table.columns) == ["vid", "start", "label", "score"]
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["efgh", 35, 8, 0]]
    assert [kind.kind for kind in table.dtypes[1:]] == ["i", "i", "i"]


def test_agreeing_ratings_count_once_and_conflicting_ones_are_named(path: Path) -> None:
    table = read_truth(_truth(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,7,1", "abcd,35,7,0"))
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["abcd", 30, 8, 0], ["abcd", 35, 7, 0]]
    assert table.index.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=f"{path}: abcd:30 has two different scores for label 7"):
        read_truth(_truth(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,7,0"))


@pytest.mark.parametrize("score", [-1, 2])
def test_a_score_that_is_neither_0_nor_1_is_named(score: int, path: Path) -> None:
    with pytest.raises(UserError, match=f"{path}: abcd:35 has the score {score} for label 7, expected 0 or 1"):
        read_truth(_truth(path, "abcd,30,7,1", f"abcd,35,7,{score}"))


@pytest.mark.parametrize(
    "header, row",
    [
        ("vid,start,label", "abcd,30,7"),
        ("vid,start,class,score", "abcd,30,7,1"),
        ("abcd,30,7,1", "abcd,30,7,1"),
        ("vid,start,label,score", "abcd,30,7,0.5"),
        ("vid,start,label,score", "abcd,30.5,7,1"),
        ("vid,start,label,score", "abcd,30,seven,1"),
        ("vid,start,label,score", "abcd,,7,1"),
        ("vid,start,label,score", "abcd,30,7"),
        ("vid,start,label,score", f"abcd,{10**20},7,1"),
        ("vid,start,label,score", '"abcd,30,7,1'),
    ],
)
def test_a_malformed_truth_table_is_named(header: str, row: str, path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_truth(_truth(path, row, header=header))
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a CSV with the columns vid, start, label, score, integers but for vid")
    assert "\n" not in message


def test_an_unreadable_table_is_named(path: Path) -> None:
    path.write_bytes(b"")
    for odd in (path, path.parent, path.parent / "missing.csv"):
        with pytest.raises(UserError, match=f"{odd}: expected a CSV with the columns vid, label"):
            read_table(odd, ["vid", "label"])
