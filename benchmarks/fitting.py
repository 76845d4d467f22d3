"""What `yt8m.fit` reaches on data that its settings were not tuned on, with and without ratings.

    python benchmarks/fitting.py

For each seed, on the generated videos of `make_demo_data`, 10 classes in pairs of look-alikes: 240 videos with labels,
80 of which have about five ratings each, are fitted in several ways, and each model is scored on 40 further videos, all
of whose seconds are known:

- AUC of all segments and classes, in percent;
- IoU: mean temporal IoU at the probability 0.5, in percent, over pairs of a video and a class that is there or found;
- wrong pairs: of a video and a class that is found, but never there.

The ways: `fit` with ratings; with ratings, but without pseudo ratings for the videos that have none; without ratings.
`whole videos` is the answer that every true label applies to all of its video.

The tables have means and standard deviations over the seeds, and differences to the first way with their 95 % interval
(Student's t). Nothing is timed. Finished runs are kept in --data-dir, and the same command resumes.
"""

import argparse
import csv
import multiprocessing
import shutil
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.accuracy import LEVEL, half_interval
from benchmarks.accuracy_runs import read_json, write_json
from benchmarks.harness import make_parser
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.vocabulary import LABEL_COLUMNS, RATING_COLUMNS
from yt8m.fitting import fitting
from yt8m.fitting.fitting import Request, fit
from yt8m.making.demo_data import Video, World
from yt8m.rating.predicting import SegmentJudge
from yt8m.scoring.span_overlap import Overlap, Spans, mean_iou

DATA_DIR = ROOT / "data" / "fitting"
N_CLASSES, N_VIDEOS, N_RATED, N_UNSEEN = 10, 240, 80, 40
SECONDS, THRESHOLD = (80, 120), 0.5
RATED, ALONE, UNRATED, WHOLE = "with ratings", "without pseudo ratings", "without ratings", "whole videos"
WAYS = RATED, ALONE, UNRATED
MEASURES = "AUC", "IoU", "wrong pairs"
SEEDS = list(range(31, 37))

Scores = dict[str, float]  # by measure


@dataclass(frozen=True)
class Trial:
    """All runs of one seed, in their own folder."""

    data_dir: Path
    seed: int

    @property
    def folder(self) -> Path:
        """Where features, tables and models are."""
        return self.data_dir / str(self.seed)

    @property
    def result(self) -> dict[str, Scores]:
        """The scores of finished ways."""
        return read_json(self.folder / "result.json") or {}

    @cached_property
    def world(self) -> World:
        """The generator."""
        return World(N_CLASSES, self.seed)

    @cached_property
    def unseen(self) -> list[Video]:
        """The videos to score on."""
        return [self.world.video(number, SECONDS) for number in range(N_VIDEOS, N_VIDEOS + N_UNSEEN)]

    def run(self) -> None:
        """Make the data and fit in each way that is missing, with one thread."""
        torch.set_num_threads(1)
        if not self.result:
            self._write_data()
            write_json(self.folder / "result.json", {WHOLE: self._score_whole_videos()})
        for way in WAYS:
            if way not in self.result:
                write_json(self.folder / "result.json", {**self.result, way: self._score(self._fit(way))})

    def _write_data(self) -> None:
        """Write arrays and tables as users have them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        labels, ratings = [], []
        for name in ("rgb", "audio"):
            (self.folder / "features" / name).mkdir(parents=True)
        for number in range(N_VIDEOS):
            video = self.world.video(number, SECONDS)
            for name, array in (("rgb", video.rgb), ("audio", video.audio)):
                np.save(self.folder / "features" / name / f"{video.video_id}.npy", array)
            labels += [(video.video_id, label) for label in video.labels if label in self.world.labels[:N_CLASSES]]
            if number < N_RATED:
                ratings += [
                    (video.video_id, rating.start, rating.label, rating.score)
                    for rating in self.world.ratings(video, number)
                ]
        for name, columns, rows in (("labels", LABEL_COLUMNS, labels), ("ratings", RATING_COLUMNS, ratings)):
            with (self.folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([columns, *rows])

    def _fit(self, way: str) -> Path:
        """Fit in one way; returns the model's folder."""
        request = Request(
            data_dir=self.folder,
            name=way.replace(" ", "-"),
            labels=self.folder / "labels.csv",
            ratings=None if way == UNRATED else self.folder / "ratings.csv",
            features=self.folder / "features" / "rgb",
            audio=self.folder / "features" / "audio",
            videos=None,
            extractor="",
            assets=None,
            processes=None,
            seed=self.seed,
            device="cpu",
            skip_short=True,
        )
        with mock.patch.object(fitting, "MOST_PER_RATING", 0 if way == ALONE else fitting.MOST_PER_RATING):
            return fit(request).model

    def _score(self, model: Path) -> Scores:
        judge = SegmentJudge(model, "cpu")
        rows = judge.vocabulary.classes(self.world.labels[:N_CLASSES])
        probabilities, truths, overlaps = [], [], []
        for video in self.unseen:
            found = judge.judge(np.concatenate([video.rgb, video.audio], axis=1))[:, rows]  # (S, C)
            seconds = np.repeat(found >= THRESHOLD, SEGMENT_SECONDS, axis=0)[: len(video.present)]
            overlaps += list(_overlaps(video, seconds))
            n_whole = len(video.present) // SEGMENT_SECONDS
            parts = video.present[: n_whole * SEGMENT_SECONDS].reshape(n_whole, SEGMENT_SECONDS, -1)
            probabilities.append(found[:n_whole])
            truths.append(parts.mean(axis=1) > 0.5)
        auc = float(roc_auc_score(np.concatenate(truths).ravel(), np.concatenate(probabilities).ravel()))
        return _measured(auc, overlaps)

    def _score_whole_videos(self) -> Scores:
        overlaps = []
        for video in self.unseen:
            overlaps += list(_overlaps(video, np.tile(video.present.any(axis=0), (len(video.present), 1))))
        return _measured(float("nan"), overlaps)


