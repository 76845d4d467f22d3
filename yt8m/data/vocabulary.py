"""Classes and labels: `segment_vocabulary.csv`, one row per class, and labels in users' CSVs."""

import csv
import difflib
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from helperbot.files import replacing

from yt8m.common.errors import Faults, UserError, listed
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.index import Index
from yt8m.data.partitions import NAME_COLUMNS, NAMES_FILE
from yt8m.data.records import composed
from yt8m.data.tables import read_column, read_table, whole_number

LOGGER = logging.getLogger(__name__)
VOCABULARY_FILE = "segment_vocabulary.csv"
CHALLENGE_FILE = Path(__file__).with_name(VOCABULARY_FILE)  # as published, CC BY 4.0
LARGEST_LABEL = 2**31 - 1


def plain_name(text: str) -> str:
    """A name or video id normalized for comparison: stripped, with composed accents."""
    return composed(text.strip())


def _no_name(label: int) -> str:
    """The name of a class without one."""
    return f"label {label}"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """C classes: the row number is the class index, whatever the order of the label ids.

    `labels` (C,): distinct ids of at least 0; `names` of the classes, "label <id>" for a blank name; `source`: the
    origin of the classes, for messages.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    source: str = field(default="the vocabulary")

    def __post_init__(self) -> None:
        shown = [plain_name(name) or _no_name(label) for name, label in zip(self.names, self.labels.tolist())]
        object.__setattr__(self, "names", tuple(shown))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _ascending(self) -> np.ndarray:
        """The rows in the order of their label ids, (C,)."""
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the label ids in order, which identifies the meaning of outputs."""
        return hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Class index of each label id, -1 for labels outside the vocabulary. Same shape, int64."""
        order = self._ascending
        places = np.searchsorted(self.labels, labels, sorter=order).clip(max=len(order) - 1)
        rows = order[places]
        return np.where(self.labels[rows] == labels, rows, -1)

    def rows_in(self, other: "Vocabulary") -> np.ndarray:
        """The row of each class in another vocabulary of the same label ids, (C,).

        Raises `UserError` naming ids that only one of the two has, and if most names differ.
        """
        rows = other.classes(self.labels)
        differing = [
            f"only {there.source} has {_listed(there, np.flatnonzero(here.classes(there.labels) < 0))}"
            for here, there in ((self, other), (other, self))
            if (here.classes(there.labels) < 0).any()
        ]
        if differing:
            raise UserError(f"{other.source}: other classes than those of {self.source}: {'; '.join(differing)}")
        self.compare_names(other)
        return rows

    def compare_names(self, other: "Vocabulary") -> None:
        """Warn of label ids with different names in the two vocabularies; raise `UserError` if most names differ.

        Users' label ids often start at 0: equal ids need not be the same classes.
        """
        theirs = dict(zip(other.labels.tolist(), other.names))
        pairs = [
            (label, name, theirs[label])
            for label, name in zip(self.labels.tolist(), self.names)
            if theirs.get(label, _no_name(label)) != _no_name(label) != name
        ]
        differing = [(label, *names) for label, *names in pairs if names[0].casefold() != names[1].casefold()]
        if not differing:
            return
        shown = listed([f"{label} is {theirs!r} there and {ours!r} here" for label, ours, theirs in differing])
        what = f"{other.source}: has other names than {self.source} for the same label ids: {shown}"
        if 2 * len(differing) > len(pairs):
            raise UserError(f"{what}; if the classes are the same, give them the same names in both")
        LOGGER.warning("%s", what)


def _listed(vocabulary: Vocabulary, rows: np.ndarray) -> str:
    """The label ids and names of the first few classes."""
    return listed([f"{vocabulary.labels[row]} ({vocabulary.names[row]})" for row in rows.tolist()])


def load_vocabulary(data_dir: Path) -> Vocabulary:
    """Read `segment_vocabulary.csv` of a data folder. Raises `UserError` if it is missing or malformed."""
    path = data_dir / VOCABULARY_FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no vocabulary; put the challenge's file there or run "
            f"`python -m yt8m.prepare_vocabulary --data-dir {data_dir}`"
        )
    vocabulary = read_vocabulary(path)
    if (data_dir / NAMES_FILE).is_file():
        names = read_vocabulary(data_dir / NAMES_FILE)
        try:
            vocabulary.compare_names(names)
        except UserError as error:
            raise UserError(
                f"{error}; if {path} is not of this data, replace it: `python -m yt8m.prepare_vocabulary --overwrite "
                f"--data-dir {data_dir}`"
            ) from None
    return vocabulary


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary: a table with a column Index of distinct label ids in any order, and an optional column Name.

    Raises `UserError` for anything else.
    """
    faults = Faults(path, f"expected in column Index distinct label ids from 0 to {LARGEST_LABEL}, in any order")
    lines: dict[int, int] = {}
    names = []
    for line, (text, name) in read_table(path, ("Index",), ("Name",)):
        label = whole_number(text)
        if label is None or not 0 <= label <= LARGEST_LABEL:
            faults.add(f"line {line}: Index {text!r} is not a label id")
        elif lines.setdefault(label, line) != line:
            faults.add(f"line {line}: Index {label} is on line {lines[label]} already")
        names.append(name)
    faults.raise_any()
    return Vocabulary(np.array(list(lines), np.int64), tuple(names), str(path))


