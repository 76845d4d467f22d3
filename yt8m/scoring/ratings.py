"""Ratings of segments, the ground truth for predictions and ranked lists.

Dimensions: R ratings, V videos, C rated classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.common.errors import UserError
from yt8m.data.vocabulary import LabelRow, LabelText, RatingRow, read_labels, read_ratings, resolve_labels


@dataclass(frozen=True)
class Ratings:
    """R ratings in the order of their classes; no segment is rated twice for a class.

    `video_ids` (V,) text; `video` (R,) row of `video_ids`; `start` (R,) second; `label` (R,) label id, ascending;
    `positive` (R,) bool.
    """

    video_ids: np.ndarray
    video: np.ndarray
    start: np.ndarray
    label: np.ndarray
    positive: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def labels(self) -> np.ndarray:
        """The label ids of the classes, ascending, (C,)."""
        return np.unique(self.label)

    @cached_property
    def class_of(self) -> np.ndarray:
        """The row of `labels` that each rating belongs to, (R,)."""
        return np.searchsorted(self.labels, self.label)

    @cached_property
    def class_ends(self) -> np.ndarray:
        """Ends of the classes, (C,): the ratings of class c are class_ends[c-1] to class_ends[c]."""
        return np.cumsum(np.bincount(self.class_of, minlength=len(self.labels)))

    @cached_property
    def n_positive(self) -> np.ndarray:
        """The number of positive ratings of each class, (C,)."""
        return np.bincount(self.class_of, self.positive, len(self.labels)).astype(np.int64)

    def of_class(self, row: int) -> slice:
        """The ratings of the class in this row of `labels`."""
        return slice(int(self.class_ends[row - 1]) if row else 0, int(self.class_ends[row]))

    def segment_names(self, rows: slice | np.ndarray = slice(None)) -> list[str]:
        """The rated segments as named in a submission: `<video id>:<start second>`."""
        videos = self.video_ids[self.video[rows]].tolist()
        return [f"{video}:{start}" for video, start in zip(videos, self.start[rows].tolist())]

    def subset(self, chosen: np.ndarray) -> "Ratings":
        """The chosen ratings, (R,) bool, of the same videos."""
        return Ratings(
            self.video_ids, self.video[chosen], self.start[chosen], self.label[chosen], self.positive[chosen]
        )


def ratings_of_table(truth: pd.DataFrame) -> Ratings:
    """The ratings of a truth table, columns vid, start, label, score."""
    truth = truth.sort_values(["label", "vid", "start"], kind="stable")
    video_ids, video = np.unique(truth["vid"].to_numpy(str), return_inverse=True)
    return Ratings(
        video_ids,
        video,
        truth["start"].to_numpy(np.int64),
        truth["label"].to_numpy(np.int64),
        truth["score"].to_numpy() > 0,
    )


def read_truth(path: Path, names: Path) -> pd.DataFrame:
    """Ratings from a CSV: columns vid, start (second), label (id), score (0 or 1).

    In the file a label is an id or a name, whose id is in `names`, a `vocabulary.csv`. A segment may be rated for a
    label more than once if the ratings agree. Raises `UserError`.
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
    """Labels of videos from a CSV: columns vid, label (id); `names` as for `read_truth`. Raises `UserError`."""
    rows = read_labels(path)
    return pd.DataFrame({"vid": [row.video_id for row in rows], "label": _ids(path, rows, names)})


def _ids(path: Path, rows: Sequence[LabelRow | RatingRow], names: Path) -> list[int]:
    resolved = resolve_labels([LabelText(path, row.line, row.label) for row in rows], names)
    if resolved.new_names:
        raise UserError(
            f"{names}: missing, but {path} names labels, such as {resolved.new_names[0]!r}; provide the file with the "
            "id of each name, or write ids"
        )
    return [resolved.ids[row.label] for row in rows]
