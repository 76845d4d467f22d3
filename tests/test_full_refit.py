"""`--fold none`: training on all rated shards, without validation."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helperbot import Bot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from tests.conftest import Outcome
from tests.small_models import CONTEXT, DBOF, FILES_OF_A_RUN, NEXTVLAD, TRAINING, video_folder, write_config
from yt8m.data.index import Index, load_index
from yt8m.models.layers import uncenter
from yt8m.training.losses import SegmentTask

Command = Callable[..., Outcome]


def arguments(kind: str, tmp_path: Path, data_dir: Path, *options: object, **training: object) -> list[object]:
    """The command line of a refit, "agnostic" or "aware", to `cache/segment/x_none`."""
    settings = {**TRAINING, **training}
    bases = [video_folder(tmp_path / "dbof", {**DBOF, "p_drop": 0.0}, data_dir)]
    if kind == "agnostic":
        module, sections = "train_pure_segment", {"pure_segment": {"training": settings}}
    else:
        module, sections = "train_segment_w_context", {"segment_w_context": {"model": CONTEXT, "training": settings}}
        bases.append(video_folder(tmp_path / "nextvlad", NEXTVLAD, data_dir))
    return [
        module,
        write_config(tmp_path / "config.yaml", **sections),
        *bases,
        "--name",
        "x",
        "--data-dir",
        data_dir,
        "--device",
        "cpu",
        "--seed",
        5,
        "--fold",
        "none",
        *options,
    ]


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The exported state dict."""
    return torch.load(folder / "model.pth", weights_only=True)


def same(weights: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal, bit by bit."""
    return list(weights) == list(others) and all(torch.equal(value, others[name]) for name, value in weights.items())


def rated(data_dir: Path) -> Index:
    """The index of the rated shards."""
    return load_index(data_dir / "segment" / "train", data_dir / "cache")


@pytest.mark.parametrize("kind", ["agnostic", "aware"])
def test_an_epoch_has_every_rating_of_every_shard(
    kind: str, command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = rated(data_dir)
    n_ratings = int(index.rating_ends[-1])
    seen: list[np.ndarray] = []
    criterion = SegmentTask.criterion

    def recorded(task: SegmentTask, logits: Tensor, batch) -> Tensor:
        seen.append(batch.examples)
        return criterion(task, logits, batch)

    monkeypatch.setattr(SegmentTask, "criterion", recorded)
    outcome = command(*arguments(kind, tmp_path, data_dir, batch_size=n_ratings, steps=2, ckpt_interval=1))
    assert outcome.status == 0, outcome.err
    assert f"{n_ratings} ratings in {len(index.shards)} shards; left out: 0" in outcome.err
    assert len(seen) == 2  # two epochs, and nothing was evaluated
    for records in seen:
        np.testing.assert_array_equal(np.sort(records), index.owners(index.rating_ends))


def test_files_and_output_of_a_refit(command: Command, data_dir: Path, tmp_path: Path) -> None:
    line = arguments("agnostic", tmp_path, data_dir, "--log-every", 4)
    outcome = command(*line)
    assert outcome.status == 0, outcome.err
    folder = data_dir / "cache" / "segment" / "x_none"
    shards = f"{len(rated(data_dir).shards)} shards"
    said = f"{folder}: exported the weights of the last step 6, trained on {shards}, none held out"
    assert said in outcome.err.splitlines()[-1]
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert said in log and "evaluation" not in log
    assert sorted(path.name for path in folder.iterdir()) == FILES_OF_A_RUN
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["fold"] == "none"
    table = pd.read_csv(folder / "history.csv")
    assert table["step"].tolist() == [4] and table[["loss", "lr", "examples_per_second"]].notna().all(axis=None)
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/lr", "train/examples_per_second"}
    again = command(*line)
    assert again.status == 0 and "is already finished" in again.err
    assert command(*line[:-3], 0).status == 0  # --fold 0, in a folder of its own
    assert not same(weights_of(folder), weights_of(folder.with_name("x_0")))
    # Fewer steps than --log-every: a line at the last step, so that there are curves.
    assert command(*line, "--restart", "--log-every", 100).status == 0
    assert pd.read_csv(folder / "history.csv")["step"].tolist() == [6]


def as_exported(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model in training, for inputs as they are."""
    model = copy.deepcopy(model)
    uncenter(model)
    return model.state_dict()


def test_the_last_weights_are_exported(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, Tensor]] = []
    train_step = Bot._train_step  # pylint: disable=protected-access

    def recorded(bot: Bot, batch) -> None:
        train_step(bot, batch)
        steps.append(as_exported(bot.model))

    monkeypatch.setattr(Bot, "_train_step", recorded)
    outcome = command(*arguments("agnostic", tmp_path, data_dir, "--steps", 4))
    assert outcome.status == 0, outcome.err
    exported = weights_of(data_dir / "cache" / "segment" / "x_none")
    assert len(steps) == 4 and [same(exported, weights) for weights in steps] == [False, False, False, True]


def test_one_shard_is_enough_also_for_the_range_test(command: Command, data_dir: Path, tmp_path: Path) -> None:
    for shard in sorted((data_dir / "segment" / "train").glob("*.tfrecord"))[1:]:
        shard.unlink()
    module, *line = arguments("agnostic", tmp_path, data_dir)
    refused = command(module, *line[:-1], 0)
    assert refused.status == 2 and "1 shard cannot be split into 8 folds" in refused.err
    assert "--fold none, needs no folds" in refused.err
    outcome = command(module, *line)
    assert outcome.status == 0, outcome.err
    assert "trained on 1 shard, none held out" in outcome.err
    tested = command("find_lr", *line[:2], "--fold", "none", "--data-dir", data_dir, "--device", "cpu", "--steps", 10)
    assert tested.status == 0, tested.err
    assert "ratings in 1 shard;" in tested.err


def test_patience_needs_validation(command: Command, data_dir: Path, tmp_path: Path) -> None:
    outcome = command(*arguments("agnostic", tmp_path, data_dir, "--patience", 3))
    assert outcome.status == 2
    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert errors == outcome.err.splitlines()[-1:] and "--patience 3 with --fold none" in errors[0]
    assert not (data_dir / "cache" / "segment").exists()
