"""From indexed shards to batches, in an order that is a pure function of the seed.

Three data sets: videos with labels (pre-training), rated segments with or without the frames of their
video (fine-tuning), test videos (inference). Features stay uint8 until they are on the device.

Dimensions: B videos, S segments, V distinct videos of a batch, L frames (padded), D features of a frame,
C classes.
"""
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import KFold
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from yt8m.errors import UserError
from yt8m.index import Index, ShardReader
from yt8m.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)

SEGMENT_SECONDS = 5
HEAD_SEGMENTS, TAIL_SEGMENTS = 6, 2  # never shown to raters
HEAD_FRAMES, TAIL_FRAMES = HEAD_SEGMENTS * SEGMENT_SECONDS, TAIL_SEGMENTS * SEGMENT_SECONDS
N_FOLDS, FOLD_SEED = 8, 42

Key = tuple[int, int]  # (epoch, example)


def context_frames(n_frames: int) -> tuple[int, int]:
    """First and last-plus-one of the frames that a video model sees; all where head and tail are everything."""
    start, stop = HEAD_FRAMES, n_frames - TAIL_FRAMES
    return (start, stop) if start < stop else (0, n_frames)


def candidate_segments(n_frames: np.ndarray) -> np.ndarray:
    """How many segments of each video are ranked: all but the first 6 and last 2; a partial last one counts."""
    n_segments = -(-n_frames // SEGMENT_SECONDS)
    return np.maximum(n_segments - HEAD_SEGMENTS - TAIL_SEGMENTS, 0)


def sample_frames(n_frames: int, max_len: int, seed: tuple[int, ...] | None) -> slice | np.ndarray:
    """The frames a video model sees: at most `max_len` of them in training, without replacement, in order.

    `seed` None means evaluation: no sampling. `max_len` -1 means no limit.
    """
    start, stop = context_frames(n_frames)
    if seed is None or max_len < 0 or stop - start <= max_len:
        return slice(start, stop)
    chosen = np.random.default_rng(seed).choice(stop - start, max_len, replace=False, shuffle=False)
    chosen.sort()
    return start + chosen


class VideoBatch(NamedTuple):
    """`frames` (B, L, D) uint8, `lengths` (B,), `labels` (B, C) bool, `examples` (B,) rows of the index."""

    frames: Tensor
    lengths: Tensor
    labels: Tensor
    examples: Tensor


class SegmentBatch(NamedTuple):
    """A batch of S ratings.

    `segments` (S, 5 + 2·offset, D) uint8; `classes` (S,) rated class; `scores` (S,) 0 or 1; `negatives`
    (S, C) bool, classes mined as negatives; `videos` (V, L, D) uint8 with `lengths` (V,), or None where no
    context is asked for; `video_index` (S,) row in `videos`; `examples` (S,) rows of the index.
    """

    segments: Tensor
    classes: Tensor
    scores: Tensor
    negatives: Tensor
    videos: Tensor | None
    lengths: Tensor | None
    video_index: Tensor
    examples: Tensor


class _ShardDataset:
    """What the data sets share: an index, a reader, and the seed of frame sampling (None: evaluation)."""

    def __init__(self, index: Index, max_len: int, seed: int | None) -> None:
        self.index, self.reader = index, ShardReader(index)
        self.n_frames = index.n_frames
        self.max_len, self.seed = max_len, seed

    def read_videos(self, records: Sequence[int], keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """What a video model sees of each record, padded with zeros: frames (V, L, D) uint8, lengths (V,).

        The key, (epoch, example), seeds the choice of frames.
        """
        selections = [
            sample_frames(int(self.n_frames[record]), self.max_len,
                          None if self.seed is None else (self.seed, *key))
            for record, key in zip(records, keys)]
        lengths = [chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen) for chosen in selections]
        # numpy's, not torch's: filling a tensor would wake a thread pool for every video.
        frames = np.empty((len(records), max(lengths), self.reader.frame_dim), np.uint8)
        for row, (record, chosen, length) in enumerate(zip(records, selections, lengths)):
            self.reader.read(record, chosen, frames[row, :length])
            frames[row, length:] = 0
        return torch.from_numpy(frames), torch.tensor(lengths)


class VideoDataset(_ShardDataset):
    """Videos with at least one label of the vocabulary, for pre-training.

    `seed` None reads for evaluation: all frames of a video (without head and tail).
    """

    def __init__(self, index: Index, vocabulary: Vocabulary, max_len: int, seed: int | None) -> None:
        super().__init__(index, max_len, seed)
        classes = vocabulary.classes(index.labels)
        owners = index.owners(index.label_ends)
        known = (classes >= 0) & (self.n_frames[owners] > 0)
        self.records = np.unique(owners[known])
        self.classes, self.n_classes = classes, len(vocabulary)
        if not self.records.size:
            raise UserError(f"{index.folder}: no video with frames has a label among the vocabulary's "
                            f"{len(vocabulary)} classes")
        LOGGER.info("%s: %d videos, %d of them with frames and labels of the vocabulary",
                    index.folder, len(index), len(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: Sequence[Key]) -> VideoBatch:
        records = self.records[[example for _, example in keys]]
        frames, lengths = self.read_videos(records, keys)
        labels = np.zeros((len(keys), self.n_classes), bool)
        for row, record in enumerate(records):
            classes = self.index.of_record(record, self.classes, self.index.label_ends)
            labels[row, classes[classes >= 0]] = True
        return VideoBatch(frames, lengths, torch.from_numpy(labels), torch.from_numpy(records))


class RatedSegmentDataset(_ShardDataset):
    """Ratings of 5-second segments: frames of the expanded segment, class, score, mined negatives.

    `shards` (rows of `index.shards`) restricts it to a fold's part. With `context` the frames of the
    video come along. A rating of a label outside the vocabulary, or of a start beyond the last frame, is
    dropped and counted. `seed` None reads for evaluation.
    """

    def __init__(self, index: Index, vocabulary: Vocabulary, shards: np.ndarray, offset: int, context: bool,
                 max_len: int, seed: int | None) -> None:
        super().__init__(index, max_len, seed)
        self.offset, self.context = offset, context
        owners = index.owners(index.rating_ends)
        classes = vocabulary.classes(index.rating_label)
        chosen = np.isin(index.shard[owners], shards)
        unknown = chosen & (classes < 0)
        beyond = chosen & ((index.rating_start >= self.n_frames[owners]) | (index.rating_start < 0))
        self.ratings = np.flatnonzero(chosen & ~unknown & ~beyond)
        if not self.ratings.size:
            raise UserError(f"{index.folder}: no usable segment ratings in {len(shards)} shards")
        LOGGER.info("%s: %d ratings in %d shards; left out: %d beyond the end of their video, %d outside the "
                    "vocabulary", index.folder, len(self.ratings), len(shards), beyond.sum(), unknown.sum())
        self.records, self.starts = owners[self.ratings], index.rating_start[self.ratings]
        self.classes, self.scores = classes[self.ratings], index.rating_score[self.ratings]
        self._known = _known_classes(index, vocabulary)
        self.n_classes = len(vocabulary)

    def __len__(self) -> int:
        return len(self.ratings)

    def __getitems__(self, keys: Sequence[Key]) -> SegmentBatch:
        examples = np.array([example for _, example in keys])
        records = self.records[examples]
        segments = np.empty((len(keys), SEGMENT_SECONDS + 2 * self.offset, self.reader.frame_dim), np.uint8)
        negatives = np.ones((len(keys), self.n_classes), bool)
        for row, (record, start) in enumerate(zip(records, self.starts[examples])):
            self._read_segment(record, int(start), segments[row])
            negatives[row, self.index.of_record(record, *self._known)] = False
        videos = lengths = None
        distinct, first, video_index = np.unique(records, return_index=True, return_inverse=True)
        if self.context:
            videos, lengths = self.read_videos(distinct, [keys[row] for row in first])
        arrays = (segments, self.classes[examples], self.scores[examples], negatives)
        return SegmentBatch(*map(torch.from_numpy, arrays), videos, lengths, torch.from_numpy(video_index),
                            torch.from_numpy(records))

    def _read_segment(self, record: int, start: int, out: np.ndarray) -> None:
        """The expanded segment, frames [start − offset, start + 5 + offset), zeros beyond the video."""
        first, last = start - self.offset, start + SEGMENT_SECONDS + self.offset
        begin, end = max(first, 0), min(last, int(self.n_frames[record]))
        out[:begin - first] = 0
        out[end - first:] = 0
        self.reader.read(record, slice(begin, end), out[begin - first:end - first])


def _known_classes(index: Index, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Per record the classes it is labelled with or rated for: a ragged array and its ends."""
    owners = np.concatenate([index.owners(index.label_ends), index.owners(index.rating_ends)])
    classes = np.concatenate([vocabulary.classes(index.labels), vocabulary.classes(index.rating_label)])
    owners, classes = owners[classes >= 0], classes[classes >= 0]
    order = np.argsort(owners, kind="stable")
    return classes[order], np.cumsum(np.bincount(owners, minlength=len(index)))


class WholeVideoDataset(_ShardDataset):
    """All frames of each test video, (L, D) uint8: whole records, their checksums verified.

    `records` says which rows of the index, in which order.
    """

    def __init__(self, index: Index, records: np.ndarray) -> None:
        super().__init__(index, -1, None)
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> Tensor:
        record = int(self.records[item])
        self.reader.verify(record)
        frames = torch.empty(int(self.n_frames[record]), self.reader.frame_dim, dtype=torch.uint8)
        self.reader.read(record, slice(0, len(frames)), frames.numpy())
        return frames


class TrainingBatches(Sampler[list[Key]]):
    """An endless stream of batches of (epoch, example), a pure function of (examples, batch size, seed).

    Each epoch is a permutation drawn from (seed, epoch); epochs follow each other without a gap, so every
    batch is full and no example is left out. `start` is the number of the first batch.
    """

    def __init__(self, n_examples: int, batch_size: int, seed: int, start: int = 0) -> None:
        self.n_examples, self.batch_size, self.seed, self.start = n_examples, batch_size, seed, start

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.start * self.batch_size
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            batch = []
            for place in range(position, position + self.batch_size):
                if place // self.n_examples != epoch:
                    epoch = place // self.n_examples
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.n_examples)
                batch.append((epoch, int(order[place % self.n_examples])))
            yield batch
            position += self.batch_size


class SequentialBatches(Sampler[list[Key]]):
    """Every example once, in order, as (0, example); the last batch may be smaller."""

    def __init__(self, n_examples: int, batch_size: int) -> None:
        self.n_examples, self.batch_size = n_examples, batch_size

    def __len__(self) -> int:
        return -(-self.n_examples // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, self.n_examples, self.batch_size):
            yield [(0, example) for example in range(start, min(start + self.batch_size, self.n_examples))]


def make_loader(dataset: VideoDataset | RatedSegmentDataset, batches: Sampler[list[Key]], workers: int,
                pin_memory: bool) -> DataLoader:
    """Batches of a data set; their order and content are the same whatever the number of workers."""
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=_as_is, pin_memory=pin_memory,
                      persistent_workers=workers > 0)


def _as_is(batch):
    """The data sets put batches together themselves."""
    return batch


def split_fold(index: Index, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `index.shards` to train on and to validate on in one of the 8 folds over sorted shards."""
    n_shards = len(index.shards)
    if not 0 <= fold < N_FOLDS:
        raise UserError(f"--fold {fold}: folds are numbered 0 to {N_FOLDS - 1}")
    if n_shards < N_FOLDS:
        raise UserError(f"{index.folder}: {n_shards} shards cannot be split into {N_FOLDS} folds; "
                        f"at least {N_FOLDS} are needed")
    return list(KFold(N_FOLDS, shuffle=True, random_state=FOLD_SEED).split(np.arange(n_shards)))[fold]
