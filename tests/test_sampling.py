"""The choice of shards, examples and frames: a pure function of data and seed."""

import dataclasses
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare
from sklearn.model_selection import KFold

from tests.shards import index_videos, make_video
from yt8m.common.errors import UserError
from yt8m.data.frames import CANDIDATES, EVERYTHING, Trim, context_frames, sample_frames
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


def sampled(n_frames: int, max_len: int, seed: int | None, epochs: int, records: int, trim: Trim = CANDIDATES):
    """The frames that are seen of each of so many records, all of one length, in each of so many epochs, (rows, L)."""
    epoch, record = (axis.ravel() for axis in np.mgrid[:epochs, :records])
    lengths, seconds = sample_frames(record, np.full(len(record), n_frames), max_len, seed, epoch, trim)
    assert len(set(lengths.tolist())) == 1
    return seconds.reshape(len(record), -1)


KEYS = st.tuples(*[st.integers(0, 2**40)] * 2)  # epoch, record


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 400), KEYS), max_size=5),
    st.integers(0, 200),
    st.integers(0, 2**70),
    st.sampled_from([CANDIDATES, EVERYTHING, Trim(0, 3)]),
)
def test_sampled_frames_are_distinct_ascending_and_of_the_context(videos, max_len, seed, trim):
    n_frames = np.array([length for length, _ in videos], np.int32)
    epochs, records = np.array([key for _, key in videos], np.int64).reshape(-1, 2).T.copy()
    spans = [context_frames(length, trim) for length in n_frames.tolist()]
    for limit, chosen_by in ((max_len, seed), (-1, seed), (max_len, None)):
        lengths, seconds = sample_frames(records, n_frames, limit, chosen_by, epochs, trim)
        assert len(lengths) == len(videos) and lengths.sum() == len(seconds)
        for row, (chosen, (start, stop)) in enumerate(zip(np.split(seconds, np.cumsum(lengths)), spans)):
            if limit < 0 or chosen_by is None:
                assert chosen.tolist() == list(range(start, stop))
                continue
            assert len(chosen) == min(max_len, stop - start)
            assert (np.diff(chosen) > 0).all()
            assert not chosen.size or (chosen[0] >= start and chosen[-1] < stop)
            only = slice(row, row + 1)  # whatever else is in the batch
            again = sample_frames(records[only], n_frames[only], limit, seed, epochs[only], trim)
            np.testing.assert_array_equal(again[1], chosen)


def test_sampled_frames_differ_between_seeds_epochs_and_examples():
    drawn = {tuple(row) for seed in range(3) for row in sampled(300, 150, seed, 3, 3).tolist()}
    assert len(drawn) == 27


def likely(counts: np.ndarray) -> bool:
    """Whether counts of events that should be equally likely are neither too uneven nor too even, by chi-square."""
    return 0.001 < chisquare(counts.ravel()).pvalue < 0.999


@pytest.mark.parametrize("axis", ["seeds", "epochs", "records"])
@pytest.mark.parametrize("max_len", [1, 2, 3, 5])
def test_every_choice_of_frames_is_equally_likely_whatever_it_is_drawn_by(axis, max_len):
    choices = list(combinations(range(6), max_len))
    if axis == "seeds":
        drawn = np.concatenate([sampled(6, max_len, seed, 1, 1, EVERYTHING) for seed in range(6000)])
    else:
        drawn = sampled(6, max_len, 5, *((6000, 1) if axis == "epochs" else (1, 6000)), EVERYTHING)
    counts = Counter(map(tuple, drawn.tolist()))
    assert counts.keys() <= set(choices) and likely(np.array([counts[choice] for choice in choices]))


def test_every_frame_and_every_pair_of_frames_of_a_long_video_is_sampled_alike():
    n_frames, max_len, times = 70, 10, 20_000
    chosen = np.zeros((times, n_frames))
    np.put_along_axis(chosen, sampled(n_frames, max_len, 1, times // 4, 4), 1, axis=1)
    assert not chosen[:, :30].any() and not chosen[:, 60:].any()
    pairs = chosen[:, 30:60].T @ chosen[:, 30:60]
    single, both = max_len / 30, max_len / 30 * (max_len - 1) / 29  # how likely a frame is, and a pair
    # One frame makes others less likely, which makes the chi-square of their counts so much smaller.
    singles = ((np.diag(pairs) - times * single) ** 2).sum() / (times * single * (1 - single)) * 29 / 30
    assert 0.001 < chi2.sf(singles, 29) < 0.999
    of_pairs = (pairs[np.triu_indices(30, 1)] - times * both) / np.sqrt(times * both * (1 - both))
    assert np.abs(of_pairs).max() < 4 and 0.8 < of_pairs.std() < 1.2  # of 435 pairs


def test_choices_of_neighbouring_epochs_and_records_are_unrelated():
    """A frame that is chosen in one of them is in the other neither more nor less often than in any."""
    n_frames, max_len = 40, 20
    chosen = np.zeros((200 * 200, n_frames))
    np.put_along_axis(chosen, sampled(n_frames, max_len, 3, 200, 200, EVERYTHING), 1, axis=1)
    chosen = chosen.reshape((200, 200, n_frames))
    for together in (chosen[1:] * chosen[:-1], chosen[:, 1:] * chosen[:, :-1], chosen[1:, 1:] * chosen[:-1, :-1]):
        times = together.shape[0] * together.shape[1]
        deviation = (together.sum((0, 1)) - times / 4) / np.sqrt(times * 3 / 16)
        assert np.abs(deviation).max() < 4


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
    with pytest.raises(
        UserError, match=r"begun by a release .*version 1, here 2.; start over with --restart, or resume"
    ):
        TrainingBatches(shards, 4, 1).load_state_dict({**state, "version": 1})


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
