"""Submissions (`Class,Segments`: ranked segments of each class) and truth tables to score them with."""
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.errors import UserError
from yt8m.files import replacing

HEADER = "Class,Segments"
TRUTH_COLUMNS = ["vid", "start", "label", "score"]


def write_submission(path: Path, labels: np.ndarray, lists: Iterable[np.ndarray]) -> None:
    """Write one line a class: its label id and its segments, `<video id>:<start>` as bytes, best first."""
    with replacing(path) as temporary, temporary.open("wb") as output:
        output.write(f"{HEADER}\n".encode())
        for label, segments in zip(labels, lists, strict=True):
            output.write(b"%d,%s\n" % (label, b" ".join(segments.tolist())))


def read_submission(path: Path) -> dict[int, list[str]]:
    """Label id → segments, best first. Raises `UserError` naming the line that is not as it should be."""
    lists: dict[int, list[str]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            if file.readline().rstrip("\r\n") != HEADER:
                raise UserError(f"{path}: line 1: expected the header {HEADER}")
            for number, line in enumerate(file, 2):
                label, comma, segments = line.rstrip("\r\n").partition(",")
                if not comma or not label.isdecimal():
                    raise UserError(f"{path}: line {number}: expected <class id>,<segments>")
                if int(label) in lists:
                    raise UserError(f"{path}: line {number}: class {label} has a line already")
                lists[int(label)] = segments.split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a submission ({error})") from None
    return lists


def read_truth(path: Path) -> pd.DataFrame:
    """A truth table, columns vid, start (second), label (id), score (0 or 1). Raises `UserError`.

    A segment may be rated for a class more than once only if the ratings agree.
    """
    table = read_table(path, TRUTH_COLUMNS).drop_duplicates(ignore_index=True)
    odd = ~table["score"].isin((0, 1))
    if odd.any():
        row = table[odd].iloc[0]
        raise UserError(f"{path}: {row['vid']}:{row['start']} has the score {row['score']} for label {row['label']}, "
                        "expected 0 or 1")
    again = table.duplicated(["vid", "start", "label"])
    if again.any():
        row = table[again].iloc[0]
        raise UserError(f"{path}: {row['vid']}:{row['start']} has two different scores for label {row['label']}")
    return table


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV with at least these columns: `vid` is text, all others are integers. Raises `UserError`."""
    try:
        types = {name: str if name == "vid" else np.int64 for name in columns}
        table = pd.read_csv(path, usecols=columns, dtype=types, keep_default_na=False)
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: expected a CSV with the columns {', '.join(columns)}, integers but for vid "
                        f"({' '.join(str(error).split())})") from None
    return table[columns]
