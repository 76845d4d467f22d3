"""All steps from features, labels and ratings to a localization model."""

import logging
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from helperbot import close_logger
from helperbot.distributed import launched
from helperbot.files import replacing

from yt8m.common.devices import resolve_device
from yt8m.common.errors import UserError, counted, listed
from yt8m.data.index import load_index
from yt8m.data.partitions import NAMES_FILE, NO_FOLD, Fold
from yt8m.data.vocabulary import VOCABULARY_FILE, RatingRow, Vocabulary, load_vocabulary
from yt8m.films.film_files import find_films, ids_by_name, name_films
from yt8m.fitting import measuring
from yt8m.fitting.annotated import Annotated, read_annotated, require_divided, require_enough, shortages
from yt8m.fitting.fit_folder import FitFolder, digest_files, open_fit_folder
from yt8m.fitting.holding_out import SHARE, hold_out
from yt8m.fitting.material import (
    FOLD,
    RATED,
    TRAIN,
    VALID,
    Material,
    find_arrays,
    open_material,
    write_ratings,
    write_videos,
)
from yt8m.fitting.outcome import Outcome
from yt8m.fitting.pseudo_ratings import MOST_PER_RATING, limit, rate_surest
from yt8m.fitting.settings import segment_settings, video_settings, write_settings
from yt8m.making.array_records import has_shards
from yt8m.making.feature_arrays import array_path
from yt8m.models.classifiers import ContextAgnosticModel
from yt8m.models.config import BaseSection, PureSegmentSection
from yt8m.models.model_files import WEIGHTS_NAME
from yt8m.models.model_folders import copy_model, exported_config, load_video_model, open_folder, save_model
from yt8m.scoring.evaluation import write_evaluation
from yt8m.training.experiments import Builder, agnostic_experiment, video_experiment
from yt8m.training.resume import code_identity
from yt8m.training.trainer import TrainingOptions, train

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to fit: a folder of `features`, with or without `audio`, or of `videos`.

    `data_dir` / `name` is the resulting data folder; `ratings` may be None; `assets` are files of the `extractor`;
    `processes` for extraction, None for one per core; `skip_short` leaves out classes with too few labels or ratings;
    `restart` starts over; `console_level` is the minimum level of log lines on the console.
    """

    data_dir: Path
    name: str
    labels: Path
    ratings: Path | None
    features: Path | None
    audio: Path | None
    videos: Path | None
    extractor: str
    assets: Path | None
    processes: int | None
    seed: int
    device: str
    skip_short: bool = False
    restart: bool = False
    console_level: int = logging.INFO


def fit(request: Request) -> Outcome:
    """Fit, or resume an interrupted fit. Raises `UserError`.

    After signal n during training, saves the state of the training and ends the process with status 128 + n.
    """
    if launched():
        raise UserError("fit runs as a single process; start it without torchrun")
    device = resolve_device(request.device)
    named = {} if request.videos is None else name_films(find_films([request.videos]), {})
    annotated = _enough(read_annotated(request.labels, request.ratings, ids_by_name(named)), request.skip_short)
    films = None
    if request.videos is not None:
        from yt8m.fitting.film_features import AnnotatedFilms  # needs PyAV

        films = AnnotatedFilms(request.videos, named, annotated)
    with open_fit_folder(request.data_dir / request.name, request.restart) as folder:
        inputs = {
            "name": request.name,
            "seed": request.seed,
            "labels": digest_files([request.labels]),
            "ratings": None if request.ratings is None else digest_files([request.ratings]),
            "classes": annotated.classes,
            "code": code_identity(),
        }
        folder.compare(**inputs)
        if films is not None:
            readable = films.extract(folder.films, request.extractor, request.assets, device, request.processes)
            annotated = _enough(readable, request.skip_short)
        sources = find_arrays(request.features or folder.films, request.audio)
        material = open_material(annotated, sources, folder.path)
        steps = _Fit(request, folder, material, device)
        places = [place for place in (sources.rgb, sources.audio) if place is not None]
        folder.require(  # only now, since faults of the tables may be corrected
            **inputs, features=digest_files(array_path(place, video) for place in places for video in annotated.videos)
        )
        return steps.run()


def _enough(annotated: Annotated, skip_short: bool) -> Annotated:
    """The annotations, with `skip_short` without short classes. Raises `UserError` if there is too little left."""
    while skip_short and (short := shortages(annotated)):
        LOGGER.warning("left out: %s", "; ".join(short.values()))
        annotated = annotated.without(short)
    require_enough(annotated)
    return annotated


class _Fit:
    """The steps after the data are checked; steps with existing results are skipped.

    Raises `UserError` for ratings of too few videos to hold out any.
    """

    def __init__(self, request: Request, folder: FitFolder, material: Material, device: torch.device) -> None:
        self._request, self._folder, self._material, self._device = request, folder, material, device
        self._path, self._seed = folder.path, request.seed
        self._annotated = material.annotated
        self._held_out = hold_out(self._annotated, request.seed)
        if self._annotated.ratings_path is not None:
            require_divided(self._annotated, self._held_out)
        self._training = sorted(set(self._annotated.videos) - set(self._held_out))
        self._base = self._path / "cache" / "video" / request.name
        self._model = self._path / "cache" / "segment" / f"{request.name}_{FOLD}"

    def run(self) -> Outcome:
        """Run all steps."""
        LOGGER.info(
            "%s: %s, %d of them held out; %s: %s",
            self._path,
            counted(len(self._annotated.videos), "video"),
            len(self._held_out),
            f"{len(self._annotated.classes)} classes",
            listed(self._annotated.classes),
        )
        write_videos(self._path, self._material, self._held_out, self._seed)
        config = self._path / "video.yaml"
        sizes = self._material.sizes(self._training, len(self._annotated.ratings))
        write_settings(config, video_settings(sizes), self._command_line("train_video", config))
        self._train(self._base, self._path, partial(video_experiment, config=config))
        if self._annotated.ratings_path is None:
            score: measuring.RatingScore | measuring.LabelScore = self._from_labels()
        else:
            score = self._from_ratings()
        return Outcome(self._path, self._model, self._request.videos is not None, self._held_out, score)

    # --- with ratings ---------------------------------------------------------------------------------

    def _from_ratings(self) -> measuring.RatingScore:
        rated = self._annotated.of_videos(self._training)
        half = rated.of_videos(hold_out(rated, self._seed, 0.5))
        trial = self._trial("half")
        if not (has_shards(self._path / RATED) and has_shards(trial / RATED)):
            surest = self._surest_unrated(len(rated.ratings))
            for folder, ratings, held_out in (
                (self._path, self._annotated.ratings, self._held_out),
                (trial, half.ratings, ()),
            ):
                write_ratings(folder, self._material, [*ratings, *surest], held_out, self._seed)
        n_added = _count_ratings(self._path) - len(self._annotated.ratings)
        self._fine_tune(self._path, self._model, len(rated.ratings) + n_added, FOLD)
        self._fine_tune(trial, trial / "model", len(half.ratings) + n_added, NO_FOLD)
        models = {"model": self._model, "with half of the ratings": trial / "model"}
        score, evaluation = measuring.score_ratings(self._path, models, len(half.ratings), self._device, self._seed)
        write_evaluation(evaluation, self._path / "cache" / "evaluation")
        return replace(score, added=n_added)

    def _surest_unrated(self, n_ratings: int) -> list[RatingRow]:
        """Ratings by the video model for training videos without any: a few rated videos do not teach a model which
        videos lack a class. `n_ratings` are real ones, which these must not drown."""
        unrated = set(self._training) - {row.video_id for row in self._annotated.ratings}
        if not unrated:
            return []
        vocabulary = load_vocabulary(self._path)
        as_it_is = self._export_as_it_is(self._trial("labels") / "as-it-is", vocabulary)
        rows = [row for row in self._surest(as_it_is, TRAIN, vocabulary) if row.video_id in unrated]
        return limit(rows, MOST_PER_RATING * n_ratings, self._seed)

    # --- without ratings ------------------------------------------------------------------------------

    def _from_labels(self) -> measuring.LabelScore:
        trial = self._trial("labels")
        vocabulary = load_vocabulary(self._path)
        as_it_is, tuned = self._export_as_it_is(trial / "as-it-is", vocabulary), trial / "fine-tuned"
        if not has_shards(trial / RATED):
            ratings = [row for part in (TRAIN, VALID) for row in self._surest(as_it_is, part, vocabulary)]
            write_ratings(trial, self._material, ratings, self._held_out, self._seed)
        self._fine_tune(trial, tuned, round(_count_ratings(trial) * (1 - SHARE)), FOLD)
        score = measuring.score_labels(
            {
                name: list(self._see(folder, VALID, vocabulary))
                for name, folder in ((measuring.AS_IT_IS, as_it_is), (measuring.TUNED, tuned))
            },
            vocabulary,
        )
        if not (self._model / WEIGHTS_NAME).exists():
            copy_model({measuring.AS_IT_IS: as_it_is, measuring.TUNED: tuned}[score.chosen], self._model)
        return score

    def _see(self, model: Path, partition: str, vocabulary: Vocabulary) -> Iterator[measuring.SeenVideo]:
        index = load_index(self._path / partition, self._path / "cache")
        return measuring.see_videos(open_folder(model), index, vocabulary, self._device)

    def _surest(self, model: Path, partition: str, vocabulary: Vocabulary) -> list[RatingRow]:
        names = {label: name for name, label in self._material.ids.ids.items()}
        classes = [names[label] for label in vocabulary.labels.tolist()]
        return rate_surest(self._see(model, partition, vocabulary), classes)

    def _export_as_it_is(self, folder: Path, vocabulary: Vocabulary) -> Path:
        """Save the video model as a segment classifier; returns the folder."""
        if (folder / WEIGHTS_NAME).exists():
            return folder
        base = open_folder(self._base)
        model = load_video_model(base, vocabulary)
        config = exported_config(video=BaseSection(model=model.config), pure_segment=PureSegmentSection(training=None))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder, config, ContextAgnosticModel(model), vocabulary, base.features)
        return folder

    # --- shared ---------------------------------------------------------------------------------------

    def _fine_tune(self, data_dir: Path, model: Path, n_ratings: int, fold: Fold) -> None:
        config = data_dir / "segment.yaml"
        sizes = self._material.sizes(self._training, n_ratings)
        line = self._command_line("train_pure_segment", config, (self._base, "--fold", fold), data_dir)
        write_settings(config, segment_settings(sizes), line)
        self._train(model, data_dir, partial(agnostic_experiment, config=config, base_model=self._base, fold=fold))

    def _command_line(
        self, command: str, config: Path, more: Iterable[object] = (), data_dir: Path | None = None
    ) -> str:
        options = "--name", self._request.name, "--data-dir", data_dir or self._path, "--seed", self._seed
        return shlex.join(map(str, ("python", "-m", f"yt8m.{command}", config, *more, *options)))

    def _trial(self, name: str) -> Path:
        """A data folder with the same classes, for trials."""
        folder = self._folder.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (NAMES_FILE, VOCABULARY_FILE):
            if (self._path / file).exists():
                with replacing(folder / file) as temporary:
                    shutil.copyfile(self._path / file, temporary)
        return folder

    def _train(self, model: Path, data_dir: Path, build: Builder) -> None:
        options = TrainingOptions(
            seed=self._seed,
            device=self._request.device,
            save_every=timedelta(minutes=1),
            console_level=self._request.console_level,
        )
        try:
            train(model, data_dir, build, options)
        finally:
            close_logger(logging.getLogger("yt8m"))  # close the training's log file


def _count_ratings(data_dir: Path) -> int:
    """The number of ratings in a data folder's rated shards."""
    return int(load_index(data_dir / RATED, data_dir / "cache").rating_ends[-1])
