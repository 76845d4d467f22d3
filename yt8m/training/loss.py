"""Losses of the two training stages. Dimensions: B videos, S segments, C classes."""

import torch
from torch import Tensor
from torch.nn import functional


def video_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, C) against labels (B, C), bool or 0/1."""
    logits = _at_least_float32(logits)
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _at_least_float32(logits: Tensor) -> Tensor:
    """Sums over many videos and classes would overflow half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def segment_loss(
    logits: Tensor,
    classes: Tensor,
    scores: Tensor,
    negatives: Tensor,
    negative_weight: float,
    mined_weight: float,
    mined_per_rating: Tensor | None = None,
) -> Tensor:
    """Loss of ratings: their cross-entropy, and `mined_weight` times the mean cross-entropy of mined negatives.

    Logits (S, C); rated class (S,), score (S,) 0 or 1; `negatives` (S, C) bool marks the classes that
    surely are not in the segment's video. A rating weighs score + `negative_weight`: with 0.5 a positive
    counts 1.5 and a negative 0.5 (Lee 2019 has 1 for both). `mined_per_rating` () is how many classes are
    mined on average over the whole batch, if these ratings are only a part of it.
    """
    logits = _at_least_float32(logits)
    rated = logits.gather(1, classes.unsqueeze(1)).squeeze(1)
    scores = scores.to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(rated, scores, reduction="none")
    mask = negatives.to(logits.dtype)
    n_mined = mask.sum() if mined_per_rating is None else mined_per_rating * len(logits)
    # BCE against 0; without any mined class the sum is 0.
    mined = (functional.softplus(logits) * mask).sum() / n_mined.clamp(min=torch.finfo(torch.float32).tiny)
    return (losses * (scores + negative_weight)).mean() + mined_weight * mined
