"""The worth, in fine-tuned AUC, of rating the segments chosen by the rating page (`yt8m.rate --model`).

    python benchmarks/rating_choice.py

For each seed, on planted data (`benchmarks/planted.py`): a base model is pre-trained on labels of videos. Simulated
raters, who are always right, answer 50 questions about 100 other films, asked by the page itself, with that model or
without one; `random` draws 50 of all questions. The base model is fine-tuned on the 50 ratings, with the commands, and
scored by the AUC on all segments of 180 further films, each for the labels of its film.

The table has the mean over the seeds, and the difference to `random` with its 95 % interval (Student's t over the
seeds, each the mean of its draws). Nothing is timed. Each seed takes 0.5 GB in --data-dir; finished seeds are kept, and
the same command resumes.
"""

import argparse
import csv
import importlib
import multiprocessing
import shutil
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.accuracy import LEVEL, half_interval
from benchmarks.accuracy_runs import CONFIGS, Place, read_json, write_json
from benchmarks.harness import make_parser
from benchmarks.planted import FRAME_DIM, RGB, TRUTH, Video, World
from yt8m.cli import run
from yt8m.data.vocabulary import LABEL_COLUMNS, VOCABULARY_FILE
from yt8m.rating.choice import Chooser, Questions
from yt8m.rating.film_list import ListedFilm
from yt8m.rating.predicting import SegmentJudge
from yt8m.rating.questions import list_questions
from yt8m.rating.ratings_file import RatedSegment, RatingsFile
from yt8m.rating.windows import RatingWindows
from yt8m.scoring.ratings import read_truth

DATA_DIR = ROOT / "data" / "rating-choice"
SIZES = [(12, 100), (2, 100), (1, 1), (3, 60)]  # of the partitions
POOL = range(10_000, 10_100)  # numbers of the rated films
N_RATINGS, BASE_STEPS = 50, 800
TUNING = {"batch_size": 32, "steps": 100, "lr": 3e-4, "eps": 1e-7, "weight_decay": 0.02, "ckpt_interval": 100}
RANDOM = "random"
WAYS = {  # the target probability, or None without a model
    "page, with the model": 0.3,
    "page, without a model": None,
    "page, but looking for 0.5": 0.5,
}
SEEDS, DRAWS = list(range(11, 19)), 2

Result = dict[str, dict[str, list[float]]]  # AUC and share of positives, by way, of each draw


def command(name: str, *arguments: object) -> None:
    """Run a command of the package in this process."""
    module = importlib.import_module(f"yt8m.{name}")
    run(module.main, module.build_parser(), [*map(str, arguments), "--quiet"])


