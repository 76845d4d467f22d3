"""Training tasks, labels of videos or ratings of segments, and their losses.

Dimensions: B videos, S segments, C classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from helperbot import Metric
from helperbot.callbacks import Mode
from helperbot.distributed import sum_over_ranks
from torch import Tensor, nn
from torch.nn import functional

from yt8m.data.datasets import SegmentBatch, VideoBatch
from yt8m.training.metrics import SegmentMetrics, VideoMetrics


def video_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, C) against labels (B, C), bool or 0/1."""
    logits = _at_least_float32(logits)
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _at_least_float32(logits: Tensor) -> Tensor:
    """Logits in at least float32, as sums over many videos and classes would overflow half precision."""
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

    Logits (S, C); rated class (S,), score (S,) 0 or 1; `negatives` (S, C) bool marks classes assumed
    absent from the segment's video. A rating weighs score + `negative_weight`: with 0.5 a positive
    counts 1.5 and a negative 0.5 (Lee 2019 has 1 for both). `mined_per_rating` (): the mean number of
    mined classes per rating in the whole batch, if these ratings are only a part of it.
    """
    logits = _at_least_float32(logits)
    rated = logits.gather(1, classes.unsqueeze(1)).squeeze(1)
    scores = scores.to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(rated, scores, reduction="none")
    mask = negatives.to(logits.dtype)
    n_mined = mask.sum() if mined_per_rating is None else mined_per_rating * len(logits)
    # BCE against 0; 0 without mined classes, when to divide by a tiny number would make the gradient infinite times 0.
    mined = (functional.softplus(logits) * mask).sum() / n_mined.where(n_mined > 0, 1)
    return (losses * (scores + negative_weight)).mean() + mined_weight * mined


Batch = TypeVar("Batch")


class Task(ABC, Generic[Batch]):
    """The learning task for one kind of batch.

    The best checkpoint has the lowest or highest (`mode`) value of the metric `monitor`.
    """

    monitor: ClassVar[str]
    mode: ClassVar[Mode]

    @abstractmethod
    def metric(self, n_classes: int, folder: Path) -> Metric:
        """The metrics of an evaluation; `folder` is for temporary data too large for memory."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of a batch; `model` may be wrapped for several processes or compiled."""

    @abstractmethod
    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss, ()."""


@dataclass(frozen=True)
class VideoTask(Task[VideoBatch]):
    """Pre-training: labels of videos; the best checkpoint has the lowest validation loss."""

    monitor, mode = "loss", "min"

    def metric(self, n_classes: int, folder: Path) -> Metric:
        """Metrics of labels."""
        return VideoMetrics(n_classes, folder)

    def forward(self, model: nn.Module, batch: VideoBatch) -> Tensor:
        """Logits (B, C)."""
        return model(batch.videos)

    def criterion(self, logits: Tensor, batch: VideoBatch) -> Tensor:
        """Mean cross-entropy over videos and classes."""
        return video_loss(logits, batch.labels)


@dataclass(frozen=True)
class SegmentTask(Task[SegmentBatch]):
    """Fine-tuning: ratings of segments; the best checkpoint has the highest ROC AUC.

    `negative_weight`, `mined_weight`: see `segment_loss`.
    """

    negative_weight: float
    mined_weight: float

    monitor, mode = "auc", "max"

    def metric(self, n_classes: int, folder: Path) -> Metric:
        """Metrics of ratings, few enough for memory."""
        return SegmentMetrics()

    def forward(self, model: nn.Module, batch: SegmentBatch) -> Tensor:
        """Logits (S, C)."""
        if batch.videos is None:
            return model(batch.segments)
        return model(batch.segments, batch.videos, None, batch.video_index)

    def criterion(self, logits: Tensor, batch: SegmentBatch) -> Tensor:
        """Loss of the ratings and of the mined negatives."""
        totals = batch.totals
        if torch.is_grad_enabled():  # in training, all ranks take this step together
            totals = sum_over_ranks(totals)
        ratings, mined = totals
        return segment_loss(
            logits,
            batch.classes,
            batch.scores,
            batch.negatives,
            self.negative_weight,
            self.mined_weight,
            mined / ratings,
        )
