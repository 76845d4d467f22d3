"""Batches: their content equals the shards', their order is a pure function of the seed."""

import dataclasses
import logging
import os
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import AUDIO, RGB, Video, index_videos, make_video
from yt8m.common.errors import RecordError, UserError
from yt8m.data.batch_memory import allocate
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import RatedSegmentDataset, VideoDataset, WholeVideoDataset
from yt8m.data.features import read_contract, save_contract
from yt8m.data.frames import context_frames
from yt8m.data.index import load_index
from yt8m.data.order import SequentialBatches, TrainingBatches
from yt8m.data.vocabulary import Vocabulary

VOCABULARY = Vocabulary(np.array([3, 7, 20, 21]), ("a", "b", "c", "d"))
SHARDS = [
    [
        make_video(0, 60, (3, 999, 20), ((0, 3, 1.0), (35, 7, 0.0), (35, 20, 1.0))),
        make_video(1, 45, (7,), ((40, 21, 1.0), (44, 3, 0.0), (45, 7, 1.0))),  # the last one starts beyond the end
        make_video(2, 0, (3,), ((0, 3, 1.0),)),
    ],  # no frames
    [
        make_video(3, 20, (999,), ((10, 3, 0.0), (10, 999, 1.0), (300, 888, 1.0), (-5, 3, 1.0))),  # labels nobody rates
        make_video(4, 3, (21, 21), ((0, 20, 1.0),)),
        make_video(5, 200, (20, 0, 3861)),
    ],
    [make_video(6, 41, (), ((36, 21, 0.0),)), dataclasses.replace(make_video(7, 100, (3,)), video_id=b"v000")],
]
VIDEOS = [video for videos in SHARDS for video in videos]
ALL_SHARDS = np.arange(len(SHARDS))


@pytest.fixture(name="index", scope="module")
def fixture_index(tmp_path_factory):
    """The index of `SHARDS`."""
    return index_videos(tmp_path_factory.mktemp("data"), SHARDS)


def seconds(frames: np.ndarray) -> list[int]:
    """The second of each frame, which `make_video` wrote into it."""
    return (frames[:, 1].astype(int) * 256 + frames[:, 2]).tolist()


# --- videos ----------------------------------------------------------------------------------------------


def test_videos_without_frames_or_labels_of_the_vocabulary_are_left_out(index):
    assert VideoDataset(index, VOCABULARY, -1, None).records.tolist() == [0, 1, 4, 5, 7]


def test_video_batches_hold_the_written_bytes_and_zeros(index):
    dataset = VideoDataset(index, VOCABULARY, 5, None)
    (batch,) = BatchLoader(dataset, SequentialBatches(len(dataset), 8), 0)
    assert batch.examples.tolist() == [0, 1, 4, 5, 7]
    assert batch.videos.lengths.tolist() == [20, 5, 3, 160, 60]
    assert batch.labels.dtype == torch.bool
    assert batch.labels.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]]
    padded = batch.videos.padded()
    assert padded.shape == (5, 160, RGB + AUDIO) and padded.dtype == torch.uint8
    for frames, record, span in zip(padded.numpy(), batch.examples, [(30, 50), (30, 35), (0, 3), (30, 190), (30, 90)]):
        expected = VIDEOS[record].frames[slice(*span)]
        np.testing.assert_array_equal(frames[: len(expected)], expected)
        assert not frames[len(expected) :].any()


def test_training_videos_are_sampled_anew_each_epoch(index):
    dataset = VideoDataset(index, VOCABULARY, 8, 11)
    drawn = []
    for epoch in range(2):
        batch = dataset.__getitems__([(epoch, 3), (epoch, 2), (epoch, 0)])
        assert batch.examples.tolist() == [5, 4, 0]
        assert batch.videos.lengths.tolist() == [8, 3, 8]
        videos = batch.videos.frames.numpy()
        for frames, record in zip(np.split(videos, [8, 11]), batch.examples):
            np.testing.assert_array_equal(frames, VIDEOS[record].frames[seconds(frames)])
        drawn.append(seconds(videos[:8]))
        assert drawn[-1] == sorted(set(drawn[-1])) and drawn[-1][0] >= 30 and drawn[-1][-1] < 190
    assert drawn[0] != drawn[1]


