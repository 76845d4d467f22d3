"""Which shards, examples and frames: a pure function of the data and the seed."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from tests.shards import index_videos, make_video
from yt8m.common.errors import UserError
from yt8m.data.frames import CANDIDATES, EVERYTHING, context_frames, sample_frames
from yt8m.data.index import split_fold
from yt8m.data.order import SequentialBatches, TrainingBatches, epoch_order

SHARD_LISTS = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(np.array)


@pytest.fixture(name="index", scope="module")
def fixture_index(tmp_path_factory):
    """The index of three shards."""
    return index_videos(tmp_path_factory.mktemp("data"), [[make_video(number, 5)] for number in range(3)])


# --- which frames and segments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n_frames, expected",
    [
        (0, (0, 0)),
        (1, (0, 1)),
        (5, (0, 5)),
        (39, (0, 39)),
        (40, (0, 40)),
        (41, (30, 31)),
        (44, (30, 34)),
        (45, (30, 35)),
        (46, (30, 36)),
        (300, (30, 290)),
    ],
)
def test_context_frames(n_frames, expected):
    assert context_frames(n_frames) == expected
    assert context_frames(n_frames, EVERYTHING) == (0, n_frames)


@pytest.mark.parametrize(
    "n_frames, expected",
    [
        (0, 0),
        (1, 0),
        (5, 0),
        (39, 0),
        (40, 0),
        (41, 1),
        (44, 1),
        (45, 1),
        (46, 2),
        (50, 2),
        (51, 3),
        (299, 52),
        (300, 52),
    ],
)
def test_candidate_segments(n_frames, expected):
    assert CANDIDATES.count_left(np.array([n_frames])).tolist() == [expected]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(0, 400))
def test_context_and_candidates_leave_out_6_segments_at_the_head_and_2_at_the_tail(n_frames):
    starts = range(0, n_frames, 5)[6:-2]
    assert CANDIDATES.count_left(np.array([n_frames, 300])).tolist() == [len(starts), 52]
    inner = list(range(n_frames))[30:-10]
    assert list(range(*context_frames(n_frames))) == (inner or list(range(n_frames)))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(1, 400), st.integers(1, 200), st.tuples(*[st.integers(0, 2**31)] * 3))
def test_sampled_frames_are_distinct_ascending_and_of_the_context(n_frames, max_len, seed):
    every = np.arange(n_frames)
    start, stop = context_frames(n_frames)
    chosen = every[sample_frames(n_frames, max_len, seed)]
    assert len(chosen) == min(max_len, stop - start)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= start and chosen[-1] < stop
    np.testing.assert_array_equal(every[sample_frames(n_frames, max_len, seed)], chosen)
    np.testing.assert_array_equal(every[sample_frames(n_frames, max_len, None)], every[start:stop])
    np.testing.assert_array_equal(every[sample_frames(n_frames, -1, seed)], every[start:stop])


def test_sampled_frames_differ_between_seeds_epochs_and_examples():
    drawn = {
        tuple(sample_frames(300, 150, (seed, epoch, example)).tolist())
        for seed in range(3)
        for epoch in range(3)
        for example in range(3)
    }
    assert len(drawn) == 27


def test_every_frame_of_the_context_is_sampled_alike():
    counts = np.zeros(70)
    for epoch in range(2000):
        counts[sample_frames(70, 10, (1, epoch, 0))] += 1
    assert not counts[:30].any() and not counts[60:].any()
    assert counts[30:60].min() > 550 and counts[30:60].max() < 790  # 667 expected, standard deviation 21


# --- the order of examples -------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=100)
@given(SHARD_LISTS, st.integers(1, 12), st.integers(0, 2**32), st.none() | st.integers(1, 12), st.integers(0, 25))
def test_training_batches(shards, batch_size, seed, window, start):
    n_batches = -(-3 * len(shards) // batch_size) + start
    batches = list(islice(TrainingBatches(shards, batch_size, seed, window), n_batches))
    assert all(len(batch) == batch_size for batch in batches)
    stream = [key for batch in batches for key in batch]
    for epoch in range(3):
        keys = stream[epoch * len(shards) : (epoch + 1) * len(shards)]
        assert [key[0] for key in keys] == [epoch] * len(shards)
        assert [key[1] for key in keys] == epoch_order(shards, seed, epoch, window).tolist()
        assert sorted(key[1] for key in keys) == list(range(len(shards)))
    resumed = TrainingBatches(shards, batch_size, seed, window)
    resumed.load_state_dict(TrainingBatches(shards, batch_size, seed, window).state_dict(start))
    assert list(islice(resumed, n_batches - start)) == batches[start:]
    assert list(islice(resumed, n_batches - start)) == batches[start:]  # iterating leaves no trace


@settings(deadline=None, derandomize=True, max_examples=60)
@given(SHARD_LISTS, st.integers(1, 5), st.integers(1, 4), st.none() | st.integers(1, 4), st.integers(0, 9))
def test_the_ranks_together_go_the_way_of_one_process(shards, batch_size, world_size, window, start):
    ranks = [TrainingBatches(shards, batch_size, 7, window, rank, world_size) for rank in range(world_size)]
    whole = TrainingBatches(shards, batch_size * world_size, 7, window)
    state = whole.state_dict(start)
    assert state == ranks[-1].state_dict(start)  # a run may go on with another number of ranks
    for batches in (*ranks, whole):
        batches.load_state_dict(state)
    for parts in islice(zip(*ranks, whole), 12):
        assert [key for part in parts[:-1] for key in part] == parts[-1]


def test_a_state_of_another_order_is_refused_naming_what_differs():
    shards = np.arange(9) % 3
    state = TrainingBatches(shards, 4, 1).state_dict(3)
    assert all(type(value) in (int, str, type(None)) for value in state.values())
    for other, said in (
        (TrainingBatches(shards[:8], 4, 1), "examples was 9, is 8"),
        (TrainingBatches(shards, 4, 2), "seed was 1, is 2"),
        (TrainingBatches(shards, 4, 1, window=2), "window was None, is 2"),
    ):
        with pytest.raises(UserError, match=said):
            other.load_state_dict(state)
        assert next(iter(other))[0][0] == 0
        assert other.start == 0
    with pytest.raises(UserError, match="version was 0, is 1"):
        TrainingBatches(shards, 4, 1).load_state_dict({**state, "version": 0})


def test_training_batches_differ_between_seeds_and_epochs():
    for window in (None, 2):
        orders = {
            tuple(example for _, example in batch)
            for seed in range(4)
            for batch in islice(TrainingBatches(np.arange(50) // 10, 50, seed, window), 4)
        }
        assert len(orders) == 16


def test_examples_of_a_shard_do_not_stay_together():
    shards = np.repeat(np.arange(40), 50)
    shuffled = shards[epoch_order(shards, 3, 0)]
    assert (shuffled[1:] == shuffled[:-1]).mean() < 0.05  # 1/40 expected


@pytest.mark.parametrize("window, n_shards", [(1, 7), (3, 10), (4, 8), (100, 5)])
def test_a_window_keeps_reads_within_so_many_shards(window, n_shards):
    shards = np.repeat(np.arange(n_shards), 20)[np.random.default_rng(0).permutation(20 * n_shards)]
    orders = []
    for epoch in range(2):
        visited = shards[epoch_order(shards, 5, epoch, window)]
        blocks = [visited[first : first + 20 * window] for first in range(0, len(visited), 20 * window)]
        assert all(len(set(block)) == min(window, len(block) // 20) for block in blocks)
        if min(window, n_shards) > 1:
            assert all((block[1:] != block[:-1]).mean() > 0.3 for block in blocks if len(set(block)) > 1)
        orders.append(visited.tolist())
    assert orders[0] != orders[1]


def test_all_shards_in_one_window_are_all_examples_shuffled():
    shards = np.arange(30) % 4
    np.testing.assert_array_equal(epoch_order(shards, 1, 2, 4), epoch_order(shards, 1, 2))


@pytest.mark.parametrize(
    "n_examples, batch_size, sizes", [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (1, 1, [1]), (0, 4, [])]
)
def test_sequential_batches(n_examples, batch_size, sizes):
    batches = SequentialBatches(n_examples, batch_size)
    assert len(batches) == len(sizes)
    assert [len(batch) for batch in batches] == sizes
    assert [key for batch in batches for key in batch] == [(0, example) for example in range(n_examples)]


@pytest.mark.parametrize("n_shards", [8, 9, 20, 3844])
def test_folds_are_those_of_sklearn_over_sorted_shards(n_shards, index):
    index = dataclasses.replace(index, shards=np.array([f"train{number:04d}" for number in range(n_shards)]))
    expected = list(KFold(8, shuffle=True, random_state=42).split(sorted(index.shards)))
    validated = []
    for fold in range(8):
        train, valid = split_fold(index, fold)
        np.testing.assert_array_equal(train, expected[fold][0])
        np.testing.assert_array_equal(valid, expected[fold][1])
        assert sorted([*train, *valid]) == list(range(n_shards))
        validated += valid.tolist()
    assert sorted(validated) == list(range(n_shards))


def test_bad_folds_and_too_few_shards_are_errors(index):
    with pytest.raises(UserError, match="3 shards cannot be split into 8 folds") as caught:
        split_fold(index, 0)
    assert str(index.folder) in str(caught.value)
    enough = dataclasses.replace(index, shards=np.arange(8).astype(str))
    for fold in (-1, 8):
        with pytest.raises(UserError, match=f"--fold {fold}: folds are numbered 0 to 7"):
            split_fold(enough, fold)
