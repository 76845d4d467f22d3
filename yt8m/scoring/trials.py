"""Pairings of ratings with subjects: submissions, predictions of a test set, models on held-out shards.

Dimensions: R ratings.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from yt8m.common.errors import UserError
from yt8m.data.candidates import CANDIDATES_FILE, Candidates, load_candidates
from yt8m.data.features import CONTRACT_NAME
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS, Trim
from yt8m.data.index import Index, load_index, split_fold
from yt8m.data.partitions import N_FOLDS, NAMES_FILE
from yt8m.data.records import RAISE, Damage
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_files import folder_digest
from yt8m.models.model_folders import ModelFolder
from yt8m.prediction.inference import ModelChoice
from yt8m.prediction.prediction_files import SCALE, prediction_files
from yt8m.ranking.fusion import Fusion, Scores, weights_text
from yt8m.ranking.submission import read_submission
from yt8m.ranking.top_k import top_rows
from yt8m.scoring.evaluation import Subject, SubjectKind
from yt8m.scoring.held_out import HeldOutRatings, trained_on
from yt8m.scoring.mean_average_precision import NOT_LISTED, places_by_score
from yt8m.scoring.ratings import Ratings, ratings_of_table, read_truth, read_video_labels
from yt8m.scoring.weights import BestWeights, best_weights, model_digest

LOGGER = logging.getLogger(__name__)
BLOCK_ROWS = 4096
_MEAN, _WEIGHTED = "ensemble", "best weights"
_UNSEEN = "not trained on these shards, though its checkpoint may have been chosen on them"
_SEEN = "TRAINED ON THESE SHARDS, or may have been"


def subject_of_submission(path: Path, ratings: Ratings, top_k: int) -> Subject:
    """The subject for a submission; the first `top_k` entries of each list count.

    Raises `UserError` if the file cannot be read, or lists segments but none of a rated video.
    """
    places = np.full(len(ratings), NOT_LISTED)
    class_rows = {label: row for row, label in enumerate(ratings.labels.tolist())}
    duplicates = 0
    rated, n_listed, meets = set(map(_video_of, ratings.segment_names())), 0, False
    for label, segments in read_submission(path):
        n_listed += len(segments)
        meets = meets or not rated.isdisjoint(map(_video_of, segments))
        del segments[top_k:]
        place_of = dict(zip(reversed(segments), range(len(segments) - 1, -1, -1)))  # the first of duplicates
        duplicates += len(segments) - len(place_of)
        if label in class_rows:
            own = ratings.of_class(class_rows.pop(label))
            places[own] = [place_of.get(name, NOT_LISTED) for name in ratings.segment_names(own)]
    if n_listed and not meets:
        raise UserError(
            f"{path}: none of its {n_listed} entries is in one of the {len(rated)} rated videos, such as {min(rated)}; "
            "use the truth of its own test set"
        )
    note = f"{len(class_rows)} rated classes are missing" if class_rows else ""
    return Subject(path.name, "submission", places, duplicates=duplicates, note=note)


def _video_of(segment: str) -> str:
    return segment.rpartition(":")[0]


class _EqualScores:
    """The same score for all rows and classes, (rows, C), without using memory."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Consecutive rows."""
        return np.ones((len(range(*rows.indices(self.shape[0]))), *self.shape[1:]), np.int16)


def _rule(trim: Trim) -> str:
    """The end of a message that says what a trim leaves out."""
    if trim == EVERYTHING:
        return ""
    head, tail = trim.head * SEGMENT_SECONDS, trim.tail * SEGMENT_SECONDS
    return f"; the first {head} seconds and the last {tail} of a video have no candidates (`trim` in {CONTRACT_NAME})"


