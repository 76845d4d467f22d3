"""`evaluate_spans`: found spans against true ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import Outcome
from yt8m.scoring.span_overlap import Overlap

FOUND = "video_id,label,class,start,end,mean,highest,highest_at\n"
TRUE = "vid,label,start,end\n"
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda span: (span[0], span[0] + span[1])))


def seconds(spans: list[tuple[int, int]]) -> set[int]:
    """The whole seconds of spans, one by one."""
    return {second for start, end in spans for second in range(start, end)}


@given(SPANS, SPANS)
def test_iou_is_that_of_the_sets_of_seconds(true: list[tuple[int, int]], found: list[tuple[int, int]]) -> None:
    overlap = Overlap("v", "dog", true, found)
    either = seconds(true) | seconds(found)
    expected = len(seconds(true) & seconds(found)) / len(either) if either else 1
    assert overlap.iou == pytest.approx(expected)


def test_table_and_mean(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(
        f"{FOUND}a,0,Taxi,5,20,.9,.9,5\na,1,rabbit,30,35,.9,.9,5\nc,1,rabbit,0,5,1,1,0\n"
    )
    (tmp_path / "true.csv").write_text(f"{TRUE}a,taxi,8,22\nb,taxi,0,5.5\n")
    outcome = command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv")
    assert outcome.status == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["a", "taxi", "8–22", "5–20", "0.71"] in rows
    assert ["a", "rabbit", "none", "30–35", "0.00"] in rows  # found where nothing is
    assert ["b", "taxi", "0–5.5", "none", "0.00"] in rows
    assert not any(row[:1] == ["c"] for row in rows)  # of which nothing is known
    assert outcome.out.endswith(f"3 pairs of a video and a class: {12 / 17 / 3:.3f}\n")


def test_a_model_that_finds_nothing_scores_0(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(FOUND)
    (tmp_path / "true.csv").write_text(f"{TRUE}a,taxi,8,22\nb,taxi,0,5.5\n")
    outcome = command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv")
    assert outcome.status == 0 and outcome.out.endswith("2 pairs of a video and a class: 0.000\n")
    (tmp_path / "true.csv").write_text(TRUE)
    outcome = command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv")
    assert outcome.status == 2 and "true.csv: no row" in outcome.err  # there has to be a truth


def test_the_truth_may_have_names_of_films_that_are_no_ids(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(f"{FOUND}my_film__1,17,Taxi,5,20,.9,.9,5\n", encoding="utf-8")
    (tmp_path / "true.csv").write_text(f"{TRUE}my film: 1,taxi,5,20\n", encoding="utf-8")
    outcome = command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv")
    assert "pair of a video and a class: 1.000" in outcome.out


def test_label_ids(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(f"{FOUND}a,17,Taxi,5,20,.9,.9,5\n")
    (tmp_path / "true.csv").write_text(f"{TRUE}a,17,5,20\n")
    assert (
        "pair of a video and a class: 1.000"
        in command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv").out
    )


@pytest.mark.parametrize(
    "true, message",
    [
        ("a,taxi,8,8\n", "true.csv: line 2: start, end: expected seconds"),
        ("a,taxi,8,x\n", "found '8', 'x'"),
        ("b,taxi,0,5\n", "none of its videos is in"),
    ],
)
def test_mistakes(command: Callable[..., Outcome], tmp_path: Path, true: str, message: str) -> None:
    (tmp_path / "found.csv").write_text(f"{FOUND}a,0,taxi,5,20,.9,.9,5\n")
    (tmp_path / "true.csv").write_text(TRUE + true)
    outcome = command("evaluate_spans", tmp_path / "found.csv", tmp_path / "true.csv")
    assert outcome.status == 2
    assert message in outcome.err
