"""Parts of `accuracy.py`: the data of a seed, and runs of the commands from shards to a score.

Everything runs in subprocesses with one thread each, and results are kept.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from helperbot.files import replacing

from benchmarks.plain_training import HISTORY
from benchmarks.planted import TRUTH
from benchmarks.watched_training import SEEN, WORST
from yt8m.data.candidates import CANDIDATES_FILE
from yt8m.data.index import load_index
from yt8m.data.partitions import FOLDERS
from yt8m.data.vocabulary import VOCABULARY_FILE
from yt8m.training.resume import code_identity

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
CONFIGS = BENCHMARKS / "planted_configs"
RESULT, ORIGIN, LOG = "result.json", "origin.json", "log.txt"
DECIDING = "plain_training", "planted", "watched_training"  # benchmark modules that determine the results

BASES = {"dbof": "video_dbof", "nextvlad": "video_nextvlad"}  # name and configuration

Result = dict[str, Any]


@dataclass(frozen=True)
class FineTuning:
    """A segment model: its name, training command, base models and fold."""

    name: str
    command: str
    config: str
    bases: tuple[str, ...]
    fold: int

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.name}_{self.fold}"


AGNOSTIC = (
    FineTuning("dbof", "train_pure_segment", "pure_segment", ("dbof",), 0),
    FineTuning("nextvlad", "train_pure_segment", "pure_segment", ("nextvlad",), 1),
)
AWARE = (
    FineTuning("dbof-nextvlad", "train_segment_w_context", "segment_w_context", ("dbof", "nextvlad"), 3),
    FineTuning("dbof-dbof", "train_segment_w_context", "segment_w_context", ("dbof", "dbof"), 4),
)


@dataclass(frozen=True)
class Variant:
    """How to train: `changes` to the configurations, and aspects as in 2019, see `plain_training`.

    A change is a value for a key in every section, such as `training.lr`, or in one, such as `video.training.lr`.
    Without aspects the package's trainers are used.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    as_in_2019: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All but the name."""
        return {"changes": self.changes, "as_in_2019": list(self.as_in_2019)}


@dataclass(frozen=True)
class Place:
    """The folder of everything, and what all runs in it share: sizes of the data, steps of each training (None: as
    configured), and whether there are look-alikes, see `planted`."""

    folder: Path
    sizes: list[tuple[int, int]]
    steps: int | None
    look_alikes: bool = False

    def shards(self, seed: int) -> Path:
        """The data folder of a seed."""
        return self.folder / f"data-{seed}"

    def prepare(self, seed: int) -> None:
        """Make the data of a seed, its indexes and its test metadata, unless they exist."""
        folder = self.shards(seed)
        if (folder / "cache" / CANDIDATES_FILE).exists():  # written last
            return
        folder.mkdir(parents=True, exist_ok=True)
        sizes = [f"{n_shards}x{n_videos}" for n_shards, n_videos in self.sizes]
        kind = ["--look-alikes"] if self.look_alikes else []
        execute([BENCHMARKS / "planted.py", folder, "--seed", seed, *kind, "--sizes", *sizes], folder / LOG)
        for part in FOLDERS:
            load_index(folder / part, folder / "cache")
        execute(["-m", "yt8m.prepare_test_meta", "--data-dir", folder], folder / LOG)