def _overlaps(video: Video, found: np.ndarray) -> Iterator[Overlap]:
    """The overlap of each class that is in a video or found, (seconds, classes) bool."""
    for row in np.flatnonzero(video.present.any(axis=0) | found.any(axis=0)).tolist():
        yield Overlap(video.video_id, str(row), _spans(video.present[:, row]), _spans(found[:, row]))


def _spans(seconds: np.ndarray) -> Spans:
    """The spans of True in (seconds,) bool."""
    edges = np.flatnonzero(np.diff(np.pad(seconds.astype(np.int8), 1)))
    return [(float(start), float(stop)) for start, stop in edges.reshape(-1, 2).tolist()]


def _measured(auc: float, overlaps: list[Overlap]) -> Scores:
    return {
        "AUC": 100 * auc,
        "IoU": 100 * mean_iou(overlaps),
        "wrong pairs": float(sum(not overlap.true for overlap in overlaps)),
    }


def _mean(values: list[float]) -> str:
    spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _interval(differences: list[float]) -> str:
    mean = statistics.mean(differences)
    half = half_interval(differences) if len(differences) > 1 else 0.0
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def lines(results: list[dict[str, Scores]]) -> Iterator[str]:
    """The table of means, spreads and differences."""
    heads = [text for measure in MEASURES for text in (f"{measure} (s.d.)", f"less {RATED!r} ({LEVEL:.0%} interval)")]
    yield f"| way | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for way in (*WAYS, WHOLE):
        cells: list[str] = []
        for measure in MEASURES:
            values = [result[way][measure] for result in results]
            differences = [result[way][measure] - result[RATED][measure] for result in results]
            cells += (
                ["", ""] if np.isnan(values).any() else [_mean(values), "" if way == RATED else _interval(differences)]
            )
        yield f"| {way} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing and print the table."""
    parser = make_parser(__doc__, DATA_DIR, "data, models and results are kept")
    shown = " ".join(map(str, SEEDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="S", help=f"(default: {shown})")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="seeds at a time (default: %(default)s)")
    args: argparse.Namespace = parser.parse_args()
    trials = [Trial(args.data_dir.absolute(), seed) for seed in args.seeds]
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(Trial.run, trials))
    print(f"{len(trials)} seeds", "", *lines([trial.result for trial in trials]), sep="\n")


if __name__ == "__main__":
    main()
