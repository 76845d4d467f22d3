"""The vocabulary of a rated set, for those who do not have the challenge's file."""

from pathlib import Path

import numpy as np
import pandas as pd
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.index import Index
from yt8m.data.partitions import NAME_COLUMNS
from yt8m.data.tables import read_table, whole_number
from yt8m.data.vocabulary import CHALLENGE_FILE, FILE_NAME, LARGEST_LABEL, challenge_vocabulary

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
