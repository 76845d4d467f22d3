"""Weights of an ensemble's models, found on ratings that none of the models was trained on.

Dimensions: R ratings, M models.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.partitions import N_FOLDS, NO_FOLD
from yt8m.prediction.prediction_files import PredictionFile
from yt8m.scoring.evaluation import FORMAT_VERSION, evaluation_files
from yt8m.scoring.mean_average_precision import NOT_LISTED, Ranking, places_by_score
from yt8m.scoring.ratings import Ratings

LOGGER = logging.getLogger(__name__)
STEPS = 20  # models that the search adds, from each start
_FOLDS = (*map(str, range(N_FOLDS)), NO_FOLD)


@dataclass(frozen=True)
class BestWeights:
    """The result of a search: weights (M,), integers of at least 0, not all 0.

    `on_all`: found on all ratings; `on_halves`: on those of the first half of the videos, and on the others;
    `in_first` (R,) bool: which ratings belong to the first half.
    """

    on_all: list[int]
    on_halves: tuple[list[int], list[int]]
    in_first: np.ndarray

    def cross_fitted(self, measure: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """The value of `measure` for each rating (R,), with the weights found without its video."""
        first, second = self.on_halves
        return measure(first) if first == second else np.where(self.in_first, measure(second), measure(first))


def best_weights(ratings: Ratings, probabilities: np.ndarray, top_k: int, seed: int) -> BestWeights:
    """Find the best weights on all ratings, and on either half of the videos, split by `seed`.

    `probabilities` (M, R) by each model, NaN for ratings it lacks, which are not listed; `top_k` rated segments of a
    class count.
    """
    videos, numbers = np.unique(ratings.video, return_inverse=True)
    in_first = np.random.default_rng(seed).permutation(len(videos))[numbers] < len(videos) / 2
    parts = [np.ones(len(ratings), bool), in_first, ~in_first]
    with Progress("searching for weights", len(parts) * 2 * STEPS, "step", LOGGER) as progress:
        found = [_search(ratings.subset(part), probabilities[:, part], top_k, seed, progress.update) for part in parts]
    return BestWeights(found[0], (found[1], found[2]), in_first)


def _search(
    ratings: Ratings, probabilities: np.ndarray, top_k: int, seed: int, progress: Callable[[int], object]
) -> list[int]:
    """The weights with the highest MAP that a greedy search meets, starting from equal weights.

    Ensemble selection with replacement (Caruana et al. 2004): each step adds the model that gives the highest MAP, even
    if it is lower than before; run once from no model and once from all.
    """
    n_models = len(probabilities)
    known = ~np.isnan(probabilities).any(axis=0)

    def measure(total: np.ndarray) -> float:
        places = places_by_score(ratings, np.where(known, total, -np.inf), top_k, seed)
        value = Ranking(ratings, np.where(known, places, NOT_LISTED)).mean_average_precision()
        return round(value, 12)  # so that equal values do not differ by rounding

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


@dataclass(frozen=True)
class WrittenWeights:
    """`weights` of models, in their order, integers of at least 0, not all 0; `origin`: their source, for messages."""

    weights: list[int]
    origin: str


def model_digest(file: PredictionFile) -> str | None:
    """The digest of the model that predictions were made with; None if unknown."""
    try:
        return json.loads(file.origin_path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest_weights(data_dir: Path, files: Sequence[PredictionFile]) -> WrittenWeights:
    """The weights that the newest evaluation in the cache folder found for the models of prediction files.

    Raises `UserError`, with the command that finds some, if there are none.
    """
    digests = {file.path.stem: model_digest(file) for file in files}
    if len(digests) < 2:
        raise UserError(f"--weights auto: there is only one model, {next(iter(digests))}, which needs no weight")
    cache = data_dir / "cache"
    outdated = []
    for path, document in sorted(_evaluations(evaluation_files(cache)), key=lambda item: item[1]["time"], reverse=True):
        weights = _weights_for(list(digests), document["weights"])
        if weights is None:
            continue
        measured = document["weights"]["digests"]
        changed = [name for name, own in digests.items() if own and (measured.get(name) or own) != own]
        if not changed:
            return WrittenWeights(weights, _origin(path, document))
        outdated.append(f"; {path} measured another {', '.join(changed)}")
    raise UserError(
        f"--weights auto: no evaluation in {cache} has found weights for exactly {', '.join(digests)}"
        f"{''.join(outdated[:1])}; {_remedy(data_dir, list(digests))}"
    )


def _evaluations(paths: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """The evaluations that contain weights."""
    found = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = document["version"] == FORMAT_VERSION
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            LOGGER.warning("%s: not an evaluation of this version; ignored", path)
        elif document.get("weights"):
            found.append((path, document))
    return found


def _weights_for(names: list[str], found: dict[str, Any]) -> list[int] | None:
    """The weights of models of these names; None if those found are for others."""
    measured: dict[str, int] = found["models"]
    if not found["out_of_fold"]:
        return [measured[name] for name in names] if set(names) == set(measured) else None
    kinds, folds = zip(*map(_kind_and_fold, names))
    if set(kinds) != set(measured) or not all(folds):
        return None
    counts = Counter(kinds)
    common = math.lcm(*counts.values())
    return [measured[kind] * (common // counts[kind]) for kind in kinds]


def _kind_and_fold(name: str) -> tuple[str, str]:
    """ "dbof-3" and "0" for "dbof-3_0"; the name and "" for a name that does not end in a fold."""
    kind, _, fold = name.rpartition("_")
    return (kind, fold) if fold in _FOLDS else (name, "")


def _origin(path: Path, document: dict[str, Any]) -> str:
    """The evaluation that found the weights, and their scores in it."""
    maps = {subject["kind"]: subject["map"] for subject in document["subjects"]}
    return (
        f"found in {path} on {document['ratings_from']}, {document['time']}: by cross-fitting MAP@{document['top_k']} "
        f"{maps['weighted']:.4f}, the plain mean {maps['ensemble']:.4f}"
    )


def _remedy(data_dir: Path, names: list[str]) -> str:
    """The command that finds weights for models of these names."""
    kinds, folds = (list(dict.fromkeys(part)) for part in zip(*map(_kind_and_fold, names)))
    which, why = f"--truth RATINGS.csv --model-names {' '.join(names)}", ""
    if len(folds) == 1 and folds[0].isdecimal():
        which = f"--fold {folds[0]} --model-names {' '.join(names)}"
    elif len(kinds) > 1 and len(names) == len(kinds) * len(folds) and folds in ([NO_FOLD], sorted(_FOLDS[:N_FOLDS])):
        which, why = f"--out-of-fold {' '.join(kinds)}", ", each rated shard by the models that have not seen it"
    elif len(folds) > 1:
        why = ", with ratings of test segments, since no rated shard is unseen by all of these models"
    return f"run `python -m yt8m.evaluate --data-dir {data_dir} {which}`{why}"
