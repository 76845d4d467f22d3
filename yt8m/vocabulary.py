"""The classes that segments are rated for: `segment_vocabulary.csv`, one row a class."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.errors import UserError
from yt8m.files import replacing
from yt8m.index import Index

FILE_NAME = "segment_vocabulary.csv"
_COLUMNS = ("Index", "KnowledgeGraphId", "Name", "PositiveSegmentCount", "TotalSegmentCount")


@dataclass(frozen=True)
class Vocabulary:
    """C classes in ascending order of their label ids; a row's number is the class index."""

    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Class index of each label id, -1 for labels outside the vocabulary. Same shape, int64."""
        rows = np.searchsorted(self.labels, labels).clip(max=len(self.labels) - 1)
        return np.where(self.labels[rows] == labels, rows, -1)


def load_vocabulary(data_dir: Path) -> Vocabulary:
    """Read `segment_vocabulary.csv` of a data folder. Raises `UserError` if it is missing or malformed."""
    path = data_dir / FILE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no vocabulary; put the challenge's file there or run "
                        f"`python -m yt8m.prepare_vocabulary --data-dir {data_dir}`")
    table = _read_csv(path)
    if "Index" not in table or not pd.api.types.is_integer_dtype(table["Index"]) or table.empty:
        raise UserError(f"{path}: expected a column Index of label ids and at least one row")
    labels = table["Index"].to_numpy(np.int64)
    if (np.diff(labels) <= 0).any() or labels[0] < 0:
        raise UserError(f"{path}: column Index must ascend, without duplicates or negative ids")
    names = table["Name"] if "Name" in table else labels
    return Vocabulary(labels, tuple(str(name) for name in names))


def derive_vocabulary(index: Index, official: Path | None) -> pd.DataFrame:
    """The vocabulary table of a rated set: its distinct rated labels, ascending.

    Names and Knowledge Graph ids come from the data set's official `vocabulary.csv` where that is given,
    else the name is "label <id>".
    """
    if not index.rating_label.size:
        raise UserError(f"{index.folder}: no record has segment ratings; the vocabulary comes from the rated set")
    table = pd.DataFrame({"Index": index.rating_label, "positive": index.rating_score > 0})
    grouped = table.groupby("Index")["positive"]
    counts = pd.DataFrame({"PositiveSegmentCount": grouped.sum(), "TotalSegmentCount": grouped.size()})
    counts = counts.reset_index()
    counts["KnowledgeGraphId"] = ""
    counts["Name"] = [f"label {label}" for label in counts["Index"]]
    if official is not None:
        known = _read_csv(official)
        columns = {"Index", "KnowledgeGraphId", "Name"}
        if not columns <= set(known.columns) or not pd.api.types.is_integer_dtype(known["Index"]):
            raise UserError(f"{official}: expected the columns Index (of label ids), KnowledgeGraphId and Name")
        known = known.drop_duplicates("Index").set_index("Index")
        for column in ("KnowledgeGraphId", "Name"):
            found = counts["Index"].map(known[column])
            counts[column] = found.where(found.notna() & (found != ""), counts[column])
    return counts[list(_COLUMNS)]


def save_vocabulary(table: pd.DataFrame, data_dir: Path) -> Path:
    """Write a vocabulary table into a data folder; returns its path."""
    path = data_dir / FILE_NAME
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({' '.join(str(error).split())})") from None
