"""Ratings of segments: what predictions and ranked lists are measured against.

Dimensions: R ratings, V videos, C classes that something is rated for.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Ratings:
    """R ratings, in the order of their classes; no segment is rated twice for a class.

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
        """The ratings of class c are class_ends[c-1] to class_ends[c], (C,)."""
        return np.cumsum(np.bincount(self.class_of, minlength=len(self.labels)))

    @cached_property
    def n_positive(self) -> np.ndarray:
        """How many ratings of each class are positive, (C,)."""
        return np.bincount(self.class_of, self.positive, len(self.labels)).astype(np.int64)

    def of_class(self, row: int) -> slice:
        """The ratings of the class in this row of `labels`."""
        return slice(int(self.class_ends[row - 1]) if row else 0, int(self.class_ends[row]))

    def segment_names(self, rows: slice | np.ndarray = slice(None)) -> list[str]:
        """What a submission calls the rated segments: `<video id>:<start second>`."""
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
