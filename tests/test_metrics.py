"""Metrics against slow, literal implementations of their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from yt8m.data.datasets import SegmentBatch, VideoBatch
from yt8m.training.metrics import SegmentMetrics, VideoMetrics, global_average_precision, mean_average_precision

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


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 45), st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_gap_equals_its_definition(n_videos: int, n_classes: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = _distinct(rng, (n_videos, n_classes))
    labels = rng.random((n_videos, n_classes)) < share
    labels[0, 0] = True
    assert global_average_precision(logits, labels) == pytest.approx(_slow_gap(logits, labels), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_gap_pools_the_top_20_of_many_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = _distinct(rng, (4, 500))
    labels = rng.random((4, 500)) < 0.5
    assert global_average_precision(logits, labels) == pytest.approx(_slow_gap(logits, labels), rel=1e-12)


def test_gap_keeps_equal_predictions_in_the_order_of_the_videos() -> None:
    """So that it is the same number on every machine."""
    rng = np.random.default_rng(8)
    logits, labels = rng.integers(0, 3, (300, 1)).astype(np.float32), rng.random((300, 1)) < 0.5
    pooled = sorted(zip(logits[:, 0].tolist(), labels[:, 0].tolist()), key=lambda pair: -pair[0])
    hits = [rank for rank, (_, relevant) in enumerate(pooled, 1) if relevant]
    by_hand = sum(found / rank for found, rank in enumerate(hits, 1)) / len(hits)
    assert global_average_precision(logits, labels) == pytest.approx(by_hand, rel=1e-12)


def test_gap_counts_a_label_that_is_not_among_the_top_20() -> None:
    logits = np.arange(25, 0, -1, dtype=np.float32)[None]
    labels = np.zeros((1, 25), bool)
    labels[0, [0, 24]] = True
    assert global_average_precision(logits, labels) == pytest.approx(0.5)


def test_gap_and_map_without_any_label_are_nan() -> None:
    logits, labels = np.ones((2, 3), np.float32), np.zeros((2, 3), bool)
    assert np.isnan(global_average_precision(logits, labels))
    assert np.isnan(mean_average_precision(logits, labels))


def test_map_is_the_mean_over_the_classes_with_a_positive() -> None:
    logits = np.array([[4, 1, 9], [3, 2, 8], [2, 3, 7], [1, 4, 6]], np.float32)
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    # Class 0: hits at ranks 1 and 3; class 1: at ranks 1 and 4; class 2 has no positive.
    by_hand = ((1 + 2 / 3) / 2 + (1 + 2 / 4) / 2) / 2
    assert mean_average_precision(logits, labels) == pytest.approx(by_hand, rel=1e-12)
    by_sklearn = average_precision_score(labels[:, :2], logits[:, :2], average="macro")
    assert mean_average_precision(logits, labels) == pytest.approx(by_sklearn, rel=1e-12)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32))
def test_map_is_scikit_learns_also_with_equal_scores(n_videos: int, n_classes: int, n_scores: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, n_scores, (n_videos, n_classes)).astype(np.float32)
    labels = rng.random((n_videos, n_classes)) < 0.4
    labels[0] = True
    expected = np.mean([average_precision_score(labels[:, c], logits[:, c]) for c in range(n_classes)])
    assert mean_average_precision(logits, labels) == pytest.approx(expected, rel=1e-12)


def _video_batch(labels: np.ndarray) -> VideoBatch:
    return VideoBatch(NOTHING, NOTHING, torch.from_numpy(labels), NOTHING)


def _parts(n_rows: int, ends: list[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in zip([0, *ends], [*ends, n_rows])]


def test_video_metrics_by_hand() -> None:
    metric = VideoMetrics()
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, -0.5]])
    metric.update(logits, _video_batch(np.array([[True, True, False], [False, True, False]])))
    values = metric.compute()
    # 2.0 and 1.0 are right; 0.5 is a false alarm; -1.0 is a miss. Pooled: right, right, wrong, wrong, right, wrong.
    assert values["accuracy"] == pytest.approx(100 * 4 / 6)
    assert values["recall"] == pytest.approx(100 * 2 / 3)
    assert values["precision"] == pytest.approx(100 * 2 / 3)
    assert values["gap"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert values["map"] == pytest.approx(1)


def test_video_metrics_do_not_depend_on_the_batches_and_forget() -> None:
    rng = np.random.default_rng(3)
    logits, labels = torch.from_numpy(_distinct(rng, (23, 30))), rng.random((23, 30)) < 0.2
    metric = VideoMetrics()
    metric.update(logits, _video_batch(labels))
    whole = metric.compute()
    metric.reset()
    for part in _parts(23, [1, 2, 13]):
        metric.update(logits[part], _video_batch(labels[part]))
    assert metric.compute() == pytest.approx(whole, rel=1e-12)
    assert whole["gap"] == pytest.approx(_slow_gap(logits.numpy(), labels), rel=1e-12)


def test_precision_is_nan_where_nothing_is_predicted() -> None:
    metric = VideoMetrics()
    metric.update(torch.full((2, 3), -1.0), _video_batch(np.eye(2, 3, dtype=bool)))
    values = metric.compute()
    assert np.isnan(values["precision"])
    assert values["recall"] == 0


def test_a_logit_of_0_predicts_nothing() -> None:
    """Neither its probability, 0.5, nor a smaller one counts as the prediction that the class is there."""
    metric = VideoMetrics()
    metric.update(torch.tensor([[0.0, 0.0, 1.0]]), _video_batch(np.array([[True, False, True]])))
    values = metric.compute()
    assert values["recall"] == 50
    assert values["precision"] == 100
    assert values["accuracy"] == pytest.approx(100 * 2 / 3)
    segments = SegmentMetrics()
    segments.update(
        torch.tensor([[0.0], [0.0], [1.0]]),
        _segment_batch(np.zeros(3, np.int64), np.array([0, 0, 1], np.float32), np.ones((3, 1), bool)),
    )
    assert segments.compute() == pytest.approx({"auc": 100, "accuracy": 100, "negative_accuracy": 100 * 2 / 3})


def _segment_batch(classes: np.ndarray, scores: np.ndarray, negatives: np.ndarray) -> SegmentBatch:
    return SegmentBatch(
        NOTHING,
        torch.from_numpy(classes),
        torch.from_numpy(scores),
        torch.from_numpy(negatives),
        None,
        None,
        NOTHING,
        NOTHING,
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
