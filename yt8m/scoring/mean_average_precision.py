"""MAP@K of ranked lists, and other measures of the agreement of probabilities with ratings.

Dimensions: R ratings, V videos, C rated classes, N resamples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yt8m.scoring.ratings import Ratings

NOT_LISTED = -1  # among places
THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
_N_BINS = 10


class Ranking:
    """Ratings in the order of their classes' lists.

    The challenge's MAP@K: segments not rated for a class are removed from its list; AP is the sum of
    precision · relevance over the rest, divided by the number of positive ratings; the mean is over the classes with a
    positive rating, and a class without a list scores 0.
    """

    def __init__(self, ratings: Ratings, places: np.ndarray) -> None:
        """`places` (R,): place of each rated segment in its class's list, -1 if not among the first K."""
        listed = np.flatnonzero(places != NOT_LISTED)
        order = listed[np.lexsort((places[listed], ratings.class_of[listed]))]
        self._classes, self._videos = ratings.class_of[order], ratings.video[order]
        self._positive = ratings.positive[order]
        self._n_classes = len(ratings.labels)
        self._all_positive = ratings.class_of[ratings.positive], ratings.video[ratings.positive]

    def average_precisions(self, draws: np.ndarray | None = None) -> np.ndarray:
        """AP of each class (C,), NaN without a positive; `draws` (V,): how often each video counts, by default once."""
        classes, positive = self._classes, self._positive
        wanted, weights = self._all_positive[0], None
        if draws is not None:
            times = draws[self._videos]
            classes, positive = np.repeat(classes, times), np.repeat(positive, times)
            weights = draws[self._all_positive[1]]
        ends = np.cumsum(np.bincount(classes, minlength=self._n_classes))
        before = np.append(0, ends[:-1])  # entries of the lists of earlier classes
        found = np.append(0, np.cumsum(positive))
        hits = np.flatnonzero(positive)
        owners = classes[hits]
        precision = (found[hits + 1] - found[before[owners]]) / (hits + 1 - before[owners])
        n_positive = np.bincount(wanted, weights, self._n_classes)
        with np.errstate(invalid="ignore"):
            return np.bincount(owners, precision, self._n_classes) / n_positive

    def mean_average_precision(self, draws: np.ndarray | None = None) -> float:
        """The mean over the classes with a positive; NaN if there is none."""
        values = self.average_precisions(draws)
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def resampled_maps(
    rankings: Sequence[Ranking],
    n_videos: int,
    n_resamples: int,
    seed: int,
    progress: Callable[[int], object] = lambda resamples: None,
) -> np.ndarray:
    """Bootstrapped MAP of rankings of the same ratings, (rankings, N), drawing videos with replacement.

    The n-th draw is the same for all rankings, so that differences can be compared. `progress` is called after every
    resample.
    """
    rng = np.random.default_rng(seed)
    maps = np.empty((len(rankings), n_resamples))
    for number in range(n_resamples):
        draws = np.bincount(rng.integers(n_videos, size=n_videos), minlength=n_videos)
        maps[:, number] = [ranking.mean_average_precision(draws) for ranking in rankings]
        progress(1)
    return maps


def resampled_areas(ratings: Ratings, probabilities: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Bootstrapped ROC AUC of models with probabilities (models, R), drawing videos with replacement.

    Returns (models, N), with the draws of `resampled_maps`; NaN where all drawn ratings agree.
    """
    rng = np.random.default_rng(seed)
    n_videos = len(ratings.video_ids)
    places = [np.unique(values, return_inverse=True)[1] for values in probabilities]
    areas = np.empty((len(probabilities), n_resamples))
    for number in range(n_resamples):
        weights = np.bincount(rng.integers(n_videos, size=n_videos), minlength=n_videos)[ratings.video]
        for row, own in enumerate(places):
            positive, negative = (np.bincount(own, weights * kind) for kind in (ratings.positive, ~ratings.positive))
            below = np.cumsum(negative) - negative / 2  # half of the ties
            with np.errstate(invalid="ignore"):
                areas[row, number] = (positive * below).sum() / (positive.sum() * negative.sum())
    return areas


def places_by_score(ratings: Ratings, scores: np.ndarray, top_k: int, seed: int) -> np.ndarray:
    """Places (R,) among the ratings of the same class, by descending score (R,), ties in random order.

    -1 from place `top_k` on.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(ratings)), -scores, ratings.class_of))
    places = np.empty(len(ratings), np.int64)
    places[order] = np.arange(len(ratings))
    places -= (ratings.class_ends - np.bincount(ratings.class_of))[ratings.class_of]
    return np.where(places < top_k, places, NOT_LISTED)


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> float:
    """ROC AUC, 0 to 1, of scores (R,); NaN if all ratings agree."""
    from sklearn.metrics import roc_auc_score  # takes as long to import as torch does

    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else float("nan")


def areas_of_classes(ratings: Ratings, places: np.ndarray) -> np.ndarray:
    """ROC AUC of each class's list (C,), unlisted segments last; NaN where all ratings of a class agree."""
    n_classes, n_negative = len(ratings.labels), np.bincount(ratings.class_of) - ratings.n_positive
    listed = np.flatnonzero(places != NOT_LISTED)
    order = listed[np.lexsort((places[listed], ratings.class_of[listed]))]
    negative, owners = ~ratings.positive[order], ratings.class_of[order]
    before = np.append(0, np.cumsum(negative))  # negatives above each entry, those of earlier classes included
    firsts = np.searchsorted(owners, np.arange(n_classes))
    beaten = n_negative[owners] - (before[:-1] - before[firsts][owners])  # negatives below each entry
    pairs = np.bincount(owners[~negative], beaten[~negative], n_classes)
    unlisted = [
        np.bincount(ratings.class_of[(places == NOT_LISTED) & (ratings.positive == kind)], minlength=n_classes)
        for kind in (False, True)
    ]
    with np.errstate(invalid="ignore"):
        return (pairs + unlisted[0] * unlisted[1] / 2) / (n_negative * ratings.n_positive)


def at_thresholds(positive: np.ndarray, scores: np.ndarray, thresholds: Sequence[float]) -> list[dict[str, float]]:
    """Precision and recall over all ratings (R,), taking scores (R,) of at least a threshold as positive."""
    rows = []
    for threshold in thresholds:
        taken = scores >= threshold
        hits = int((taken & positive).sum())
        rows.append(
            {
                "threshold": threshold,
                "taken": int(taken.sum()),
                "precision": hits / taken.sum() if taken.any() else float("nan"),
                "recall": hits / positive.sum() if positive.any() else float("nan"),
            }
        )
    return rows


def calibration(positive: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """For each tenth of 0..1: the number of ratings (R,), the mean probability and the share of positives."""
    bins = np.minimum((probabilities * _N_BINS).astype(np.int64), _N_BINS - 1)
    counts = np.bincount(bins, minlength=_N_BINS)
    means, shares = (np.bincount(bins, values, _N_BINS) for values in (probabilities, positive))
    return [
        {
            "from": number / _N_BINS,
            "to": (number + 1) / _N_BINS,
            "ratings": int(count),
            "mean": mean / count,
            "positive": share / count,
        }
        for number, (count, mean, share) in enumerate(zip(counts, means, shares))
        if count
    ]


def calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error: mean distance between probability and share of positives over all ratings."""
    total = sum(row["ratings"] for row in bins)
    return sum(row["ratings"] * abs(row["mean"] - row["positive"]) for row in bins) / total
