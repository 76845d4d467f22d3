"""Truth tables: ratings of test segments, to score submissions with."""

from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.common.errors import UserError

_TRUTH_COLUMNS = ["vid", "start", "label", "score"]


def read_truth(path: Path) -> pd.DataFrame:
    """A truth table, columns vid, start (second), label (id), score (0 or 1). Raises `UserError`.

    A segment may be rated for a class more than once only if the ratings agree.
    """
    table = read_table(path, _TRUTH_COLUMNS).drop_duplicates(ignore_index=True)
    odd = ~table["score"].isin((0, 1))
    if odd.any():
        row = table[odd].iloc[0]
        raise UserError(
            f"{path}: {row['vid']}:{row['start']} has the score {row['score']} for label {row['label']}, "
            "expected 0 or 1"
        )
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
        raise UserError(
            f"{path}: expected a CSV with the columns {', '.join(columns)}, integers but for vid "
            f"({' '.join(str(error).split())})"
        ) from None
    return table[columns]
