"""What is measured in training: video metrics and segment metrics.

Dimensions: B videos, S segments, C classes.
"""

import numpy as np
import torch
from helperbot import Metric
from helperbot.distributed import gather_rows, sum_over_ranks
from torch import Tensor

from yt8m.data.datasets import SegmentBatch, VideoBatch

GAP_TOP = 20


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _of_all_ranks(batches: list[np.ndarray]) -> np.ndarray:
    """The rows of all batches of all processes."""
    return gather_rows(torch.from_numpy(np.concatenate(batches))).numpy()


class VideoMetrics(Metric):
    """Accuracy, recall and precision at probability 0.5 over all (video, class) pairs, GAP@20 and mAP."""

    def __init__(self) -> None:
        super().__init__("video")
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def update(self, outputs: Tensor, batch: VideoBatch) -> None:
        """Take logits (B, C) of a batch."""
        self._logits.append(outputs.float().cpu().numpy())
        self._labels.append(batch.labels.cpu().numpy())

    def compute(self) -> dict[str, float]:
        """The metrics over all batches since `reset`, in percent but for GAP and mAP in 0..1."""
        logits, labels = _of_all_ranks(self._logits), _of_all_ranks(self._labels)
        positive = logits > 0
        hits = float((positive & labels).sum())
        return {
            "accuracy": 100 * float((positive == labels).mean()),
            "recall": 100 * _ratio(hits, labels.sum()),
            "precision": 100 * _ratio(hits, positive.sum()),
            "gap": global_average_precision(logits, labels),
            "map": mean_average_precision(logits, labels),
        }


class SegmentMetrics(Metric):
    """ROC AUC and accuracy of the rated labels, accuracy on mined negatives, all in percent."""

    def __init__(self) -> None:
        super().__init__("segment")
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._logits: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._mined = self._mined_right = 0

    def update(self, outputs: Tensor, batch: SegmentBatch) -> None:
        """Take logits (S, C) of a batch."""
        rated = outputs.gather(1, batch.classes.unsqueeze(1)).squeeze(1)
        self._logits.append(rated.float().cpu().numpy())
        self._scores.append(batch.scores.cpu().numpy())
        self._mined += int(batch.negatives.sum())
        self._mined_right += int((batch.negatives & (outputs <= 0)).sum())

    def compute(self) -> dict[str, float]:
        """The metrics over all batches since `reset`; AUC is NaN where all ratings agree."""
        from sklearn.metrics import roc_auc_score  # takes as long to import as torch does

        logits, positive = _of_all_ranks(self._logits), _of_all_ranks(self._scores) > 0.5
        mined, right = sum_over_ranks(torch.tensor([self._mined, self._mined_right])).tolist()
        both = positive.any() and not positive.all()
        return {
            "auc": 100 * float(roc_auc_score(positive, logits)) if both else float("nan"),
            "accuracy": 100 * float(((logits > 0) == positive).mean()),
            "negative_accuracy": 100 * _ratio(right, mined),
        }


def global_average_precision(logits: np.ndarray, labels: np.ndarray, top: int = GAP_TOP) -> float:
    """YouTube-8M's GAP: average precision of the pooled `top` predictions of each video, (B, C) each.

    The denominator counts all labels, also those not among the top.
    """
    top = min(top, logits.shape[1])
    chosen = np.argpartition(-logits, top - 1, axis=1)[:, :top]
    confidence = np.take_along_axis(logits, chosen, axis=1).ravel()
    relevant = np.take_along_axis(labels, chosen, axis=1).ravel()[np.argsort(-confidence, kind="stable")]
    return _ratio(_precision_sum(relevant), labels.sum())


def mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes with a positive of average precision; (B, C) each. NaN without positives."""
    classes = np.flatnonzero(labels.any(axis=0))
    if not classes.size:
        return float("nan")
    return float(np.mean([_average_precision(logits[:, c], labels[:, c]) for c in classes]))


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Σ precision · step of recall over the distinct scores, (B,) each, as scikit-learn has it, ten times as fast.

    Of equal scores all count as found at once.
    """
    order = np.argsort(-scores)
    ranked = scores[order]
    found = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of each run of equal scores
    steps = np.diff(found[last], prepend=0)
    return float((steps * found[last] / (last + 1)).sum() / found[-1])


def _precision_sum(relevant: np.ndarray) -> float:
    """Σ precision(rank) · relevance over a ranked list of booleans."""
    ranks = np.flatnonzero(relevant) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum())
