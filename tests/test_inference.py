"""Inference: the same numbers whatever the batch size and the neighbours, over the right frames."""
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder
from yt8m.artifacts import load_segment_model, open_folder
from yt8m.errors import UserError
from yt8m.inference import Member, expanded_segments, predict
from yt8m.segments import context_frames

N_CLASSES = 3
CPU = torch.device("cpu")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(n_frames=st.integers(41, 120), offset=st.integers(0, 8))
def test_expanded_segments_are_the_frames_around_each_candidate(n_frames: int, offset: int) -> None:
    frames = torch.arange(1, n_frames + 1).unsqueeze(1).expand(-1, 2).to(torch.uint8)
    segments = expanded_segments(frames, offset)
    n_segments = -(-n_frames // 5)
    assert len(segments) == n_segments - 8
    for row, segment in enumerate(segments):
        start = (6 + row) * 5
        literal = [second + 1 if 0 <= second < n_frames else 0 for second in range(start - offset, start + 5 + offset)]
        assert segment[:, 0].tolist() == segment[:, 1].tolist() == literal


@pytest.fixture(name="members", scope="module")
def fixture_members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """An agnostic and two context-aware models, one with another offset."""
    path = tmp_path_factory.mktemp("models")
    folders = [agnostic_folder(path / "a", DBOF, N_CLASSES), aware_folder(path / "b", DBOF, NEXTVLAD, N_CLASSES),
               aware_folder(path / "c", NEXTVLAD, DBOF, N_CLASSES)]
    return [Member(folder.name, load_segment_model(open_folder(folder), N_CLASSES).eval(), offset)
            for folder, offset in zip(folders, (3, 3, 1))]


@pytest.fixture(name="videos", scope="module")
def fixture_videos() -> list[torch.Tensor]:
    """Test videos of several lengths."""
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, 256, (n_frames, 1152), np.uint8)) for n_frames in (41, 77, 130, 45)]


def predict_all(videos: list[torch.Tensor], members: list[Member], batch_size: int) -> list[np.ndarray]:
    """The predictions of each member for all segments."""
    numbers, groups = zip(*predict(enumerate(videos), members, batch_size, CPU))
    assert [number for group in numbers for number in group] == list(range(len(videos)))
    return [np.concatenate(parts) for parts in zip(*groups)]


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_predictions_equal_one_segment_at_a_time(videos: list[torch.Tensor], members: list[Member],
                                                 batch_size: int) -> None:
    results = predict_all(videos, members, batch_size)
    for member, values in zip(members, results):
        row = 0
        for video in videos:
            start, stop = context_frames(len(video))
            for segment in expanded_segments(video, member.offset):
                batch = segment.unsqueeze(0)
                with torch.no_grad():
                    if member.model.needs_context:
                        logits = member.model(batch, video[None, start:stop], None, torch.tensor([0]))
                    else:
                        logits = member.model(batch)
                np.testing.assert_allclose(values[row], logits[0].sigmoid().numpy(), atol=1e-5)
                row += 1
        assert row == len(values)


def test_a_model_of_nans_is_refused_by_name(videos: list[torch.Tensor], members: list[Member]) -> None:
    broken = copy.deepcopy(members[0])
    next(broken.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="^a: predicts values that are not numbers"):
        predict_all(videos, [broken], 10)


def test_context_sees_the_video_without_head_and_tail(videos: list[torch.Tensor], members: list[Member]) -> None:
    changed = [video.clone() for video in videos]
    for video in changed:
        video[:27] = 255 - video[:27]  # before any frame that a segment or its context sees
        video[-1:] = 0
    # The last second only lies in a segment's reach where the video ends with a partial segment.
    before, after = (predict_all(batch[1:3], members, 64) for batch in (videos, changed))
    for first, second in zip(before, after):
        np.testing.assert_array_equal(first, second)
