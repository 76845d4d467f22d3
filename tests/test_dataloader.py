"""Prefetched batches: independent of the number of workers, resumable, no leftover threads."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from tests.shards import index_videos, make_video
from yt8m.common.errors import UserError
from yt8m.data.dataloader import BATCHES_AHEAD, BatchLoader, TrainingLoader
from yt8m.data.datasets import RatedSegmentDataset, VideoDataset, WholeVideoDataset
from yt8m.data.order import SequentialBatches, TrainingBatches
from yt8m.data.vocabulary import Vocabulary

VOCABULARY = Vocabulary(np.array([3, 7, 20, 21]), ("a", "b", "c", "d"))
SHARDS = [
    [
        make_video(3 * shard + row, 30 + 15 * row + shard, (3, 20), ((5 * row, 7, 1.0), (10, 20, 0.0)))
        for row in range(3)
    ]
    for shard in range(4)
]


@pytest.fixture(name="index", scope="module")
def fixture_index(tmp_path_factory):
    """The index of `SHARDS`."""
    return index_videos(tmp_path_factory.mktemp("data"), SHARDS)


def make_loader(kind: str, index, workers: int, window: int | None = None, seed: int = 9) -> TrainingLoader:
    """Training batches of either kind, with sampling."""
    dataset = (
        VideoDataset(index, VOCABULARY, 8, 3)
        if kind == "videos"
        else RatedSegmentDataset(index, VOCABULARY, np.arange(4), 3, kind == "context", 8, 3)
    )
    return TrainingLoader(dataset, TrainingBatches(dataset.shards, 5, seed, window), workers)


def assert_equal(stream, other) -> None:
    """Two streams of batches are equal in every tensor and in their order."""
    for batch, expected in zip(stream, other, strict=True):
        assert batch.memory.shape == expected.memory.shape  # what lies between the tensors is of no account
        torch.testing.assert_close(batch._replace(memory=None), expected._replace(memory=None), rtol=0, atol=0)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("kind", ["videos", "segments", "context"])
def test_batches_are_the_same_whatever_the_number_of_workers(kind, window, index):
    expected = list(islice(make_loader(kind, index, 0, window), 12))
    for workers in (1, 2, 4):
        assert_equal(islice(make_loader(kind, index, workers, window), 12), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["videos", "context"])
def test_a_loader_goes_on_from_any_batch(kind, workers, index):
    expected = list(islice(make_loader(kind, index, 0), 14))
    loader = make_loader(kind, index, workers)
    states = [loader.state_dict()]
    for _ in islice(loader, 9):
        states.append(loader.state_dict())  # however far the workers have read ahead
    for done, state in enumerate(states):
        resumed = make_loader(kind, index, workers)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert_equal(islice(resumed, 14 - done), expected[done:])
        resumed.load_state_dict(states[0])
        assert_equal(islice(resumed, 2), expected[:2])


def test_a_state_of_other_data_or_another_seed_is_refused(index, tmp_path):
    state = make_loader("videos", index, 0).state_dict()
    other = index_videos(tmp_path, [*SHARDS[:3], [*SHARDS[3][:2], make_video(11, 63, (3, 21))]])
    with pytest.raises(UserError, match="not the shards that the order of examples was made from"):
        make_loader("videos", other, 0).load_state_dict(state)
    with pytest.raises(UserError, match="seed was 9, is 4"):
        make_loader("videos", index, 0, seed=4).load_state_dict(state)


class _Counting:
    """A data set that counts what it is asked for, fails at one batch, and is slow at the first."""

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[int] = []
        self.fails_at = fails_at

    def __getitems__(self, keys):
        number = keys[0][1]
        self.asked.append(number)
        if number == 0:
            time.sleep(0.05)
        if number == self.fails_at:
            raise UserError("broken")
        return number


def loader_threads() -> list[str]:
    """The names of the threads of loaders."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_batch_comes_once_and_in_order(workers):
    dataset = _Counting()
    loader = BatchLoader(dataset, SequentialBatches(40, 1), workers)
    for _ in range(2):
        assert list(loader) == list(range(40))
    assert sorted(dataset.asked) == sorted([*range(40)] * 2)
    assert not loader_threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_read_ahead_than_a_few_batches(workers):
    dataset = _Counting()
    batches = iter(BatchLoader(dataset, TrainingBatches(np.zeros(1000), 1, 0), workers))
    for taken in range(1, 6):
        next(batches)
        assert len(dataset.asked) <= taken + BATCHES_AHEAD * workers
    batches.close()
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_where_its_batch_would_and_ends_the_threads(workers):
    seen = []
    with pytest.raises(UserError, match="broken"):
        for batch in BatchLoader(_Counting(fails_at=7), SequentialBatches(40, 1), workers):
            seen.append(batch)
    assert seen == list(range(7))
    assert not loader_threads()


def test_whole_videos_come_in_order_from_several_threads(index):
    dataset = WholeVideoDataset(index, np.arange(len(index)))
    videos = [video for shard in SHARDS for video in shard]
    numbered = [item for batch in BatchLoader(dataset, SequentialBatches(len(dataset), 2), 3) for item in batch]
    assert [number for number, _ in numbered] == list(range(len(videos)))
    for (_, frames), video in zip(numbered, videos):
        np.testing.assert_array_equal(frames, video.frames)