def test_a_video_is_sampled_alike_whatever_else_is_in_the_batch(index):
    dataset = VideoDataset(index, VOCABULARY, 8, 11)
    alone, among = dataset.__getitems__([(4, 3)]), dataset.__getitems__([(4, 0), (4, 3), (4, 1)])
    np.testing.assert_array_equal(alone.videos.padded()[0], among.videos.padded()[1])
    other = VideoDataset(index, VOCABULARY, 8, 12).__getitems__([(4, 3)])
    assert not torch.equal(alone.videos.frames, other.videos.frames)


def test_no_video_with_labels_of_the_vocabulary_is_an_error_naming_the_folder(index):
    with pytest.raises(UserError, match="no video with frames has a label") as caught:
        VideoDataset(index, Vocabulary(np.array([1, 2]), ("a", "b")), -1, None)
    assert str(index.folder) in str(caught.value)


# --- rated segments --------------------------------------------------------------------------------------


USABLE = [
    (0, 0, 3, 1.0),
    (0, 35, 7, 0.0),
    (0, 35, 20, 1.0),
    (1, 40, 21, 1.0),
    (1, 44, 3, 0.0),
    (3, 10, 3, 0.0),
    (4, 0, 20, 1.0),
    (6, 36, 21, 0.0),
]  # record, start, label, score
MINED = {0: {21}, 1: {20}, 3: {7, 20, 21}, 4: {3, 7}, 6: {3, 7, 20}}  # labels neither given nor rated, by record


def expanded(video: Video, start: int, offset: int) -> np.ndarray:
    """The expanded segment the slow way, a second at a time."""
    frames = np.zeros((5 + 2 * offset, RGB + AUDIO), np.uint8)
    for row, second in enumerate(range(start - offset, start + 5 + offset)):
        if 0 <= second < len(video.frames):
            frames[row] = video.frames[second]
    return frames


@pytest.mark.parametrize("offset", [0, 3, 60])
def test_segment_batches(offset, index):
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, offset, False, -1, None)
    (batch,) = BatchLoader(dataset, SequentialBatches(len(dataset), 20), 0)
    assert batch.videos is None
    assert batch.examples.tolist() == [record for record, *_ in USABLE]
    assert batch.classes.tolist() == [VOCABULARY.labels.tolist().index(label) for _, _, label, _ in USABLE]
    assert batch.scores.tolist() == [score for *_, score in USABLE]
    assert batch.scores.dtype == torch.float32 and batch.classes.dtype == torch.int64
    assert batch.segments.dtype == torch.uint8 and batch.negatives.dtype == torch.bool
    for row, (record, start, *_) in enumerate(USABLE):
        np.testing.assert_array_equal(batch.segments[row], expanded(VIDEOS[record], start, offset))
        assert set(VOCABULARY.labels[batch.negatives[row].numpy()].tolist()) == MINED[record]


def test_a_segment_at_either_end_is_filled_with_zeros(index):
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, False, -1, None)
    segments = dataset.__getitems__([(0, 0), (0, 4), (0, 6)]).segments.numpy()
    blank = [[not frame.any() for frame in segment] for segment in segments]
    assert blank[0] == [True] * 3 + [False] * 8  # starts at 0
    assert blank[1] == [False] * 4 + [True] * 7  # starts at the last of 45 frames
    assert blank[2] == [True] * 3 + [False] * 3 + [True] * 5  # all of a video of 3 frames


def test_ratings_left_out_are_counted_in_the_log(index, caplog):
    caplog.set_level(logging.INFO, "yt8m.data.datasets")
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, False, -1, None)
    assert len(dataset) == len(USABLE)
    # beyond: 45 of 45 s, 0 of 0 s, 300 of 20 s, before the video; outside the vocabulary: 999 and 888
    assert f"{len(USABLE)} ratings in 3 shards; left out: 4 beyond the end of their video, 2 outside" in caplog.text
    assert str(index.folder) in caplog.text


