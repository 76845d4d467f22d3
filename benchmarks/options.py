"""The worth, in MAP, of each option of prediction and submission, on generated data of three kinds.

    python benchmarks/options.py --kind demo
    python benchmarks/options.py --kind planted
    python benchmarks/options.py --kind look-alikes

demo: the demo's data, with 300 test videos, and its four models. planted: the data of `accuracy.py` and its four models
of the variant "here". look-alikes: the same with classes that only other frames of a video tell apart, see
`planted.py`. Each from two seeds. Models are trained with the commands; then various submissions are scored. Beside
each MAP is the 95 % interval of its difference to the plain mean of the four models, over 1,000 resamples of the
videos, drawn alike for both; at the end both data sets together. Most of the time is training; needs 2 GB per data set
in --data-dir. Restarted, it resumes. Nothing is timed.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from yt8m.data.candidates import Candidates, load_candidates, load_test_index
from yt8m.data.partitions import NAMES_FILE
from yt8m.data.records import RAISE
from yt8m.data.vocabulary import load_vocabulary
from yt8m.models.model_folders import open_folder
from yt8m.prediction.prediction_files import StoredScores, prediction_files
from yt8m.prediction.test_set import CandidateRules, video_scores
from yt8m.ranking.fusion import Fusion, FusionKind
from yt8m.scoring.mean_average_precision import Ranking, resampled_maps
from yt8m.scoring.ratings import ratings_of_table, read_truth
from yt8m.scoring.trials import PlacedRatings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.accuracy_runs import AGNOSTIC, AWARE, Place, Run, Variant
from benchmarks.planted import DEFAULT_SIZES

CONFIGS = ROOT / "scripts" / "demo"
TOP_K, SEED, RESAMPLES = 100_000, 0, 1000
SHIFTS = {"1": (-1, 0, 1), "2": (-2, -1, 0, 1, 2)}
BASES = "dbof", "nextvlad"
PLANTED_MODELS = tuple(tuning.folder for tuning in (*AGNOSTIC, *AWARE))
# Folder of the model, seed, command and configuration, base models, fold: as in scripts/demo.bash.
VIDEO_RUNS = (("dbof", 11, "video_gated_dbof"), ("nextvlad", 12, "video_nextvlad"))
SEGMENT_RUNS = (
    ("dbof", 21, ("dbof",), 0),
    ("nextvlad", 22, ("nextvlad",), 1),
    ("dbof-nextvlad", 31, ("dbof", "nextvlad"), 2),
    ("dbof-dbof", 32, ("dbof", "dbof"), 3),
)


@dataclass(frozen=True)
class DataSetKind:
    """A kind of data: its default folder, seeds, the four models, and a function that makes the data and models of a
    seed and returns the data folder."""

    folder: Path
    seeds: tuple[int, int]
    models: tuple[str, ...]
    prepare: Callable[[Path, int], Path]


def command(module: str, *arguments: object) -> None:
    """Run one of the package's commands."""
    subprocess.run([sys.executable, "-m", f"yt8m.{module}", *map(str, arguments)], check=True, cwd=ROOT)


def prepare_demo(folder: Path, seed: int) -> Path:
    """Make the demo's data set and train its models, unless they exist."""
    data_dir = folder / f"seed-{seed}"
    where = "--data-dir", data_dir
    if not (data_dir / "truth.csv").is_file():  # written last
        command("make_demo_data", *where, "--seed", seed, "--test-videos", 300)
    command("prepare_vocabulary", *where)
    command("prepare_test_meta", *where)
    train(data_dir)
    return data_dir


def prepare_planted(folder: Path, seed: int, look_alikes: bool = False) -> Path:
    """Make a planted data set and train the models of `accuracy.py`, unless they exist."""
    place = Place(folder, DEFAULT_SIZES, None, look_alikes)
    run = Run(place, Variant("here"), seed, 1, full=True)
    if run.result is None:
        place.prepare(seed)
        run.make()
    return run.folder