class PlacedRatings:
    """Ratings of test segments with their positions in prediction files: `rows` and `classes` (R,), -1 if absent.

    Raises `UserError` if all are absent.
    """

    def __init__(self, ratings: Ratings, candidates: Candidates, vocabulary: Vocabulary) -> None:
        self.ratings = ratings
        names = np.char.decode(candidates.row_names(), "utf-8", "replace")
        order = np.argsort(names)
        wanted = np.array(ratings.segment_names())
        found = order[np.searchsorted(names, wanted, sorter=order).clip(max=len(names) - 1)]
        self.rows = np.where(names[found] == wanted, found, -1)
        self.classes = vocabulary.classes(ratings.label)
        self._candidates, self._vocabulary = candidates, vocabulary
        self._shape = (candidates.n_rows, len(vocabulary))
        lost = (self.rows < 0) | (self.classes < 0)
        if lost.all():
            raise UserError(
                f"none of the {len(ratings)} ratings is of a candidate segment of the test set and of a class in "
                f"{vocabulary.source}, such as {wanted[0]}, label {ratings.label[0]}; use the truth of this test set, "
                f"with the ids and starts of its shards{_rule(candidates.trim)}"
            )
        if lost.any():
            LOGGER.warning(
                "%d of %d ratings are of segments that are not candidates or of classes that are not in the "
                "vocabulary; they are not ranked%s",
                lost.sum(),
                len(ratings),
                _rule(candidates.trim),
            )

    def subject(self, name: str, kind: SubjectKind, scores: Sequence[Scores], top_k: int, seed: int) -> Subject:
        """The subject for a model, or for the mean of several, from their prediction files."""
        return Subject(
            name,
            kind,
            self.places(Fusion(scores), top_k, seed),
            np.mean([self._probabilities(values) for values in scores], axis=0),
        )

    def baselines(self, labels: pd.DataFrame | None, top_k: int, seed: int) -> list[Subject]:
        """Baselines without a model: all candidate segments in random order and, given a table of the labels of test
        videos (columns vid, label), segments of videos with the label before the others."""
        equal = _EqualScores(self._shape)
        subjects = [Subject("random order", "baseline", self.places(Fusion([equal]), top_k, seed))]
        if labels is not None:
            numbers = {
                video_id.decode(errors="replace"): number
                for number, video_id in enumerate(self._candidates.video_ids.tolist())
            }
            classes = self._vocabulary.classes(labels["label"].to_numpy())
            known = labels["vid"].isin(numbers).to_numpy() & (classes >= 0)
            factors = np.ones((len(numbers), self._shape[1]), np.float32)
            factors[labels["vid"][known].map(numbers), classes[known]] = 2
            fusion = Fusion([equal], factors=factors, row_videos=self._candidates.row_videos())
            subjects.append(Subject("video labels only", "baseline", self.places(fusion, top_k, seed)))
        return subjects

    def places(self, fusion: Fusion, top_k: int, seed: int) -> np.ndarray:
        """Places of the ratings in the lists of the `top_k` best segments of each class, (R,)."""
        places = np.full(len(self.ratings), NOT_LISTED)
        ranked = top_rows(fusion, top_k, seed)
        place_of = np.full(fusion.shape[0], NOT_LISTED)
        for row in range(len(self.ratings.labels)):
            own = self.ratings.of_class(row)
            label = self.classes[own.start]
            if label >= 0:
                best = ranked[label]()
                place_of[best] = np.arange(len(best))
                places[own] = np.where(self.rows[own] >= 0, place_of[self.rows[own]], NOT_LISTED)
                place_of[best] = NOT_LISTED
        return places

    def _probabilities(self, values: Scores) -> np.ndarray:
        """Probabilities of the ratings in a prediction file, (R,); NaN where absent."""
        probabilities = np.full(len(self.ratings), np.nan)
        known = np.flatnonzero((self.rows >= 0) & (self.classes >= 0))
        known = known[np.argsort(self.rows[known], kind="stable")]
        blocks = self.rows[known] // BLOCK_ROWS
        for part in np.split(known, np.flatnonzero(np.diff(blocks)) + 1):
            if part.size:
                first, last = self.rows[part[0]], self.rows[part[-1]]
                probabilities[part] = values[first : last + 1][self.rows[part] - first, self.classes[part]] / SCALE
        return probabilities


@dataclass(frozen=True)
class Trial:
    """Ratings, their source, and the subjects to measure; `folds` (R,) for out-of-fold predictions, else None.

    `weights`: the best weights of several models, as `evaluate` writes them, else None.
    """

    source: str
    ratings: Ratings
    subjects: list[Subject]
    folds: np.ndarray | None = None
    weights: dict[str, Any] | None = None


@dataclass(frozen=True)
class Counting:
    """Which segments count: the first `top_k` of a class; `seed` orders ties."""

    top_k: int
    seed: int

    def subject(
        self, ratings: Ratings, name: str, kind: SubjectKind, probabilities: np.ndarray, note: str = ""
    ) -> Subject:
        """The subject with these probabilities (R,) of the ratings."""
        places = places_by_score(ratings, probabilities, self.top_k, self.seed)
        return Subject(name, kind, places, probabilities, note=note)


@dataclass(frozen=True)
class Loading:
    """How to predict held-out shards: `batch_size` ratings at a time, with `workers` reading threads."""

    device: torch.device
    batch_size: int
    workers: int
    damage: Damage = RAISE


