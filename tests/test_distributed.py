"""Training in two processes, with gloo on the CPU, equals one process with larger batches.

One kind of model is trained as torchrun starts it, the others in forks that find in their environment what it sets.
"""

import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.processes import Outcome, fork_all, rank_environments, run_command
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config
from yt8m.data.datasets import RatedSegmentDataset, ShardDataset, VideoDataset
from yt8m.data.index import Index, load_index, split_fold
from yt8m.data.order import SequentialBatches, TrainingBatches
from yt8m.data.records import stamp_of
from yt8m.data.vocabulary import load_vocabulary

SETTINGS = {**TRAINING, "steps": 5, "ckpt_interval": 3}
SEED, FOLD = 3, 2
FINETUNED = "finetuned context"


def without_dropout(model: dict) -> dict:
    """A configuration whose loss is no matter of chance."""
    return {**model, "p_drop": 0.0}


class Trainer:
    """Trains a kind of model on a data folder, in one process or in two that share each batch of 8."""

    def __init__(self, kind: str, data_dir: Path, work: Path) -> None:
        self.data_dir, self.work = data_dir, work
        bases = [
            video_folder(work / name, without_dropout(model), data_dir)
            for name, model in (("base-dbof", DBOF), ("base-nextvlad", NEXTVLAD))
        ]
        context = without_dropout({**CONTEXT, "finetune_context": kind == FINETUNED})
        aware = "train_segment_w_context", (*bases, "--fold", FOLD), {"segment_w_context": {"model": context}}
        self.module, self.rest, section = {
            "dbof": ("train_video", (), {"video": {"model": without_dropout(DBOF)}}),
            "nextvlad": ("train_video", (), {"video": {"model": without_dropout(NEXTVLAD)}}),
            "agnostic": ("train_pure_segment", (bases[0], "--fold", FOLD), {"pure_segment": {}}),
            "aware": aware,
            FINETUNED: aware,
        }[kind]
        ((self.section, self.content),) = section.items()

    def command_line(self, ranks: int, *options: object) -> list[object]:
        """The command that trains in so many processes; the folder is that of `folder`."""
        training = {**SETTINGS, "batch_size": 8 // ranks}
        sections = {self.section: {**self.content, "training": training}}
        config = write_config(self.work / f"{ranks}.yaml", **sections)
        line: list[object] = [self.module, config, *self.rest, "--name", f"ranks{ranks}", "--data-dir", self.data_dir]
        return [*line, "--device", "cpu", "--seed", SEED, "--log-every", 1, *options]

    def train(self, ranks: int, *options: object) -> list[Outcome]:
        """Train in so many processes."""
        environments = rank_environments(ranks) if ranks > 1 else [{}]
        return fork_all(environments, run_command, *self.command_line(ranks, *options))

    def folder(self, ranks: int) -> Path:
        """Where the model of so many processes is."""
        (folder,) = (self.data_dir / "cache").glob(f"*/ranks{ranks}*")
        return folder

    def assert_alike(self) -> None:
        """One process and two have come to the same."""
        one, two = (pd.read_csv(self.folder(ranks) / "history.csv") for ranks in (1, 2))
        assert one["loss"].notna().all()
        for column in ("loss", "lr", "train_loss"):
            pd.testing.assert_series_equal(two[column], one[column], rtol=1e-4)
        results = ["accuracy", "auc"] if self.section != "video" else ["valid_loss", "accuracy", "gap", "map"]
        pd.testing.assert_frame_equal(two[results].dropna(), one[results].dropna(), rtol=1e-3)
        weights = [torch.load(self.folder(ranks) / "model.pth", weights_only=True) for ranks in (1, 2)]
        assert list(weights[0]) == list(weights[1])
        assert "2 processes" in (self.folder(2) / "train.log").read_text(encoding="utf-8")


def test_two_processes_of_torchrun_train_as_one_with_the_doubled_batch(data_dir: Path, tmp_path: Path) -> None:
    trainer = Trainer("dbof", data_dir, tmp_path)
    for ranks, launcher in ((1, []), (2, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"])):
        module, *rest = map(str, trainer.command_line(ranks))
        done = subprocess.run(
            [sys.executable, *launcher, "-m", f"yt8m.{module}", *rest],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("INFO step 5/5") == 1  # one process speaks for all
    trainer.assert_alike()


@pytest.mark.parametrize("kind", ["nextvlad", "agnostic", "aware"])
def test_two_processes_train_as_one_with_the_doubled_batch(kind: str, data_dir: Path, tmp_path: Path) -> None:
    trainer = Trainer(kind, data_dir, tmp_path)
    for ranks in (1, 2):
        done = trainer.train(ranks)
        assert not any(rank.status for rank in done), done
        assert sum(rank.err.count("INFO step 5/5") for rank in done) == 1
    trainer.assert_alike()


# --- damage ----------------------------------------------------------------------------------------------


def spoil(index: Index, cache: Path, records: Iterable[int]) -> None:
    """Make records of an index in `cache` unreadable, as if the disk had forgotten them since it was made."""
    for record in records:
        start = int(index.offset[record]) + 12
        with index.path(record).open("r+b") as file:
            file.seek(start + int(index.rgb_start[record]))
            file.write(bytes(start + int(index.length[record]) - file.tell()))
    kept = cache / "index" / f"{index.folder.parent.name}-{index.folder.name}.npz"
    with np.load(kept) as file:
        arrays = dict(file)
    arrays["stamps"] = np.array(
        [stamp_of((index.folder / name).stat()) for name in arrays["shards"].tolist()], np.int64
    )
    np.savez(kept, **arrays)


def sets(kind: str, data_dir: Path) -> tuple[ShardDataset, ShardDataset]:
    """What a kind of model is trained and validated on."""
    vocabulary, cache = load_vocabulary(data_dir), data_dir / "cache"
    if kind in ("dbof", "nextvlad"):
        train, valid = (
            VideoDataset(load_index(data_dir / "video" / part, cache), vocabulary, 20, SEED)
            for part in ("train", "valid")
        )
        return train, valid
    index = load_index(data_dir / "segment" / "train", cache)
    context = kind != "agnostic"
    train, valid = (
        RatedSegmentDataset(index, vocabulary, shards, 3, context, 20, SEED) for shards in split_fold(index, FOLD)
    )
    return train, valid


def spoil_batches_of_the_second(kind: str, data_dir: Path) -> None:
    """Make all of the second process's second batch unreadable, in training and in validation, and half of its third.

    With its examples go those of other batches that are of the same videos.
    """
    train, valid = sets(kind, data_dir)
    _, second, third = islice(TrainingBatches(train.shards, 4, SEED, None, 1, 2), 3)
    cache = data_dir / "cache"
    spoil(train.index, cache, {int(train.records[example]) for _, example in [*second, *third[:2]]})
    (first, *_) = SequentialBatches(len(valid), 4, 1, 2)
    spoil(valid.index, cache, {int(valid.records[example]) for _, example in first})


@pytest.mark.parametrize("kind", ["dbof", "nextvlad", "agnostic", "aware"])
def test_a_process_whose_batch_is_all_damaged_goes_on_with_the_others(
    kind: str, data_dir: Path, tmp_path: Path
) -> None:
    """And what comes out is what one process makes of the same examples."""
    spoil_batches_of_the_second(kind, data_dir)
    trainer = Trainer(kind, data_dir, tmp_path)
    for ranks in (1, 2):
        done = trainer.train(ranks, "--on-error", "skip")
        assert not any(rank.status for rank in done), done
        assert any("left out because of damage" in rank.err for rank in done)
    trainer.assert_alike()


@pytest.mark.parametrize("kind, options", [("dbof", ("--accumulate", 2)), ("nextvlad", ()), (FINETUNED, ())])
def test_a_process_with_a_damaged_batch_goes_on_in_parts_and_half_precision(
    kind: str, options: tuple[object, ...], data_dir: Path, tmp_path: Path
) -> None:
    """Where batch norms see other parts, or some videos twice, than in one process, the numbers are not the same."""
    spoil_batches_of_the_second(kind, data_dir)
    trainer = Trainer(kind, data_dir, tmp_path)
    done = trainer.train(2, "--on-error", "skip", "--amp", "bf16", *options)
    assert not any(rank.status for rank in done), done
    weights = torch.load(trainer.folder(2) / "model.pth", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_without_any_example_ends_the_run_in_one_line(
    ranks: int, part: str, data_dir: Path, tmp_path: Path
) -> None:
    train, valid = sets("dbof", data_dir)
    dataset = {"train": train, "valid": valid}[part]
    spoil(dataset.index, data_dir / "cache", range(len(dataset.index)))
    done = Trainer("dbof", data_dir, tmp_path).train(ranks, "--on-error", "skip")
    text = {"train": "the batch of step 1 has 0 examples; at least 2 needed", "valid": "the validation set is empty"}[
        part
    ]
    for rank in done:
        assert rank.status == 2 and "Traceback" not in rank.err
        (line,) = [line for line in rank.err.splitlines() if text in line]
        assert "error: " in line and f"check_data {train.index.folder} {valid.index.folder}" in line
