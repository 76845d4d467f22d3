"""Training metrics, against literal definitions, and their memory."""

import errno
import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch.multiprocessing.reductions import StorageWeakRef

from yt8m.common.errors import UserError
from yt8m.data.batch_memory import ArraySpec, allocate
from yt8m.data.datasets import SegmentBatch, VideoBatch
from yt8m.data.packed_frames import PackedFrames
from yt8m.training import metrics
from yt8m.training.metrics import Columns, SegmentMetrics, VideoMetrics

NOTHING = torch.empty(0)


def _distinct(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Logits on both sides of zero, no two alike."""
    return (rng.permutation(shape[0] * shape[1]).reshape(shape) - shape[0] * shape[1] * 0.7 + 0.25).astype(np.float32)


def _slow_gap(logits: np.ndarray, labels: np.ndarray) -> float:
    pooled = []
    for row, truth in zip(logits.tolist(), labels.tolist()):
        pooled += sorted(zip(row, truth), reverse=True)[:20]
    pooled.sort(reverse=True)
    hits, total = 0, 0.0
    for rank, (_, relevant) in enumerate(pooled, 1):
        if relevant:
            hits += 1
            total += hits / rank
    return total / labels.sum()


def _video_batch(labels: np.ndarray) -> VideoBatch:
    return VideoBatch(torch.from_numpy(labels), PackedFrames(NOTHING, NOTHING, NOTHING, 1), NOTHING.numpy())


def _parts(n_rows: int, ends: list[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in zip([0, *ends], [*ends, n_rows])]


Measure = Callable[..., dict[str, float]]


@pytest.fixture(name="measure", scope="module")
def fixture_measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """What the metrics are of logits and labels (B, C), taken in batches that end at `ends`."""
    folder = tmp_path_factory.mktemp("metrics")

    def measure(logits: np.ndarray, labels: np.ndarray, ends: list[int] | None = None) -> dict[str, float]:
        metric = VideoMetrics(logits.shape[1], folder)
        for part in _parts(len(logits), ends or []):
            metric.update(torch.from_numpy(logits[part]), _video_batch(labels[part]))
            metric.exchange()
        return metric.compute()

    return measure


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 45), st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_gap_equals_its_definition(measure: Measure, n_videos: int, n_classes: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = _distinct(rng, (n_videos, n_classes))
    labels = rng.random((n_videos, n_classes)) < share
    labels[0, 0] = True
    assert measure(logits, labels)["gap"] == pytest.approx(_slow_gap(logits, labels), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_gap_pools_the_top_20_of_many_classes(measure: Measure, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = _distinct(rng, (4, 500))
    labels = rng.random((4, 500)) < 0.5
    assert measure(logits, labels)["gap"] == pytest.approx(_slow_gap(logits, labels), rel=1e-12)


def test_gap_keeps_equal_predictions_in_the_order_of_the_videos(measure: Measure) -> None:
    """So that it is the same number on every machine."""
    rng = np.random.default_rng(8)
    logits, labels = rng.integers(0, 3, (300, 1)).astype(np.float32), rng.random((300, 1)) < 0.5
    pooled = sorted(zip(logits[:, 0].tolist(), labels[:, 0].tolist()), key=lambda pair: -pair[0])
    hits = [rank for rank, (_, relevant) in enumerate(pooled, 1) if relevant]
    by_hand = sum(found / rank for found, rank in enumerate(hits, 1)) / len(hits)
    assert measure(logits, labels, [7, 180])["gap"] == pytest.approx(by_hand, rel=1e-12)


def test_gap_counts_a_label_that_is_not_among_the_top_20(measure: Measure) -> None:
    logits = np.arange(25, 0, -1, dtype=np.float32)[None]
    labels = np.zeros((1, 25), bool)
    labels[0, [0, 24]] = True
    assert measure(logits, labels)["gap"] == pytest.approx(0.5)


def test_gap_and_map_without_any_label_are_nan(measure: Measure) -> None:
    values = measure(np.ones((2, 3), np.float32), np.zeros((2, 3), bool))
    assert np.isnan(values["gap"]) and np.isnan(values["map"]) and np.isnan(values["recall"])


def test_map_is_the_mean_over_the_classes_with_a_positive(measure: Measure) -> None:
    logits = np.array([[4, 1, 9], [3, 2, 8], [2, 3, 7], [1, 4, 6]], np.float32)
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    # Class 0: hits at ranks 1 and 3; class 1: at ranks 1 and 4; class 2 has no positive.
    by_hand = ((1 + 2 / 3) / 2 + (1 + 2 / 4) / 2) / 2
    assert measure(logits, labels)["map"] == pytest.approx(by_hand, rel=1e-12)
    by_sklearn = average_precision_score(labels[:, :2], logits[:, :2], average="macro")
    assert measure(logits, labels)["map"] == pytest.approx(by_sklearn, rel=1e-12)


def _of_whole_arrays(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics by formulas that have everything at hand: scikit-learn's, for GAP on the pooled predictions."""
    top = np.argsort(-logits, axis=1, kind="stable")[:, :20]
    pooled, relevant = (np.take_along_axis(values, top, axis=1).ravel() for values in (logits, labels))
    found = relevant.sum() / labels.sum()
    positive = logits > 0
    precisions = [
        average_precision_score(labels[:, number], logits[:, number]) for number in np.flatnonzero(labels.any(axis=0))
    ]
    return {
        "accuracy": 100 * (positive == labels).mean(),
        "recall": 100 * (positive & labels).sum() / labels.sum(),
        "precision": 100 * (positive & labels).sum() / positive.sum() if positive.any() else np.nan,
        "gap": found * average_precision_score(relevant, pooled) if found else 0.0,
        "map": np.mean(precisions),
    }


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from([0.02, 0.3, 0.9]),
    st.lists(st.integers(0, 40), max_size=4),
    st.sampled_from([4, 100, 1000, 10**6]),
    st.integers(0, 2**32),
)
def test_metrics_of_any_videos_in_any_batches_and_blocks_are_those_of_whole_arrays(
    measure: Measure, n_videos: int, n_classes: int, share: float, ends: list[int], block: int, seed: int
) -> None:
    """Whether all fits a block in memory, or hardly anything does."""
    rng = np.random.default_rng(seed)
    logits = _distinct(rng, (n_videos, n_classes))
    labels = rng.random((n_videos, n_classes)) < share
    labels[0, 0] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK_BYTES", block)
        values = measure(logits, labels, sorted(min(end, n_videos) for end in ends))
    assert values == pytest.approx(_of_whole_arrays(logits, labels), rel=1e-12, nan_ok=True)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 8), st.sampled_from([4, 60, 10**6]), st.integers(0, 2**32))
