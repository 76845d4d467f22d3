"""Inference equals predicting one segment at a time, and encodes each frame once."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, video_folder
from yt8m.common.errors import UserError
from yt8m.data.frames import CANDIDATES, EVERYTHING, SEGMENT_SECONDS, Trim, context_frames
from yt8m.models.base import fuse
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder
from yt8m.models.packing import Windows
from yt8m.prediction.inference import Arrival, Computation, Member, Predictor, Strip, one_behind, predict_videos

N_CLASSES = 3
CPU = torch.device("cpu")
LENGTHS = (41, 77, 130, 45)


def expanded_segment(frames: torch.Tensor, start: int, offset: int) -> torch.Tensor:
    """Frames [start - offset, start + 5 + offset), zeros beyond the video."""
    rows = [
        frames[second] if 0 <= second < len(frames) else torch.zeros_like(frames[0])
        for second in range(start - offset, start + 5 + offset)
    ]
    return torch.stack(rows)


def starts(n_frames: int, trim: Trim = CANDIDATES) -> range:
    """Where the segments of a video start that are left: by default the challenge's candidates."""
    n_segments = -(-n_frames // SEGMENT_SECONDS)
    return range(trim.head * SEGMENT_SECONDS, (n_segments - trim.tail) * SEGMENT_SECONDS, SEGMENT_SECONDS)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    lengths=st.lists(st.integers(41, 120), min_size=1, max_size=4),
    offset=st.integers(0, 8),
    shift=st.integers(-35, 35),
    spare=st.integers(0, 3),
)
def test_windows_of_a_strip_are_the_expanded_segments(lengths: list[int], offset: int, shift: int, spare: int) -> None:
    videos = [
        torch.arange(1, length + 1).unsqueeze(1).repeat(1, 2).to(torch.uint8) + 130 * number
        for number, length in enumerate(lengths)
    ]
    strip = Strip(videos, offset + abs(shift) + spare)
    windows = Windows(5 + 2 * offset, 5).unpack(strip.frames[strip.reach - offset + shift :])[strip.segments]
    literal = [expanded_segment(video, start + shift, offset) for video in videos for start in starts(len(video))]
    assert torch.equal(windows, torch.stack(literal).float())
    assert strip.owners.tolist() == [number for number, length in enumerate(lengths) for _ in starts(length)]
    assert len(strip.frames) <= 5 * sum(len(starts(length)) + 1 for length in lengths) + 2 * strip.reach * len(videos)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    offset=st.integers(0, 8),
    shift=st.integers(-12, 12),
    spare=st.integers(0, 3),
)
def test_windows_of_whole_videos_are_the_expanded_segments(
    lengths: list[int], offset: int, shift: int, spare: int
) -> None:
    videos = [
        torch.arange(1, length + 1).unsqueeze(1).repeat(1, 2).to(torch.uint8) + 60 * number
        for number, length in enumerate(lengths)
    ]
    strip = Strip(videos, offset + abs(shift) + spare, EVERYTHING)
    windows = Windows(5 + 2 * offset, 5).unpack(strip.frames[strip.reach - offset + shift :])[strip.segments]
    literal = [
        expanded_segment(video, start + shift, offset) for video in videos for start in starts(len(video), EVERYTHING)
    ]
    assert torch.equal(windows, torch.stack(literal).float())
    assert strip.owners.tolist() == [number for number, length in enumerate(lengths) for _ in range(0, length, 5)]


@pytest.fixture(name="members", scope="module")
def fixture_members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """Agnostic and context-aware models of both families, with several offsets."""
    path = tmp_path_factory.mktemp("models")
    plain = {**DBOF, "frame_se_reduction": 0}
    folders = [
        agnostic_folder(path / "a", DBOF, N_CLASSES),
        aware_folder(path / "b", DBOF, NEXTVLAD, N_CLASSES),
        aware_folder(path / "c", NEXTVLAD, DBOF, N_CLASSES),
        agnostic_folder(path / "d", NEXTVLAD, N_CLASSES),
        agnostic_folder(path / "e", plain, N_CLASSES),
    ]
    return [
        Member(folder.name, load_segment_model(open_folder(folder)).eval(), offset)
        for folder, offset in zip(folders, (3, 3, 1, 0, 12))
    ]


