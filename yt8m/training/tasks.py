"""What is learned: labels of videos, or ratings of segments. Dimensions: B videos, S segments, C classes."""

from dataclasses import dataclass

import torch
from helperbot.distributed import sum_over_ranks, world_size
from torch import Tensor

from yt8m.data.datasets import SegmentBatch, VideoBatch
from yt8m.models.segment_models import SegmentModel
from yt8m.models.video_models import VideoModel
from yt8m.training.loss import segment_loss, video_loss
from yt8m.training.metrics import SegmentMetrics, VideoMetrics


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` of the steps, then linear decay to `end` times the rate."""

    warmup: float
    end: float


@dataclass(frozen=True)
class VideoTask:
    """Pre-training: labels of videos; the best checkpoint has the lowest validation loss."""

    schedule = Schedule(warmup=0.2, end=0.01)
    monitor, mode = "loss", "min"
    metric_type = VideoMetrics

    def forward(self, model: VideoModel, batch: VideoBatch) -> Tensor:
        """Logits (B, C)."""
        return model(batch.frames, batch.lengths)

    def criterion(self, logits: Tensor, batch: VideoBatch) -> Tensor:
        """Mean cross-entropy over videos and classes."""
        return video_loss(logits, batch.labels)


@dataclass(frozen=True)
class SegmentTask:
    """Fine-tuning: ratings of segments; the best checkpoint has the highest ROC AUC."""

    negative_weight: float

    schedule = Schedule(warmup=0.25, end=0.001)
    monitor, mode = "auc", "max"
    metric_type = SegmentMetrics

    def forward(self, model: SegmentModel, batch: SegmentBatch) -> Tensor:
        """Logits (S, C)."""
        if batch.videos is None:
            return model(batch.segments)
        return model(batch.segments, batch.videos, batch.lengths, batch.video_index)

    def criterion(self, logits: Tensor, batch: SegmentBatch) -> Tensor:
        """Loss of the ratings and of the mined negatives."""
        mined_per_rating = batch.mined_per_rating
        if torch.is_grad_enabled():  # in training all ranks take this step together
            mined_per_rating = sum_over_ranks(mined_per_rating) / world_size()
        return segment_loss(
            logits, batch.classes, batch.scores, batch.negatives, self.negative_weight, mined_per_rating
        )


Task = VideoTask | SegmentTask