def named_vocabulary(path: Path | None) -> Vocabulary | None:
    """The vocabulary in the file of an option; None without the option. Raises `UserError`."""
    return None if path is None else read_vocabulary(path)


@cache
def challenge_vocabulary() -> Vocabulary:
    """The 1,000 classes of the challenge, in the order of models trained in 2019.

    It is not ascending: the classes 12 and 13, for example, are the labels 31 and 30.
    """
    vocabulary = read_vocabulary(CHALLENGE_FILE)
    return Vocabulary(vocabulary.labels, vocabulary.names, "the challenge's vocabulary")


VOCABULARY_COLUMNS = (*NAME_COLUMNS, "PositiveSegmentCount", "TotalSegmentCount")


def derive_vocabulary(index: Index, official: Path | None) -> pd.DataFrame:
    """The vocabulary table of a rated set: its distinct rated labels, ascending, or in the challenge's order if they
    are the challenge's.

    Names and Knowledge Graph ids come from the `official` `vocabulary.csv` if given, else from the challenge's table if
    the labels are the challenge's; otherwise names are "label <id>".
    """
    if not index.rating_label.size:
        raise UserError(f"{index.folder}: no record has segment ratings; the vocabulary comes from the rated set")
    table = pd.DataFrame({"Index": index.rating_label, "positive": index.rating_score > 0})
    grouped = table.groupby("Index")["positive"]
    counts = pd.DataFrame({"PositiveSegmentCount": grouped.sum(), "TotalSegmentCount": grouped.size()})
    counts = counts.reset_index()
    challenge = challenge_vocabulary()
    if set(counts["Index"]) == set(challenge.labels.tolist()):
        counts = counts.set_index("Index").loc[challenge.labels].reset_index()
        official = official or CHALLENGE_FILE
    counts["KnowledgeGraphId"] = ""
    counts["Name"] = [f"label {label}" for label in counts["Index"]]
    if official is not None:
        known = _read_csv(official)
        if not set(NAME_COLUMNS) <= set(known.columns) or not pd.api.types.is_integer_dtype(known["Index"]):
            raise UserError(f"{official}: expected the columns Index (of label ids), KnowledgeGraphId and Name")
        known = known.drop_duplicates("Index").set_index("Index")
        for column in ("KnowledgeGraphId", "Name"):
            found = counts["Index"].map(known[column])
            counts[column] = found.where(found.notna() & (found != ""), counts[column])
    return counts[list(VOCABULARY_COLUMNS)]


def save_vocabulary(table: pd.DataFrame, data_dir: Path) -> Path:
    """Write a vocabulary table into a data folder; return its path."""
    path = data_dir / VOCABULARY_FILE
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    """The columns `NAME_COLUMNS` as text, Index as integers if all its values are label ids."""
    table = pd.DataFrame([fields for _, fields in read_table(path, NAME_COLUMNS)], columns=list(NAME_COLUMNS))
    labels = [whole_number(text) for text in table["Index"]]
    if all(label is not None and 0 <= label <= LARGEST_LABEL for label in labels):
        table["Index"] = np.array(labels, np.int64)
    return table


