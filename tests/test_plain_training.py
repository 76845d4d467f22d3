"""The plain trainers of the accuracy benchmark."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.plain_models import PlainDbof, build_plain_model, frame_mask
from benchmarks.plain_training import encode_padded
from tests.small_models import DBOF, NEXTVLAD, TRAINING, write_config
from yt8m.data.packed_frames import PackedFrames
from yt8m.models.classifiers import build_video_model
from yt8m.models.config import VideoSection

ROOT = Path(__file__).parent.parent
LENGTHS = [9, 4, 7]


def literal_features(model: torch.nn.Module, frames: Tensor, lengths: Tensor) -> Tensor:
    """Padding kept in every layer, (B, F); the mean divides by the length of the batch."""
    if not isinstance(model, PlainDbof):
        return model.features(frames, lengths)
    hidden = model.encoder(frames)
    mask = frame_mask(frames, lengths)[:, None]
    maximum = hidden.masked_fill(~mask, float("-inf")).max(dim=2).values
    return model.intermediate_fc(torch.cat([maximum, (hidden * mask).sum(dim=2) / frames.shape[1]], dim=1))


@pytest.mark.parametrize("config", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_padded_batches_are_read_as_in_2019(config: dict) -> None:
    section = VideoSection.model_validate({"model": {**config, "p_drop": 0.0}})
    torch.manual_seed(3)
    model = build_video_model(section.model, 5).double().train()
    plain = build_plain_model(section.model, 5).double().train()
    renamed = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    plain.load_state_dict(renamed)
    lengths = torch.tensor(LENGTHS)
    frames = torch.randint(256, (len(LENGTHS), max(LENGTHS), section.model.frame_dim)).double()
    frames *= frame_mask(frames, lengths)[:, :, None]
    videos = PackedFrames.pack(frames, lengths)
    for features in (encode_padded(model, videos), literal_features(plain, frames, lengths)):
        (features * torch.arange(features.shape[1])).sum().backward()
    gradients = {name.removeprefix("model."): value.grad for name, value in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:  # the head has none
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-6, atol=1e-6, msg=name)
    trained = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    torch.testing.assert_close(trained, dict(plain.state_dict()))  # the batch norms have seen the padding


def run(script: str, *arguments: object) -> None:
    """Run one of the benchmarks' trainers."""
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_without_aspects_of_2019_it_is_the_packages_trainer(model: dict, data_dir: Path, tmp_path: Path) -> None:
    settings = {**TRAINING, "steps": 4, "ckpt_interval": 2}
    config = write_config(
        tmp_path / "config.yaml",
        video={"model": {**model, "p_drop": 0.0}, "training": settings},
        pure_segment={"training": settings},
    )
    shutil.rmtree(data_dir / "video" / "valid")
    shutil.copytree(data_dir / "video" / "train", data_dir / "video" / "valid")
    shared = "--seed", 5, "--data-dir", data_dir
    run("watched_training", "train_video", config, "--name", "here", *shared, "--device", "cpu")
    run("plain_training", "--aspects", "", "train_video", config, "--name", "plain", *shared)
    for name in ("here", "plain"):
        base = data_dir / "cache" / "video" / "here"
        script, *start = ("watched_training",) if name == "here" else ("plain_training", "--aspects", "")
        run(script, *start, "train_pure_segment", config, base, "--fold", 1, "--name", name, *shared)
    for here, plain in (("video/here", "video/plain"), ("segment/here_1", "segment/plain_1")):
        folders = [data_dir / "cache" / name for name in (here, plain)]
        weights = [torch.load(folder / "model.pth", weights_only=True) for folder in folders]
        torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)  # other kernels of AdamW
        tables = [pd.read_csv(folder / "history.csv").dropna(subset="valid_loss") for folder in folders]
        for column in ("train_loss", "valid_loss", "seen_loss"):
            assert tables[0][column].tolist() == pytest.approx(tables[1][column].tolist(), rel=1e-3), column
        if here.startswith("video"):  # validated on what is trained on
            assert tables[0]["seen_loss"].tolist() == pytest.approx(tables[0]["valid_loss"].tolist(), rel=1e-6)
        else:
            assert tables[0]["seen_loss"].tolist() != tables[0]["valid_loss"].tolist()
