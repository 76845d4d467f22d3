"""Synthetic videos in which concepts appear, for trying and testing the pipeline.

Frames are a background scene plus the visible concepts plus noise, quantized like the real features.
Concepts come in pairs of look-alikes, told apart by a faint difference or by the sound; distractors
look like concepts but are never labelled; some labels lie outside the rated vocabulary.
"""

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helperbot.files import replacing

from yt8m.common.progress import Progress
from yt8m.data.frames import CANDIDATES, HEAD_SEGMENTS, SEGMENT_SECONDS
from yt8m.data.partitions import N_LABELS, NAME_COLUMNS, NAMES_FILE, PARTITIONS, SUFFIX, Partition
from yt8m.data.vocabulary import LABEL_COLUMNS, RATING_COLUMNS
from yt8m.making.shard_writing import Rating, VideoRecord, write_shard

LOGGER = logging.getLogger(__name__)
RGB, AUDIO = 1024, 128
_N_SCENES, _N_DISTRACTORS = 12, 6
_NOISE, _DRIFT = 0.6, 0.06
_STRENGTH, _LOOK_ALIKE = 0.12, 0.9
_NAMES = (
    "Dog Guitar Bicycle Cake Horse Piano Boat Tree Cat Drum Train Pizza Bird Violin Airplane Flower Clock Balloon "
    "Bridge Snow Ball Candle River Shoe Kite Apple Lamp Mountain Hat Coffee Book Fountain Chair Garden Umbrella Tower"
).split()
_ID_LETTERS = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))


@dataclass(frozen=True)
class Video:
    """A synthetic video: `frames` (n, 1152) uint8; `labels` as published; `present` (n, classes) bool truth."""

    video_id: str
    frames: np.ndarray
    labels: list[int]
    present: np.ndarray

    @property
    def rgb(self) -> np.ndarray:
        """Visual features, (n, 1024)."""
        return self.frames[:, :RGB]

    @property
    def audio(self) -> np.ndarray:
        """Audio features, (n, 128)."""
        return self.frames[:, RGB:]