LABEL_COLUMNS = ("vid", "label")
RATING_COLUMNS = ("vid", "start", "label", "score")
SPAN_COLUMNS = ("vid", "label", "start", "end")
_LARGEST_START = 2**31 - 1 - SEGMENT_SECONDS


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label of a video on line `line` of a CSV: a label id or a name, see `plain_label`."""

    line: int
    video_id: str
    label: str


@dataclass(frozen=True, slots=True)
class RatingRow:
    """A rated segment on line `line` of a CSV; `start` in seconds, `score` 0 or 1."""

    line: int
    video_id: str
    start: int
    label: str
    score: int


def read_labels(path: Path, ids: Mapping[str, str] | None = None) -> list[LabelRow]:
    """The labels of a CSV with the columns vid and label, without repetitions.

    `ids`: the ids of videos that the CSV may have under other names, by these. Raises `UserError` that lists all
    faults.
    """
    faults = Faults(path)
    rows: dict[tuple[str, str], LabelRow] = {}
    for line, (video_id, label) in read_table(path, LABEL_COLUMNS):
        row = LabelRow(line, _id_of(video_id, ids), plain_label(label))
        _check_names(row, faults)
        rows.setdefault((row.video_id, row.label), row)
    faults.raise_any()
    return list(rows.values())


def _check_names(row: LabelRow | RatingRow, faults: Faults) -> None:
    for column, value in (("vid", row.video_id), ("label", row.label)):
        if not value:
            faults.add(f"line {row.line}: {column} is empty")
    if not row.label.isprintable():
        faults.add(f"line {row.line}: label {row.label!r} has a line break or another unprintable character")


def _id_of(text: str, ids: Mapping[str, str] | None) -> str:
    name = plain_name(text)
    return (ids or {}).get(name, name)


def read_ratings(path: Path, ids: Mapping[str, str] | None = None) -> list[RatingRow]:
    """The ratings of a CSV with the columns vid, start, label and score, without repetitions.

    `ids`: as for `read_labels`. Raises `UserError` that lists all faults.
    """
    faults = Faults(path)
    rows: dict[tuple[str, int, str], RatingRow] = {}
    for line, (video_id, start_text, label, score_text) in read_table(path, RATING_COLUMNS):
        start, score = whole_number(start_text), whole_number(score_text)
        if start is None or start % SEGMENT_SECONDS or not 0 <= start <= _LARGEST_START:
            faults.add(f"line {line}: start: expected a multiple of {SEGMENT_SECONDS} seconds, found {start_text!r}")
        if score not in (0, 1):
            faults.add(f"line {line}: score: expected 0 or 1, found {score_text!r}")
        row = RatingRow(line, _id_of(video_id, ids), start or 0, plain_label(label), int(score == 1))
        _check_names(row, faults)
        before = rows.setdefault((row.video_id, row.start, row.label), row)
        if before.score != row.score:
            faults.add(f"line {line}: rates the segment and label of line {before.line} again, with another score")
    faults.raise_any()
    return list(rows.values())


def read_video_ids(path: Path) -> list[str]:
    """Video ids from the column vid of a CSV, or from a file with one id per line and no header.

    Raises `UserError`, also for a repeated id.
    """
    faults = Faults(path)
    first: dict[str, int] = {}
    for line, text in read_column(path, "vid"):
        video_id = plain_name(text)
        if not video_id:
            faults.add(f"line {line}: vid is empty")
        elif first.setdefault(video_id, line) != line:
            faults.add(f"line {line}: video {video_id!r} was on line {first[video_id]}")
    faults.raise_any()
    if not first:
        raise UserError(f"{path}: no video id in it; expected a column vid, or one id a line")
    return list(first)


_INTEGER = re.compile(r"-?[0-9]{1,1000}")  # in plain labels; Python does not convert much longer ones


def plain_label(text: str) -> str:
    """A label normalized for comparison: whole numbers, however written, as digits; else see `plain_name`."""
    text = plain_name(text)
    number = whole_number(text)
    return text if number is None else str(number)


@dataclass(frozen=True)
class LabelText:
    """A label on line `line` of the CSV `source`."""

    source: Path
    line: int
    text: str


@dataclass(frozen=True)
class LabelIds:
    """The id of each label text, and the names for a new `vocabulary.csv`, if needed, in order."""

    ids: dict[str, int]
    new_names: tuple[str, ...] = ()


def resolve_labels(texts: Sequence[LabelText], names_path: Path) -> LabelIds:
    """Label ids of labels in CSVs: integers are ids; names are looked up in `names_path`, or numbered for a new one.

    The texts are plain, see `plain_label`. Raises `UserError` for a mix of ids and names, ids out of range, and names
    that `names_path` lacks or has more than once.
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
    """The ids of each name in a `vocabulary.csv`. Raises `UserError`."""
    vocabulary = read_vocabulary(path)
    known: dict[str, list[int]] = {}
    for label, name in zip(vocabulary.labels.tolist(), vocabulary.names):
        known.setdefault(name, []).append(label)
    return known
