"""What users write of their own videos: lists of ids, and CSVs of labels and of rated segments."""

from dataclasses import dataclass
from pathlib import Path

from yt8m.common.errors import UserError
from yt8m.common.problems import Problems
from yt8m.data.label_names import plain_label
from yt8m.data.segments import SEGMENT_SECONDS
from yt8m.data.tables import read_column, read_table, whole_number

LABEL_COLUMNS = ("vid", "label")
RATING_COLUMNS = ("vid", "start", "label", "score")
_LARGEST_START = 2**31 - 1 - SEGMENT_SECONDS


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label of a video, as line `line` of a CSV has it: a label id or a name, see `plain_label`."""

    line: int
    video_id: str
    label: str


@dataclass(frozen=True, slots=True)
class RatingRow:
    """A rated segment, as line `line` of a CSV has it; `start` in seconds, `score` 0 or 1."""

    line: int
    video_id: str
    start: int
    label: str
    score: int


def read_labels(path: Path) -> list[LabelRow]:
    """The labels of a CSV with the columns vid and label, what is said again once.

    Raises `UserError` that lists what is wrong.
    """
    problems = Problems(path)
    rows: dict[tuple[str, str], LabelRow] = {}
    for line, (video_id, label) in read_table(path, LABEL_COLUMNS):
        row = LabelRow(line, video_id.strip(), plain_label(label))
        for field, value in (("vid", row.video_id), ("label", row.label)):
            if not value:
                problems.add(f"line {line}: {field} is empty")
        rows.setdefault((row.video_id, row.label), row)
    problems.raise_any()
    return list(rows.values())


def read_ratings(path: Path) -> list[RatingRow]:
    """The ratings of a CSV with the columns vid, start, label and score, what is said again once.

    Raises `UserError` that lists what is wrong.
    """
    problems = Problems(path)
    rows: dict[tuple[str, int, str], RatingRow] = {}
    for line, (video_id, start_text, label, score_text) in read_table(path, RATING_COLUMNS):
        start, score = whole_number(start_text), whole_number(score_text)
        if start is None or start % SEGMENT_SECONDS or not 0 <= start <= _LARGEST_START:
            problems.add(f"line {line}: start: expected a multiple of {SEGMENT_SECONDS} seconds, found {start_text!r}")
        if score not in (0, 1):
            problems.add(f"line {line}: score: expected 0 or 1, found {score_text!r}")
        for field, value in (("vid", video_id), ("label", label)):
            if not value.strip():
                problems.add(f"line {line}: {field} is empty")
        row = RatingRow(line, video_id.strip(), start or 0, plain_label(label), int(score == 1))
        before = rows.setdefault((row.video_id, row.start, row.label), row)
        if before.score != row.score:
            problems.add(f"line {line}: rates the segment and label of line {before.line} again, otherwise")
    problems.raise_any()
    return list(rows.values())


def read_video_ids(path: Path) -> list[str]:
    """Ids of videos: of the column vid of a CSV, or of a file with one id a line and no header.

    Raises `UserError`, also for an id that comes twice.
    """
    problems = Problems(path)
    first: dict[str, int] = {}
    for line, field in read_column(path, "vid"):
        video_id = field.strip()
        if not video_id:
            problems.add(f"line {line}: vid is empty")
        elif first.setdefault(video_id, line) != line:
            problems.add(f"line {line}: video {video_id!r} was on line {first[video_id]}")
    problems.raise_any()
    if not first:
        raise UserError(f"{path}: no video id in it; expected a column vid, or one id a line")
    return list(first)
