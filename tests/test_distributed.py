"""Several processes train as one with larger batches: here two, with gloo, on the CPU, started by torchrun.

One kind of model is trained in interpreters of its own, the others by the warm one.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config

SETTINGS = {**TRAINING, "steps": 5, "ckpt_interval": 3}


def without_dropout(model: dict) -> dict:
    """A configuration whose loss is no matter of chance."""
    return {**model, "p_drop": 0.0}


@pytest.mark.parametrize("kind", ["dbof", "nextvlad", "agnostic", "aware"])
def test_two_processes_train_as_one_with_the_doubled_batch(
    kind: str, data_dir: Path, tmp_path: Path, python: str
) -> None:
    bases = [
        video_folder(tmp_path / name, without_dropout(model), data_dir)
        for name, model in (("base-dbof", DBOF), ("base-nextvlad", NEXTVLAD))
    ]
    module, rest, section = {
        "dbof": ("train_video", (), {"video": {"model": without_dropout(DBOF)}}),
        "nextvlad": ("train_video", (), {"video": {"model": without_dropout(NEXTVLAD)}}),
        "agnostic": ("train_pure_segment", (bases[0], "--fold", 2), {"pure_segment": {}}),
        "aware": (
            "train_segment_w_context",
            (*bases, "--fold", 2),
            {"segment_w_context": {"model": without_dropout(CONTEXT)}},
        ),
    }[kind]
    ((name, content),) = section.items()
    runs = {}
    for ranks, batch_size in ((1, 8), (2, 4)):
        training = {**SETTINGS, "batch_size": batch_size}
        config = write_config(tmp_path / f"{ranks}.yaml", **{name: {**content, "training": training}})
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if ranks == 2 else []
        done = subprocess.run(
            [
                sys.executable if kind == "dbof" else python,
                *launcher,
                "-m",
                f"yt8m.{module}",
                config,
                *map(str, rest),
                "--name",
                f"ranks{ranks}",
                "--data-dir",
                data_dir,
                "--device",
                "cpu",
                "--seed",
                "3",
                "--log-every",
                "1",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("INFO step 5/5") == 1  # one process speaks for all
        (folder,) = (data_dir / "cache").glob(f"*/ranks{ranks}*")
        runs[ranks] = folder
    one, two = (pd.read_csv(runs[ranks] / "history.csv") for ranks in (1, 2))
    assert one["loss"].notna().all()
    for column in ("loss", "lr", "train_loss"):
        pd.testing.assert_series_equal(two[column], one[column], rtol=1e-4)
    results = ["accuracy", "auc"] if name != "video" else ["valid_loss", "accuracy", "gap", "map"]
    pd.testing.assert_frame_equal(two[results].dropna(), one[results].dropna(), rtol=1e-3)
    weights = [torch.load(runs[ranks] / "model.pth", weights_only=True) for ranks in (1, 2)]
    assert list(weights[0]) == list(weights[1])
    assert "2 processes" in (runs[2] / "train.log").read_text(encoding="utf-8")