@dataclass(frozen=True)
class Run:
    """One training of all models, and their scores. `full` adds context-aware models; `families`: those of `BASES` to
    train."""

    place: Place
    variant: Variant
    data_seed: int
    training_seed: int
    full: bool
    families: tuple[str, ...] = tuple(BASES)

    def __str__(self) -> str:
        return f"{self.variant.name}, data {self.data_seed}, training {self.training_seed}"

    @property
    def folder(self) -> Path:
        """Its own data folder, with links to the shards."""
        slug = re.sub(r"[^a-z0-9.]+", "-", self.variant.name.lower())
        return self.place.folder / "runs" / f"{slug}-{self.data_seed}-{self.training_seed}"

    @property
    def fine_tunings(self) -> tuple[FineTuning, ...]:
        """The models to fine-tune, the context-agnostic ones first."""
        every = (*AGNOSTIC, *AWARE) if self.full else AGNOSTIC
        return tuple(tuning for tuning in every if set(tuning.bases) <= set(self.families))

    @property
    def result(self) -> Result | None:
        """The result, if finished."""
        result = read_json(self.folder / RESULT)
        wanted = {tuning.folder for tuning in self.fine_tunings}
        if result is None or result["settings"] != self.variant.settings or not wanted <= result["auc"].keys():
            return None
        return result

    def make(self) -> None:
        """Train, predict and score. Keeps what exists, unless it is from another variant of this name or, unfinished,
        from other code."""
        origin = {"settings": self.variant.settings, "code": code_digest()}
        before, finished = read_json(self.folder / ORIGIN), read_json(self.folder / RESULT)
        if before is not None and (before["settings"] != origin["settings"] or finished is None and before != origin):
            shutil.rmtree(self.folder)
            finished = None
        self._link_data()
        write_json(self.folder / ORIGIN, origin)
        self._train()
        bases = {name: self.folder / "cache" / "video" / name for name in self.families}
        tuned = {tuning.folder: self.folder / "cache" / "segment" / tuning.folder for tuning in self.fine_tunings}
        result = {
            "settings": self.variant.settings,
            "codes": sorted({*(finished["codes"] if finished else ()), origin["code"], code_digest()}),
            "auc": {name: max(column(folder, "auc")) for name, folder in tuned.items()},
            "map": self._maps(),
            "ratio": {
                "base": {name: loss_ratios(folder) for name, folder in bases.items()},
                "fine-tuning": {name: loss_ratios(folder) for name, folder in tuned.items()},
            },
        }
        write_json(self.folder / RESULT, result)

    def _link_data(self) -> None:
        shards = self.place.shards(self.data_seed).absolute()
        (self.folder / "cache").mkdir(parents=True, exist_ok=True)
        for name in ("video", "segment", VOCABULARY_FILE, TRUTH, "cache/index", f"cache/{CANDIDATES_FILE}"):
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to(shards / name)

    def _train(self) -> None:
        options = "--seed", self.training_seed, "--device", "cpu"
        for name in self.families:
            self._command("train_video", self._configuration(BASES[name]), "--name", name, *options)
        for tuning in self.fine_tunings:
            bases = [self.folder / "cache" / "video" / base for base in tuning.bases]
            where = "--fold", tuning.fold, "--name", tuning.name
            self._command(tuning.command, self._configuration(tuning.config), *bases, *where, *options)

    def _configuration(self, name: str) -> Path:
        """The configuration with the changes of the variant."""
        sections = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
        changes = dict(self.variant.changes)
        if self.place.steps is not None:
            changes["training.steps"] = self.place.steps
            changes["training.ckpt_interval"] = max(1, self.place.steps // 2)
        for title, section in sections.items():
            for path, value in changes.items():
                *of_section, part, key = path.split(".")
                if of_section in ([], [title]):
                    section[part][key] = value
        copy = self.folder / f"{name}.yaml"
        copy.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
        return copy

    def _maps(self) -> dict[str, float]:
        """MAP of the mean of the context-agnostic models, and of all models, by the number of models."""
        names = [tuning.folder for tuning in self.fine_tunings]
        self._command("inference_memmap", "--model-names", *names, "--device", "cpu")
        maps = {}
        submission, evaluation = self.folder / "sub.csv", self.folder / "evaluation"
        n_agnostic = sum(tuning in AGNOSTIC for tuning in self.fine_tunings)
        for n_models in sorted({n_agnostic, len(names)}):
            self._command("create_submission_from_memmaps", "--model-names", *names[:n_models], "--output", submission)
            score = "--truth", self.folder / TRUTH, "--submission", submission
            self._command("evaluate", *score, "--resamples", 0, "--output", evaluation)
            found = read_json(evaluation.with_suffix(".json"))
            assert found is not None
            maps[str(n_models)] = next(row["map"] for row in found["subjects"] if row["kind"] == "submission")
        shutil.rmtree(self.folder / "cache" / "predictions")
        for path in (submission, *self.folder.glob("evaluation*")):
            path.unlink()
        return maps

    def _command(self, command: str, *arguments: object) -> None:
        """Run a command of the package, or a benchmark's trainer in its place."""
        start: list[object] = ["-m", f"yt8m.{command}"]
        if command.startswith("train_") and self.variant.as_in_2019:
            start = [BENCHMARKS / "plain_training.py", "--aspects", ",".join(self.variant.as_in_2019), command]
        elif command.startswith("train_"):
            start = [BENCHMARKS / "watched_training.py", command]
        execute([*start, *arguments, "--data-dir", self.folder], self.folder / LOG)


def execute(arguments: Sequence[object], log: Path) -> str:
    """Run Python with one thread and return its output, which is also appended to the log with its messages.

    Raises `CalledProcessError`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, *map(str, arguments)]
    with log.open("a", encoding="utf-8") as file:
        print(" ".join(command), file=file, flush=True)
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file, text=True
        )
        print(done.stdout, file=file)
    done.check_returncode()
    return done.stdout


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, if it exists."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def code_digest() -> str:
    """A digest of the code and configurations that determine the results."""
    digest = sha256(code_identity()["digest"].encode())
    for path in (*(BENCHMARKS / f"{name}.py" for name in DECIDING), *sorted(CONFIGS.glob("*.yaml"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def column(folder: Path, name: str) -> list[float]:
    """A column of the evaluations in a model's history."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row["valid_loss"]]


def loss_ratios(folder: Path) -> dict[str, float]:
    """The largest ratio, over the evaluations of a training, of the validation loss to the loss on training examples,
    and the largest share of a single example in it, see `watched_training`; empty if not measured."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(WORST)]
    if not rows:
        return {}
    ratio = max(float(row["valid_loss"]) / float(row[SEEN]) for row in rows)
    return {SEEN: ratio, WORST: max(float(row[WORST]) for row in rows)}
