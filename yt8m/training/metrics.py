"""Training metrics for videos and segments.

Dimensions: B videos, S segments, C classes.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from helperbot import Metric
from helperbot.distributed import gather_on_first, gather_rows, rank, sum_over_ranks
from torch import Tensor

from yt8m.common.errors import UserError
from yt8m.data.datasets import SegmentBatch, VideoBatch

BLOCK_BYTES = 64 << 20


class Columns:
    """Rows of float32, appended a few at a time; iterating yields the columns in order.

    Data beyond a block of `BLOCK_BYTES` goes to a file in `folder`, in transposed blocks. The file is unnamed, so that
    it vanishes with this object, however the process ends. Reading takes two blocks of memory.
    """

    def __init__(self, n_columns: int, folder: Path) -> None:
        self.folder = folder
        self._block = np.empty((n_columns, max(1, BLOCK_BYTES // (4 * n_columns))), np.float32)
        self._filled = 0  # rows of the block
        self._written = 0  # blocks
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return self._written * self._block.shape[1] + self._filled

    def add(self, rows: np.ndarray) -> None:
        """Append rows (any number, C). Raises `UserError` if the disk is full."""
        while len(rows):
            taken = rows[: self._block.shape[1] - self._filled]
            self._block[:, self._filled : self._filled + len(taken)] = taken.T
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == self._block.shape[1]:
                self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)
            self._file.write(self._block.data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.folder}: no space for the logits of an evaluation, {4 * len(self._block):,} bytes per video "
                f"({error.strerror}); free space, or validate on fewer shards"
            ) from None
        self._written += 1
        self._filled = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        n_columns = len(self._block)
        at_once = max(1, BLOCK_BYTES // (4 * max(1, len(self))))
        for first in range(0, n_columns, at_once):
            yield from self._read(first, min(first + at_once, n_columns))

    def _read(self, first: int, stop: int) -> np.ndarray:
        """Some columns, (stop - first, rows)."""
        n_columns, n_rows = self._block.shape
        parts = [self._block[first:stop, : self._filled]]
        if self._file is not None:
            size = 4 * (stop - first) * n_rows
            starts = [4 * (block * n_columns + first) * n_rows for block in range(self._written)]
            read = (os.pread(self._file.fileno(), size, start) for start in starts)
            parts = [*(np.frombuffer(values, np.float32).reshape(stop - first, n_rows) for values in read), *parts]
        return np.concatenate(parts, axis=1)


GAP_TOP = 20
PERCENT = ("accuracy", "recall", "precision", "auc", "negative_accuracy")  # in percent in states and histories


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _of_all_ranks(batches: list[np.ndarray]) -> np.ndarray:
    """The concatenated batches of all processes."""
    return gather_rows(torch.from_numpy(np.concatenate([np.empty(0, np.float32), *batches]))).numpy()


class _ShownAsFractions:
    """Logs results as fractions, like `evaluate`; some are stored in percent."""

    def in_log(self, results: dict[str, float]) -> dict[str, float]:
        """The results in percent as fractions."""
        return {name: value / 100 for name, value in results.items() if name in PERCENT}


class VideoMetrics(_ShownAsFractions, Metric):
    """Accuracy, recall and precision at probability 0.5 over all (video, class) pairs, GAP@20 and mAP.

    GAP is YouTube-8M's: average precision of the pooled top `GAP_TOP` predictions of each video, counting all labels,
    even those not among the top. mAP is the mean over classes with positives of average precision over all videos.

    Only process 0 stores data: in memory, 100 bytes per video and 8 per label, twice that at the end; and in `Columns`
    in `folder`, the logits, 4 bytes per class and video, which give the ranks of the positives in their classes.
    """

    NAMES = "accuracy", "recall", "precision", "gap", "map"

    def __init__(self, n_classes: int, folder: Path) -> None:
        super().__init__("video")
        self.n_classes, self.folder = n_classes, folder
        self._forget()

    def reset(self) -> None:
        """Discard all batches."""
        self._forget()

    def _forget(self) -> None:
        n_top = min(GAP_TOP, self.n_classes)
        self._nothing: list[Tensor] = [
            torch.empty(0, width, dtype=dtype)
            for width in (self.n_classes, n_top)
            for dtype in (torch.float32, torch.bool)
        ]
        self._pending = self._nothing
        self._logits = Columns(self.n_classes, self.folder)
        self._right = self._hits = self._predicted = 0  # (video, class) pairs
        # Growing buffers: many small arrays would fragment the memory that batches free.
        self._top, self._top_labels = bytearray(), bytearray()  # float32 and bool, of the `GAP_TOP` of each video
        self._positives, self._classes = bytearray(), bytearray()  # float32 and int32, per label

    def update(self, outputs: Tensor, batch: VideoBatch) -> None:
        """Add the logits (B, C) of a batch."""
        logits, labels = outputs.float(), batch.labels
        top, classes = logits.topk(min(GAP_TOP, self.n_classes))
        self._pending = [values.cpu() for values in (logits, labels, top, labels.gather(1, classes))]

    def exchange(self) -> None:
        """Send the batch to process 0, which stores what the metrics need."""
        logits, labels, top, top_labels = (values.numpy() for values in gather_on_first(self._pending))
        self._pending = self._nothing
        if logits.shape[0] == 0:
            return
        predicted = logits > 0
        self._right += int((predicted == labels).sum())
        self._hits += int((predicted & labels).sum())
        self._predicted += int(predicted.sum())
        self._top += top.tobytes()
        self._top_labels += top_labels.tobytes()
        self._positives += logits[labels].tobytes()
        self._classes += labels.nonzero()[1].astype(np.int32).tobytes()
        self._logits.add(logits)

    def compute(self) -> dict[str, float]:
        """The metrics over all batches since `reset`, in percent except GAP and mAP in 0..1; then resets."""
        values = self._measure() if rank() == 0 else [0.0] * len(self.NAMES)
        self._forget()
        return dict(zip(self.NAMES, sum_over_ranks(torch.tensor(values, dtype=torch.float64)).tolist()))

    def _measure(self) -> list[float]:
        """The metrics in the order of `NAMES`."""
        top, top_labels = np.frombuffer(self._top, np.float32), np.frombuffer(self._top_labels, bool)
        positives, classes = np.frombuffer(self._positives, np.float32), np.frombuffer(self._classes, np.int32)
        pairs = len(self._logits) * self.n_classes
        return [
            100 * _ratio(self._right, pairs),
            100 * _ratio(self._hits, len(classes)),
            100 * _ratio(self._hits, self._predicted),
            pooled_average_precision(top, top_labels, len(classes)),
            mean_average_precision(self._logits, positives, classes),
        ]


class SegmentMetrics(_ShownAsFractions, Metric):
    """ROC AUC and accuracy of the rated labels, accuracy on mined negatives, all in percent."""

    def __init__(self) -> None:
        super().__init__("segment")
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self._logits: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._mined = self._mined_right = 0

    def update(self, outputs: Tensor, batch: SegmentBatch) -> None:
        """Add the logits (S, C) of a batch."""
        rated = outputs.gather(1, batch.classes.unsqueeze(1)).squeeze(1)
        self._logits.append(rated.float().cpu().numpy())
        self._scores.append(batch.scores.cpu().numpy().copy())  # a view would keep the memory of the batch
        self._mined += int(batch.negatives.sum())
        self._mined_right += int((batch.negatives & (outputs <= 0)).sum())

    def compute(self) -> dict[str, float]:
        """The metrics over all batches since `reset`; AUC is NaN if all ratings agree."""
        from sklearn.metrics import roc_auc_score  # takes as long to import as torch does

        logits, positive = _of_all_ranks(self._logits), _of_all_ranks(self._scores) > 0.5
        mined, right = sum_over_ranks(torch.tensor([self._mined, self._mined_right])).tolist()
        both = positive.any() and not positive.all()
        return {
            "auc": 100 * float(roc_auc_score(positive, logits)) if both else float("nan"),
            "accuracy": 100 * float(((logits > 0) == positive).mean()),
            "negative_accuracy": 100 * _ratio(right, mined),
        }


def pooled_average_precision(scores: np.ndarray, positive: np.ndarray, n_positives: int) -> float:
    """Average precision of a list of predictions, (any,) each; equal scores keep their order.

    `n_positives` includes positives not among the predictions; the result is NaN if it is 0.
    """
    ranks = np.flatnonzero(positive[np.argsort(-scores, kind="stable")]) + 1
    return _ratio(float((np.arange(1, len(ranks) + 1) / ranks).sum()), n_positives)


def mean_average_precision(columns: Iterable[np.ndarray], positives: np.ndarray, classes: np.ndarray) -> float:
    """Mean over classes with positives of average precision; NaN without positives.

    `columns`: the scores (B,) of all videos, class by class; `positives` and their `classes`: the scores of labels,
    (labels,) each, in any order.
    """
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    own = dict(zip(found.tolist(), np.split(positives[order], starts[1:])))
    precisions = [average_precision(scores, own[number]) for number, scores in enumerate(columns) if number in own]
    return float(np.mean(precisions)) if precisions else float("nan")


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float:
    """Σ precision · step of recall over the distinct scores, as in scikit-learn: equal scores count as retrieved
    together. `scores` (B,): all; `positives` (at least 1,): those of the positives among them."""
    distinct, counts = np.unique(positives, return_counts=True)
    found = counts[::-1].cumsum()[::-1]
    retrieved = len(scores) - np.searchsorted(np.sort(scores), distinct)
    return float((counts * found / retrieved).sum() / len(positives))
