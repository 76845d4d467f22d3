"""Hyper-parameters: each key of a training section has its effect, and exported configurations repeat the training."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor

from tests.conftest import Outcome
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config

Command = Callable[..., Outcome]
Trainer = Callable[..., Path]
SECTIONS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "video": ("train_video", "video", {"model": DBOF}, ()),
    "agnostic": ("train_pure_segment", "pure_segment", {}, ("dbof",)),
    "aware": ("train_segment_w_context", "segment_w_context", {"model": CONTEXT}, ("dbof", "nextvlad")),
}


@pytest.fixture(name="trainer")
def fixture_trainer(command: Command, data_dir: Path, tmp_path: Path) -> Trainer:
    """Train a kind of model with other values in its training section, logging each step; returns its folder."""
    video_folder(tmp_path / "dbof", DBOF, data_dir)
    video_folder(tmp_path / "nextvlad", NEXTVLAD, data_dir)

    def train(kind: str, config: Path | None = None, model: dict[str, Any] | None = None, **training: object) -> Path:
        module, section, content, bases = SECTIONS[kind]
        content = content | ({} if model is None else {"model": model}) | {"training": {**TRAINING, **training}}
        fold = () if kind == "video" else ("--fold", 2)
        folder = data_dir / "cache" / ("video/x" if kind == "video" else "segment/x_2")
        if config is None:
            config = write_config(tmp_path / f"{kind}.yaml", **{section: content})
            shutil.rmtree(folder, ignore_errors=True)
        where = "--data-dir", data_dir, "--device", "cpu", "--log-every", 1
        outcome = command(module, config, *(tmp_path / base for base in bases), *fold, "--name", "x", *where)
        assert outcome.status == 0, outcome.err
        assert training or "is already finished" in outcome.err
        return folder

    return train


def rates_of(folder: Path) -> np.ndarray:
    """The learning rate of each step, by the log."""
    table = pd.read_csv(folder / "history.csv")
    return table[table["loss"].notna()]["lr"].to_numpy()


@pytest.mark.parametrize(
    "kind, warmup, start, end",
    [("video", 0.2, 0.01, 0.01), ("agnostic", 0.25, 0.01, 0.001), ("aware", 0.25, 0.01, 0.001)],
)
def test_learning_rates_are_2019s_by_default(
    kind: str, warmup: float, start: float, end: float, trainer: Trainer
) -> None:
    folder = trainer(kind, steps=8, lr=0.5, eps=1)
    expected = 0.5 * np.interp(np.arange(8), [0, warmup * 8, 8], [start, 1, end])
    np.testing.assert_allclose(rates_of(folder), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["video", "agnostic"])
def test_learning_rates_are_as_configured(kind: str, trainer: Trainer) -> None:
    settings = {"steps": 8, "lr": 0.001, "warmup_ratio": 0.5, "start_lr_factor": 0.2, "end_lr_factor": 0.6}
    expected = [0.2, 0.4, 0.6, 0.8, 1, 0.9, 0.8, 0.7]
    np.testing.assert_allclose(rates_of(trainer(kind, **settings)), 0.001 * np.array(expected), rtol=1e-9)
    falling = {**settings, "warmup_ratio": 0, "end_lr_factor": 0}
    np.testing.assert_allclose(rates_of(trainer(kind, **falling)), 0.001 * np.arange(8, 0, -1) / 8, rtol=1e-9)


@pytest.mark.parametrize(
    "training, expected",
    [
        ({}, (1, 1 / 2, 1 / 4)),
        ({"segment_encoder_lr_factor": 0.125}, (1, 1 / 8, 1 / 4)),
        ({"context_encoder_lr_factor": 2}, (1, 1 / 2, 2)),
    ],
)
def test_encoders_have_learning_rates_of_their_own(
    training: dict[str, float], expected: tuple[float, ...], trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *rest: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    trainer("aware", model={**CONTEXT, "finetune_context": True}, steps=1, warmup_ratio=0, lr=0.001, **training)
    assert len(rates) == 1  # of head, segment encoder, context encoder; with and without decay
    assert rates[0] == pytest.approx(np.repeat(expected, 2) * 0.001)


@pytest.mark.parametrize("training, limit", [({}, 10), ({"clip_grad_norm": 0.25}, 0.25), ({"clip_grad_norm": 0}, None)])
def test_gradients_are_clipped(
    training: dict[str, float], limit: float | None, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(parameters: object, max_norm: float) -> Tensor:
        limits.append(max_norm)
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recorded)
    trainer("video", steps=3, **training)
    assert limits == ([] if limit is None else [limit] * 3)


@pytest.mark.parametrize("kind", ["agnostic", "aware"])
def test_mined_negatives_weigh_what_they_should(kind: str, trainer: Trainer) -> None:
    losses = [
        pd.read_csv(trainer(kind, steps=1, **training) / "history.csv")["loss"].iloc[0]
        for training in ({"mined_weight": 0}, {"mined_weight": 0.5}, {"mined_weight": 1}, {})
    ]
    assert losses[1] - losses[0] > 0.05
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-5)
    assert losses[3] == losses[1]


@pytest.mark.parametrize("kind", SECTIONS)
def test_the_exported_configuration_has_all_and_trains_the_same(kind: str, trainer: Trainer, tmp_path: Path) -> None:
    folder = trainer(kind, steps=3, ckpt_interval=3, clip_grad_norm=None)
    exported = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    training = exported[SECTIONS[kind][1]]["training"]
    assert training["clip_grad_norm"] is None
    shared = {"warmup_ratio", "start_lr_factor", "end_lr_factor", "center_inputs"}
    weights = {"prior_bias"} if SECTIONS[kind][1] == "video" else {"offset", "negative_weight", "mined_weight"}
    encoders = {"segment_encoder_lr_factor", "context_encoder_lr_factor"} if kind == "aware" else set()
    assert training.keys() == {*TRAINING, "clip_grad_norm", *shared, *weights, *encoders}
    stamp = (folder / "model.pth").stat().st_mtime_ns
    trainer(kind, shutil.copy(folder / "config.yaml", tmp_path / "again.yaml"))  # it is the same run
    assert (folder / "model.pth").stat().st_mtime_ns == stamp
