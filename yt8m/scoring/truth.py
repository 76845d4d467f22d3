"""What is true of test videos, to score predictions with: tables of their labels and of ratings of their segments."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from yt8m.common.errors import UserError
from yt8m.data.annotations import LabelRow, RatingRow, read_labels, read_ratings
from yt8m.data.label_names import LabelText, resolve_labels


def read_truth(path: Path, names: Path) -> pd.DataFrame:
    """Ratings of a CSV: columns vid, start (second), label (id), score (0 or 1).

    In the file a label is an id, or a name, whose id `names`, a `vocabulary.csv`, says. A segment may be rated
    for a label more than once if the ratings agree. Raises `UserError`.
    """
    rows = read_ratings(path)
    return pd.DataFrame(
        {
            "vid": [row.video_id for row in rows],
            "start": [row.start for row in rows],
            "label": _ids(path, rows, names),
            "score": [row.score for row in rows],
        }
    )


def read_video_labels(path: Path, names: Path) -> pd.DataFrame:
    """Labels of videos of a CSV: columns vid, label (id); `names` as for `read_truth`. Raises `UserError`."""
    rows = read_labels(path)
    return pd.DataFrame({"vid": [row.video_id for row in rows], "label": _ids(path, rows, names)})


def _ids(path: Path, rows: Sequence[LabelRow | RatingRow], names: Path) -> list[int]:
    resolved = resolve_labels([LabelText(path, row.line, row.label) for row in rows], names)
    if resolved.new_names:
        raise UserError(
            f"{names}: not there, but {path} names labels, such as {resolved.new_names[0]!r}; put the file there that "
            "says which id each name has, or write ids"
        )
    return [resolved.ids[row.label] for row in rows]
