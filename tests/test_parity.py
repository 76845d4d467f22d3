"""Models saved by the 2019 release give its logits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import Outcome
from tests.parity_2019 import weights
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.frames import context_frames
from yt8m.data.index import load_index
from yt8m.data.vocabulary import CHALLENGE_FILE
from yt8m.models.classifiers import SegmentModel, VideoModel
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder
from yt8m.training.losses import segment_loss

FOLDER = Path(__file__).parent / "parity_2019"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
N_CLASSES = 1000
# In float32 sums of raw bytes depend on the order in which a processor adds, and gates are steep functions of them.
FLOAT32, FLOAT64 = 5e-4, 1e-4


def expected(case: str) -> np.ndarray:
    """What the 2019 release computed."""
    with np.load(FOLDER / "expected_logits.npz") as file:
        return file[case]


def model_folder(case: str, path: Path) -> Path:
    """A case as the model folder that the 2019 release exported."""
    path.mkdir(parents=True, exist_ok=True)
    state = weights.state(CASES[case]["state_dict"])
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path / "model.pth")
    (path / "config.yaml").write_text(yaml.safe_dump(CASES[case]["config"]), encoding="utf-8")
    return path


def raw_frames(spec: dict) -> torch.Tensor:
    """The input of a case, uint8."""
    return torch.from_numpy(weights.frames(**spec))


def video_frames(spec: dict) -> torch.Tensor:
    """The frames of a case's videos that a video model sees."""
    frames = raw_frames(spec)
    return frames[:, slice(*context_frames(frames.shape[1]))]


def assert_parity(logits: torch.Tensor, case: str, tolerance: float = FLOAT32) -> None:
    """Equal to a tolerance, relative to the size of the logits."""
    reference = expected(case)
    assert logits.shape == reference.shape
    np.testing.assert_allclose(logits.numpy(), reference, rtol=tolerance, atol=tolerance * np.abs(reference).mean())


@torch.no_grad()
def assert_model_parity(model: VideoModel | SegmentModel, case: str, frames: list[torch.Tensor], *rest: Any) -> None:
    """A model gives the logits for frames, uint8, and what else it takes: in float32, and more closely in float64."""
    assert_parity(model.eval()(*frames, *rest), case)
    assert_parity(model.double()(*(tensor.double() for tensor in frames), *rest), case, FLOAT64)


def names(kind: str) -> list[str]:
    """The cases of a kind."""
    return [name for name, case in CASES.items() if case["kind"] == kind]


@pytest.mark.parametrize("case", names("video"))
def test_video_model(case: str, tmp_path: Path) -> None:
    model = load_video_model(model_folder(case, tmp_path))
    assert_model_parity(model, case, [video_frames(CASES[case]["frames"])])


@pytest.mark.parametrize("case", names("context_agnostic"))
def test_context_agnostic_model(case: str, tmp_path: Path) -> None:
    folder = open_folder(model_folder(case, tmp_path))
    assert (folder.kind, folder.offset) == ("context-agnostic", 3)
    assert_model_parity(load_segment_model(folder), case, [raw_frames(CASES[case]["segments"])])


@pytest.mark.parametrize("case", names("context_aware"))
def test_context_aware_model(case: str, tmp_path: Path) -> None:
    folder = open_folder(model_folder(case, tmp_path))
    assert (folder.kind, folder.offset) == ("context-aware", 3)
    segments = raw_frames(CASES[case]["segments"])
    owners = torch.zeros(len(segments), dtype=torch.long)
    frames = [segments, video_frames(CASES[case]["video"])]
    assert_model_parity(load_segment_model(folder), case, frames, None, owners)


def test_segment_loss() -> None:
    random = np.random.RandomState(21)  # pylint: disable=no-member
    logits = (random.standard_normal((6, N_CLASSES)) * 2).astype(np.float32)
    labels, scores = random.randint(0, N_CLASSES, 6), random.randint(0, 2, 6)
    mask = (random.rand(6, N_CLASSES) < 0.995).astype(int)
    mask[np.arange(6), labels] = 0
    loss = segment_loss(*map(torch.from_numpy, (logits, labels, scores, mask)), 0.5, 0.5)
    assert loss.item() == pytest.approx(float(expected("loss")), rel=1e-6)


def test_a_folder_of_2019_models_goes_all_the_way_to_a_submission(
    command: Callable[..., Outcome], data_dir: Path
) -> None:
    (data_dir / "vocabulary.csv").unlink()  # of other classes
    shutil.copy(CHALLENGE_FILE, data_dir / "segment_vocabulary.csv")
    cases = names("context_agnostic") + names("context_aware")
    for case in cases:
        model_folder(case, data_dir / "cache" / "segment" / case)
    where = ("--data-dir", data_dir)
    for arguments in (
        ("prepare_test_meta", *where),
        ("inference_memmap", *where, "--device", "cpu"),
        ("create_submission_from_memmaps", *where, "--output", data_dir / "sub.csv"),
        ("check_submission", data_dir / "sub.csv", *where),
    ):
        outcome = command(*arguments)
        assert outcome.status == 0, outcome.err
    index = load_index(data_dir / "segment" / "test", data_dir / "cache")
    ((_, frames),) = WholeVideoDataset(index, np.arange(1)).__getitems__([(0, 0)])
    segments = torch.stack([frames[start - 3 : start + 8] for start in (30, 35)])  # the first two rows
    for case in cases:
        model = load_segment_model(open_folder(data_dir / "cache" / "segment" / case)).eval()
        context = (frames[None, slice(*context_frames(len(frames)))], None, torch.zeros(2, dtype=torch.long))
        with torch.no_grad():
            logits = model(segments, *context) if model.needs_context else model(segments)
        predicted = np.load(data_dir / "cache" / "predictions" / f"{case}.npy")[:2]
        assert np.abs(predicted - 9999 * logits.sigmoid().numpy()).max() < 1


def test_every_case_is_tested() -> None:
    assert set(CASES) == {*names("video"), *names("context_agnostic"), *names("context_aware"), "loss"}
