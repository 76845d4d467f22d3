"""Losses, against literal loops, the 2019 release's numbers, and at extremes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yt8m.training.losses import segment_loss, video_loss

# `loss` of parity_2019/expected_logits.npz: what the 2019 release computed for the case below.
LOSS_2019 = 1.0831389427185059


def _cross_entropy(logit: float, target: float) -> float:
    """-log of the probability given to the target, for moderate logits."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target else 1 - probability)


def _slow_segment_loss(
    logits: Tensor, classes: Tensor, scores: Tensor, negatives: Tensor, weight: float, mined_weight: float
) -> float:
    rated = mined = 0.0
    n_mined = 0
    for row, label, score, mask in zip(logits.tolist(), classes.tolist(), scores.tolist(), negatives.tolist()):
        rated += (score + weight) * _cross_entropy(row[label], score)
        for logit, is_negative in zip(row, mask):
            if is_negative:
                mined += _cross_entropy(logit, 0)
                n_mined += 1
    return rated / len(logits) + (mined_weight * mined / n_mined if n_mined else 0)


def _case(n_segments: int, n_classes: int, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n_segments, n_classes, generator=generator, dtype=torch.float64)
    classes = torch.randint(n_classes, (n_segments,), generator=generator)
    scores = torch.randint(2, (n_segments,), generator=generator)
    return logits, classes, scores, torch.rand(n_segments, n_classes, generator=generator) < share


def test_segment_loss_matches_2019() -> None:
    rng = np.random.RandomState(21)  # pylint: disable=no-member
    logits = (rng.standard_normal((6, 1000)) * 2).astype(np.float32)
    classes, scores = rng.randint(0, 1000, 6), rng.randint(0, 2, 6)
    negatives = (rng.rand(6, 1000) < 0.995).astype(int)
    negatives[np.arange(6), classes] = 0
    loss = segment_loss(
        torch.from_numpy(logits),
        torch.from_numpy(classes),
        torch.from_numpy(scores),
        torch.from_numpy(negatives == 1),
        0.5,
        0.5,
    )
    assert loss.item() == pytest.approx(LOSS_2019, rel=1e-6)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([0, 0.3, 0.9, 1]),
    st.sampled_from([0, 0.5, 1, 2.5]),
    st.sampled_from([0, 0.5, 1, 2.5]),
    st.integers(0, 2**32 - 1),
)
def test_segment_loss_equals_its_definition(
    n_segments: int, n_classes: int, share: float, weight: float, mined_weight: float, seed: int
) -> None:
    case = *_case(n_segments, n_classes, share, seed), weight, mined_weight
    assert segment_loss(*case).item() == pytest.approx(_slow_segment_loss(*case), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weight", [0.5, 6, 1e6])
def test_without_mined_negatives_the_ratings_alone_count(dtype: torch.dtype, weight: float) -> None:
    logits, classes, scores, _ = _case(5, 4, 0, 1)
    logits = logits.to(dtype)
    logits.requires_grad_()
    none = torch.zeros(5, 4, dtype=torch.bool)
    loss = segment_loss(logits, classes, scores, none, 0.5, weight)
    assert loss.item() == pytest.approx(_slow_segment_loss(logits, classes, scores, none, 0.5, weight), rel=1e-6)
    loss.backward()
    assert logits.grad.isfinite().all()
    rated = torch.zeros(5, 4, dtype=torch.bool)
    rated[torch.arange(5), classes] = True
    assert torch.equal(logits.grad != 0, rated)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([0, 0.3, 0.9]), st.integers(0, 2**32 - 1))
def test_the_losses_of_parts_add_up_to_that_of_the_batch(sizes: list[int], share: float, seed: int) -> None:
    """Parts that are told how many classes the whole batch mines, and weigh by their ratings, as in --accumulate."""
    case = _case(sum(sizes), 5, share, seed)
    mined_per_rating = case[-1].double().sum() / sum(sizes)
    parts = zip(*(values.split(sizes) for values in case))
    losses = [segment_loss(*part, 0.5, 0.75, mined_per_rating).item() for part in parts]
    mean = sum(loss * size for loss, size in zip(losses, sizes)) / sum(sizes)
    assert mean == pytest.approx(segment_loss(*case, 0.5, 0.75).item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    """300 videos of 300 classes, each with a loss of 64: their sum is beyond what float16 holds."""
    logits = torch.full((300, 300), 64.0, dtype=dtype)
    nothing = torch.zeros(300, 300, dtype=torch.bool)
    loss = video_loss(logits, nothing)
    assert loss.dtype == torch.float32 and loss.item() == 64
    classes, scores = torch.arange(300), torch.zeros(300, dtype=torch.int64)
    loss = segment_loss(logits, classes, scores, ~nothing, 0.5, 0.5)
    assert loss.dtype == torch.float32 and loss.item() == 0.5 * 64 + 0.5 * 64


def test_a_positive_weighs_three_times_a_negative() -> None:
    none = torch.zeros(1, 1, dtype=torch.bool)
    losses = [
        segment_loss(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([score]), none, 0.5, 0.5).item()
        for score in (1, 0)
    ]
    assert losses == pytest.approx([1.5 * math.log(2), 0.5 * math.log(2)])


@pytest.mark.parametrize("extreme", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("score", [0, 1])
def test_extreme_logits_give_finite_losses_and_gradients(extreme: float, score: int) -> None:
    logits = torch.full((2, 3), extreme, requires_grad=True)
    loss = segment_loss(
        logits,
        torch.tensor([0, 2]),
        torch.tensor([score, score]),
        torch.tensor([[False, True, True], [True, True, False]]),
        0.5,
        0.5,
    )
    loss.backward()
    wrong = abs(extreme) if (extreme > 0) != score else 0.0  # the loss is linear far on the wrong side
    mined = max(extreme, 0.0)
    assert loss.item() == pytest.approx((score + 0.5) * wrong + 0.5 * mined, rel=1e-6)
    assert torch.isfinite(logits.grad).all()
    again = torch.full((2, 3), extreme, requires_grad=True)
    video_loss(again, torch.full((2, 3), bool(score))).backward()
    assert torch.isfinite(again.grad).all()
    assert again.grad.sum().item() == pytest.approx(1 if wrong and extreme > 0 else -1 if wrong else 0)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_video_loss_is_the_mean_over_videos_and_classes(n_videos: int, n_classes: int, seed: int) -> None:
    logits, _, _, labels = _case(n_videos, n_classes, 0.4, seed)
    pairs = list(zip(logits.flatten().tolist(), labels.flatten().tolist()))
    expected = sum(_cross_entropy(logit, label) for logit, label in pairs) / len(pairs)
    assert video_loss(logits, labels).item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(video_loss(logits, labels.long()), video_loss(logits, labels))