def predict(data_dir: Path, models: tuple[str, ...]) -> None:
    """Predict with all models, with and without shifts; keeps existing predictions."""
    command("inference_memmap", "--data-dir", data_dir, "--model-names", *models)
    for name, shifts in SHIFTS.items():
        other = beside(data_dir, f"shifts-{name}")
        command("inference_memmap", "--data-dir", other, "--model-names", *models, "--shifts", *shifts)


def train(data_dir: Path) -> None:
    """Train the models; keeps finished ones."""
    where = "--data-dir", data_dir
    bases = data_dir / "cache" / "video"
    for name, seed, config in VIDEO_RUNS:
        command("train_video", CONFIGS / f"{config}.yaml", "--name", name, "--seed", seed, *where)
    for name, seed, own_bases, fold in SEGMENT_RUNS:
        module, config = (
            ("train_pure_segment", "pure_segment")
            if len(own_bases) == 1
            else ("train_segment_w_context", "segment_with_context")
        )
        command(
            module,
            CONFIGS / f"{config}.yaml",
            *(bases / base for base in own_bases),
            "--fold",
            fold,
            "--name",
            name,
            "--seed",
            seed,
            *where,
        )


def beside(data_dir: Path, name: str) -> Path:
    """A data folder with the same shards and models, and its own predictions."""
    other = data_dir / name
    (other / "cache").mkdir(parents=True, exist_ok=True)
    for link in ("segment", "segment_vocabulary.csv", "cache/segment", "cache/index", "cache/test_meta.npz"):
        if not (other / link).exists():
            (other / link).symlink_to((data_dir / link).absolute())
    return other


@dataclass
class World:
    """A data set with all predictions: maps by name of the variant, one per model, and scores of video models."""

    test: PlacedRatings
    candidates: Candidates
    maps: dict[str, list[StoredScores]]
    scores_of_videos: dict[str, np.ndarray]

    def ranking(
        self,
        variant: str,
        kind: FusionKind = "mean",
        weights: tuple[float, ...] | None = None,
        models: slice = slice(None),
        rules: CandidateRules | None = None,
        video_model: str = "nextvlad",
    ) -> Ranking:
        """The ranking of the ratings by a submission of these models and options."""
        factors = row_videos = None
        if rules is not None:
            factors, row_videos = rules.factors(self.scores_of_videos[video_model], SEED), self.candidates.row_videos()
        fusion = Fusion(self.maps[variant][models], kind, weights, factors, row_videos)
        return Ranking(self.test.ratings, self.test.places(fusion, TOP_K, SEED))


def load(data_dir: Path, models: tuple[str, ...]) -> World:
    """The data set of a folder, with the predictions of these models."""
    cache = data_dir / "cache"
    vocabulary, candidates = load_vocabulary(data_dir), load_candidates(cache)
    folders = {"plain": cache} | {f"shifts-{name}": data_dir / f"shifts-{name}" / "cache" for name in SHIFTS}
    maps = {
        variant: [file.read(candidates, vocabulary) for file in prediction_files(folder, list(models))]
        for variant, folder in folders.items()
    }
    ratings = ratings_of_table(read_truth(data_dir / "truth.csv", data_dir / NAMES_FILE))
    index = load_test_index(data_dir, candidates, RAISE)
    scores = {
        base: video_scores(
            open_folder(cache / "video" / base), index, candidates, vocabulary, cache, 0, torch.device("cpu"), RAISE
        )
        for base in BASES
    }
    return World(PlacedRatings(ratings, candidates, vocabulary), candidates, maps, scores)


Variants = Iterator[tuple[str, Callable[[World], Ranking]]]


