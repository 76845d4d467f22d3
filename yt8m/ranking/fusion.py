"""How the scores of several models become one.

Scores are integers 0..9999. Dimensions: R rows of a block, C classes, M models.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from yt8m.data.ahead import map_ahead
from yt8m.prediction.memmaps import SCALE

RANK_OFFSET = 60  # of reciprocal-rank fusion, as Cormack et al. 2009 chose it
COUNTED_BYTES = 16 << 20  # of the scores counted at a time, as int64
Kind = Literal["mean", "geometric", "rank", "reciprocal-rank"]


class Scores(Protocol):
    """Scores of one model, (rows, C) int16 0..9999, to be read by several threads at once."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Consecutive rows."""


class Fusion:
    """The fused scores of M models, float32, at least 0, the higher the better.

    `kind` "mean": the arithmetic mean, rounded to an integer as it is published; "geometric": that of the
    probabilities, where 0 counts as half of the smallest other one; "rank": the mean over the models of the share of a
    class's rows that a row is not behind of; "reciprocal-rank": the mean of 1 / (60 + rank). Ranks are those of a row
    among all of a class in one model, the middle one where scores are equal. `weights` (M,) of the models, at least 0.
    `factors` (videos, C) float32 multiply the scores of the rows of a video, `row_videos` (rows,); NaN means that they
    are no candidates.
    """

    def __init__(
        self,
        maps: Sequence[Scores],
        kind: Kind = "mean",
        weights: Sequence[float] | None = None,
        factors: np.ndarray | None = None,
        row_videos: np.ndarray | None = None,
    ) -> None:
        self.maps = maps
        self.shape = maps[0].shape
        self._kind = kind
        # Equal weights are none, and those of a mean do not count as if they were exact to the last bit.
        self._weights = None if weights is None or len(set(weights)) == 1 else np.array(weights) / max(weights)
        self._factors, self._row_videos = factors, row_videos
        weighed = np.ones(len(maps)) if self._weights is None else self._weights
        shares = (weighed / weighed.sum()).tolist()
        self._tables: list[np.ndarray] = []
        if kind == "geometric":
            logarithms = np.log(np.maximum(np.arange(SCALE + 1), 0.5) / SCALE)
            self._tables = [(share * logarithms).astype(np.float32) for share in shares]
        elif kind != "mean":
            self._tables = [share * self._by_rank(values) for share, values in zip(shares, maps)]

    def fuse(self, start: int, blocks: Sequence[np.ndarray], classes: slice) -> np.ndarray:
        """Fused scores (R, C') of rows `start` onwards for some classes, from those of each model (R, C')."""
        if self._kind == "mean":
            scores = self._mean(blocks)
        else:
            scores = self._looked_up(blocks, classes)
        if self._factors is not None:
            assert self._row_videos is not None  # factors come with them
            scores *= self._factors[self._row_videos[start : start + len(scores)], classes]
        return scores

    def _mean(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        if self._weights is not None:
            weighted = blocks[0] * self._weights[0]
            for weight, block in zip(self._weights[1:], blocks[1:]):
                weighted += weight * block
            weighted /= self._weights.sum()
            return np.rint(weighted.round(6)).astype(np.float32)
        total = np.zeros(blocks[0].shape, np.float32)
        for first in range(0, len(blocks), 3):  # three fit an int16, whose sums are faster
            part = blocks[first]
            for block in blocks[first + 1 : first + 3]:
                part = part + block
            total += part
        total /= len(blocks)  # exact enough to be rounded rightly for less than 1,000 models
        return np.rint(total, out=total)

    def _looked_up(self, blocks: Sequence[np.ndarray], classes: slice) -> np.ndarray:
        total = np.zeros(blocks[0].shape, np.float32)
        for table, block in zip(self._tables, blocks):
            if self._kind == "geometric":
                total += table[block]
            else:
                total += table[np.arange(classes.start, classes.stop), block]
        if self._kind == "geometric":
            np.exp(total, out=total)
        return total

    def _by_rank(self, values: Scores) -> np.ndarray:
        """What each score of each class is worth in one model, (C, 10000) float32."""
        n_rows, n_classes = self.shape
        counts = np.zeros((n_classes, SCALE + 1), np.int64)
        base = np.arange(n_classes) * (SCALE + 1)
        size = max(1, COUNTED_BYTES // (8 * n_classes))
        for block in map_ahead(lambda start: values[start : start + size], range(0, n_rows, size), 1, 2):
            counts += np.bincount((block + base).ravel(), minlength=counts.size).reshape(counts.shape)
        better = n_rows - counts.cumsum(axis=1)  # rows with a higher score
        rank = better + (counts + 1) / 2
        worth = 1 / (RANK_OFFSET + rank) if self._kind == "reciprocal-rank" else 1 - (rank - 1) / n_rows
        return worth.astype(np.float32)