@pytest.fixture(name="videos", scope="module")
def fixture_videos() -> list[torch.Tensor]:
    """Test videos of several lengths."""
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, 256, (n_frames, 1152), np.uint8)) for n_frames in LENGTHS]


def literal_probabilities(
    member: Member, video: torch.Tensor, shifts: tuple[int, ...], trim: Trim = CANDIDATES
) -> np.ndarray:
    """One segment at a time, each with its whole video."""
    first, stop = context_frames(len(video))
    rows = []
    for start in starts(len(video), trim):
        total = torch.zeros(N_CLASSES)
        for shift in shifts:
            batch = expanded_segment(video, start + shift, member.offset).unsqueeze(0)
            with torch.no_grad():
                if member.model.needs_context:
                    logits = member.model(batch, video[None, first:stop], None, torch.tensor([0]))
                else:
                    logits = member.model(batch)
            total += logits[0].sigmoid()
        rows.append((total / len(shifts)).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("shifts", [(0,), (-2, -1, 0, 1, 2), (3,)])
def test_predictions_equal_one_segment_at_a_time(
    videos: list[torch.Tensor], members: list[Member], shifts: tuple[int, ...]
) -> None:
    predictor = Predictor(members, Computation(CPU, None, shifts))
    everything = range(len(members))
    together = [values.numpy() for values in predictor(videos, everything)]
    alone = [np.concatenate(parts) for parts in zip(*(predictor([video], everything) for video in videos))]
    for member, first, second in zip(members, together, alone):
        literal = np.concatenate([literal_probabilities(member, video, shifts) for video in videos])
        assert first.dtype == np.int16 and first.shape == literal.shape
        for values in (first, second):
            assert np.abs(values - 9999 * literal).max() <= 0.5 + 0.1  # 1e-5 of a probability


@pytest.mark.parametrize("shifts", [(0,), (-2, 1)])
def test_whole_videos_are_predicted_one_segment_at_a_time(
    videos: list[torch.Tensor], members: list[Member], shifts: tuple[int, ...]
) -> None:
    videos = [videos[0], *(videos[2][:n_frames] for n_frames in (1, 5, 6, 40))]
    predicted = Predictor(members, Computation(CPU, None, shifts, EVERYTHING))(videos, range(len(members)))
    for member, values in zip(members, predicted):
        literal = np.concatenate([literal_probabilities(member, video, shifts, EVERYTHING) for video in videos])
        assert np.abs(values.numpy() - 9999 * literal).max() <= 0.5 + 0.1  # 1e-5 of a probability


def test_the_chosen_members_predict_in_order(videos: list[torch.Tensor], members: list[Member]) -> None:
    predictor = Predictor(members, Computation(CPU))
    everything = predictor(videos, range(len(members)))
    for chosen in ([2], [3, 1]):
        for number, values in zip(chosen, predictor(videos, chosen), strict=True):
            assert (values - everything[number]).abs().max() <= 1


def test_a_frame_is_encoded_once_and_a_context_once_for_equal_encoders(
    videos: list[torch.Tensor], members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = copy.deepcopy(members[1])
    for parameter in twin.model.segment_model.parameters():
        parameter.data.mul_(1.1)  # another fine-tuning of the same base models
    stranger = copy.deepcopy(members[1])
    next(stranger.model.context_model.parameters()).data[0, 0] += 1
    reading = copy.deepcopy(members[2])
    predictor = Predictor([members[1], twin, stranger, reading], Computation(CPU, None, (-1, 0, 1)))
    contexts = [member.model.context_model for member in predictor.members]
    assert contexts[0] is contexts[1] and len(set(map(id, contexts))) == 3
    calls: list[int] = []
    for encoder in {id(context): context for context in contexts}.values():
        original = encoder.encode_whole
        monkeypatch.setattr(
            encoder,
            "encode_whole",
            lambda frames, lengths, original=original: calls.append(len(lengths)) or original(frames, lengths),
        )
    rows: list[int] = []
    segment_encoder = members[1].model.segment_model
    encode = segment_encoder.encode_frames
    monkeypatch.setattr(segment_encoder, "encode_frames", lambda frames: rows.append(len(frames)) or encode(frames))
    predictor(videos, range(4))
    assert calls == [len(videos)] * 3
    n_segments = sum(len(starts(length)) for length in LENGTHS)
    assert len(rows) == 1 and rows[0] <= 5 * (n_segments + 2 * len(videos))  # for all three shifts


def test_equal_weights_that_are_read_differently_are_not_shared(members: list[Member]) -> None:
    other = copy.deepcopy(members[2])
    other.model.base_config = other.model.base_config.model_copy(update={"soft_assignment": "paper"})
    predictor = Predictor([copy.deepcopy(members[2]), other], Computation(CPU))
    assert predictor.members[0].model.context_model is not predictor.members[1].model.context_model


def test_a_model_of_nans_is_refused_by_name(videos: list[torch.Tensor], members: list[Member]) -> None:
    broken = copy.deepcopy(members[0])
    next(broken.model.parameters()).data.fill_(float("nan"))
    for computation, hint in ((Computation(CPU), "unusable$"), (Computation(CPU, torch.bfloat16), "--amp off$")):
        predictor = Predictor([members[3], broken], computation)
        results = [values.numpy() for values in predictor(videos, [0, 1])]
        assert predictor.checked(results[:1], [0]) == results[:1]
        with pytest.raises(UserError, match=f"^a: predicts values that are not numbers.*{hint}"):
            predictor.checked(results, [0, 1])


def test_half_precision_is_close(videos: list[torch.Tensor], members: list[Member]) -> None:
    scaled = [(video // 64) for video in videos]  # raw noise saturates untrained models
    exact, half = (
        Predictor(members, Computation(CPU, amp))(scaled, range(len(members))) for amp in (None, torch.bfloat16)
    )
    for first, second in zip(exact, half):
        assert 0 < (first - second).abs().float().mean() < 300


def test_context_sees_the_video_without_head_and_tail(videos: list[torch.Tensor], members: list[Member]) -> None:
    changed = [video.clone() for video in videos]
    for video in changed:
        video[:27] = 255 - video[:27]  # before any frame that a segment or its context sees
        video[-1:] = 0
    # The last second only lies in a segment's reach where the video ends with a partial segment.
    predictor = Predictor(members[:4], Computation(CPU))  # the fifth reaches further
    before, after = (predictor(batch[1:3], range(4)) for batch in (videos, changed))
    for first, second in zip(before, after):
        assert torch.equal(first, second)


def test_video_models_see_videos_without_head_and_tail(videos: list[torch.Tensor], tmp_path_factory) -> None:
    for number, model in enumerate((DBOF, NEXTVLAD)):
        folder = video_folder(tmp_path_factory.mktemp("video") / str(number), model, N_CLASSES)
        video_model = load_video_model(folder).eval()
        fuse(video_model)
        for trim in (CANDIDATES, EVERYTHING):
            found = predict_videos(video_model, videos, Computation(CPU), trim)
            seen = [video[None, slice(*context_frames(len(video), trim))] for video in videos]
            with torch.no_grad():
                literal = torch.cat([video_model(video) for video in seen])
            torch.testing.assert_close(found, literal.sigmoid(), rtol=1e-4, atol=1e-5)


def test_results_are_yielded_once_the_next_item_has_started() -> None:
    events: list[str] = []

    def items():
        for number in range(3):
            events.append(f"begun {number}")
            yield number, Arrival([torch.full((2,), number)], CPU)

    for label, (values,) in one_behind(items()):
        events.append(f"taken {label}")
        assert values.tolist() == [label, label]
    assert events == ["begun 0", "begun 1", "taken 0", "begun 2", "taken 1", "taken 2"]
    assert not list(one_behind([]))