def on_test_set(
    data_dir: Path,
    vocabulary: Vocabulary,
    counting: Counting,
    truth: Path,
    *,
    submission: Path | None = None,
    model_names: Sequence[str] | None = None,
    video_labels: Path | None = None,
) -> Trial:
    """A submission, predictions of test segments and their mean, or both, on the ratings of `truth`.

    `model_names`: whose predictions; without names and `submission`, all existing ones. `video_labels`: a CSV for the
    baseline that knows only these. Raises `UserError`.
    """
    names = data_dir / NAMES_FILE
    ratings = ratings_of_table(read_truth(truth, names))
    cache = data_dir / "cache"
    top_k, seed = counting.top_k, counting.seed
    subjects, weights = [], None
    predicted = submission is None or model_names is not None
    if predicted or video_labels is not None or (cache / CANDIDATES_FILE).exists():
        candidates = load_candidates(cache)
        test = PlacedRatings(ratings, candidates, vocabulary)
        labels = None if video_labels is None else read_video_labels(video_labels, names)
        subjects += test.baselines(labels, top_k, seed)
        if predicted:
            files = prediction_files(cache, model_names)
            scores = [file.read(candidates, vocabulary) for file in files]
            models = [test.subject(file.path.stem, "model", [own], top_k, seed) for file, own in zip(files, scores)]
            subjects += models
            if len(scores) > 1:
                subjects.append(test.subject(_MEAN, "ensemble", scores, top_k, seed))
                found = best_weights(ratings, _stacked(models), len(ratings), seed)
                subjects.append(
                    _weighted(models, found, lambda weights: test.places(Fusion(scores, weights=weights), top_k, seed))
                )
                digests = {file.path.stem: model_digest(file) for file in files}
                weights = _written_weights(models, found, digests, out_of_fold=False)
    if submission is not None:
        subjects.append(subject_of_submission(submission, ratings, top_k))
    return Trial(str(truth), ratings, subjects, weights=weights)


def on_fold(
    data_dir: Path,
    vocabulary: Vocabulary,
    counting: Counting,
    models: ModelChoice,
    fold: int,
    loading: Loading,
    *,
    include_trained: bool = False,
) -> Trial:
    """Models on the validation shards of a fold, and their mean. Raises `UserError`.

    Models that were or may have been trained on these shards are left out, unless `include_trained`.
    """
    index = load_index(data_dir / "segment" / "train", data_dir / "cache", loading.damage)
    shards = split_fold(index, fold)[1]
    folders, notes = _models_for(models, fold, index, shards, include_trained)
    held_out = HeldOutRatings(index, vocabulary, shards, loading.damage)
    predicted = held_out.predict(folders, shards, loading.batch_size, loading.workers, loading.device)
    return _trial_of_models(
        f"fold {fold} of {index.folder}", held_out, counting, dict(zip(notes, predicted)), notes, folders
    )


def on_unseen_shards(
    data_dir: Path, vocabulary: Vocabulary, counting: Counting, models: ModelChoice, loading: Loading
) -> Trial:
    """Cross-validated models, NAME_0 to NAME_7 for each name in `models`, each on its unseen shards, and their mean.

    Raises `UserError`.
    """
    index = load_index(data_dir / "segment" / "train", data_dir / "cache", loading.damage)
    notes = dict.fromkeys(models.names or (), f"each shard by a model that was {_UNSEEN}")
    parts = [split_fold(index, fold)[1] for fold in range(N_FOLDS)]
    of_folds = [
        [_out_of_fold_model(models.open(f"{name}_{fold}"), index, shards) for name in notes]
        for fold, shards in enumerate(parts)
    ]  # check all before any predicts
    held_out = HeldOutRatings(index, vocabulary, np.arange(len(index.shards)), loading.damage)
    probabilities = {name: np.empty(len(held_out.ratings)) for name in notes}
    folds = np.empty(len(held_out.ratings), np.int64)
    for fold, (shards, folders) in enumerate(zip(parts, of_folds)):
        chosen = np.isin(held_out.shards_of_ratings, shards)
        folds[chosen] = fold
        predicted = held_out.predict(folders, shards, loading.batch_size, loading.workers, loading.device)
        for own, values in zip(probabilities.values(), predicted):
            own[chosen] = values[chosen]
    used = [folder for folders in of_folds for folder in folders]
    source = f"{index.folder}, all shards, out of fold"
    return _trial_of_models(source, held_out, counting, probabilities, notes, used, folds)


