"""Planted data for measuring the accuracy of trained models, with look-alikes, scenes and distractors.

    python benchmarks/planted.py data/planted --seed 1

50 of the challenge's 1,000 classes occur. A class adds its prototype to the frames where it is visible, in one to three
spans of 5 to 29 seconds; half of a prototype is its neighbour's. Each video has a background scene, in 7 of 10 that of
its first class, so that context helps. Each video has two 2-second flashes of classes that are never labelled, some
have labels outside the vocabulary, and noise is stronger than anything else. Up to 5 segments of a video are rated,
each for one of the video's classes; in the test set all are, in `truth.csv`. By default about 900 MB, in a minute.

With --look-alikes the classes come in pairs that share a prototype, at most one of which is in a video: only signs tell
them apart, other prototypes in single frames anywhere in the video. Look-alikes are then also rated. A segment alone
cannot tell which of the two it shows; the whole video can.
"""

import argparse
import csv
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from helperbot.files import replacing

from yt8m.data.frames import CANDIDATES, HEAD_SEGMENTS, SEGMENT_SECONDS
from yt8m.data.partitions import N_LABELS, PARTITIONS
from yt8m.data.vocabulary import CHALLENGE_FILE, RATING_COLUMNS, VOCABULARY_FILE, challenge_vocabulary
from yt8m.making.shard_writing import Rating, VideoRecord, write_shard

TRUTH = "truth.csv"  # written last
SIZES = "20x100", "4x100", "16x60", "8x60"
SIGNAL = 14.0
RGB, FRAME_DIM = 1024, 1152
N_ACTIVE, N_SCENES = 50, 40
SECONDS = 120, 300
OWN, NEIGHBOURS = 0.75, 0.65  # shares of a prototype
SCENE, NOISE, DRIFT, MIDDLE = 25.0, 40.0, 0.5, 127.5
N_RATED = 5
SIGNS, SIGN_SHARE = 1.5, 0.03  # strength relative to classes; share of the frames


@dataclass(frozen=True)
class Video:
    """`frames` (L, 1152) uint8; `classes` (k,) in the video, as rows of the world's; `present` (L, 50) bool; `labels`
    as published."""

    video_id: str
    frames: np.ndarray
    classes: np.ndarray
    present: np.ndarray
    labels: list[int]

    def record(self, labelled: bool, ratings: list[Rating]) -> VideoRecord:
        """Its record in a shard."""
        features = {"rgb": self.frames[:, :RGB], "audio": self.frames[:, RGB:]}
        return VideoRecord(self.video_id, features, self.labels if labelled else None, ratings)

    def segments(self) -> np.ndarray:
        """Start seconds of the candidate segments, (N,)."""
        n_segments = int(CANDIDATES.count_left(np.array(len(self.frames))))
        return (np.arange(n_segments) + HEAD_SEGMENTS) * SEGMENT_SECONDS

    def score(self, start: int, row: int) -> int:
        """Whether a class is visible for most of a segment, 0 or 1."""
        return int(self.present[start : start + SEGMENT_SECONDS, row].mean() > 0.5)


