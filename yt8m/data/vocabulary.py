"""The classes that segments are rated for: `segment_vocabulary.csv`, one row a class."""

import hashlib
import logging
import unicodedata
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from helperbot.files import replacing

from yt8m.common.errors import Faults, UserError
from yt8m.common.wording import listed
from yt8m.data.index import Index
from yt8m.data.partitions import NAME_COLUMNS, NAMES_FILE
from yt8m.data.tables import read_table, whole_number

LOGGER = logging.getLogger(__name__)
FILE_NAME = "segment_vocabulary.csv"
CHALLENGE_FILE = Path(__file__).with_name(FILE_NAME)  # as published, CC BY 4.0
LARGEST_LABEL = 2**31 - 1


def plain_name(text: str) -> str:
    """A name as it is compared: without blanks around, and letters with accents in one piece."""
    return unicodedata.normalize("NFC", text.strip())


def _no_name(label: int) -> str:
    """What a class without a name is called."""
    return f"label {label}"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """C classes: a row's number is the class index, whatever the order of the label ids.

    `labels` (C,) are distinct ids of at least 0; `names` what to call the classes, "label <id>" where a name is blank;
    `source` says in messages where the classes come from.
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
        """SHA-256 of the label ids in their order: the same digest, the same meaning of outputs."""
        return hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Class index of each label id, -1 for labels outside the vocabulary. Same shape, int64."""
        order = self._ascending
        places = np.searchsorted(self.labels, labels, sorter=order).clip(max=len(order) - 1)
        rows = order[places]
        return np.where(self.labels[rows] == labels, rows, -1)

    def rows_in(self, other: "Vocabulary") -> np.ndarray:
        """The row of each of these classes in another vocabulary of the same label ids, (C,).

        Raises `UserError` naming the ids that only one of the two has, and where most names differ.
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
        """Raise `UserError` if most label ids that both have a name for are called otherwise by the other; warn of any.

        Users' label ids count from 0 in all of their data sets: the same ids need not be the same classes.
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
            raise UserError(f"{what}; they are other classes, or else give them the same names in both")
        LOGGER.warning("%s", what)


def _listed(vocabulary: Vocabulary, rows: np.ndarray) -> str:
    """The first few of some classes, by label id and name."""
    return listed([f"{vocabulary.labels[row]} ({vocabulary.names[row]})" for row in rows.tolist()])


def load_vocabulary(data_dir: Path) -> Vocabulary:
    """Read `segment_vocabulary.csv` of a data folder. Raises `UserError` if it is missing or malformed."""
    path = data_dir / FILE_NAME
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
    """Read a vocabulary: a table with a column Index, of distinct label ids in any order, and perhaps a column Name.

    Raises `UserError` for anything else.
    """
    faults = Faults(path, f"expected in column Index distinct label ids from 0 to {LARGEST_LABEL}, in any order")
    lines: dict[int, int] = {}
    names = []
    for line, (text, name) in read_table(path, ("Index",), ("Name",)):
        label = whole_number(text)
        if label is None or not 0 <= label <= LARGEST_LABEL:
            faults.add(f"line {line}: Index {text!r} is no label id")
        elif lines.setdefault(label, line) != line:
            faults.add(f"line {line}: Index {label} is on line {lines[label]} already")
        names.append(name)
    faults.raise_any()
    return Vocabulary(np.array(list(lines), np.int64), tuple(names), str(path))


def named_vocabulary(path: Path | None) -> Vocabulary | None:
    """The vocabulary that an option names, None where it is left out. Raises `UserError`."""
    return None if path is None else read_vocabulary(path)


@cache
def challenge_vocabulary() -> Vocabulary:
    """The 1,000 classes of the challenge, in the order that models trained in 2019 have.

    It does not ascend: the classes 12 and 13, for example, are the labels 31 and 30.
    """
    vocabulary = read_vocabulary(CHALLENGE_FILE)
    return Vocabulary(vocabulary.labels, vocabulary.names, "the challenge's vocabulary")


COLUMNS = (*NAME_COLUMNS, "PositiveSegmentCount", "TotalSegmentCount")


def derive_vocabulary(index: Index, official: Path | None) -> pd.DataFrame:
    """The vocabulary table of a rated set: its distinct rated labels, ascending, or if they are the challenge's in the
    challenge's order.

    Names and Knowledge Graph ids come from the data set's official `vocabulary.csv` where that is given, else from the
    challenge's table if the labels are its own; otherwise the name is "label <id>".
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
    return counts[list(COLUMNS)]


def save_vocabulary(table: pd.DataFrame, data_dir: Path) -> Path:
    """Write a vocabulary table into a data folder; returns its path."""
    path = data_dir / FILE_NAME
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    """The columns of names as text, Index as integers where it has nothing else."""
    table = pd.DataFrame([fields for _, fields in read_table(path, NAME_COLUMNS)], columns=list(NAME_COLUMNS))
    labels = [whole_number(text) for text in table["Index"]]
    if all(label is not None and 0 <= label <= LARGEST_LABEL for label in labels):
        table["Index"] = np.array(labels, np.int64)
    return table