def test_map_is_scikit_learns_also_with_equal_scores(
    measure: Measure, n_videos: int, n_classes: int, n_scores: int, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, n_scores, (n_videos, n_classes)).astype(np.float32)
    labels = rng.random((n_videos, n_classes)) < 0.4
    labels[0] = True
    expected = np.mean([average_precision_score(labels[:, c], logits[:, c]) for c in range(n_classes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK_BYTES", block)
        assert measure(logits, labels)["map"] == pytest.approx(expected, rel=1e-12)


def test_video_metrics_by_hand(measure: Measure) -> None:
    logits = np.array([[2.0, -1.0, 0.5], [-3.0, 1.0, -0.5]], np.float32)
    values = measure(logits, np.array([[True, True, False], [False, True, False]]))
    # 2.0 and 1.0 are right; 0.5 is a false alarm; -1.0 is a miss. Pooled: right, right, wrong, wrong, right, wrong.
    assert values["accuracy"] == pytest.approx(100 * 4 / 6)
    assert values["recall"] == pytest.approx(100 * 2 / 3)
    assert values["precision"] == pytest.approx(100 * 2 / 3)
    assert values["gap"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert values["map"] == pytest.approx(1)


def test_video_metrics_forget(measure: Measure, tmp_path: Path) -> None:
    """What was measured before, and what was seen before a `reset`."""
    rng = np.random.default_rng(3)
    logits, labels = _distinct(rng, (23, 30)), rng.random((23, 30)) < 0.2
    metric = VideoMetrics(30, tmp_path)
    for part in (slice(0, 23), slice(0, 9), slice(9, 23)):
        metric.reset()
        metric.update(torch.from_numpy(logits[part]), _video_batch(labels[part]))
        metric.exchange()
        if part.start == 0 and part.stop == 23:
            assert metric.compute() == measure(logits, labels)
    assert metric.compute() == measure(logits[9:], labels[9:])


def test_precision_is_nan_where_nothing_is_predicted(measure: Measure) -> None:
    values = measure(np.full((2, 3), -1.0, np.float32), np.eye(2, 3, dtype=bool))
    assert np.isnan(values["precision"])
    assert values["recall"] == 0


def test_a_logit_of_0_predicts_nothing(measure: Measure) -> None:
    """Neither its probability, 0.5, nor a smaller one counts as the prediction that the class is there."""
    values = measure(np.array([[0.0, 0.0, 1.0]], np.float32), np.array([[True, False, True]]))
    assert values["recall"] == 50
    assert values["precision"] == 100
    assert values["accuracy"] == pytest.approx(100 * 2 / 3)
    segments = SegmentMetrics()
    segments.update(
        torch.tensor([[0.0], [0.0], [1.0]]),
        _segment_batch(np.zeros(3, np.int64), np.array([0, 0, 1], np.float32), np.ones((3, 1), bool)),
    )
    assert segments.compute() == pytest.approx({"auc": 100, "accuracy": 100, "negative_accuracy": 100 * 2 / 3})


# --- memory ----------------------------------------------------------------------------------------------


def _peak(n_videos: int, folder: Path) -> int:
    """The most memory that the metrics of so many videos of 3,862 classes, 3 labels each, take at a time."""
    n_classes, size = 3862, 64
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.standard_normal((size, n_classes)).astype(np.float32))
    labels = np.zeros((size, n_classes), bool)
    np.put_along_axis(labels, rng.integers(0, n_classes, (size, 3)), True, axis=1)
    gc.collect()
    tracemalloc.start()
    metric = VideoMetrics(n_classes, folder)
    for _ in range(n_videos // size):
        metric.update(logits, _video_batch(labels))
        metric.exchange()
    values = metric.compute()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < values["map"] < 1
    return peak


def test_a_video_takes_half_a_kilobyte_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the 20 KB that its logits and labels are: what all videos take together is beside it a constant."""
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 1 << 20)
    few, many = 64 * 16, 64 * 80
    assert (_peak(many, tmp_path) - _peak(few, tmp_path)) / (many - few) < 512
    assert not list(tmp_path.iterdir())  # the file has no name


def test_the_file_goes_with_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 100)
    descriptors = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    metric = VideoMetrics(3, tmp_path)
    labels = np.ones((100, 3), bool)
    metric.update(torch.ones(100, 3), _video_batch(labels))
    metric.exchange()
    assert len(list(descriptors.iterdir())) == before + 1
    assert metric.compute()["map"] == 1
    assert len(list(descriptors.iterdir())) == before


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 9), st.lists(st.integers(0, 30), max_size=6), st.integers(1, 600), st.integers(0, 2**32))
def test_columns_are_those_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, n_columns: int, sizes: list[int], block: int, seed: int
) -> None:
    rows = np.random.default_rng(seed).standard_normal((sum(sizes), n_columns)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK_BYTES", block)
        table = Columns(n_columns, tmp_path_factory.getbasetemp())
        for part in np.split(rows, np.cumsum(sizes)):
            table.add(part)
        assert len(table) == len(rows)
        np.testing.assert_array_equal(np.array(list(table)), rows.T)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file on a disk without space."""

        def write(self, content: object) -> None:
            """What the system says."""
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(metrics.tempfile, "TemporaryFile", lambda dir: Full())
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 4)
    table = Columns(3862, tmp_path)
    with pytest.raises(
        UserError, match=r"no space for the logits of an evaluation, 15,448 bytes per video \(No space left"
    ):
        table.add(np.ones((2, 3862), np.float32))


# --- segments --------------------------------------------------------------------------------------------


def _segment_batch(classes: np.ndarray, scores: np.ndarray, negatives: np.ndarray) -> SegmentBatch:
    return SegmentBatch(
        NOTHING,
        torch.from_numpy(classes),
        torch.from_numpy(scores),
        torch.from_numpy(negatives),
        None,
        NOTHING,
        NOTHING.numpy(),
        NOTHING,
    )


def test_segment_metrics_by_hand() -> None:
    metric = SegmentMetrics()
    logits = torch.tensor([[2.0, 0.0], [0.1, -1.0], [-0.5, 9.0], [1.0, -0.1]])
    negatives = np.array([[False, True], [True, False], [False, True], [False, True]])
    metric.update(logits, _segment_batch(np.array([0, 1, 0, 0]), np.array([1, 0, 1, 0], np.float32), negatives))
    values = metric.compute()
    # Rated logits 2, -1, -0.5, 1 with scores 1, 0, 1, 0: of the four pairs only (-0.5, 1) is the wrong way round.
    # Mined logits 0, 0.1, 9, -0.1: the first and the last are not above 0.
    assert values == pytest.approx({"auc": 75, "accuracy": 50, "negative_accuracy": 50})


def test_segment_metrics_do_not_depend_on_the_batches_and_forget() -> None:
    rng = np.random.default_rng(4)
    logits = torch.from_numpy(_distinct(rng, (29, 7)))
    classes, scores = rng.integers(0, 7, 29), rng.integers(0, 2, 29).astype(np.float32)
    negatives = rng.random((29, 7)) < 0.6
    metric = SegmentMetrics()
    metric.update(logits, _segment_batch(classes, scores, negatives))
    whole = metric.compute()
    metric.reset()
    for part in _parts(29, [1, 12, 14]):
        metric.update(logits[part], _segment_batch(classes[part], scores[part], negatives[part]))
    assert metric.compute() == pytest.approx(whole, rel=1e-12)


def test_segment_metrics_do_not_keep_the_memory_of_a_batch() -> None:
    """On a CPU, where nothing is copied from it to another device."""
    specs: list[ArraySpec] = [((2,), np.int64), ((2,), np.float32), ((2, 3), np.bool_)]
    memory, arrays = allocate(specs, pinned=False)
    memory.fill_(0)
    arrays[2][...] = True
    kept = StorageWeakRef(memory.untyped_storage())
    metric = SegmentMetrics()
    metric.update(torch.zeros(2, 3), _segment_batch(*arrays)._replace(memory=memory))
    del memory, arrays
    assert kept.expired()
    assert metric.compute()["negative_accuracy"] == 100


@pytest.mark.parametrize("score", [0, 1])
@pytest.mark.filterwarnings("error")
def test_auc_is_nan_where_all_ratings_agree(score: int) -> None:
    metric = SegmentMetrics()
    metric.update(
        torch.tensor([[1.0], [-1.0]]),
        _segment_batch(np.zeros(2, np.int64), np.full(2, score, np.float32), np.zeros((2, 1), bool)),
    )
    values = metric.compute()
    assert np.isnan(values["auc"])
    assert values["accuracy"] == 50
    assert np.isnan(values["negative_accuracy"])  # nothing was mined
