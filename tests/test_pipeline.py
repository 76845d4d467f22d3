"""The chain of commands on generated shards, in separate processes."""

import json
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests.processes import fork, run_command
from tests.small_models import CONTEXT, DBOF, FILES_OF_A_RUN, NEXTVLAD, TRAINING, write_config
from tests.test_scoring import slow_map
from yt8m.ranking.submission import read_submission


def fresh(module: str, *arguments: object) -> str:
    """Run a command in an interpreter that has imported nothing yet, in another folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"yt8m.{module}", *map(str, arguments)],
        check=False,
        text=True,
        capture_output=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def forked(module: str, *arguments: object, **environment: str) -> str:
    """The same in a fork."""
    with chdir("/"):
        done = fork(run_command, module, *arguments, **environment)
    assert done.status == 0, done.err
    return done.out + done.err


@pytest.fixture(name="run_dir", scope="module")
def fixture_run_dir(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, read-only shards and all, after every step of the walk-through."""
    path = tmp_path_factory.mktemp("pipeline") / "data"
    path.mkdir()
    for name in ("video", "segment", "segment_vocabulary.csv", "truth.csv", "test_labels.csv"):
        (path / name).symlink_to(tiny_data / name)
    configs, where = path / "configs", ("--data-dir", path, "--device", "cpu")
    video = {**TRAINING, "steps": 6}
    write_config(configs / "dbof.yaml", video={"model": DBOF, "training": video})
    write_config(configs / "nextvlad.yaml", video={"model": NEXTVLAD, "training": video})
    write_config(configs / "agnostic.yaml", pure_segment={"training": {**TRAINING, "offset": 3}})
    write_config(configs / "aware.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    base = path / "cache" / "video"
    forked("train_video", configs / "dbof.yaml", "--name", "dbof", *where, SEED="5")
    forked("train_video", configs / "nextvlad.yaml", "--name", "nextvlad", "--steps", 4, "--seed", 6, *where)
    forked("train_pure_segment", configs / "agnostic.yaml", base / "dbof", "--fold", 0, "--name", "dbof", *where)
    fresh(
        "train_segment_w_context",
        configs / "aware.yaml",
        base / "dbof",
        base / "nextvlad",
        "--fold",
        1,
        "--name",
        "both",
        "--workers",
        2,
        *where,
    )
    forked("prepare_test_meta", "--data-dir", path)
    forked("inference_memmap", *where)
    fresh("create_submission_from_memmaps", "--data-dir", path, "--output", path / "sub.csv")
    return path


def test_exported_folders(run_dir: Path) -> None:
    cache = run_dir / "cache"
    for folder, sections in (
        ("video/dbof", {"video"}),
        ("video/nextvlad", {"video"}),
        ("segment/dbof_0", {"video", "pure_segment"}),
        ("segment/both_1", {"context_base", "segment_base", "segment_w_context"}),
    ):
        names = sorted(path.name for path in (cache / folder).iterdir())
        assert names == FILES_OF_A_RUN
        exported = yaml.safe_load((cache / folder / "config.yaml").read_text(encoding="utf-8"))
        assert set(exported) == sections | {"features", "vocabulary"}
    log = (cache / "video" / "dbof" / "train.log").read_text(encoding="utf-8")
    assert "seed 5" in log and "evaluation at step 3/6" in log and "evaluation at step 6/6" in log
    for metric in ("accuracy", "recall", "precision", "gap", "map"):
        assert f"| {metric} " in log
    history = pd.read_csv(cache / "segment" / "dbof_0" / "history.csv")
    log = (cache / "segment" / "dbof_0" / "train.log").read_text(encoding="utf-8")
    shown = [float(value) for value in re.findall(r"\| auc (\S+)", log)]
    assert 100 * np.array(shown) == pytest.approx(history["auc"].dropna().to_numpy(), rel=1e-5)  # 0 to 1 for people
    assert f"auc {max(shown):.6g}" in log.splitlines()[-1]
    exported = yaml.safe_load((cache / "video" / "nextvlad" / "config.yaml").read_text(encoding="utf-8"))
    assert exported["video"]["training"]["steps"] == 4  # what was run, not what the file said


def test_predictions_and_submission(run_dir: Path, tiny_data: Path) -> None:
    vocabulary = pd.read_csv(tiny_data / "segment_vocabulary.csv")
    maps = [np.load(run_dir / "cache" / "predictions" / f"{name}.npy") for name in ("both_1", "dbof_0")]
    assert maps[0].dtype == np.int16 and maps[0].shape == maps[1].shape and maps[0].shape[1] == len(vocabulary)
    assert 0 <= min(values.min() for values in maps) and max(values.max() for values in maps) <= 9999
    assert (maps[0] != maps[1]).any()
    lists = dict(read_submission(run_dir / "sub.csv"))
    assert list(lists) == vocabulary["Index"].tolist()
    for segments in lists.values():
        assert len(segments) == len(set(segments)) == len(maps[0])


def test_evaluation_of_the_submission(run_dir: Path) -> None:
    out = forked(
        "evaluate",
        "--data-dir",
        run_dir,
        "--truth",
        run_dir / "truth.csv",
        "--video-labels",
        run_dir / "test_labels.csv",
        "--submission",
        run_dir / "sub.csv",
        "--model-names",
        "both_1",
        "dbof_0",
    )
    assert f"wrote {run_dir}/cache/evaluation.csv" in out
    document = json.loads((run_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    scores = {subject["name"]: subject["map"] for subject in document["subjects"]}
    models = ["both_1", "dbof_0", "ensemble", "best weights"]
    assert list(scores) == ["random order", "video labels only", *models, "sub.csv"]
    assert scores["random order"] < scores["video labels only"] < 1
    truth = pd.read_csv(run_dir / "truth.csv", dtype={"vid": str}, keep_default_na=False)
    rated = {(row.vid, row.start, row.label): row.score for row in truth.itertuples()}
    _, literal = slow_map(rated, dict(read_submission(run_dir / "sub.csv")), 100_000)
    assert scores["sub.csv"] == scores["ensemble"] == pytest.approx(literal, rel=0, abs=1e-12)


def test_inference_keeps_what_is_up_to_date_and_replaces_what_is_not(run_dir: Path) -> None:
    predictions = run_dir / "cache" / "predictions"
    stamps = {path.name: path.stat().st_mtime_ns for path in predictions.glob("*.npy")}
    out = forked("inference_memmap", "--data-dir", run_dir)
    assert out.count("up to date") == 2
    assert stamps == {path.name: path.stat().st_mtime_ns for path in predictions.glob("*.npy")}
    origin = json.loads((predictions / "dbof_0.json").read_text(encoding="utf-8"))
    (predictions / "dbof_0.json").write_text(json.dumps({**origin, "model": "another"}), encoding="utf-8")
    before = np.load(predictions / "dbof_0.npy")
    out = forked("inference_memmap", "--data-dir", run_dir, "--batch-size", 7, "--workers", 1)
    assert out.count("up to date") == 1
    np.testing.assert_allclose(np.load(predictions / "dbof_0.npy"), before, atol=1)
    again = json.loads((predictions / "dbof_0.json").read_text(encoding="utf-8"))
    assert again.pop("time") > origin.pop("time")
    assert again == origin


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_repeats_exactly_whatever_the_workers(run_dir: Path, workers: int) -> None:
    run = fresh if workers else forked  # which has another seed for the hashes of strings
    name = f"again-{workers}"
    run(
        "train_video",
        run_dir / "configs" / "dbof.yaml",
        "--name",
        name,
        "--data-dir",
        run_dir,
        "--seed",
        5,
        "--workers",
        workers,
        "--device",
        "cpu",
    )
    first, second = (
        torch.load(run_dir / "cache" / "video" / folder / "model.pth", weights_only=True) for folder in ("dbof", name)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_frozen_context_encoder_is_that_of_the_base_model(run_dir: Path) -> None:
    base = torch.load(run_dir / "cache" / "video" / "dbof" / "model.pth", weights_only=True)
    aware = torch.load(run_dir / "cache" / "segment" / "both_1" / "model.pth", weights_only=True)
    context = [key for key in aware if key.startswith("context_model.")]
    assert context
    for key in context:
        assert torch.equal(aware[key], base[key.replace("context_model.", "model.")])
    segment = torch.load(run_dir / "cache" / "video" / "nextvlad" / "model.pth", weights_only=True)
    trained = [key for key in aware if key.startswith("segment_model.") and key.endswith("weight")]
    assert any(not torch.equal(aware[key], segment[key.replace("segment_model.", "model.")]) for key in trained)