@pytest.mark.parametrize("shards, records", [([0], [0, 0, 0, 1, 1]), ([1], [3, 4]), ([2, 1], [3, 4, 6])])
def test_ratings_of_other_shards_are_left_out(shards, records, index, caplog):
    caplog.set_level(logging.INFO, "yt8m.data.datasets")
    dataset = RatedSegmentDataset(index, VOCABULARY, np.array(shards), 3, False, -1, None)
    assert [int(dataset.__getitems__([(0, row)]).examples[0]) for row in range(len(dataset))] == records
    assert f"{len(records)} ratings in {len(shards)} shard" in caplog.text


def test_shards_without_usable_ratings_are_an_error_naming_the_folder(tmp_path):
    index = index_videos(tmp_path, [SHARDS[0], [make_video(8, 10, (3,), ((10, 3, 1.0), (0, 999, 1.0)))]])
    with pytest.raises(UserError, match="no usable segment ratings in 1 shard") as caught:
        RatedSegmentDataset(index, VOCABULARY, np.array([1]), 3, False, -1, None)
    assert str(index.folder) in str(caught.value)


def test_context_comes_once_per_video_however_often_it_is_rated(index):
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, True, -1, None)
    rows = [7, 1, 3, 0, 1, 6, 2]
    batch = dataset.__getitems__([(0, row) for row in rows])
    assert batch.examples.tolist() == [USABLE[row][0] for row in rows]
    assert batch.videos.n_videos == 4  # records 6, 0, 1, 4
    padded = batch.videos.padded()
    for video, record in zip(batch.video_index, batch.examples):
        expected = VIDEOS[record].frames[slice(*context_frames(len(VIDEOS[record].frames)))]
        assert batch.videos.lengths[video] == len(expected)
        np.testing.assert_array_equal(padded[video, : len(expected)], expected)
        assert not padded[video, len(expected) :].any()


def test_video_models_see_what_the_data_set_does_not_leave_out(index, tmp_path):
    folder = shutil.copytree(index.folder, tmp_path / "shards")
    save_contract(read_contract(folder, RGB, AUDIO).model_copy(update={"trim": (5, 0)}), folder)
    dataset = RatedSegmentDataset(load_index(folder, tmp_path), VOCABULARY, ALL_SHARDS, 3, True, -1, None)
    batch = dataset.__getitems__([(0, 0)])
    frames = VIDEOS[batch.examples[0]].frames
    np.testing.assert_array_equal(batch.videos.frames, frames[5:] if len(frames) > 5 else frames)


def test_context_is_sampled_in_training(index):
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, True, 7, 5)
    drawn = set()
    for epoch in range(4):
        batch = dataset.__getitems__([(epoch, 1), (epoch, 2)])
        assert batch.videos.lengths.tolist() == [7] and batch.video_index.tolist() == [0, 0]
        chosen = seconds(batch.videos.frames.numpy())
        assert chosen == sorted(set(chosen)) and chosen[0] >= 30 and chosen[-1] < 50
        np.testing.assert_array_equal(batch.videos.frames, VIDEOS[0].frames[chosen])
        drawn.add(tuple(chosen))
    assert len(drawn) > 1


def test_sampled_context_does_not_depend_on_other_videos_of_the_batch(index):
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, True, 7, 5)
    alone, among = dataset.__getitems__([(1, 0)]), dataset.__getitems__([(1, 6), (1, 3), (1, 0)])
    np.testing.assert_array_equal(among.videos.padded()[among.video_index[2]], alone.videos.padded()[0])


def test_videos_of_the_same_id_stay_apart(tmp_path):
    first, second = (
        dataclasses.replace(video, video_id=b"same")
        for video in (make_video(0, 50, (3,), ((30, 7, 1.0),)), make_video(1, 60, (7,), ((30, 20, 0.0),)))
    )
    index = index_videos(tmp_path, [[first, second], [first]])
    dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(2), 3, True, -1, None)
    batch = dataset.__getitems__([(0, 0), (0, 1), (0, 2)])
    assert batch.videos.n_videos == 3
    padded = batch.videos.padded()
    for row, video in enumerate((first, second, first)):
        np.testing.assert_array_equal(batch.segments[row], expanded(video, 30, 3))
        np.testing.assert_array_equal(padded[batch.video_index[row], 0], video.frames[30])
    assert batch.negatives.int().tolist() == [[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1]]


