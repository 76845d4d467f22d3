"""Fusion of scores, against literal definitions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from yt8m.create_submission_from_memmaps import FUSIONS
from yt8m.ranking import fusion as fusing
from yt8m.ranking.fusion import Fusion, whole_weights

N_CLASSES = 3


def _maps(n_maps: int, n_rows: int, levels: int, seed: int) -> list[np.ndarray]:
    """Scores of up to `levels` different values, 0 and 9999 among them."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([[0, 9999], rng.integers(0, 10_000, levels)]).astype(np.int16)
    return [values[rng.integers(0, len(values), (n_rows, N_CLASSES))] for _ in range(n_maps)]


def _fuse(maps: list[np.ndarray], classes: slice = slice(0, N_CLASSES), **options: object) -> np.ndarray:
    fusion = Fusion(maps, **options)
    return fusion.fuse(0, [values[:, classes] for values in fusion.models], classes)


def _levels(values: np.ndarray) -> np.ndarray:
    """Of each value how many different ones are lower, same shape."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _exact_sum(maps: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """The weighted sum as fractions, with weights as they are written."""
    exact = [Fraction(str(weight)) for weight in weights]
    rows = zip(*(values.ravel().tolist() for values in maps))
    sums = [sum(weight * value for weight, value in zip(exact, row)) for row in rows]
    return np.array(sums, object).reshape(maps[0].shape)


def _literal(kind: str, maps: list[np.ndarray], weights: list[float]) -> np.ndarray:
    stack, shares = np.array(maps, float), np.array(weights)[:, None, None] / sum(weights)
    if kind == "geometric":
        return np.exp((shares * np.log(np.maximum(stack, 0.5) / 9999)).sum(axis=0))
    ranks = np.array([rankdata(-values, axis=0) for values in stack])  # the middle rank of equal ones
    if kind == "rank":
        return (shares * (1 - (ranks - 1) / len(maps[0]))).sum(axis=0)
    return (shares / (60 + ranks)).sum(axis=0)


SIZES = {
    "n_maps": st.integers(1, 8),
    "n_rows": st.integers(1, 30),
    "levels": st.integers(0, 40),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(deadline=None, derandomize=True, max_examples=80)
@given(**SIZES)
def test_the_mean_ranks_by_the_sum_and_not_by_anything_rounded(
    n_maps: int, n_rows: int, levels: int, seed: int
) -> None:
    maps = _maps(n_maps, n_rows, levels, seed)
    exact = np.sum(maps, axis=0, dtype=np.int64).tolist()
    fused = _fuse(maps)
    assert fused.dtype == np.float32 and fused.tolist() == exact
    for weight in (2.0, 0.3, 1e308):
        assert _fuse(maps, weights=[weight] * n_maps).tolist() == exact


WRITTEN = st.sampled_from([0, 1, 2, 3, 0.1, 0.2, 0.25, 0.3, 1.5, 1e-3, 7.0])  # 0.1 + 0.2 is not 0.3 in floats


@settings(deadline=None, derandomize=True, max_examples=120)
@given(**SIZES, weights=st.lists(WRITTEN, min_size=8, max_size=8).filter(lambda weights: weights[0] > 0))
def test_weighted_means_are_equal_exactly_where_they_are(
    n_maps: int, n_rows: int, levels: int, seed: int, weights: list[float]
) -> None:
    maps, weights = _maps(n_maps, n_rows, levels, seed), weights[:n_maps]
    fused = _fuse(maps, weights=weights)
    whole = whole_weights(weights)
    if 9999 * sum(whole) < 2**24:
        assert np.array_equal(_levels(fused), _levels(_exact_sum(maps, weights)))
    order = np.random.default_rng(seed).permutation(n_maps).tolist()
    other = _fuse([maps[number] for number in order], weights=[weights[number] for number in order])
    assert fused.dtype == np.float32 and np.array_equal(fused, other)


FLOATS = st.floats(0, 1e300, allow_subnormal=False) | st.floats(0.1, 2)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(**SIZES, weights=st.lists(FLOATS, min_size=8, max_size=8).filter(lambda weights: weights[0] > 0))
def test_any_weights_keep_the_order_and_what_is_equal(
    n_maps: int, n_rows: int, levels: int, seed: int, weights: list[float]
) -> None:
    maps, weights = _maps(n_maps, n_rows, levels, seed), weights[:n_maps]
    fused = _fuse(maps, weights=weights)
    whole = whole_weights(weights)
    exact = _exact_sum(maps, whole)
    order = np.argsort(exact, axis=None, kind="stable")
    assert (np.diff(fused.ravel()[order]) >= 0).all()
    assert len(set(zip(exact.ravel(), fused.ravel()))) == len(set(exact.ravel()))
    np.testing.assert_allclose(fused, exact.astype(float), rtol=2**-23)
    assert sum(whole) <= 2**39 + n_maps and [weight > 0 for weight in whole] == [weight > 0 for weight in weights]
    shares = np.array(weights) / max(weights)
    np.testing.assert_allclose(np.array(whole) / sum(whole), shares / shares.sum(), rtol=0, atol=1e-10)


def test_weights_are_the_least_integers_of_their_ratio() -> None:
    assert whole_weights([0.1, 0.25, 0]) == [2, 5, 0]
    assert whole_weights([4, 2, 6]) == [2, 1, 3]
    assert whole_weights([np.float64(0.5), np.int64(2)]) == [1, 4]
    assert whole_weights([1, 1e-300]) == [2**39 - 1, 1]


@pytest.mark.parametrize("n_maps", [1677, 1678, 5000])
def test_sums_of_very_many_models_are_as_exact_as_float32(n_maps: int) -> None:
    values = np.array([[9999, 9998, 0]], np.int16)
    fused = Fusion([values] * n_maps).fuse(0, [values] * n_maps, slice(0, 3))
    assert fused.tolist() == (values.astype(np.int64) * n_maps).astype(np.float32).tolist()
    last = [values] * (n_maps - 1) + [np.array([[9998, 9999, 1]], np.int16)]
    sums = Fusion(last).fuse(0, last, slice(0, 3))
    assert sums[0, 0] <= fused[0, 0] and sums[0, 2] == 1
    if n_maps == 1677:
        assert (fused - sums).tolist() == [[1, -1, -1]]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(**SIZES, weights=st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_weights_count_as_so_many_copies(n_maps: int, n_rows: int, levels: int, seed: int, weights: list[int]) -> None:
    maps, counts = _maps(n_maps, n_rows, levels, seed), [1 + weights[0], *weights[1:n_maps]]
    copies = [values for values, count in zip(maps, counts) for _ in range(count)]
    assert np.array_equal(_levels(_fuse(maps, weights=counts)), _levels(_fuse(copies)))
    for kind in FUSIONS[1:]:
        np.testing.assert_allclose(_fuse(maps, kind=kind, weights=counts), _fuse(copies, kind=kind), rtol=1e-5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_only_the_ratios_of_weights_count(kind: str) -> None:
    maps = _maps(3, 30, 40, 9)
    fused = _fuse(maps, kind=kind, weights=[2, 1, 0.5])
    assert fused.dtype == np.float32
    for unit in (1e-300, 3.0, 5e307):
        np.testing.assert_allclose(_fuse(maps, kind=kind, weights=[2 * unit, unit, unit / 2]), fused, rtol=1e-6)
    assert not np.allclose(_fuse(maps, kind=kind, weights=[1, 2, 0.5]), fused)


@pytest.mark.parametrize("kind", ["geometric", "rank", "reciprocal-rank"])
@settings(deadline=None, derandomize=True, max_examples=40)
@given(**SIZES)
def test_other_ways_equal_their_definitions(kind: str, n_maps: int, n_rows: int, levels: int, seed: int) -> None:
    maps = _maps(n_maps, n_rows, levels, seed)
    weights = np.random.default_rng(seed).uniform(0.1, 2, n_maps).tolist()
    fused, literal = _fuse(maps, kind=kind, weights=weights), _literal(kind, maps, weights)
    assert fused.dtype == np.float32 and (fused >= 0).all()
    np.testing.assert_allclose(fused, literal, rtol=2e-5)
    np.testing.assert_array_equal(_fuse(maps, slice(1, 3), kind=kind, weights=weights), fused[:, 1:])


class Watched:
    """Scores that tell how many rows of them are read at a time."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.shape = values, values.shape
        self.read: list[int] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.read.append(len(self._values[rows]))
        return self._values[rows]


