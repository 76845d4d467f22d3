"""What each option of training, prediction and submission is worth, in MAP, on generated data.

    python benchmarks/options.py

Makes data sets of 300 test videos from two seeds, trains the demo's two base and four segment models on each through
the commands, once as they are and once with moving averages of the weights, and scores submissions of many kinds. The
differences to the plain mean of the four models are averaged over the data sets; their intervals hold 95 % of 1,000
resamples of the videos, drawn alike for both. Most of its time is training; needs 3 GB in --data-dir.
Begun again, it goes on. Nothing is timed.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from yt8m.data.damage import RAISE
from yt8m.data.partitions import NAMES_FILE
from yt8m.data.test_meta import TestMeta, load_test_index, load_test_meta
from yt8m.data.vocabulary import load_vocabulary
from yt8m.models.artifacts import open_folder
from yt8m.prediction.memmaps import StoredScores, prediction_files
from yt8m.prediction.video_scores import CandidateRules, video_scores
from yt8m.ranking.fusion import Fusion, Kind
from yt8m.scoring.placing import TestRatings
from yt8m.scoring.ratings import ratings_of_table
from yt8m.scoring.scores import Ranking, resampled_maps
from yt8m.scoring.truth import read_truth

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "scripts" / "demo"
DATA_SEEDS = (101, 103)
EMA_DECAY = 0.99
TOP_K, SEED, RESAMPLES = 100_000, 0, 1000
SHIFTS = {"1": (-1, 0, 1), "2": (-2, -1, 0, 1, 2)}
# Folder of the model, seed, command and configuration, base models, fold: as in scripts/demo.bash.
VIDEO_RUNS = (("dbof", 11, "video_gated_dbof"), ("nextvlad", 12, "video_nextvlad"))
SEGMENT_RUNS = (
    ("dbof", 21, ("dbof",), 0),
    ("nextvlad", 22, ("nextvlad",), 1),
    ("dbof-nextvlad", 31, ("dbof", "nextvlad"), 2),
    ("dbof-dbof", 32, ("dbof", "dbof"), 3),
)
MODELS = tuple(f"{name}_{fold}" for name, _, _, fold in SEGMENT_RUNS)


def command(module: str, *arguments: object) -> None:
    """Run one of the package's commands."""
    subprocess.run([sys.executable, "-m", f"yt8m.{module}", *map(str, arguments)], check=True, cwd=ROOT)


def prepare(data_dir: Path, seed: int) -> None:
    """Make the data set, train all models and predict with them; what is there already stays."""
    where = "--data-dir", data_dir
    if not (data_dir / "truth.csv").is_file():  # written last
        command("make_demo_data", *where, "--seed", seed, "--test-videos", 300)
    command("prepare_vocabulary", *where)
    command("prepare_test_meta", *where)
    for suffix in ("", "-ema"):
        train(data_dir, suffix)
    command("inference_memmap", *where, "--model-names", *MODELS, *with_suffix("-ema"))
    for name, shifts in SHIFTS.items():
        for suffix in ("", "-ema"):
            command(
                "inference_memmap",
                "--data-dir",
                beside(data_dir, f"shifts-{name}"),
                "--model-names",
                *with_suffix(suffix),
                "--shifts",
                *shifts,
            )


def with_suffix(suffix: str) -> list[str]:
    """The names of the segment models that were trained with or without moving averages."""
    return [f"{name}{suffix}_{fold}" for name, _, _, fold in SEGMENT_RUNS]


def train(data_dir: Path, suffix: str) -> None:
    """Train the models whose names have this suffix; finished ones are left as they are."""
    where = "--data-dir", data_dir
    bases = data_dir / "cache" / "video"
    for name, seed, config in VIDEO_RUNS:
        command(
            "train_video", configuration(data_dir, config, suffix), "--name", f"{name}{suffix}", "--seed", seed, *where
        )
    for name, seed, own_bases, fold in SEGMENT_RUNS:
        module, config = (
            ("train_pure_segment", "pure_segment")
            if len(own_bases) == 1
            else ("train_segment_w_context", "segment_with_context")
        )
        command(
            module,
            configuration(data_dir, config, suffix),
            *(bases / f"{base}{suffix}" for base in own_bases),
            "--fold",
            fold,
            "--name",
            f"{name}{suffix}",
            "--seed",
            seed,
            *where,
        )


def configuration(data_dir: Path, name: str, suffix: str) -> Path:
    """The demo's configuration, or a copy of it with a moving average of the weights."""
    source = CONFIGS / f"{name}.yaml"
    if not suffix:
        return source
    sections = yaml.safe_load(source.read_text(encoding="utf-8"))
    for section in sections.values():
        section["training"]["ema_decay"] = EMA_DECAY
    copy = data_dir / f"{name}{suffix}.yaml"
    copy.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return copy


def beside(data_dir: Path, name: str) -> Path:
    """A data folder with the same shards and models and predictions of its own."""
    other = data_dir / name
    (other / "cache").mkdir(parents=True, exist_ok=True)
    for link in ("segment", "segment_vocabulary.csv", "cache/segment", "cache/index", "cache/test_meta.npz"):
        if not (other / link).exists():
            (other / link).symlink_to((data_dir / link).absolute())
    return other