@st.composite
def rated_videos(draw) -> list[Video]:
    """Videos with labels and ratings in and out of the vocabulary and of the video."""
    label = st.sampled_from([3, 7, 20, 21, 0, 999])
    rating = st.tuples(st.integers(-2, 16), label, st.sampled_from([0.0, 1.0]))
    return [
        make_video(
            number,
            draw(st.integers(0, 14)),
            draw(st.lists(label, max_size=3)),
            draw(st.lists(rating, max_size=4)),
            n_audio=draw(st.none() | st.integers(0, 14)),
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(rated_videos(), st.integers(0, 4))
def test_random_ratings(tmp_path_factory, videos, offset):
    videos = [make_video(9, 12, (3,), ((5, 3, 1.0),)), *videos]
    index = index_videos(tmp_path_factory.mktemp("data"), [videos])
    usable = [
        (record, *rating)
        for record, video in enumerate(videos)
        for rating in video.ratings
        if 0 <= rating[0] < len(video.frames) and rating[1] in VOCABULARY.labels
    ]
    dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(1), offset, True, -1, None)
    (batch,) = BatchLoader(dataset, SequentialBatches(len(dataset), 100), 0)
    assert len(dataset) == len(usable)
    padded = batch.videos.padded()
    for row, (record, start, label, score) in enumerate(usable):
        video = videos[record]
        known = {*video.labels, *(rated for _, rated, _ in video.ratings)}
        assert (int(batch.examples[row]), float(batch.scores[row])) == (record, score)
        assert VOCABULARY.labels[batch.classes[row]] == label
        assert batch.negatives[row].tolist() == [other not in known for other in VOCABULARY.labels.tolist()]
        np.testing.assert_array_equal(batch.segments[row], expanded(video, start, offset))
        np.testing.assert_array_equal(padded[batch.video_index[row], : len(video.frames)], video.frames)


# --- whole videos --------------------------------------------------------------------------------------


def test_reading_leaves_the_global_generators_alone(index):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    dataset = RatedSegmentDataset(index, VOCABULARY, ALL_SHARDS, 3, True, 8, 3)
    for batch in islice(TrainingBatches(dataset.shards, 4, 1), 3):
        dataset.__getitems__(batch)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_whole_videos_in_the_order_asked_for_even_without_frames(index):
    dataset = WholeVideoDataset(index, np.array([5, 2, 0, 7]))
    assert len(dataset) == 4
    videos = [video for batch in BatchLoader(dataset, SequentialBatches(4, 3), 0) for video in batch]
    assert [number for number, _ in videos] == list(range(4))
    for (_, frames), record in zip(videos, [5, 2, 0, 7]):
        assert frames.dtype == torch.uint8
        np.testing.assert_array_equal(frames, VIDEOS[record].frames)


def test_whole_videos_are_checked_against_their_checksums(tmp_path):
    index = index_videos(tmp_path, SHARDS)
    path = index.folder / "train01.tfrecord"
    content = bytearray(path.read_bytes())
    content[content.index(VIDEOS[4].frames[1, :RGB].tobytes()) + 5] ^= 4  # the length and the layout stay right
    path.write_bytes(content)
    os.utime(path, ns=(0, index.stamps[1, 1]))
    dataset = WholeVideoDataset(index, np.arange(len(index)))
    ((_, frames),) = dataset.__getitems__([(0, 3)])
    np.testing.assert_array_equal(frames, VIDEOS[3].frames)
    with pytest.raises(RecordError, match=f"record at byte {index.offset[4]}, video v004: checksum mismatch") as caught:
        dataset.__getitems__([(0, 3), (0, 4)])
    assert str(path) in str(caught.value)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
            st.sampled_from([np.uint8, np.bool_, np.int64, np.float32]),
        )
    )
)
def test_arrays_in_one_memory_do_not_meet(specs) -> None:
    memory, arrays = allocate(specs, pinned=False)
    assert [(array.shape, array.dtype.type) for array in arrays] == specs
    first, behind = memory.data_ptr(), memory.data_ptr() + len(memory)
    for array in arrays:
        place = array.__array_interface__["data"][0]
        assert not array.size or (place % 64 == 0 and first <= place <= behind - array.nbytes)
    for number, array in enumerate(arrays):
        array[...] = number % 2
    for number, array in enumerate(arrays):
        assert (array == number % 2).all()