@pytest.mark.parametrize("kind", ["mean", "geometric"])
def test_only_ranks_cost_a_pass_over_the_scores(kind: str) -> None:
    watched = [Watched(values) for values in _maps(2, 30, 8, 4)]
    Fusion(watched, kind)
    assert not any(values.read for values in watched)


@pytest.mark.parametrize("kind", ["rank", "reciprocal-rank"])
@pytest.mark.parametrize("n_bytes", [1, 24, 7 * 24, 30 * 24, 31 * 24])
def test_ranks_are_among_the_rows_of_all_blocks(kind: str, n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 1, 1, 7, 30 and 31 of the 30 rows: a row has 24 bytes, as int64."""
    maps = _maps(2, 30, 8, 4)
    watched = [Watched(values) for values in maps]
    monkeypatch.setattr(fusing, "COUNTED_BYTES", n_bytes)
    fused = Fusion(watched, kind).fuse(0, maps, slice(0, N_CLASSES))
    np.testing.assert_allclose(fused, _literal(kind, maps, [1, 1]), rtol=2e-5)
    for values in watched:
        assert sum(values.read) == 30
        assert max(values.read) == min(30, max(1, n_bytes // 24))


@pytest.mark.parametrize("kind", FUSIONS)
def test_models_without_a_weight_are_not_read(kind: str) -> None:
    maps = _maps(3, 30, 40, 9)
    watched = [Watched(values) for values in maps]
    fusion = Fusion(watched, kind, [2, 0, 1])
    assert fusion.models == [watched[0], watched[2]] and not watched[1].read
    fused = fusion.fuse(0, [maps[0], maps[2]], slice(0, N_CLASSES))
    assert np.array_equal(fused, _fuse([maps[0], maps[2]], kind=kind, weights=[2, 1]))


@pytest.mark.parametrize("kind", FUSIONS)
def test_one_model_keeps_its_order(kind: str) -> None:
    values = np.random.default_rng(0).permutation(9999)[:500].astype(np.int16)[:, None]
    fused = Fusion([values], kind).fuse(0, [values], slice(0, 1))
    assert np.argsort(fused[:, 0]).tolist() == np.argsort(values[:, 0]).tolist()


def test_factors_multiply_the_rows_of_their_videos() -> None:
    values = np.full((4, 2), 100, np.int16)
    factors = np.array([[1, 0.5], [np.nan, 0]], np.float32)
    fusion = Fusion([values], factors=factors, row_videos=np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(fusion.fuse(1, [values[1:]], slice(0, 2)), [[100, 50], [np.nan, 0], [np.nan, 0]])
