"""`check_submission` on valid and invalid submissions."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from yt8m.data.candidates import Candidates, save_candidates
from yt8m.data.vocabulary import Vocabulary
from yt8m.ranking.submission import SubmissionCheck

Command = Callable[..., Outcome]
VIDEOS = {"aB3d": 3, "0012": 1}  # candidate segments of each
NAMES = ["aB3d:30", "aB3d:35", "aB3d:40", "0012:30"]
META = Candidates(np.arange(2), np.array(list(VIDEOS), np.bytes_), np.cumsum(list(VIDEOS.values())))
GOOD = ["Class,Segments", "3,aB3d:35 0012:30 aB3d:30", "40,aB3d:40 aB3d:30 0012:30"]


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path: Path) -> Path:
    (tmp_path / "segment_vocabulary.csv").write_text("Index,Name\n3,three\n40,forty\n", encoding="utf-8")
    save_candidates(META, tmp_path / "cache")
    return tmp_path


def _check(command: Command, data_dir: Path, lines: list[str], *options: object) -> Outcome:
    path = data_dir / "sub.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return command("check_submission", path, "--data-dir", data_dir, *options)


def test_a_good_submission(command: Command, data_dir: Path) -> None:
    outcome = _check(command, data_dir, GOOD, "--top-k", 3)
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out == (f"{data_dir / 'sub.csv'}: 2 classes of 2, 6 segments listed, of 4 in 2 videos\nvalid\n")
    outcome = _check(command, data_dir, GOOD)
    assert outcome.status == 0 and "2 classes list fewer than they may, 0 of them none" in outcome.out
    outcome = _check(command, data_dir, [*GOOD[:2], "40,"])
    assert outcome.status == 0 and "2 classes list fewer than they may, 1 of them none" in outcome.out
    compressed = data_dir / "sub.csv.gz"
    compressed.write_bytes(gzip.compress("\r\n".join(GOOD).encode()))
    assert command("check_submission", compressed, "--data-dir", data_dir).status == 0


def test_quoted_fields_and_a_byte_order_mark_are_as_good(command: Command, data_dir: Path) -> None:
    """As spreadsheets and pandas write them."""
    quoted = [",".join(f'"{field}"' for field in line.split(",")) for line in GOOD]
    for lines in (quoted, ["\ufeff" + GOOD[0], *GOOD[1:]], ["\ufeff" + quoted[0], GOOD[1], quoted[2]]):
        outcome = _check(command, data_dir, lines, "--top-k", 3)
        assert outcome.status == 0 and "2 classes of 2, 6 segments listed" in outcome.out, outcome.out


def test_the_largest_label_ids(command: Command, data_dir: Path) -> None:
    labels = [2**31 - 1, 1_000_000_000]
    rows = "".join(f"{label},name {label}\n" for label in labels)
    (data_dir / "segment_vocabulary.csv").write_text(f"Index,Name\n{rows}", encoding="utf-8")
    lines = [GOOD[0], *(f"{label},aB3d:35 0012:30" for label in labels)]
    assert _check(command, data_dir, lines).status == 0
    outcome = _check(command, data_dir, [*lines, f"{10**10},aB3d:35"])
    assert outcome.status == 1 and "1 lines without a class id and a comma" in outcome.out


@pytest.mark.parametrize(
    "lines, problem",
    [
        (["Class,Segment", *GOOD[1:]], "1 the header is not Class,Segments; the first: line 1: 'Class,Segment'"),
        (GOOD[1:], "1 the header is not Class,Segments"),
        (GOOD[:2], "1 classes of the vocabulary without a line; the first: class 40"),
        ([*GOOD, "41,aB3d:30"], "1 classes that are not in the vocabulary; the first: line 4: class 41"),
        ([*GOOD, "3,aB3d:30"], "1 classes with a line already; the first: line 4: class 3, as line 2"),
        ([*GOOD, "aB3d:30", ""], "2 lines without a class id and a comma; the first: line 4"),
        ([*GOOD, "x,aB3d:30"], "1 lines without a class id and a comma; the first: line 4"),
        (
            [GOOD[0], "3,aB3d:35 aB3d:35 0012:30 aB3d:35", GOOD[2]],
            "2 segments that are in a list more than once; the first: line 2, class 3: 'aB3d:35'",
        ),
        (
            [GOOD[0], "3,aB3d:35 zzzz:30 0012:35 aB3d:25", GOOD[2]],
            "2 starts that are not those of a candidate segment; the first: line 2, class 3: '0012:35'",
        ),
        (
            [GOOD[0], "3,aB3d:35 zzzz:30", GOOD[2]],
            "1 segments of videos that are not in the test set; the first: line 2, class 3: 'zzzz:30'",
        ),
        (
            [GOOD[0], "3,aB3d:35 aB3d 12 :30 aB3d: aB3d:-30  aB3d:35.0", GOOD[2]],
            "7 entries that are not <video id>:<start second>; the first: line 2, class 3: ''",
        ),
        ([GOOD[0], "3,aB3d:30,aB3d:35", GOOD[2]], "1 segments of videos that are not in the test set"),
        ([GOOD[0], "3,aB3d:30 " + "x" * 99, GOOD[2]], "the first: line 2, class 3: '" + "x" * 60 + "...'"),
        (
            [GOOD[0], "3,aB3d:35 aB3d:30 aB3d:40 0012:30", GOOD[2]],
            "1 lists of more than 3 segments; the first: line 2, class 3: 4",
        ),
    ],
)
def test_faults_are_named(lines: list[str], problem: str, command: Command, data_dir: Path) -> None:
    outcome = _check(command, data_dir, lines, "--top-k", 3)
    assert outcome.status == 1
    assert f"  {problem}" in outcome.out or problem in outcome.out
    assert outcome.out.splitlines()[-1] == "NOT VALID"


def test_unreadable_files_are_errors(command: Command, data_dir: Path) -> None:
    for path, said in ((data_dir / "none.csv", "cannot be read as a submission"), (data_dir, "cannot be read")):
        outcome = command("check_submission", path, "--data-dir", data_dir)
        assert outcome.status == 2 and said in outcome.err.splitlines()[-1]
    (data_dir / "cache" / "test_meta.npz").unlink()
    outcome = _check(command, data_dir, GOOD)
    assert outcome.status == 2 and "prepare_test_meta" in outcome.err


ENTRIES = st.lists(st.sampled_from([*NAMES, "aB3d:45", "0012:35", "none:30", "aB3d", "x" * 40]), max_size=6)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(ENTRIES, ENTRIES)
def test_counts_are_those_of_a_check_one_by_one(first: list[str], second: list[str]) -> None:
    import tempfile

    lists = {3: first, 40: second}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sub.csv"
        path.write_text(
            "Class,Segments\n" + "".join(f"{label},{' '.join(items)}\n" for label, items in lists.items()),
            encoding="utf-8",
        )
        findings = SubmissionCheck(META, Vocabulary(np.array([3, 40]), ("a", "b")), 4).check(path)
    expected = {"again": 0, "not <video id>": 0, "not in the test set": 0, "not those of a": 0, "more than 4": 0}
    for items in lists.values():
        expected["again"] += len(items) - len(set(items))
        expected["more than 4"] += len(items) > 4
        for item in items:
            video_id, colon, _ = item.partition(":")
            if item not in NAMES:
                kind = (
                    "not <video id>" if not colon else "not those of a" if video_id in VIDEOS else "not in the test set"
                )
                expected[kind] += 1
    found = {
        kind: sum(
            count
            for problem, (count, _) in findings.faults.items()
            if kind in problem.replace("more than once", "again")
        )
        for kind in expected
    }
    assert found == expected
    assert findings.n_entries == len(first) + len(second) and findings.n_lines == 2
