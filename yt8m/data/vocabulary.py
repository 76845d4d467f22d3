"""The classes that segments are rated for: `segment_vocabulary.csv`, one row a class."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yt8m.common.errors import UserError

FILE_NAME = "segment_vocabulary.csv"


@dataclass(frozen=True)
class Vocabulary:
    """C classes in ascending order of their label ids; a row's number is the class index."""

    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        """What to call a class: its name or, if it has none, its label id."""
        return self.names[row] or str(self.labels[row])

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Class index of each label id, -1 for labels outside the vocabulary. Same shape, int64."""
        rows = np.searchsorted(self.labels, labels).clip(max=len(self.labels) - 1)
        return np.where(self.labels[rows] == labels, rows, -1)


def load_vocabulary(data_dir: Path) -> Vocabulary:
    """Read `segment_vocabulary.csv` of a data folder. Raises `UserError` if it is missing or malformed."""
    path = data_dir / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{path}: no vocabulary; put the challenge's file there or run "
            f"`python -m yt8m.prepare_vocabulary --data-dir {data_dir}`"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file, strict=True)
        if any(len(row) > len(header) for row in rows):
            raise ValueError("a line has more fields than the header")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    columns = [dict(zip(header, row)) for row in rows if row]
    try:
        labels = np.array([int(row["Index"]) for row in columns], np.int64)
    except (KeyError, ValueError, OverflowError):
        labels = np.empty(0, np.int64)
    if not labels.size:
        raise UserError(f"{path}: expected a column Index of label ids and at least one row")
    if (np.diff(labels) <= 0).any() or labels[0] < 0:
        raise UserError(f"{path}: column Index must ascend, without duplicates or negative ids")
    return Vocabulary(labels, tuple(row.get("Name", row["Index"]) for row in columns))