@dataclass(frozen=True)
class Trial:
    """All runs of one seed, in their own folder."""

    place: Place
    seed: int
    draws: int

    @property
    def folder(self) -> Path:
        """The data folder, with the base model."""
        return self.place.shards(self.seed)

    @property
    def result(self) -> Result | None:
        """The result, if finished."""
        result = read_json(self.folder / "result.json")
        complete = result is not None and all(len(result["auc"].get(way, ())) >= self.draws for way in (RANDOM, *WAYS))
        return result if complete else None

    @property
    def base(self) -> Path:
        """The folder of the base model."""
        return self.folder / "cache" / "video" / "base"

    @cached_property
    def pool(self) -> list[Video]:
        """The films to rate."""
        world = World(self.seed)
        return [world.video(number) for number in POOL]

    @cached_property
    def truth(self) -> dict[RatedSegment, int]:
        """The raters' answer to each question."""
        labels = World(self.seed).labels.tolist()
        return {
            (video.video_id, start, str(labels[row])): video.score(start, row)
            for video in self.pool
            for start in video.segments().tolist()
            for row in video.classes.tolist()
        }

    def make(self) -> None:
        """Train, rate, fine-tune and score, with one thread."""
        torch.set_num_threads(1)
        self.place.prepare(self.seed)
        config = CONFIGS / "video_dbof.yaml"
        options = "--name", "base", "--steps", BASE_STEPS, "--seed", self.seed, "--device", "cpu"
        command("train_video", config, *options, "--data-dir", self.folder)
        self._write_pool()
        self._make_records(self.folder / "pool-records", "segment/test")
        films = [ListedFilm(video.video_id, Path(video.video_id), "", float(len(video.frames))) for video in self.pool]
        labels = World(self.seed).labels
        classes = [[str(label) for label in labels[video.classes].tolist()] for video in self.pool]
        judge = SegmentJudge(self.base, "cpu")
        judged = judge.judge_folder(self.folder / "pool-records", {film.video_id for film in films})
        questions, names = list_questions(films, classes, judged)
        result: Result = {"auc": {"base": [self.auc(self.base)]}, "positive": {}}
        for draw in range(1, self.draws + 1):
            for way in (RANDOM, *WAYS):
                ratings = self.folder / "rated" / "ratings.csv"
                shutil.rmtree(ratings.parent, ignore_errors=True)
                ratings.parent.mkdir()
                file = RatingsFile(ratings)
                self._rate(way, films, names, questions, file, draw)
                result["positive"].setdefault(way, []).append(statistics.mean(file.scores.values()))
                result["auc"].setdefault(way, []).append(self.auc(self._fine_tune(ratings, draw)))
        write_json(self.folder / "result.json", result)

    def _rate(
        self, way: str, films: list[ListedFilm], names: list[str], questions: Questions, file: RatingsFile, draw: int
    ) -> None:
        """Answer 50 questions about the challenge's candidate segments, which are in the truth."""
        if way == RANDOM:
            keys = sorted(self.truth)
            for number in np.random.default_rng((self.seed, draw)).choice(len(keys), N_RATINGS, replace=False).tolist():
                file.add(keys[number], self.truth[keys[number]])
            return
        telling = WAYS[way]
        asked = [
            (films[film].video_id, start, names[row]) in self.truth
            for film, start, row in zip(questions.films.tolist(), questions.starts.tolist(), questions.classes.tolist())
        ]
        probabilities = None if telling is None or questions.probabilities is None else questions.probabilities[asked]
        questions = Questions(questions.films[asked], questions.starts[asked], questions.classes[asked], probabilities)
        chooser = Chooser(questions, draw) if telling is None else Chooser(questions, draw, telling)
        windows = RatingWindows(films, names, names, chooser, file, "")
        question = windows.ask("rater")["question"]
        for _ in range(N_RATINGS):
            number = question["number"]
            key = films[question["film"]].video_id, question["start"], names[int(questions.classes[number])]
            question = windows.answer("rater", number, self.truth[key])["question"]

    def _write_pool(self) -> None:
        """Write the films' features and labels in users' formats."""
        folder = self.folder / "pool"
        folder.mkdir(exist_ok=True)
        for video in self.pool:
            np.save(folder / f"{video.video_id}.npy", video.frames)
        labels = World(self.seed).labels
        with (self.folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(LABEL_COLUMNS)
            writer.writerows((video.video_id, label) for video in self.pool for label in labels[video.classes].tolist())

    def _make_records(self, data_dir: Path, partition: str, *options: object) -> None:
        where = "--data-dir", data_dir, "--partition", partition, "--audio-width", FRAME_DIM - RGB, "--overwrite"
        command("make_records", self.folder / "pool", *where, *options)

    def _fine_tune(self, ratings: Path, draw: int) -> Path:
        """Fine-tune the base model on a file of ratings; returns its folder."""
        folder = ratings.parent
        self._make_records(folder, "segment/train", "--labels", self.folder / "labels.csv", "--ratings", ratings)
        (folder / VOCABULARY_FILE).symlink_to((self.folder / VOCABULARY_FILE).absolute())
        config = folder / "tuning.yaml"
        config.write_text(yaml.safe_dump({"pure_segment": {"training": TUNING}}), encoding="utf-8")
        options = "--fold", "none", "--name", "tuned", "--seed", draw, "--device", "cpu", "--data-dir", folder
        command("train_pure_segment", config, self.base, *options)
        return folder / "cache" / "segment" / "tuned_none"

    def auc(self, model: Path) -> float:
        """AUC of a model, in percent, on the test films."""
        table = read_truth(self.folder / TRUTH, self.folder / "none.csv")
        judge = SegmentJudge(model, "cpu")
        judged = judge.judge_folder(self.folder / "segment" / "test", set(table["vid"]))
        columns = judge.vocabulary.classes(table["label"].to_numpy())
        found = [
            judged.probabilities[vid][start // 5, column]
            for vid, start, column in zip(table["vid"], table["start"], columns)
        ]
        return 100 * float(roc_auc_score(table["score"], found))


def lines(results: list[Result]) -> Iterator[str]:
    """The table."""
    yield f"| rated | AUC | positives | less {RANDOM!r} | {LEVEL:.0%} interval |"
    yield "|---|---|---|---|---|"
    for way in ("base", RANDOM, *WAYS):
        means = [statistics.mean(result["auc"][way]) for result in results]
        differences = [mean - statistics.mean(result["auc"][RANDOM]) for mean, result in zip(means, results)]
        shares = [share for result in results for share in result["positive"].get(way, ())]
        title = "nothing" if way == "base" else way
        cells = [f"{statistics.mean(means):.2f}", f"{statistics.mean(shares):.0%}" if shares else "", "", ""]
        if way != RANDOM:
            mean = statistics.mean(differences)
            cells[2] = f"{mean:+.2f}"
            if len(results) > 1:
                half = half_interval(differences)
                cells[3] = f"{mean - half:+.2f} to {mean + half:+.2f}"
        yield f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing and print the table."""
    parser = make_parser(__doc__, DATA_DIR, "data, models and results are kept")
    shown = " ".join(map(str, SEEDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="S", help=f"(default: {shown})")
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help="of each seed (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="seeds at a time (default: %(default)s)")
    args: argparse.Namespace = parser.parse_args()
    place = Place(args.data_dir.absolute(), SIZES, None)
    trials = [Trial(place, seed, args.draws) for seed in args.seeds]
    missing = [trial for trial in trials if trial.result is None]
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(Trial.make, missing))
    print(
        f"{len(trials)} seeds, {args.draws} draws of each", "", *lines([t.result for t in trials if t.result]), sep="\n"
    )


if __name__ == "__main__":
    main()
