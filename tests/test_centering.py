"""Training with centered inputs and a prior: model folders keep the format of raw inputs."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import Outcome
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, write_config
from yt8m.data.datasets import RatedSegmentDataset, VideoDataset
from yt8m.data.index import load_index, split_fold
from yt8m.data.vocabulary import load_vocabulary
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder
from yt8m.training.losses import video_loss
from yt8m.training.metrics import SegmentMetrics

Command = Callable[..., Outcome]


def train(command: Command, data_dir: Path, module: str, *arguments: object) -> None:
    """Train on the CPU."""
    outcome = command(module, *arguments, "--data-dir", data_dir, "--device", "cpu", "--seed", 4)
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("family", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_exported_models_take_inputs_as_they_are(
    family: dict, centered: bool, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    """What a run has measured is what its folder gives, whichever form the weights have trained in."""
    training = {**TRAINING, "center_inputs": centered, "steps": 9}
    config = write_config(tmp_path / "v.yaml", video={"model": family, "training": training})
    train(command, data_dir, "train_video", config, "--name", "base")
    base = data_dir / "cache" / "video" / "base"
    vocabulary = load_vocabulary(data_dir)
    dataset = VideoDataset(load_index(data_dir / "video" / "valid", data_dir / "cache"), vocabulary, -1, None)
    batch = dataset.__getitems__([(0, example) for example in range(len(dataset))])
    with torch.no_grad():
        loss = video_loss(load_video_model(base).eval()(batch.videos), batch.labels).item()
    assert loss == pytest.approx(pd.read_csv(base / "history.csv")["valid_loss"].min(), rel=1e-4)

    pure = write_config(tmp_path / "s.yaml", pure_segment={"training": training})
    aware = write_config(tmp_path / "c.yaml", segment_w_context={"model": CONTEXT, "training": training})
    train(command, data_dir, "train_pure_segment", pure, base, "--fold", 0, "--name", "pure")
    train(command, data_dir, "train_segment_w_context", aware, base, base, "--fold", 0, "--name", "aware")
    index = load_index(data_dir / "segment" / "train", data_dir / "cache")
    for name, context in (("pure_0", False), ("aware_0", True)):
        folder = data_dir / "cache" / "segment" / name
        rated = RatedSegmentDataset(index, vocabulary, split_fold(index, 0)[1], 3, context, -1, None)
        segments = rated.__getitems__([(0, example) for example in range(len(rated))])
        model = load_segment_model(open_folder(folder)).eval()
        rest = (segments.videos, None, segments.video_index) if context else ()
        metrics = SegmentMetrics()
        with torch.no_grad():
            metrics.update(model(segments.segments, *rest), segments)
        assert metrics.compute()["auc"] == pytest.approx(pd.read_csv(folder / "history.csv")["auc"].max(), abs=0.5)


def test_a_run_with_a_prior_begins_near_the_shares(command: Command, data_dir: Path, tmp_path: Path) -> None:
    losses = {}
    for prior in (True, False):
        training = {**TRAINING, "prior_bias": prior, "steps": 2, "ckpt_interval": 2, "lr": 1e-9}
        config = write_config(tmp_path / "v.yaml", video={"model": {**DBOF, "p_drop": 0.0}, "training": training})
        train(command, data_dir, "train_video", config, "--name", f"prior-{prior}")
        history = pd.read_csv(data_dir / "cache" / "video" / f"prior-{prior}" / "history.csv")
        losses[prior] = history["train_loss"].dropna().iloc[-1]
    assert losses[True] < losses[False]


def test_shares_are_those_of_the_training_videos(data_dir: Path) -> None:
    vocabulary = load_vocabulary(data_dir)
    index = load_index(data_dir / "video" / "train", data_dir / "cache")
    dataset = VideoDataset(index, vocabulary, -1, None)
    labels = dataset.__getitems__([(0, example) for example in range(len(dataset))]).labels.numpy()
    assert dataset.class_shares() == pytest.approx((labels.sum(axis=0) + 0.5) / (len(labels) + 1))