@dataclass
class World:
    """A data set with all predictions: maps by name of the variant, one a model, and what video models say."""

    test: TestRatings
    meta: TestMeta
    maps: dict[str, list[StoredScores]]
    scores_of_videos: dict[str, np.ndarray]

    def ranking(
        self,
        variant: str,
        kind: Kind = "mean",
        weights: tuple[float, ...] | None = None,
        models: slice = slice(None),
        rules: CandidateRules | None = None,
        video_model: str = "nextvlad",
    ) -> Ranking:
        """How a submission of these models and options ranks the ratings."""
        factors = row_videos = None
        if rules is not None:
            factors, row_videos = rules.factors(self.scores_of_videos[video_model], SEED), self.meta.row_videos()
        fusion = Fusion(self.maps[variant][models], kind, weights, factors, row_videos)
        return Ranking(self.test.ratings, self.test.places(fusion, TOP_K, SEED))


def load(data_dir: Path) -> World:
    """The data set of a folder."""
    cache = data_dir / "cache"
    vocabulary, meta = load_vocabulary(data_dir), load_test_meta(cache)
    maps = {}
    for variant, folder, suffix in [
        ("plain", cache, ""),
        ("ema", cache, "-ema"),
        *(
            (f"{kind}shifts-{name}", data_dir / f"shifts-{name}" / "cache", suffix)
            for name in SHIFTS
            for kind, suffix in (("", ""), ("ema-", "-ema"))
        ),
    ]:
        maps[variant] = [file.read(meta, vocabulary) for file in prediction_files(folder, with_suffix(suffix))]
    ratings = ratings_of_table(read_truth(data_dir / "truth.csv", data_dir / NAMES_FILE))
    index = load_test_index(data_dir, meta, RAISE)
    scores = {
        base: video_scores(
            open_folder(cache / "video" / base), index, meta, vocabulary, cache, 0, torch.device("cpu"), RAISE
        )
        for base, _, _ in VIDEO_RUNS
    }
    return World(TestRatings(ratings, meta, vocabulary), meta, maps, scores)


Variants = Iterator[tuple[str, Callable[[World], Ranking]]]


def variants() -> Variants:
    """What is compared, the plain mean first."""
    yield "mean of the four models (plain)", lambda world: world.ranking("plain")
    for number, name in enumerate(MODELS):
        yield f"{name} alone", lambda world, n=number: world.ranking("plain", models=slice(n, n + 1))
    for kind in ("geometric", "rank", "reciprocal-rank"):
        yield f"--fusion {kind}", lambda world, kind=kind: world.ranking("plain", kind)
    yield "--weights 1 2 1 1 (nextvlad_1 twice)", lambda world: world.ranking("plain", weights=(1, 2, 1, 1))
    for name, shifts in SHIFTS.items():
        yield f"--shifts {' '.join(map(str, shifts))}", lambda world, name=name: world.ranking(f"shifts-{name}")
    yield f"ema_decay {EMA_DECAY} in all training", lambda world: world.ranking("ema")
    for base, _, _ in VIDEO_RUNS:
        for text, rules in (
            ("--video-top-k 3", CandidateRules(top_k=3)),
            ("--video-top-k 6", CandidateRules(top_k=6)),
            ("--video-threshold 0.1", CandidateRules(threshold=0.1)),
            ("--video-cap 60", CandidateRules(cap=60)),
            ("--video-weight 0.25", CandidateRules(weight=0.25)),
            ("--video-weight 0.5", CandidateRules(weight=0.5)),
            ("--video-weight 1", CandidateRules(weight=1.0)),
        ):
            yield (
                f"--video-model {base} {text}",
                lambda world, rules=rules, base=base: world.ranking("plain", rules=rules, video_model=base),
            )
    yield "--shifts -2 -1 0 1 2 --weights 1 2 1 1", lambda world: world.ranking("shifts-2", weights=(1, 2, 1, 1))
    yield f"the same with ema_decay {EMA_DECAY}", lambda world: world.ranking("ema-shifts-2", weights=(1, 2, 1, 1))


def main() -> None:
    """Print a table of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=ROOT / "data" / "options",
        metavar="DIR",
        help="where the data sets are made and kept (default: data/options in the repository)",
    )
    folder = parser.parse_args().data_dir.absolute()
    os.environ.pop("SEED", None)
    for seed in DATA_SEEDS:
        prepare(folder / f"seed-{seed}", seed)
    names = [name for name, _ in variants()]
    maps, resampled = np.empty((len(names), len(DATA_SEEDS))), []
    for column, seed in enumerate(DATA_SEEDS):
        world = load(folder / f"seed-{seed}")
        rankings = [rank(world) for _, rank in variants()]
        maps[:, column] = [ranking.mean_average_precision() for ranking in rankings]
        resampled.append(resampled_maps(rankings, len(world.test.ratings.video_ids), RESAMPLES, seed))
    differences = np.mean(resampled, axis=0)
    low, high = np.percentile(differences - differences[0], [2.5, 97.5], axis=1)
    print(f"\n| option | {' | '.join(f'data {seed}' for seed in DATA_SEEDS)} | worth | 95 % interval |")
    print("|---|" + "---|" * (len(DATA_SEEDS) + 2))
    for name, values, first, last in zip(names, maps, low, high):
        worth, interval = "", ""
        if name != names[0]:
            worth, interval = f"{(values - maps[0]).mean():+.4f}", f"{first:+.4f} to {last:+.4f}"
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} | {worth} | {interval} |")


if __name__ == "__main__":
    main()
