"""Scores of models on the ratings of held-out videos or, without ratings, on their labels.

Dimensions: L seconds of a video, S segments of a video, C classes, M models, R ratings, V videos.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.frames import EVERYTHING
from yt8m.data.index import Index, load_index, split_fold
from yt8m.data.vocabulary import Vocabulary, load_vocabulary
from yt8m.fitting.material import FOLD, RATED
from yt8m.localization.localizer import Localizer
from yt8m.models.model_folders import ModelFolder, open_folder
from yt8m.prediction.inference import Computation
from yt8m.scoring.evaluation import Evaluation, Setting, Subject, evaluate
from yt8m.scoring.held_out import HeldOutRatings
from yt8m.scoring.mean_average_precision import area_under_roc, places_by_score, resampled_areas

THRESHOLD = 0.5  # the default of `localize`
_RESAMPLES = 1000
_BATCH_SIZE = 128
_TAILS = 2.5, 97.5  # percentiles at the ends of an interval


@dataclass(frozen=True)
class Area:
    """ROC AUC, 0 to 1, and its 95 % interval over resampled videos."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """The numbers of a class's held-out ratings and of those of 1, and ROC AUC, NaN if all agree."""

    name: str
    ratings: int
    positive: int
    auc: float


@dataclass(frozen=True)
class RatingScore:
    """Scores of a model on held-out ratings; `precision` and `recall` at `THRESHOLD`, NaN if undefined.

    `half`: AUC of another model, fine-tuned on `half_ratings`, and `gain` of ours over it. `added`: number of pseudo
    ratings, for videos without ratings.
    """

    videos: int
    ratings: int
    positive: int
    auc: Area
    mean_average_precision: float
    precision: float
    recall: float
    classes: list[ClassScore]
    half_ratings: int
    half: Area
    gain: Area
    added: int = 0


def score_ratings(
    data_dir: Path, models: dict[str, Path], half_ratings: int, device: torch.device, seed: int
) -> tuple[RatingScore, Evaluation]:
    """Measure two models, ours and one of `half_ratings`, by name, on the ratings held out by `FOLD`."""
    vocabulary = load_vocabulary(data_dir)
    index = load_index(data_dir / RATED, data_dir / "cache")
    shards = split_fold(index, FOLD)[1]
    held = HeldOutRatings(index, vocabulary, shards)
    probabilities = held.predict([open_folder(path) for path in models.values()], shards, _BATCH_SIZE, 0, device)
    ratings = held.ratings
    setting = Setting(f"held-out videos of {data_dir / RATED}", len(ratings), _RESAMPLES, seed)
    subjects = [
        Subject(name, "model", places_by_score(ratings, values, setting.top_k, seed), values)
        for name, values in zip(models, probabilities)
    ]
    evaluation = evaluate(ratings, subjects, vocabulary, setting)
    own, half = (area_under_roc(ratings.positive, values) for values in probabilities)
    resampled = resampled_areas(ratings, probabilities, _RESAMPLES, seed)
    summary = evaluation.subjects[0]
    (at,) = (row for row in summary["at_thresholds"] if row["threshold"] == THRESHOLD)
    table = evaluation.classes[evaluation.classes["subject"] == subjects[0].name]
    score = RatingScore(
        len(np.unique(ratings.video)),
        len(ratings),
        int(ratings.positive.sum()),
        _area(own, resampled[0]),
        summary["map"],
        at["precision"],
        at["recall"],
        [ClassScore(*row) for row in table[["name", "ratings", "positive", "auc"]].itertuples(index=False)],
        half_ratings,
        _area(half, resampled[1]),
        _area(own - half, resampled[0] - resampled[1]),
    )
    return score, evaluation


def _area(value: float, resampled: np.ndarray) -> Area:
    low, high = np.nanpercentile(resampled, _TAILS) if not np.isnan(resampled).all() else (np.nan, np.nan)
    return Area(value, float(low), float(high))


# --- without ratings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenVideo:
    """A video's labels (C,) bool, and the probabilities (S, C) of its segments."""

    video_id: str
    labels: np.ndarray
    probabilities: np.ndarray


def see_videos(folder: ModelFolder, index: Index, vocabulary: Vocabulary, device: torch.device) -> Iterator[SeenVideo]:
    """The probabilities of a segment model for all segments of an index."""
    localizer = Localizer([folder], Computation(device, trim=EVERYTHING))
    columns = localizer.vocabulary.classes(vocabulary.labels)
    dataset = WholeVideoDataset(index, np.flatnonzero(index.n_frames > 0))
    for number, record in enumerate(dataset.records.tolist()):
        ((_, frames),) = dataset.__getitems__([(0, number)])
        labels = vocabulary.classes(index.of_record(record, index.labels, index.label_ends))
        (probabilities,) = localizer.probabilities([frames])
        yield SeenVideo(
            index.video_id[record].decode(), np.isin(np.arange(len(vocabulary)), labels), probabilities[:, columns]
        )


AS_IT_IS, TUNED = "as it is", "fine-tuned"


@dataclass(frozen=True)
class LabelScore:
    """How well the highest probability among a video's segments predicts its labels, on held-out `videos`.

    `areas`: ROC AUC, 0 to 1, by the way the model was made and by class, NaN if all videos or none have it; `means`
    over the classes; `chosen`: the best way.
    """

    videos: int
    areas: dict[str, dict[str, float]]

    @property
    def means(self) -> dict[str, float]:
        """The mean over the classes of each; NaN where none is defined."""
        defined = {way: [area for area in areas.values() if not np.isnan(area)] for way, areas in self.areas.items()}
        return {way: float(np.mean(areas)) if areas else float("nan") for way, areas in defined.items()}

    @property
    def chosen(self) -> str:
        """The way with the highest mean; `TUNED` on a tie."""
        return AS_IT_IS if self.means[TUNED] < self.means[AS_IT_IS] else TUNED


def score_labels(seen: dict[str, list[SeenVideo]], vocabulary: Vocabulary) -> LabelScore:
    """Score models on the same held-out videos, by the way the model was made."""
    areas = {}
    for way, videos in seen.items():
        highest = np.stack([video.probabilities.max(axis=0) for video in videos])
        labels = np.stack([video.labels for video in videos])
        areas[way] = dict(zip(vocabulary.names, map(area_under_roc, labels.T, highest.T)))
    return LabelScore(len(seen[TUNED]), areas)