def _trial_of_models(
    source: str,
    held_out: HeldOutRatings,
    counting: Counting,
    probabilities: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    folders: Sequence[ModelFolder],
    folds: np.ndarray | None = None,
) -> Trial:
    """A trial of baselines, models with their probabilities (R,), and, for several, their mean and weighted mean.

    `folders`: all models that have predicted.
    """
    ratings, top_k, seed = held_out.ratings, counting.top_k, counting.seed
    subjects = [
        Subject(name, "baseline", places_by_score(ratings, scores, top_k, seed))
        for name, scores in (
            ("random order", np.zeros(len(ratings))),
            ("video labels only", held_out.labelled.astype(float)),
        )
    ]
    models = [counting.subject(ratings, name, "model", own, notes[name]) for name, own in probabilities.items()]
    subjects += models
    weights = None
    if len(models) > 1:
        stack = np.stack(list(probabilities.values()))
        note = _SEEN if _SEEN in notes.values() else next(iter(notes.values()))
        subjects.append(counting.subject(ratings, _MEAN, "ensemble", np.mean(stack, axis=0), note))
        if note == _SEEN:
            LOGGER.warning(
                "no weights are searched for: some of the models were, or may have been, trained on these shards"
            )
        else:
            found = best_weights(ratings, _stacked(models), top_k, seed)
            subjects.append(
                _weighted(
                    models,
                    found,
                    lambda weights: places_by_score(ratings, np.average(stack, axis=0, weights=weights), top_k, seed),
                )
            )
            digests = {folder.name: folder_digest(folder.path) for folder in folders}
            weights = _written_weights(models, found, digests, out_of_fold=folds is not None)
    return Trial(source, ratings, subjects, folds, weights)


def _stacked(models: Sequence[Subject]) -> np.ndarray:
    """The models' probabilities, (M, R)."""
    return np.stack([model.probabilities for model in models if model.probabilities is not None])


def _weighted(models: Sequence[Subject], found: BestWeights, place: Callable[[list[int]], np.ndarray]) -> Subject:
    """The subject for the mean with the best weights, by cross-fitting; `place` returns the places (R,) for weights."""
    probabilities = _stacked(models)
    return Subject(
        _WEIGHTED,
        "weighted",
        found.cross_fitted(place),
        found.cross_fitted(lambda weights: np.average(probabilities, axis=0, weights=weights)),
        note=f"{weights_text([model.name for model in models], found.on_all)}; by cross-fitting",
    )


def _written_weights(
    models: Sequence[Subject], found: BestWeights, digests: Mapping[str, str | None], out_of_fold: bool
) -> dict[str, Any]:
    """The best weights as `evaluate` writes them; `digests`: of the models that have predicted."""
    names = [model.name for model in models]
    return {
        "models": dict(zip(names, found.on_all)),
        "halves": [dict(zip(names, weights)) for weights in found.on_halves],
        "out_of_fold": out_of_fold,
        "digests": dict(digests),
    }


def _models_for(
    models: ModelChoice, fold: int, index: Index, shards: np.ndarray, include_trained: bool
) -> tuple[list[ModelFolder], dict[str, str]]:
    """The models to measure on the shards of a fold, and a note on each by name; logs which are left out."""
    found = models.open_all()
    folders, notes = [], {}
    for folder in found:
        training = trained_on(folder.path, index)
        unseen = training.has_not_seen(shards)
        if not unseen:
            LOGGER.warning(
                "%s: %s; %s",
                folder.path,
                training.text,
                "measured anyway, by --include-trained"
                if include_trained
                else f"left out: fold {fold} is not a fair test of it (--include-trained measures it)",
            )
        if unseen or include_trained:
            folders.append(folder)
            notes[folder.name] = _UNSEEN if unseen else _SEEN
    if not folders:
        raise UserError(
            f"{models.directory}: none of {len(found)} models is known to have been trained without the "
            f"shards of fold {fold}; choose another --fold, or --include-trained"
        )
    return folders, notes


def _out_of_fold_model(folder: ModelFolder, index: Index, shards: np.ndarray) -> ModelFolder:
    """Return the model if it has not seen these shards, else raise `UserError`."""
    path = folder.path
    training = trained_on(path, index)
    if not training.has_not_seen(shards):
        raise UserError(
            f"{path}: {training.text}, so it cannot be tested fairly on that fold; retrain it with "
            f"--fold {path.name.rpartition('_')[2]}"
        )
    return folder