class World:
    """A generator of videos from scenes, concepts and distractors drawn from a seed."""

    def __init__(self, n_classes: int, seed: int) -> None:
        """`n_classes` rated classes; half as many labels again lie outside the vocabulary."""
        rng = np.random.default_rng((seed, 0))
        n_unrated = max(1, n_classes // 2)
        ids = np.sort(rng.choice(N_LABELS, n_classes + n_unrated, replace=False))
        rated = np.sort(rng.choice(len(ids), n_classes, replace=False))
        self.labels = np.concatenate([ids[rated], np.delete(ids, rated)])  # the rated ones first
        self.n_classes = n_classes
        self.seed = seed
        self._scenes = rng.normal(0, 0.2, (_N_SCENES, RGB + AUDIO))
        patterns = rng.normal(0, _STRENGTH, (len(ids) + _N_DISTRACTORS, RGB + AUDIO))
        for first in range(0, n_classes - 1, 2):
            own = patterns[first + 1, :RGB]
            patterns[first + 1, :RGB] = _LOOK_ALIKE * patterns[first, :RGB] + np.sqrt(1 - _LOOK_ALIKE**2) * own
        self._patterns = patterns

    def vocabulary_rows(self) -> list[tuple[int, str, str]]:
        """Index, KnowledgeGraphId and Name of every label, ascending, as in the official vocabulary."""
        return [
            (label, f"/m/demo{label:04d}", _class_name(number))
            for number, label in enumerate(sorted(self.labels.tolist()))
        ]

    def video(self, number: int, seconds: tuple[int, int]) -> Video:
        """Video `number`, of a length drawn from the closed range `seconds`; deterministic."""
        rng = np.random.default_rng((self.seed, 1, number))
        n_frames = int(rng.integers(seconds[0], seconds[1] + 1))
        frames = self._background(rng, n_frames)
        n_concepts = len(self.labels)
        chosen = rng.choice(n_concepts, min(int(rng.integers(2, 5)), n_concepts), replace=False)
        if chosen.min() >= self.n_classes:
            chosen[0] = rng.integers(self.n_classes)  # at least one rated class
        present = np.zeros((n_frames, self.n_classes), bool)
        for concept in chosen:
            visible = self._plant(rng, frames, self._patterns[concept])
            if concept < self.n_classes:
                present[:, concept] = visible
        for distractor in rng.choice(_N_DISTRACTORS, 2, replace=False):
            self._plant(rng, frames, self._patterns[n_concepts + distractor])
        frames += rng.normal(0, _NOISE, frames.shape)
        quantized = np.clip((frames + 2) * 255 / 4, 0, 255).round().astype(np.uint8)
        return Video(_video_id(self.seed, number), quantized, sorted(self.labels[chosen].tolist()), present)

    def _background(self, rng: np.random.Generator, n_frames: int) -> np.ndarray:
        """Up to three scenes in sequence, each with its own slow drift; (n, 1152)."""
        n_scenes = int(rng.integers(1, 4))
        cuts = np.sort(rng.integers(0, n_frames, n_scenes - 1))
        scene = np.searchsorted(cuts, np.arange(n_frames), side="right")
        drift = rng.normal(0, _DRIFT, (n_scenes, 2, RGB + AUDIO))
        way = np.linspace(0, 1, n_frames)[:, None]
        return (
            self._scenes[rng.integers(0, _N_SCENES, n_scenes)][scene]
            + (1 - way) * drift[scene, 0]
            + way * drift[scene, 1]
        )

    @staticmethod
    def _plant(rng: np.random.Generator, frames: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """Show a pattern in one to three contiguous spans; returns when it is visible, (n,) bool."""
        n_frames = len(frames)
        visible = np.zeros(n_frames, bool)
        for _ in range(int(rng.integers(1, 4))):
            length = int(rng.integers(min(8, n_frames), max(9, n_frames // 5)))
            start = int(rng.integers(0, max(1, n_frames - length)))
            visible[start : start + length] = True
        strength = rng.uniform(0.4, 1.2)
        frames[visible] += strength * pattern
        return visible

    def truth(self, video: Video) -> np.ndarray:
        """Score of every candidate segment for every rated class, (S, classes) bool: visible for 3 of 5 seconds."""
        n_segments = int(CANDIDATES.count_left(np.array(len(video.frames))))
        scores = np.zeros((n_segments, self.n_classes), bool)
        for row in range(n_segments):
            start = (row + HEAD_SEGMENTS) * SEGMENT_SECONDS
            scores[row] = video.present[start : start + SEGMENT_SECONDS].sum(axis=0) >= 3
        return scores

    def ratings(self, video: Video, number: int) -> list[Rating]:
        """About five ratings of a video, most of them for one of its labels, about half positive."""
        rng = np.random.default_rng((self.seed, 2, number))
        truth = self.truth(video)
        classes = rng.permutation(np.flatnonzero(np.isin(self.labels[: self.n_classes], video.labels)))
        ratings = []
        for label, wanted in zip(classes, (4, 2)):
            for score in (0, 1):
                rows = np.flatnonzero(truth[:, label] == score)
                for row in rng.permutation(rows)[: wanted // 2]:
                    start = int(row + HEAD_SEGMENTS) * SEGMENT_SECONDS
                    ratings.append(Rating(start, int(self.labels[label]), score))
        return sorted(ratings, key=lambda rating: (rating.start, rating.label))

    def rate_test(self, video: Video, rng: np.random.Generator) -> list[tuple[str, int, int, int]]:
        """Truth rows (vid, start, label, score) of a test video.

        Every candidate segment is rated for the video's own classes, and some, always 0, for three others.
        """
        truth = self.truth(video)
        own = np.isin(self.labels[: self.n_classes], video.labels)
        others = rng.permutation(np.flatnonzero(~own))[:3]
        rows = []
        for label in (*np.flatnonzero(own), *others):
            for row, score in enumerate(truth[:, label]):
                if own[label] or rng.random() < 0.2:
                    start = (row + HEAD_SEGMENTS) * SEGMENT_SECONDS
                    rows.append((video.video_id, start, int(self.labels[label]), int(score)))
        return rows


def _class_name(number: int) -> str:
    """The name of a label, unique by number."""
    turn, place = divmod(number, len(_NAMES))
    return f"{_NAMES[place]} {turn + 1}" if turn else _NAMES[place]


def _video_id(seed: int, number: int) -> str:
    """Four letters, unique by number."""
    base = len(_ID_LETTERS)
    scrambled = (number * 7_919_077 + seed * 104_729) % base**4  # the factor is coprime to 62^4
    return "".join(_ID_LETTERS[[scrambled // base**place % base for place in range(4)]])


@dataclass(frozen=True)
class DemoSizes:
    """Sizes of a demo: videos in each of `PARTITIONS`, videos per shard, and the range of their lengths."""

    videos: tuple[int, int, int, int]
    shard_videos: int
    seconds: tuple[int, int]


class _TestSet:
    """The truth and the labels of test videos, which their records lack."""

    def __init__(self, world: World, first: int) -> None:
        """`first`: the number of the first test video."""
        self._world, self._rng = world, np.random.default_rng((world.seed, 3, first))
        self.truth: list[tuple[str, int, int, int]] = []
        self.labels: list[tuple[str, int]] = []

    def add(self, video: Video) -> None:
        """Add the rows of a video."""
        self.truth += self._world.rate_test(video, self._rng)
        self.labels += [(video.video_id, label) for label in video.labels]


def write_demo_data(data_dir: Path, world: World, sizes: DemoSizes) -> int:
    """Write the shards, `vocabulary.csv`, and the test set's `truth.csv` and `test_labels.csv`.

    Returns the number of test ratings.
    """
    test = _TestSet(world, sum(sizes.videos[:-1]))
    first = 0
    with Progress("making videos", sum(sizes.videos), "video", LOGGER) as progress:
        for partition, size in zip(PARTITIONS, sizes.videos):
            numbers = range(first, first + size)
            for shard, start in enumerate(range(0, size, sizes.shard_videos)):
                path = data_dir / partition.folder / f"{partition.stem}{shard:04d}{SUFFIX}"
                own = numbers[start : start + sizes.shard_videos]
                write_shard(path, _records(world, own, sizes.seconds, partition, test, progress))
            first += size
    _write_csv(data_dir / NAMES_FILE, NAME_COLUMNS, world.vocabulary_rows())
    _write_csv(data_dir / "test_labels.csv", LABEL_COLUMNS, test.labels)
    _write_csv(data_dir / "truth.csv", RATING_COLUMNS, test.truth)
    return len(test.truth)


def _records(
    world: World, numbers: range, seconds: tuple[int, int], partition: Partition, test: _TestSet, progress: Progress
) -> Iterator[VideoRecord]:
    for number in numbers:
        video = world.video(number, seconds)
        ratings = world.ratings(video, number) if partition.folder == "segment/train" else []
        labels = video.labels if partition.labelled else None
        yield VideoRecord(video.video_id, {"rgb": video.rgb, "audio": video.audio}, labels, ratings)
        if not partition.labelled:
            test.add(video)
        progress.update(1)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
