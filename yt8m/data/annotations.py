"""What users write of their own videos: lists of ids, and CSVs of labels and of rated segments."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yt8m.common.errors import UserError
from yt8m.common.problems import Problems
from yt8m.data.label_names import plain_label
from yt8m.data.segments import SEGMENT_SECONDS

LABEL_COLUMNS = ("vid", "label")
RATING_COLUMNS = ("vid", "start", "label", "score")
_LARGEST_START = 2**31 - 1 - SEGMENT_SECONDS


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label of a video, as line `line` of a CSV has it: a label id or a name."""

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
    for line, (video_id, label) in _read_table(path, LABEL_COLUMNS):
        row = LabelRow(line, video_id, plain_label(label))
        if not row.label:
            problems.add(f"line {line}: label is empty")
        rows.setdefault((row.video_id, row.label), row)
    problems.raise_any()
    return list(rows.values())


def read_ratings(path: Path) -> list[RatingRow]:
    """The ratings of a CSV with the columns vid, start, label and score, what is said again once.

    Raises `UserError` that lists what is wrong.
    """
    problems = Problems(path)
    rows: dict[tuple[str, int, str], RatingRow] = {}
    for line, (video_id, start_text, label, score_text) in _read_table(path, RATING_COLUMNS):
        start, score = _number(start_text), _number(score_text)
        if start is None or start % SEGMENT_SECONDS or not 0 <= start <= _LARGEST_START:
            problems.add(f"line {line}: start: expected a multiple of {SEGMENT_SECONDS} seconds, found {start_text!r}")
        if score not in (0, 1):
            problems.add(f"line {line}: score: expected 0 or 1, found {score_text!r}")
        if not label.strip():
            problems.add(f"line {line}: label is empty")
        row = RatingRow(line, video_id, int(start or 0), plain_label(label), int(score == 1))
        before = rows.setdefault((row.video_id, row.start, row.label), row)
        if before.score != row.score:
            problems.add(f"line {line}: rates the segment and label of line {before.line} again, otherwise")
    problems.raise_any()
    return list(rows.values())


def read_video_ids(path: Path) -> list[str]:
    """Ids of videos: of the column vid of a CSV, or of a file with one id a line and no header.

    Raises `UserError`, also for an id that comes twice.
    """
    lines = list(_read_lines(path))
    if lines and "vid" in lines[0][1]:
        column = lines[0][1].index("vid")
        found = [(line, fields[column] if column < len(fields) else "") for line, fields in lines[1:]]
    else:
        found = [(line, ",".join(fields)) for line, fields in lines]
    problems = Problems(path)
    first: dict[str, int] = {}
    for line, video_id in found:
        if not video_id:
            problems.add(f"line {line}: vid is empty")
        elif first.setdefault(video_id, line) != line:
            problems.add(f"line {line}: video {video_id!r} was on line {first[video_id]}")
    problems.raise_any()
    if not first:
        raise UserError(f"{path}: no video id in it; expected a column vid, or one id a line")
    return list(first)


def _number(text: str) -> float | None:
    """The finite number that a field is, None for any other."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and fields, in the order of `columns`, of each row of a CSV that may have further columns."""
    lines = _read_lines(path)
    _, header = next(lines, (0, []))
    if any(header.count(column) != 1 for column in columns):
        raise UserError(f"{path}: expected a header with the columns {','.join(columns)}, found {','.join(header)!r}")
    places = [header.index(column) for column in columns]
    empty = True
    for line, fields in lines:
        if len(fields) != len(header):
            raise UserError(
                f"{path}: line {line}: expected {len(header)} fields, as the header has, found {len(fields)}"
            )
        empty = False
        yield line, tuple(fields[place] for place in places)
    if empty:
        raise UserError(f"{path}: no row below the header {','.join(header)}")


def _read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line of a CSV that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
