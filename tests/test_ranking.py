"""The top-K, against a full sort, for any block size; the fairness of ties."""

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.ranking import top_k as ranking
from yt8m.ranking.fusion import Fusion
from yt8m.ranking.top_k import BestRows, shuffle, top_rows, unshuffle


def _maps(n_maps: int, n_rows: int, n_classes: int, levels: int, seed: int) -> list[np.ndarray]:
    """Scores of up to `levels` values spread over 0..9999; few levels mean many ties, one that all are equal."""
    rng = np.random.default_rng(seed)
    values = rng.choice(10_000, levels, replace=False).astype(np.int16)
    return [values[rng.integers(0, levels, (n_rows, n_classes))] for _ in range(n_maps)]


def _mean(maps: list[np.ndarray], weights: list[float]) -> list[list[Fraction]]:
    """The weighted mean of the maps, exactly, of each row and class."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [
        [sum(weight * int(value) for weight, value in zip(exact, values)) / sum(exact) for values in zip(*rows)]
        for rows in zip(*(values.tolist() for values in maps))
    ]


def _sum(maps: list[np.ndarray]) -> np.ndarray:
    return np.sum(maps, axis=0, dtype=np.float32)


def _rank(
    maps: list[np.ndarray], top_k: int, seed: int, block_rows: int, workers: int = 2, **options: object
) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_ROWS", block_rows)
        patch.setattr(ranking, "WORKERS", workers)
        return [rows().tolist() for rows in top_rows(Fusion(maps, **options), top_k, seed)]


def _mixed(number: int) -> int:
    """The last steps of MurmurHash3 (32 bits), in Python's integers."""
    number ^= number >> 16
    number = number * 0x85EBCA6B % 2**32
    number ^= number >> 13
    number = number * 0xC2B2AE35 % 2**32
    return number ^ number >> 16


def _drawn(seed: int, label: int, row: int) -> int:
    """What orders rows of equal score."""
    return _mixed(row ^ int(np.random.default_rng((seed, label)).integers(2**32)))


CASES = {
    "n_maps": st.integers(1, 4),
    "n_rows": st.integers(1, 40),
    "n_classes": st.integers(1, 4),
    "levels": st.sampled_from([1, 2, 3, 10, 10_000]),
    "data_seed": st.integers(0, 2**32 - 1),
    "top_k": st.integers(1, 50),
    "seed": st.integers(0, 10_000),
    "block_rows": st.integers(1, 45),
    "other_block_rows": st.integers(1, 45),
}


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    **CASES,
    weights=st.none()
    | st.lists(st.sampled_from([0, 1, 2, 0.1, 0.2, 0.3]), min_size=4, max_size=4).filter(lambda values: values[0] > 0),
)
def test_top_rows_are_those_of_a_full_sort(
    n_maps: int,
    n_rows: int,
    n_classes: int,
    levels: int,
    data_seed: int,
    top_k: int,
    seed: int,
    block_rows: int,
    other_block_rows: int,
    weights: list[float] | None,
) -> None:
    maps = _maps(n_maps, n_rows, n_classes, levels, data_seed)
    used = None if weights is None else weights[:n_maps]
    mean = _mean(maps, used or [1] * n_maps)
    ranked = _rank(maps, top_k, seed, block_rows, weights=used)
    assert len(ranked) == n_classes
    for label, rows in enumerate(ranked):
        own = [means[label] for means in mean]
        # Best first; equal means, and no others, in an order of rows that follows from the seed alone.
        expected = sorted(range(n_rows), key=lambda row, own=own, label=label: (-own[row], _drawn(seed, label, row)))
        assert rows == expected[:top_k]
    assert _rank(maps, top_k, seed, other_block_rows, workers=1, weights=used) == ranked
    reverse = None if used is None else used[::-1]
    assert _rank(maps[::-1], top_k, seed, block_rows, weights=reverse) == ranked


@settings(deadline=None, derandomize=True, max_examples=60)
@given(**CASES, excluded=st.floats(0, 1))
def test_only_candidates_are_listed(
    n_maps: int,
    n_rows: int,
    n_classes: int,
    levels: int,
    data_seed: int,
    top_k: int,
    seed: int,
    block_rows: int,
    other_block_rows: int,
    excluded: float,
) -> None:
    maps = _maps(n_maps, n_rows, n_classes, levels, data_seed)
    rng = np.random.default_rng(data_seed)
    row_videos = np.sort(rng.integers(0, other_block_rows, n_rows))
    factors = rng.random((other_block_rows, n_classes), np.float32)
    factors[rng.random(factors.shape) < excluded] = np.nan
    fused = _sum(maps) * factors[row_videos]
    for label, rows in enumerate(_rank(maps, top_k, seed, block_rows, factors=factors, row_videos=row_videos)):
        own = fused[:, label]
        assert len(rows) == len(set(rows)) == min(top_k, np.isfinite(own).sum())
        assert own[rows].tolist() == sorted(own[np.isfinite(own)].tolist(), reverse=True)[:top_k]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_shuffling_is_undone(rows: list[int], salt: int) -> None:
    values = np.array(rows, np.uint32)
    shuffled = shuffle(values, salt)
    assert unshuffle(shuffled, salt).tolist() == values.tolist() == rows
    assert len(set(shuffled.tolist())) == len(set(rows))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_shuffling_is_murmurs_and_leaves_its_argument_alone(rows: list[int], salt: int) -> None:
    values = np.array(rows, np.uint32)
    shuffled = shuffle(values, salt)
    assert shuffled.dtype == np.uint32
    assert shuffled.tolist() == [_mixed(row ^ salt) for row in rows]
    assert values.tolist() == rows
    unshuffle(shuffled, salt)
    assert shuffled.tolist() == [_mixed(row ^ salt) for row in rows]


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 70_000), st.integers(1, 60))
def test_the_order_of_equal_scores_follows_from_seed_class_and_row(seed: int, label: int, top_k: int) -> None:
    """A submission can be made again, whatever wrote it, on any machine."""
    best = BestRows(range(label, label + 1), 50, min(top_k, 50), seed)
    best.add(0, np.full((1, 50), 3, np.float32))
    assert best.ranked(label).tolist() == sorted(range(50), key=lambda row: _drawn(seed, label, row))[:top_k]