def variants(models: tuple[str, ...]) -> Variants:
    """The submissions to compare, the plain mean first."""
    yield "mean of the four models (plain)", lambda world: world.ranking("plain")
    for number, name in enumerate(models):
        yield f"{name} alone", lambda world, n=number: world.ranking("plain", models=slice(n, n + 1))
    for kind in ("geometric", "rank", "reciprocal-rank"):
        yield f"--fusion {kind}", lambda world, kind=kind: world.ranking("plain", kind)
    yield f"--weights 1 2 1 1 ({models[1]} twice)", lambda world: world.ranking("plain", weights=(1, 2, 1, 1))
    for name, shifts in SHIFTS.items():
        yield f"--shifts {' '.join(map(str, shifts))}", lambda world, name=name: world.ranking(f"shifts-{name}")
    for base in BASES:
        for text, rules in (
            ("--video-top-k 3", CandidateRules(top_k=3)),
            ("--video-top-k 6", CandidateRules(top_k=6)),
            ("--video-threshold 0.1", CandidateRules(threshold=0.1)),
            ("--video-cap 60", CandidateRules(cap=60)),
            ("--video-weight 0.1", CandidateRules(weight=0.1)),
            ("--video-weight 0.25", CandidateRules(weight=0.25)),
            ("--video-weight 0.5", CandidateRules(weight=0.5)),
            ("--video-weight 1", CandidateRules(weight=1.0)),
        ):
            yield (
                f"--video-model {base} {text}",
                lambda world, rules=rules, base=base: world.ranking("plain", rules=rules, video_model=base),
            )
    yield "--shifts -2 -1 0 1 2 --weights 1 2 1 1", lambda world: world.ranking("shifts-2", weights=(1, 2, 1, 1))
    yield (
        "--shifts -2 -1 0 1 2 --video-model nextvlad --video-weight 0.25",
        lambda world: world.ranking("shifts-2", rules=CandidateRules(weight=0.25)),
    )


KINDS = {
    "demo": DataSetKind(
        ROOT / "data" / "options",
        (101, 103),
        tuple(f"{name}_{fold}" for name, _, _, fold in SEGMENT_RUNS),
        prepare_demo,
    ),
    "planted": DataSetKind(ROOT / "data" / "accuracy", (1, 2), PLANTED_MODELS, prepare_planted),
    "look-alikes": DataSetKind(
        ROOT / "data" / "look-alikes", (11, 12), PLANTED_MODELS, partial(prepare_planted, look_alikes=True)
    ),
}


def interval(differences: np.ndarray) -> list[str]:
    """The intervals of differences (variants, resamples), as text."""
    low, high = np.percentile(differences, [2.5, 97.5], axis=1)
    return [f"{first:+.4f} to {last:+.4f}" for first, last in zip(low, high)]


def main() -> None:
    """Print a table of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="demo", help="of data (default: %(default)s)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder for the data sets (default: in the repository data/options for the demo's, "
        "data/accuracy for planted ones, data/look-alikes)",
    )
    args = parser.parse_args()
    kind = KINDS[args.kind]
    folder = (args.data_dir or kind.folder).absolute()
    os.environ.pop("SEED", None)
    data_dirs = [kind.prepare(folder, seed) for seed in kind.seeds]
    for data_dir in data_dirs:
        predict(data_dir, kind.models)
    compared = list(variants(kind.models))
    columns: list[list[str]] = [[name for name, _ in compared]]
    maps, resampled = [], []
    for seed, data_dir in zip(kind.seeds, data_dirs):
        world = load(data_dir, kind.models)
        rankings = [rank(world) for _, rank in compared]
        maps.append([ranking.mean_average_precision() for ranking in rankings])
        resampled.append(resampled_maps(rankings, len(world.test.ratings.video_ids), RESAMPLES, seed))
        columns += [[f"{value:.4f}" for value in maps[-1]], interval(resampled[-1] - resampled[-1][0])]
    worth, differences = np.mean(maps, axis=0), np.mean(resampled, axis=0)
    columns += [[f"{value:+.4f}" for value in worth - worth[0]], interval(differences - differences[0])]
    heads = [cell for seed in kind.seeds for cell in (f"data {seed}", "difference")]
    print(f"\n| option | {' | '.join(heads)} | both | difference |")
    print("|---|" + "---|" * (len(columns) - 1))
    for number, row in enumerate(zip(*columns)):
        cells = row if number else (row[0], *(cell if place % 2 == 0 else "" for place, cell in enumerate(row[1:])))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
