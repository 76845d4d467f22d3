"""Video candidates: the videos whose segments are listed, and the weight of a video's score."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.small_models import DBOF, agnostic_folder, video_folder
from yt8m.data.frames import context_frames
from yt8m.data.index import load_index
from yt8m.models.model_folders import load_video_model
from yt8m.prediction.test_set import CandidateRules
from yt8m.ranking.submission import read_submission

Command = Callable[..., Outcome]
N_CLASSES = 5


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    n_videos=st.integers(1, 8),
    n_classes=st.integers(1, 6),
    seed=st.integers(0, 1000),
    top_k=st.none() | st.integers(1, 7),
    threshold=st.none() | st.floats(0, 1),
    cap=st.none() | st.integers(1, 9),
    weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_rules_against_one_by_one(
    n_videos: int, n_classes: int, seed: int, top_k: int | None, threshold: float | None, cap: int | None, weight: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_videos * n_classes).reshape(n_videos, n_classes).astype(np.float32) / 48  # no ties
    factors = CandidateRules(top_k, threshold, cap, weight).factors(scores, seed)
    for video in range(n_videos):
        for label in range(n_classes):
            score = scores[video, label]
            counts = (
                (top_k is None or (scores[video] > score).sum() < top_k)
                and (cap is None or (scores[:, label] > score).sum() < cap)
                and (threshold is None or score >= np.float32(threshold))
            )
            if counts:
                assert factors[video, label] == pytest.approx(score**weight, rel=1e-6)
            else:
                assert np.isnan(factors[video, label])


def test_unread_videos_never_count_and_equal_ones_are_drawn() -> None:
    scores = np.full((40, 3), 0.5, np.float32)
    scores[7] = np.nan
    for rules in (CandidateRules(weight=0.5), CandidateRules(top_k=2), CandidateRules(cap=39), CandidateRules(cap=5)):
        assert np.isnan(rules.factors(scores, 0)[7]).all()
    chosen = [np.flatnonzero(np.isfinite(CandidateRules(cap=10).factors(scores, seed)[:, 0])) for seed in range(40)]
    assert all(len(rows) == 10 for rows in chosen)
    assert len(np.unique(np.concatenate(chosen))) == 39  # not always those that come first


@pytest.fixture(name="predicted")
def fixture_predicted(command: Command, data_dir: Path) -> Path:
    """A data folder with predictions of one model, and a video model."""
    command("prepare_test_meta", "--data-dir", data_dir)
    models = data_dir / "cache"
    agnostic_folder(models / "segment" / "m_0", DBOF, data_dir)
    base = video_folder(models / "video" / "base", DBOF, data_dir, seed=4)
    state = torch.load(base / "model.pth", weights_only=True)
    state["model.expert_fc.2.weight"] /= 20  # no videos that are equally probable
    torch.save(state, base / "model.pth")
    assert command("inference_memmap", "--data-dir", data_dir, "--device", "cpu").status == 0
    return data_dir


def _submit(command: Command, data_dir: Path, *options: object) -> dict[int, list[str]]:
    output = data_dir / "sub.csv"
    outcome = command("create_submission_from_memmaps", "--data-dir", data_dir, "--output", output, *options)
    assert outcome.status == 0, outcome.err
    assert command("check_submission", output, "--data-dir", data_dir).status == 0
    return dict(read_submission(output))


def test_segments_of_the_videos_that_count_in_the_order_of_the_product(command: Command, predicted: Path) -> None:
    folder = predicted / "cache" / "video" / "base"
    model = load_video_model(folder).eval()
    index = load_index(predicted / "segment" / "test", predicted / "cache")
    from yt8m.data.datasets import WholeVideoDataset

    videos = WholeVideoDataset(index, np.arange(len(index))).__getitems__([(0, row) for row in range(len(index))])
    with torch.no_grad():
        scores = {
            bytes(index.video_id[row]).decode(): model(frames[None, slice(*context_frames(len(frames)))])[0]
            .sigmoid()
            .numpy()
            for row, frames in videos
        }
    everything = _submit(command, predicted)
    capped = _submit(command, predicted, "--video-model", folder, "--video-cap", 2)
    few = _submit(command, predicted, "--video-model", folder, "--video-top-k", 2, "--video-threshold", 0.001)
    for column, label in enumerate(everything):
        best = sorted(scores, key=lambda video, column=column: -scores[video][column])[:2]
        assert capped[label] == [item for item in everything[label] if item.split(":")[0] in best]
        allowed = {video for video, own in scores.items() if (own > own[column]).sum() < 2 and own[column] >= 0.001}
        assert few[label] == [item for item in everything[label] if item.split(":")[0] in allowed]
    values = np.load(predicted / "cache" / "predictions" / "m_0.npy").astype(float)
    weighted = _submit(command, predicted, "--video-model", folder, "--video-weight", 0.5)
    from yt8m.data.candidates import load_candidates

    names = load_candidates(predicted / "cache").row_names().astype(str).tolist()
    for column, (label, segments) in enumerate(weighted.items()):
        assert sorted(segments) == sorted(everything[label])
        own = {name: values[row, column] * scores[name.split(":")[0]][column] ** 0.5 for row, name in enumerate(names)}
        found = [own[name] for name in segments]
        np.testing.assert_allclose(found, sorted(found, reverse=True), rtol=1e-4)


def test_videos_are_scored_once_for_each_model(command: Command, predicted: Path) -> None:
    folder = predicted / "cache" / "video" / "base"
    kept = predicted / "cache" / "video_predictions" / "base.npz"
    arguments = (
        "create_submission_from_memmaps",
        "--data-dir",
        predicted,
        "--output",
        predicted / "sub.csv",
        "--video-model",
        folder,
        "--video-cap",
        1,
    )
    assert command(*arguments).status == 0
    first = kept.stat().st_mtime_ns, np.load(kept)["scores"]
    assert command(*arguments).status == 0
    assert kept.stat().st_mtime_ns == first[0]
    kept.write_bytes(kept.read_bytes()[:-9])
    assert command(*arguments).status == 0
    assert (np.load(kept)["scores"] == first[1]).all()
    shutil.rmtree(folder)
    video_folder(folder, DBOF, predicted, seed=5)
    assert command(*arguments).status == 0
    assert (np.load(kept)["scores"] != first[1]).any()
    assert set(json.loads(str(np.load(kept)["origin"]))) == {"model", "test_meta", "vocabulary", "outputs"}


def test_options_that_do_not_fit_are_refused(command: Command, predicted: Path) -> None:
    def submit(*options: object) -> str:
        outcome = command(
            "create_submission_from_memmaps", "--data-dir", predicted, "--output", predicted / "x.csv", *options
        )
        assert outcome.status == 2 and not (predicted / "x.csv").exists()
        return outcome.err.splitlines()[-1]

    assert "--video-cap: needs a --video-model" in submit("--video-cap", 3)
    assert "--video-weight: needs a --video-model" in submit("--video-weight", 1)
    segment_model = predicted / "cache" / "segment" / "m_0"
    assert "where a video model is needed" in submit("--video-cap", 1, "--video-model", segment_model)
    wide = video_folder(predicted / "wide", DBOF, N_CLASSES + 1)
    assert "other classes than those of" in submit("--video-cap", 1, "--video-model", wide)
    other = video_folder(predicted / "other", {**DBOF, "video_dim": 24}, predicted)
    assert "24 and 128" in submit("--video-cap", 1, "--video-model", other)
    base = predicted / "cache" / "video" / "base"
    state = torch.load(base / "model.pth", weights_only=True)
    torch.save(
        {key: value * float("nan") if value.is_floating_point() else value for key, value in state.items()},
        base / "model.pth",
    )
    assert "not numbers" in submit("--video-cap", 1, "--video-model", base)
    assert "has no effect without one of --video-top-k, --video-threshold" in submit("--video-model", base)
    sorted((predicted / "segment" / "test").glob("*.tfrecord"))[0].unlink()
    assert "prepare_test_meta" in submit("--video-cap", 1, "--video-model", base)