@pytest.mark.parametrize("unit", [1, 1 / 64, 1e-30])
@pytest.mark.parametrize("ascending", [True, False])
def test_buffers_are_cut_down_again_and_again(ascending: bool, unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BLOCK_ROWS", 4)
    scores = np.arange(100, dtype=np.float32) // 3 * np.float32(unit)
    if not ascending:
        scores = scores[::-1]
    best = BestRows(range(5, 6), 100, 10, 1)
    for start in range(0, 100, 4):
        best.add(start, scores[None, start : start + 4])
    rows = best.ranked(5)
    assert scores[rows].tolist() == np.sort(scores)[::-1][:10].tolist()
    assert len(set(rows.tolist())) == 10


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_long_lists_are_those_of_a_full_sort(seed: int) -> None:
    """Longer than what numpy's partition sorts in passing, cut down within and at the end."""
    scores = np.random.default_rng(seed).random(6000, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_ROWS", 700)
        best = BestRows(range(1), 6000, 900, seed)
        for start in range(0, 6000, 700):
            best.add(start, scores[None, start : start + 700])
    assert scores[best.ranked(0)].tolist() == np.sort(scores)[::-1][:900].tolist()


def test_progress_is_told_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BLOCK_ROWS", 4)
    told: list[int] = []
    top_rows(Fusion([np.zeros((10, 2), np.int16)]), 3, 0, told.append)
    assert told == [4, 4, 2]


def test_blocks_are_of_so_many_bytes_and_of_a_row_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = _maps(3, 10, 2, 10_000, 5)  # a row takes 3 x 2 x 2 bytes
    expected = _rank(maps, 4, 0, 100)
    for n_bytes, sizes in ((12 * 4 + 11, [4, 4, 2]), (12 * 10, [10]), (11, [1] * 10), (1, [1] * 10)):
        monkeypatch.setattr(ranking, "BLOCK_BYTES", n_bytes)
        told: list[int] = []
        assert [rows().tolist() for rows in top_rows(Fusion(maps), 4, 0, told.append)] == expected
        assert told == sizes


@pytest.mark.parametrize("tile_rows", [1, 3, 7, 64])
def test_the_rows_fused_at_a_time_do_not_matter(tile_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "TILE_ROWS", tile_rows)
    maps = _maps(2, 40, 3, 10_000, 6)
    factors, row_videos = np.random.default_rng(6).random((40, 3), np.float32), np.arange(40)
    fused = _sum(maps) * factors
    for label, rows in enumerate(_rank(maps, 9, 0, 25, factors=factors, row_videos=row_videos)):
        assert rows == np.argsort(-fused[:, label])[:9].tolist()


def test_extreme_scores_of_many_maps_do_not_overflow() -> None:
    maps = [np.array([[9999, 0], [9999, 9999], [0, 9999]], np.int16)] * 300
    first, second = _rank(maps, 2, 0, 2)
    assert set(first) == {0, 1}
    assert set(second) == {1, 2}


def test_another_seed_orders_ties_differently() -> None:
    maps = [np.full((50, 1), 7, np.int16)]
    assert _rank(maps, 50, 1, 8) != _rank(maps, 50, 2, 8)
    assert _rank(maps, 50, 1, 8)[0] != list(range(50))


def test_classes_with_the_same_scores_order_their_ties_differently() -> None:
    maps = [np.zeros((50, 2), np.int16)]
    chosen = _rank(maps, 20, 1, 8)
    assert set(chosen[0]) != set(chosen[1])
    everything = _rank(maps, 50, 1, 50)
    assert np.corrcoef(everything)[0, 1] == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("block_rows", [1, 5, 100])
def test_ties_are_drawn_and_ordered_uniformly(block_rows: int) -> None:
    scores = np.array([5, 9, 5, 1, 5, 5, 9, 1, 5, 5], np.int16)  # three of the six 5s get a place
    tied = [0, 2, 4, 5, 8, 9]
    maps = [np.repeat(scores[:, None], 20, axis=1)]
    lists = [rows for seed in range(240) for rows in _rank(maps, 5, seed, block_rows)]
    assert {frozenset(rows[:2]) for rows in lists} == {frozenset([1, 6])}
    # 4,800 draws; the bounds are about five standard deviations.
    assert sum(rows[0] == 1 for rows in lists) == pytest.approx(2400, abs=175)
    chosen = Counter(frozenset(rows[2:]) for rows in lists)
    assert chosen.keys() == {frozenset(triple) for triple in combinations(tied, 3)}
    for count in chosen.values():
        assert count == pytest.approx(4800 / 20, abs=76)
    for place in (2, 3, 4):
        at_place = Counter(rows[place] for rows in lists)
        for row in tied:
            assert at_place[row] == pytest.approx(4800 / 6, abs=130)
    ascending = sum(rows[2] < rows[3] < rows[4] for rows in lists)
    assert ascending == pytest.approx(4800 / 6, abs=130)