class World:
    """A generator of videos from prototypes, scenes and their associations, drawn from a seed.

    Every video is a function of the seed, the signal, its number and whether there are look-alikes.
    """

    def __init__(self, seed: int, signal: float = SIGNAL, look_alikes: bool = False) -> None:
        rng = np.random.default_rng((seed, 0))
        self.vocabulary = challenge_vocabulary().labels
        self.labels = rng.choice(self.vocabulary, N_ACTIVE, replace=False)
        own = rng.standard_normal((N_ACTIVE, FRAME_DIM))
        self._prototypes = signal * (OWN * own + NEIGHBOURS * np.roll(own, 1, axis=0))
        self._twins: np.ndarray | None = None  # (50,) the look-alike of each class
        if look_alikes:
            self._twins = np.arange(N_ACTIVE) ^ 1
            self._prototypes = np.repeat(self._prototypes[::2], 2, axis=0)
            self._signs = SIGNS * signal * np.random.default_rng((seed, 3)).standard_normal((N_ACTIVE, FRAME_DIM))
        self._scenes = SCENE * rng.standard_normal((N_SCENES, FRAME_DIM))
        self._homes = rng.integers(N_SCENES, size=N_ACTIVE)
        self._seed = seed

    def video(self, number: int) -> Video:
        """Video `number`."""
        rng = np.random.default_rng((self._seed, 1, number))
        length = int(rng.integers(SECONDS[0], SECONDS[1] + 1))
        n_classes = rng.integers(1, 4)
        if self._twins is None:
            classes = rng.choice(N_ACTIVE, n_classes, replace=False)
        else:
            pairs = rng.choice(N_ACTIVE // 2, n_classes, replace=False)
            classes = 2 * pairs + rng.integers(2, size=n_classes)
        scene = self._homes[classes[0]] if rng.random() < 0.7 else rng.integers(N_SCENES)
        frames = NOISE * rng.standard_normal((length, FRAME_DIM))
        frames += MIDDLE + rng.uniform(0.6, 1.2) * self._scenes[scene]
        frames += DRIFT * rng.standard_normal((length, 1)).cumsum(axis=0)
        present = np.zeros((length, N_ACTIVE), bool)
        for row in np.repeat(classes, rng.integers(1, 4, len(classes))):
            start = int(rng.integers(length - 8))
            span = slice(start, start + int(rng.integers(5, 30)))
            present[span, row] = True
            frames[span] += rng.uniform(0.6, 1.3) * self._prototypes[row]
        for row in rng.integers(N_ACTIVE, size=2):
            start = int(rng.integers(length - 3))
            frames[start : start + 2] += self._prototypes[row]
        if self._twins is not None:
            for row in classes:
                frames[rng.random(length) < SIGN_SHARE] += self._signs[row]
        others = np.setdiff1d(rng.integers(N_LABELS, size=2), self.vocabulary)
        labels = [*self.labels[classes].tolist(), *others.tolist()]
        return Video(f"{number:04x}", frames.round().clip(0, 255).astype(np.uint8), classes, present, labels)

    def rated_classes(self, video: Video) -> np.ndarray:
        """Its classes and their look-alikes."""
        return video.classes if self._twins is None else np.union1d(video.classes, self._twins[video.classes])

    def ratings(self, video: Video, number: int) -> list[Rating]:
        """Ratings of some segments of video `number`, each for one of its classes or of their look-alikes."""
        rng = np.random.default_rng((self._seed, 2, number))
        starts = rng.permutation(video.segments())[:N_RATED].tolist()
        rows = rng.choice(self.rated_classes(video), len(starts)).tolist()
        return [Rating(start, int(self.labels[row]), video.score(start, row)) for start, row in zip(starts, rows)]

    def truth(self, video: Video) -> Iterator[tuple[str, int, int, int]]:
        """Rows of `truth.csv`: every candidate segment of a test video, rated for its classes and look-alikes."""
        for start in video.segments().tolist():
            for row in self.rated_classes(video).tolist():
                yield video.video_id, start, int(self.labels[row]), video.score(start, row)


def parse_size(text: str) -> tuple[int, int]:
    """`20x100` as 20 shards of 100 videos."""
    shards, videos = map(int, text.split("x"))
    return shards, videos


def make_planted_data(
    folder: Path, seed: int, sizes: list[tuple[int, int]], signal: float = SIGNAL, look_alikes: bool = False
) -> None:
    """Write the shards of all partitions, in the order of `PARTITIONS`, the vocabulary and the truth.

    `sizes`: numbers of shards and of videos per shard.
    """
    world = World(seed, signal, look_alikes)
    truth: list[tuple[str, int, int, int]] = []

    def records(numbers: range, labelled: bool, rated: bool) -> Iterator[VideoRecord]:
        for number in numbers:
            video = world.video(number)
            yield video.record(labelled, world.ratings(video, number) if rated else [])
            if not labelled:
                truth.extend(world.truth(video))

    first = 0
    for partition, (n_shards, n_videos) in zip(PARTITIONS, sizes, strict=True):
        for shard in range(n_shards):
            path = folder / partition.folder / f"{partition.stem}{shard:04d}.tfrecord"
            rated = partition.folder == "segment/train"
            write_shard(path, records(range(first, first + n_videos), partition.labelled, rated))
            first += n_videos
    shutil.copy(CHALLENGE_FILE, folder / VOCABULARY_FILE)
    with replacing(folder / TRUTH) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(RATING_COLUMNS)
        writer.writerows(truth)
    print(f"{folder}: {first} videos, {len(truth)} test ratings, {sum(row[-1] for row in truth)} of them positive")


DEFAULT_SIZES = [parse_size(size) for size in SIZES]


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add `--sizes`."""
    parser.add_argument(
        "--sizes",
        type=parse_size,
        nargs=len(PARTITIONS),
        default=DEFAULT_SIZES,
        metavar="SHARDSxVIDEOS",
        help=f"of {', '.join(partition.folder for partition in PARTITIONS)} (default: {' '.join(SIZES)})",
    )


def main() -> None:
    """Write a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the world (default: 1)")
    parser.add_argument(
        "--signal", type=float, default=SIGNAL, metavar="X", help=f"strength of the classes (default: {SIGNAL:g})"
    )
    parser.add_argument("--look-alikes", action="store_true", help="pairs of classes that only signs tell apart")
    add_sizes(parser)
    args = parser.parse_args()
    make_planted_data(args.folder, args.seed, args.sizes, args.signal, args.look_alikes)


if __name__ == "__main__":
    main()
