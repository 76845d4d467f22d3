"""What users write of their own videos: lists of ids, and CSVs of labels and of rated segments."""

import csv
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helperbot.files import replacing

from yt8m.common.errors import Faults, UserError
from yt8m.data.partitions import NAME_COLUMNS
from yt8m.data.segments import SEGMENT_SECONDS
from yt8m.data.tables import read_column, read_table, whole_number
from yt8m.data.vocabulary import LARGEST_LABEL, plain_name, read_vocabulary

LABEL_COLUMNS = ("vid", "label")
RATING_COLUMNS = ("vid", "start", "label", "score")
SPAN_COLUMNS = ("vid", "label", "start", "end")
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
    faults = Faults(path)
    rows: dict[tuple[str, str], LabelRow] = {}
    for line, (video_id, label) in read_table(path, LABEL_COLUMNS):
        row = LabelRow(line, video_id.strip(), plain_label(label))
        for field, value in (("vid", row.video_id), ("label", row.label)):
            if not value:
                faults.add(f"line {line}: {field} is empty")
        rows.setdefault((row.video_id, row.label), row)
    faults.raise_any()
    return list(rows.values())


def read_ratings(path: Path) -> list[RatingRow]:
    """The ratings of a CSV with the columns vid, start, label and score, what is said again once.

    Raises `UserError` that lists what is wrong.
    """
    faults = Faults(path)
    rows: dict[tuple[str, int, str], RatingRow] = {}
    for line, (video_id, start_text, label, score_text) in read_table(path, RATING_COLUMNS):
        start, score = whole_number(start_text), whole_number(score_text)
        if start is None or start % SEGMENT_SECONDS or not 0 <= start <= _LARGEST_START:
            faults.add(f"line {line}: start: expected a multiple of {SEGMENT_SECONDS} seconds, found {start_text!r}")
        if score not in (0, 1):
            faults.add(f"line {line}: score: expected 0 or 1, found {score_text!r}")
        for field, value in (("vid", video_id), ("label", label)):
            if not value.strip():
                faults.add(f"line {line}: {field} is empty")
        row = RatingRow(line, video_id.strip(), start or 0, plain_label(label), int(score == 1))
        before = rows.setdefault((row.video_id, row.start, row.label), row)
        if before.score != row.score:
            faults.add(f"line {line}: rates the segment and label of line {before.line} again, otherwise")
    faults.raise_any()
    return list(rows.values())


def read_video_ids(path: Path) -> list[str]:
    """Ids of videos: of the column vid of a CSV, or of a file with one id a line and no header.

    Raises `UserError`, also for an id that comes twice.
    """
    faults = Faults(path)
    first: dict[str, int] = {}
    for line, field in read_column(path, "vid"):
        video_id = field.strip()
        if not video_id:
            faults.add(f"line {line}: vid is empty")
        elif first.setdefault(video_id, line) != line:
            faults.add(f"line {line}: video {video_id!r} was on line {first[video_id]}")
    faults.raise_any()
    if not first:
        raise UserError(f"{path}: no video id in it; expected a column vid, or one id a line")
    return list(first)


_INTEGER = re.compile(r"-?[0-9]{1,1000}")  # as plain labels have them; Python does not convert much longer ones


def plain_label(text: str) -> str:
    """A label as it is compared: see `plain_name`; a whole number, however it is written, as its digits."""
    text = plain_name(text)
    number = whole_number(text)
    return text if number is None else str(number)


@dataclass(frozen=True)
class LabelText:
    """A label as line `line` of the CSV `source` has it."""

    source: Path
    line: int
    text: str


@dataclass(frozen=True)
class LabelIds:
    """The id of each label text, and the names of a new `vocabulary.csv`, in order, if there is to be one."""

    ids: dict[str, int]
    new_names: tuple[str, ...] = ()


def resolve_labels(texts: Sequence[LabelText], names_path: Path) -> LabelIds:
    """Label ids of what the CSVs have: integers are ids; names are those of `names_path`, or of one to be made.

    The texts are plain, see `plain_label`. Raises `UserError` for ids beside names, ids out of range, and names that
    `names_path` lacks.
    """
    first: dict[str, LabelText] = {}
    for label in texts:
        first.setdefault(label.text, label)
    numbers = [label for label in first.values() if _INTEGER.fullmatch(label.text)]
    names = [label for label in first.values() if not _INTEGER.fullmatch(label.text)]
    if numbers and names:
        number, name = numbers[0], names[0]
        raise UserError(
            f"{name.source}: line {name.line}: label {name.text!r} is a name, but {number.text!r} of {number.source}, "
            f"line {number.line}, is a label id; write ids throughout, or names that are more than a number"
        )
    if not names:
        return LabelIds(_as_ids(numbers))
    if not names_path.exists():
        ordered = sorted(first)
        return LabelIds({name: number for number, name in enumerate(ordered)}, tuple(ordered))
    known = _read_names(names_path)
    faults = Faults(
        names_path, f"correct the name, or add a line with a new Index at the end of {names_path}; keep its other lines"
    )
    for label in names:
        where = f"of {label.source}, line {label.line}"
        if label.text not in known:
            near = difflib.get_close_matches(label.text, known, 1)
            faults.add(f"no name {label.text!r} {where}" + (f" (there is {near[0]!r})" if near else ""))
        elif len(known[label.text]) > 1:
            faults.add(f"{len(known[label.text])} labels have the name {label.text!r} {where}")
    faults.raise_any()
    return LabelIds({label.text: known[label.text][0] for label in names})


def save_names(names: Sequence[str], path: Path) -> None:
    """Write a `vocabulary.csv` that numbers these names from 0."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAME_COLUMNS)
        writer.writerows((number, "", name) for number, name in enumerate(names))


def _as_ids(labels: Sequence[LabelText]) -> dict[str, int]:
    ids = {label.text: int(label.text) for label in labels}
    for source in dict.fromkeys(label.source for label in labels):
        faults = Faults(source)
        for label in labels:
            if label.source == source and not 0 <= ids[label.text] <= LARGEST_LABEL:
                faults.add(
                    f"line {label.line}: label: expected a name or an id from 0 to {LARGEST_LABEL}, "
                    f"found {label.text!r}"
                )
        faults.raise_any()
    return ids


def _read_names(path: Path) -> dict[str, list[int]]:
    """The ids of each name of a `vocabulary.csv`. Raises `UserError`."""
    vocabulary = read_vocabulary(path)
    known: dict[str, list[int]] = {}
    for label, name in zip(vocabulary.labels.tolist(), vocabulary.names):
        known.setdefault(name, []).append(label)
    return known
