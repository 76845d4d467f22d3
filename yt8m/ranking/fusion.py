"""Fusion of the scores of several models.

Scores are integers 0..9999. Dimensions: R rows of a block, C classes, M models.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from yt8m.data.threads import map_ahead
from yt8m.prediction.prediction_files import SCALE

RANK_OFFSET = 60  # of reciprocal-rank fusion, as in Cormack et al. 2009
COUNTED_BYTES = 16 << 20  # of the scores counted at a time, as int64
EXACT = 2**24  # float32 holds all integers up to this
FINEST = 2**39  # maximum sum of the weights, for which sums of scores are exact in float64
FusionKind = Literal["mean", "geometric", "rank", "reciprocal-rank"]


class Scores(Protocol):
    """Scores of one model, (rows, C) int16 0..9999, which several threads may read at once."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Consecutive rows."""


def whole_weights(weights: Sequence[float]) -> list[int]:
    """The smallest integers (M,) in the ratio of weights of at least 0, not all 0: 2 and 5 for 0.1 and 0.25.

    If these would add up to more than 2^39, integers whose shares in the sum are accurate to 1e-10, and 0 only for
    weights of 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]  # as written: 0.1 is a tenth
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    divisor, total = math.gcd(*whole), sum(whole)
    if total // divisor <= FINEST:
        return [weight // divisor for weight in whole]
    return [max(1, weight * FINEST // total) if weight else 0 for weight in whole]


def weights_text(names: Sequence[str], weights: Sequence[float]) -> str:
    """Weights as text, the heaviest first: "2 nextvlad_1, 1 dbof_0"; models of weight 0 are left out."""
    chosen = sorted((pair for pair in zip(weights, names) if pair[0]), key=lambda pair: -pair[0])
    return ", ".join(f"{weight:g} {name}" for weight, name in chosen)


class Fusion:
    """The fused scores of M models, float32, at least 0, the higher the better.

    `kind` "mean": the sum of the scores, which ranks exactly like their arithmetic mean: equal means stay equal,
    whatever the order of the models, and others stay different (up to 1,677 models or weights that add up to as much;
    beyond, means closer than 2^-24 of their size may become equal). "geometric": the geometric mean of the
    probabilities, where 0 counts as half of the smallest other one; "rank": the mean over the models of the share of a
    class's rows that a row is not behind; "reciprocal-rank": the mean of 1 / (60 + rank). A rank is that of a row among
    all rows of a class in one model, the middle one for ties.

    `weights` (M,) of the models, at least 0, not all 0; `models` then holds only the models whose weight is not 0.
    `factors` (videos, C) float32 multiply the scores of a video's rows, `row_videos` (rows,); NaN excludes them from
    the candidates.
    """

    def __init__(
        self,
        models: Sequence[Scores],
        kind: FusionKind = "mean",
        weights: Sequence[float] | None = None,
        factors: np.ndarray | None = None,
        row_videos: np.ndarray | None = None,
    ) -> None:
        whole = whole_weights([1] * len(models) if weights is None else weights)
        self.models = [values for values, weight in zip(models, whole) if weight]
        self.shape = models[0].shape
        self._kind = kind
        self._weights = [weight for weight in whole if weight]
        self._factors, self._row_videos = factors, row_videos
        shares = [weight / sum(whole) for weight in self._weights]
        self._tables: list[np.ndarray] = []
        if kind == "geometric":
            logarithms = np.log(np.maximum(np.arange(SCALE + 1), 0.5) / SCALE)
            self._tables = [(share * logarithms).astype(np.float32) for share in shares]
        elif kind != "mean":
            self._tables = [share * self._by_rank(values) for share, values in zip(shares, self.models)]

    def fuse(self, start: int, blocks: Sequence[np.ndarray], classes: slice) -> np.ndarray:
        """Fused scores (R, C') of rows from `start` on for some classes, from those (R, C') of each of `models`."""
        if self._kind == "mean":
            scores = self._sum(blocks)
        else:
            scores = self._looked_up(blocks, classes)
        if self._factors is not None:
            assert self._row_videos is not None  # given with the factors
            scores *= self._factors[self._row_videos[start : start + len(scores)], classes]
        return scores

    def _sum(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        exact_in = np.float32 if sum(self._weights) * SCALE <= EXACT else np.float64
        total = np.zeros(blocks[0].shape, exact_in)
        if max(self._weights) > 1:
            for weight, block in zip(self._weights, blocks):
                total += exact_in(weight) * block
        else:
            for first in range(0, len(blocks), 3):  # three fit an int16, which adds faster
                part = blocks[first]
                for block in blocks[first + 1 : first + 3]:
                    part = part + block
                total += part
        return total.astype(np.float32, copy=False)

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
        """The value of each score of each class in one model, (C, 10000) float32."""
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
