"""Who is measured on which ratings: `evaluate`'s command line → ratings and subjects. Dimensions: R ratings."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yt8m.common.devices import resolve_device, resolve_workers
from yt8m.common.errors import UserError
from yt8m.data.folds import N_FOLDS, split_fold
from yt8m.data.index import Index, load_index
from yt8m.data.partitions import NAMES_FILE
from yt8m.data.test_meta import META_NAME, load_test_meta
from yt8m.data.vocabulary import Vocabulary, named_vocabulary
from yt8m.models.artifacts import ModelFolder, open_folder
from yt8m.models.model_files import folder_digest
from yt8m.prediction.members import chosen_folders
from yt8m.prediction.memmaps import prediction_files
from yt8m.ranking.fusion import Fusion, weights_text
from yt8m.scoring.evaluation import Kind, Subject
from yt8m.scoring.held_out import HeldOutRatings, training_of
from yt8m.scoring.placing import TestRatings, subject_of_submission
from yt8m.scoring.ratings import Ratings, ratings_of_table
from yt8m.scoring.scores import places_by_score
from yt8m.scoring.truth import read_truth, read_video_labels
from yt8m.scoring.weights import best_weights
from yt8m.scoring.written_weights import model_digest

LOGGER = logging.getLogger(__name__)
_MEAN, _WEIGHTED = "ensemble", "best weights"
_UNSEEN = "not trained on these shards, though its checkpoint was chosen on them"
_SEEN = "TRAINED ON THESE SHARDS, or may have been"


@dataclass(frozen=True)
class Trial:
    """Ratings, where they come from, who is measured on them; `folds` (R,) for out-of-fold predictions, else None.

    `weights`: of several models what `evaluate` writes of their best weights, else None.
    """

    source: str
    ratings: Ratings
    subjects: list[Subject]
    folds: np.ndarray | None = None
    weights: dict[str, Any] | None = None


def on_test_set(args: argparse.Namespace, vocabulary: Vocabulary) -> Trial:
    """A submission, predictions of test segments and their mean, or both. Raises `UserError`."""
    names = args.data_dir / NAMES_FILE
    ratings = ratings_of_table(read_truth(args.truth, names))
    cache = args.data_dir / "cache"
    subjects, weights = [], None
    predicted = args.submission is None or args.model_names is not None
    if predicted or args.video_labels is not None or (cache / META_NAME).exists():
        meta = load_test_meta(cache)
        test = TestRatings(ratings, meta, vocabulary)
        labels = None if args.video_labels is None else read_video_labels(args.video_labels, names)
        subjects += test.baselines(labels, args.top_k, args.seed)
        if predicted:
            files = prediction_files(cache, args.model_names)
            maps = [file.read(meta, vocabulary) for file in files]
            models = [
                test.subject(file.path.stem, "model", [scores], args.top_k, args.seed)
                for file, scores in zip(files, maps)
            ]
            subjects += models
            if len(maps) > 1:
                subjects.append(test.subject(_MEAN, "ensemble", maps, args.top_k, args.seed))
                weighted, weights = _with_best_weights(
                    args,
                    ratings,
                    models,
                    lambda found: test.places(Fusion(maps, weights=found), args.top_k, args.seed),
                    {file.path.stem: model_digest(file) for file in files},
                )
                subjects.append(weighted)
    if args.submission is not None:
        subjects.append(subject_of_submission(args.submission, ratings, args.top_k))
    return Trial(str(args.truth), ratings, subjects, weights=weights)


def on_rated_shards(args: argparse.Namespace, vocabulary: Vocabulary) -> Trial:
    """Models on rated shards that they were not trained on, and their mean. Raises `UserError`."""
    device = resolve_device(args.device)
    how = args.batch_size, resolve_workers(args.workers, device), device
    index = load_index(args.data_dir / "segment" / "train", args.data_dir / "cache", args.damage)
    directory = args.model_dir or args.data_dir / "cache" / "segment"
    named = named_vocabulary(args.vocabulary)
    folds, weights = None, None
    if args.fold is not None:
        source = f"fold {args.fold} of {index.folder}"
        shards = split_fold(index, args.fold)[1]
        folders, notes = _models_for(args, directory, index, shards)
        used = folders
        held_out = HeldOutRatings(index, vocabulary, shards, args.damage)
        probabilities = dict(zip(notes, held_out.predict(folders, shards, *how)))
    else:
        source = f"{index.folder}, all shards, out of fold"
        notes = dict.fromkeys(args.out_of_fold, f"each shard by a model that was {_UNSEEN}")
        parts = [split_fold(index, fold)[1] for fold in range(N_FOLDS)]
        of_folds = [
            [_out_of_fold_model(open_folder(directory / f"{name}_{fold}", named), index, shards) for name in notes]
            for fold, shards in enumerate(parts)
        ]  # all of them are looked at before any predicts
        used = [folder for folders in of_folds for folder in folders]
        held_out = HeldOutRatings(index, vocabulary, np.arange(len(index.shards)), args.damage)
        probabilities = {name: np.empty(len(held_out.ratings)) for name in notes}
        folds = np.empty(len(held_out.ratings), np.int64)
        for fold, (shards, folders) in enumerate(zip(parts, of_folds)):
            chosen = np.isin(held_out.shards_of_ratings, shards)
            folds[chosen] = fold
            for own, predicted in zip(probabilities.values(), held_out.predict(folders, shards, *how)):
                own[chosen] = predicted[chosen]
    ratings = held_out.ratings
    subjects = [
        Subject(name, "baseline", places_by_score(ratings, scores, args.top_k, args.seed))
        for name, scores in (
            ("random order", np.zeros(len(ratings))),
            ("video labels only", held_out.labelled.astype(float)),
        )
    ]
    models = [_subject(args, ratings, name, "model", own, notes[name]) for name, own in probabilities.items()]
    subjects += models
    if len(models) > 1:
        stack = np.stack(list(probabilities.values()))
        mean = np.mean(stack, axis=0)
        note = _SEEN if _SEEN in notes.values() else next(iter(notes.values()))
        subjects.append(_subject(args, ratings, _MEAN, "ensemble", mean, note))
        if note == _SEEN:
            LOGGER.warning(
                "no weights are looked for: some of the models were, or may have been, trained on these shards"
            )
        else:
            weighted, weights = _with_best_weights(
                args,
                ratings,
                models,
                lambda found: places_by_score(ratings, np.average(stack, axis=0, weights=found), args.top_k, args.seed),
                {folder.name: folder_digest(folder.path) for folder in used},
                args.top_k,
            )
            subjects.append(weighted)
    return Trial(source, ratings, subjects, folds, weights)


def _with_best_weights(
    args: argparse.Namespace,
    ratings: Ratings,
    models: Sequence[Subject],
    place: Callable[[list[int]], np.ndarray],
    digests: Mapping[str, str | None],
    top_k: int | None = None,
) -> tuple[Subject, dict[str, Any]]:
    """The mean of models with the best weights, by cross-fitting, and what `evaluate` writes of these.

    `place` gives the places (R,) for weights; `digests`: of the models that predicted. The search lets `top_k` rated
    segments of a class count, without it all of them, whatever place they have among all candidates.
    """
    names = [model.name for model in models]
    probabilities = np.stack([model.probabilities for model in models if model.probabilities is not None])
    found = best_weights(ratings, probabilities, len(ratings) if top_k is None else top_k, args.seed)
    subject = Subject(
        _WEIGHTED,
        "weighted",
        found.cross_fitted(place),
        found.cross_fitted(lambda weights: np.average(probabilities, axis=0, weights=weights)),
        note=f"{weights_text(names, found.on_all)}; by cross-fitting",
    )
    return subject, {
        "models": dict(zip(names, found.on_all)),
        "halves": [dict(zip(names, weights)) for weights in found.on_halves],
        "out_of_fold": args.out_of_fold is not None,
        "digests": dict(digests),
    }


def _subject(
    args: argparse.Namespace, ratings: Ratings, name: str, kind: Kind, probabilities: np.ndarray, note: str
) -> Subject:
    places = places_by_score(ratings, probabilities, args.top_k, args.seed)
    return Subject(name, kind, places, probabilities, note=note)


def _models_for(
    args: argparse.Namespace, directory: Path, index: Index, shards: np.ndarray
) -> tuple[list[ModelFolder], dict[str, str]]:
    """The models to measure on these shards, and by name what to know of each; says who is left out."""
    candidates = chosen_folders(directory, args.model_names, named_vocabulary(args.vocabulary))
    folders, notes = [], {}
    for folder in candidates:
        training = training_of(folder.path, index)
        unseen = training.has_not_seen(shards)
        if not unseen:
            LOGGER.warning(
                "%s: %s; %s",
                folder.path,
                training.text,
                "measured all the same, as --include-trained says"
                if args.include_trained
                else f"left out: fold {args.fold} is no honest test of it (--include-trained measures it)",
            )
        if unseen or args.include_trained:
            folders.append(folder)
            notes[folder.name] = _UNSEEN if unseen else _SEEN
    if not folders:
        raise UserError(
            f"{directory}: none of {len(candidates)} models is known to have been trained without the "
            f"shards of fold {args.fold}; choose another --fold, or --include-trained"
        )
    return folders, notes


def _out_of_fold_model(folder: ModelFolder, index: Index, shards: np.ndarray) -> ModelFolder:
    """The model, which has not seen these shards. Raises `UserError` for any other."""
    path = folder.path
    training = training_of(path, index)
    if not training.has_not_seen(shards):
        raise UserError(
            f"{path}: {training.text}, so that it is no honest test of that fold; train it anew with "
            f"--fold {path.name.rpartition('_')[2]}"
        )
    return folder
