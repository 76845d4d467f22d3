"""What held-out videos say of models: of their ratings or, without ratings, of their labels.

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
from yt8m.fitting.data import FOLD, RATED
from yt8m.localization.localizer import Localizer
from yt8m.models.model_folders import ModelFolder, open_folder
from yt8m.prediction.inference import Computation
from yt8m.scoring.evaluation import Evaluation, Setting, Subject, evaluate
from yt8m.scoring.held_out import HeldOutRatings
from yt8m.scoring.mean_average_precision import area_under_roc, places_by_score, resampled_areas

THRESHOLD = 0.5  # that `localize` has, too
_RESAMPLES = 1000
_BATCH_SIZE = 128
_TAILS = 2.5, 97.5  # percent: what an interval leaves out


@dataclass(frozen=True)
class Area:
    """ROC AUC, 0 to 1, and what holds 95 % of it when videos are drawn anew."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """A class's held-out ratings, how many of them are 1, and ROC AUC, NaN where all agree."""

    name: str
    ratings: int
    positive: int
    auc: float


@dataclass(frozen=True)
class RatingScore:
    """How a model does on held-out ratings; `precision` and `recall` at `THRESHOLD`, NaN where nothing counts.

    `half_ratings`: so many another model was fine-tuned on; its AUC is `half`, and `gain` what ours has more. `added`:
    so many ratings were made up for videos without any, see `pseudo_ratings`.
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
    """Two models, by name, on the ratings that `FOLD` holds out: ours, and one of `half_ratings`."""
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
    """What a segment model says of all segments of all videos of an index that have any."""
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
    """How well the highest probability of a video's segments tells its labels, on so many held-out `videos`.

    `areas`: ROC AUC, 0 to 1, by the way the model was made, and then by class, NaN where all videos or none have it;
    `means` over the classes; `chosen`: the way that measures best.
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
        """The way that measures best, of equal ones `TUNED`."""
        return AS_IT_IS if self.means[TUNED] < self.means[AS_IT_IS] else TUNED


def score_labels(seen: dict[str, list[SeenVideo]], vocabulary: Vocabulary) -> LabelScore:
    """Of the same held-out videos as each model sees them."""
    areas = {}
    for way, videos in seen.items():
        highest = np.stack([video.probabilities.max(axis=0) for video in videos])
        labels = np.stack([video.labels for video in videos])
        areas[way] = dict(zip(vocabulary.names, map(area_under_roc, labels.T, highest.T)))
    return LabelScore(len(seen[TUNED]), areas)
