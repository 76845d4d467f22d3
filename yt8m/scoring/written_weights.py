"""Weights of models that `evaluate` has found and written: which of them are for the models at hand.

An evaluation is for models if it has measured exactly these. One that has measured kinds of models out of fold, NAME
with the eight models NAME_0 to NAME_7, is for any of those and for NAME_none: a kind's weight is that of all its models
together.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yt8m.common.errors import UserError
from yt8m.data.folds import N_FOLDS, NO_FOLD
from yt8m.prediction.memmaps import PredictionFile
from yt8m.scoring.evaluation import FORMAT_VERSION

LOGGER = logging.getLogger(__name__)
PATTERNS = ("evaluation*.json", "cross-validation*.json")
_FOLDS = (*map(str, range(N_FOLDS)), NO_FOLD)


@dataclass(frozen=True)
class WrittenWeights:
    """`weights` of models, in their order, integers of at least 0, not all 0; `origin` says to people whence."""

    weights: list[int]
    origin: str


def model_digest(file: PredictionFile) -> str | None:
    """The digest of the model that predictions were made with; None where nothing says so."""
    try:
        return json.loads(file.origin_path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest_weights(data_dir: Path, files: Sequence[PredictionFile]) -> WrittenWeights:
    """The weights that the newest evaluation in the cache folder has found for the models of prediction files.

    Raises `UserError`, which says how to find some, where there are none.
    """
    digests = {file.path.stem: model_digest(file) for file in files}
    if len(digests) < 2:
        raise UserError(f"--weights auto: there is one model only, {next(iter(digests))}, which needs no weight")
    cache = data_dir / "cache"
    outdated = []
    paths = [path for pattern in PATTERNS for path in cache.glob(pattern)]
    for path, document in sorted(_evaluations(paths), key=lambda item: item[1]["time"], reverse=True):
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
    """What `evaluate` wrote, where there are weights in it."""
    found = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = document["version"] == FORMAT_VERSION
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            LOGGER.warning("%s: not an evaluation of this version; left aside", path)
        elif document.get("weights"):
            found.append((path, document))
    return found


def _weights_for(names: list[str], found: dict[str, Any]) -> list[int] | None:
    """The weights of models of these names; None where those found are for others."""
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
    """ "dbof-3", "0" of "dbof-3_0"; name and "" of a name that ends in no fold."""
    kind, _, fold = name.rpartition("_")
    return (kind, fold) if fold in _FOLDS else (name, "")


def _origin(path: Path, document: dict[str, Any]) -> str:
    """Which evaluation it was, and what it expects of the weights."""
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
