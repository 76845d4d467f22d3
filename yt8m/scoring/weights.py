"""Weights of the models of an ensemble, found on ratings that none of the models was trained on.

Dimensions: R ratings, M models.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yt8m.common.progress import Progress
from yt8m.scoring.ratings import Ratings
from yt8m.scoring.scores import NOT_LISTED, Ranking, places_by_score

LOGGER = logging.getLogger(__name__)
STEPS = 20  # models that the search adds, with each beginning


@dataclass(frozen=True)
class BestWeights:
    """What a search has found: weights (M,), integers of at least 0, not all 0.

    `on_all` ratings; `on_halves`: on those of the videos of the first half, and on the others; `in_first` (R,) bool:
    which ratings are of the first half.
    """

    on_all: list[int]
    on_halves: tuple[list[int], list[int]]
    in_first: np.ndarray

    def cross_fitted(self, measure: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """What `measure` says of each rating (R,) with the weights that were found without its video."""
        first, second = self.on_halves
        return measure(first) if first == second else np.where(self.in_first, measure(second), measure(first))


def best_weights(ratings: Ratings, probabilities: np.ndarray, top_k: int, seed: int) -> BestWeights:
    """The best weights on all ratings, and on either half of the videos, which `seed` divides.

    `probabilities` (M, R) by each model, NaN where it says nothing of a rating, and none is listed; `top_k` rated
    segments of a class count.
    """
    videos, numbers = np.unique(ratings.video, return_inverse=True)
    in_first = np.random.default_rng(seed).permutation(len(videos))[numbers] < len(videos) / 2
    parts = [np.ones(len(ratings), bool), in_first, ~in_first]
    with Progress("looking for weights", len(parts) * 2 * STEPS, "step", LOGGER) as progress:
        found = [_search(ratings.subset(part), probabilities[:, part], top_k, seed, progress.update) for part in parts]
    return BestWeights(found[0], (found[1], found[2]), in_first)


def _search(
    ratings: Ratings, probabilities: np.ndarray, top_k: int, seed: int, progress: Callable[[int], object]
) -> list[int]:
    """Of the weighted means of models that a greedy search meets the one with the highest MAP, the plain one first.

    Ensemble selection with replacement (Caruana et al. 2004): one model after the other is added, each time the one
    with which the MAP is highest, even if it is lower than before; begun without a model, and once more with all.
    """
    n_models = len(probabilities)
    known = ~np.isnan(probabilities).any(axis=0)

    def measure(total: np.ndarray) -> float:
        places = places_by_score(ratings, np.where(known, total, -np.inf), top_k, seed)
        value = Ranking(ratings, np.where(known, places, NOT_LISTED)).mean_average_precision()
        return round(value, 12)  # so that what is equal does not differ by what it was added up from

    best, best_map = [1] * n_models, measure(probabilities.sum(axis=0))
    for copies in (0, 1):
        weights, total = [copies] * n_models, copies * probabilities.sum(axis=0)
        for _ in range(STEPS):
            maps = [measure(total + own) for own in probabilities]
            chosen = int(np.argmax(maps))
            weights[chosen] += 1
            total = total + probabilities[chosen]
            if maps[chosen] > best_map:
                best, best_map = weights.copy(), maps[chosen]
            progress(1)
    return [weight // math.gcd(*best) for weight in best]
