"""From indexed shards to batches: labelled videos, rated segments, test videos.

Features stay uint8 until they are on the device. If damage is skipped (`yt8m.data.records`), a batch lacks the
unreadable examples, possibly all.

Dimensions: B videos, S segments, V distinct videos of a batch, L frames (padded), D features of a frame,
C classes.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from yt8m.common.errors import UserError, counted
from yt8m.data.batch_memory import ArraySpec, allocate
from yt8m.data.frames import SEGMENT_SECONDS, sample_frames, trim_of
from yt8m.data.index import Index, index_file
from yt8m.data.order import Key
from yt8m.data.packed_frames import PackedFrames
from yt8m.data.reader import Frames, Rows, ShardReader
from yt8m.data.records import RAISE, Damage
from yt8m.data.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)

Batch = TypeVar("Batch")


class VideoBatch(NamedTuple):
    """`labels` (B, C) bool; `videos`: uint8 frames of B videos; `examples` (B,): index rows, not moved to the GPU;
    `memory`: what all tensors lie in, see `helperbot.move_to`, or None."""

    labels: Tensor
    videos: PackedFrames
    examples: np.ndarray
    memory: Tensor | None = None

    def split(self, parts: int, least: int = 1) -> list["VideoBatch"]:
        """Split the batch, see `_parts`."""
        numbers = np.arange(len(self.examples))
        return [
            VideoBatch(self.labels[rows], self.videos.select(numbers[rows]), self.examples[rows])
            for rows in _parts(len(self.examples), parts, least)
        ]


class SegmentBatch(NamedTuple):
    """A batch of S ratings.

    `segments` (S, 5 + 2·offset, D) uint8; `classes` (S,): rated class; `scores` (S,): 0 or 1; `negatives` (S, C) bool:
    classes mined as negatives; `videos`: the uint8 frames of V videos, or None without context; `video_index` (S,): the
    number of each segment's video; `examples` (S,): index rows, not moved to the GPU; `totals` (2,) int64: numbers of
    ratings and of mined negatives in the whole batch, even in a part of it; `memory`: as for `VideoBatch`.
    """

    segments: Tensor
    classes: Tensor
    scores: Tensor
    negatives: Tensor
    videos: PackedFrames | None
    video_index: Tensor
    examples: np.ndarray
    totals: Tensor
    memory: Tensor | None = None

    def split(self, parts: int, least: int = 1) -> list["SegmentBatch"]:
        """Split the batch, see `_parts`; each part has the videos of its own segments."""
        return [self._part(rows) for rows in _parts(len(self.examples), parts, least)]

    def _part(self, rows: slice) -> "SegmentBatch":
        used, video_index = np.unique(self.video_index[rows].numpy(), return_inverse=True)
        return SegmentBatch(
            self.segments[rows],
            self.classes[rows],
            self.scores[rows],
            self.negatives[rows],
            None if self.videos is None else self.videos.select(used),
            torch.from_numpy(video_index),
            self.examples[rows],
            self.totals,
        )


def _parts(size: int, parts: int, least: int) -> list[slice]:
    """Split range(size) into `parts` slices of about equal size. If they would be smaller than `least`, the first ones
    are larger and the last ones empty."""
    filled = max(1, min(parts, size // least))
    ends = [size * min(part, filled) // filled for part in range(parts + 1)]
    return [slice(*span) for span in zip(ends, ends[1:])]


class ShardDataset(ABC, Generic[Batch]):
    """Base class of the data sets: an index, a reader, and the seed of frame sampling (None: evaluation).

    `shards` (examples,): the row in `index.shards` of each example.
    """

    def __init__(self, index: Index, records: np.ndarray, max_len: int, seed: int | None, damage: Damage) -> None:
        self.index, self.records, self.reader = index, records, ShardReader(index, damage)
        self.shards = index.shard[records]
        self.n_frames = index.n_frames
        self.max_len, self.seed = max_len, seed
        self.trim = trim_of(self.reader.features)
        self.pinned = False

    def pin_memory(self) -> None:
        """Allocate batches in pinned memory, for fast copies to a GPU."""
        self.pinned = True

    def __len__(self) -> int:
        return len(self.records)

    @abstractmethod
    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """The batch of these examples. Thread-safe."""

    def _sample(self, records: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames of each record for a video model in an epoch, see `sample_frames`.

        They depend only on seed, epoch and record.
        """
        return sample_frames(records, self.n_frames[records], self.max_len, self.seed, epochs, self.trim)

    def _read_videos(
        self, records: np.ndarray, sample: tuple[np.ndarray, np.ndarray], arrays: Sequence[np.ndarray]
    ) -> tuple[PackedFrames, np.ndarray]:
        """Read sampled frames into arrays for `PackedFrames`. Also returns which records could be read, (V,) bool."""
        lengths, seconds = sample
        ends = np.cumsum(lengths)
        met = self.reader.read_rows(Rows(records, seconds, ends - lengths, ends, ends - lengths), arrays[0])
        return PackedFrames.inside(arrays, lengths), met


def _columns(keys: Sequence[Key]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and examples of a batch."""
    columns = np.array(keys, np.int64).reshape(-1, 2)
    return columns[:, 0].copy(), columns[:, 1]


def _readable(keys: Sequence[Key], met: np.ndarray) -> list[Key]:
    """The keys of a batch whose examples could be read."""
    return [key for key, whole in zip(keys, met) if whole]


class VideoDataset(ShardDataset[VideoBatch]):
    """Videos with at least one label of the vocabulary, for pre-training.

    `seed` None: evaluation on all frames of a video except head and tail.
    """

    def __init__(
        self, index: Index, vocabulary: Vocabulary, max_len: int, seed: int | None, damage: Damage = RAISE
    ) -> None:
        classes = vocabulary.classes(index.labels)
        owners = index.owners(index.label_ends)
        known = (classes >= 0) & (index.n_frames[owners] > 0)
        super().__init__(index, np.unique(owners[known]), max_len, seed, damage)
        self.classes, self.n_classes = classes, len(vocabulary)
        if not self.records.size:
            raise UserError(
                f"{index.folder}: no video with frames has a label among the vocabulary's {len(vocabulary)} classes"
            )
        LOGGER.info(
            "%s: %d videos, %d of them with frames and labels of the vocabulary",
            index.folder,
            len(index),
            len(self.records),
        )

    def class_shares(self) -> np.ndarray:
        """The share of videos labelled with each class, (C,), with half a video added to those with and without it."""
        rows, classes = self.index.of_records(self.records, self.classes, self.index.label_ends)
        labelled = np.unique((rows * self.n_classes + classes)[classes >= 0])
        return (np.bincount(labelled % self.n_classes, minlength=self.n_classes) + 0.5) / (len(self) + 1)

    def __getitems__(self, keys: Sequence[Key]) -> VideoBatch:
        from yt8m.data import native_reading

        epochs, examples = _columns(keys)
        records = self.records[examples]
        sample = self._sample(records, epochs)
        video_arrays = PackedFrames.specs(sample[0], self.reader.frame_dim)
        memory, (labels, *arrays) = allocate([((len(keys), self.n_classes), np.bool_), *video_arrays], self.pinned)
        videos, met = self._read_videos(records, sample, arrays)
        if not met.all():
            return self.__getitems__(_readable(keys, met))
        native_reading.mark_classes(labels, False, records, self.classes, self.index.label_ends)
        return VideoBatch(torch.from_numpy(labels), videos, records, memory)


class RatedSegmentDataset(ShardDataset[SegmentBatch]):
    """Ratings of 5-second segments: frames of the expanded segment, class, score, mined negatives.

    `shards` (rows of `index.shards`) restricts them to part of a fold. `context` adds the frames of the video.
    Ratings of labels outside the vocabulary, or that start beyond the video, are left out and counted. `seed` None:
    evaluation.
    """

    def __init__(
        self,
        index: Index,
        vocabulary: Vocabulary,
        shards: np.ndarray,
        offset: int,
        context: bool,
        max_len: int,
        seed: int | None,
        damage: Damage = RAISE,
    ) -> None:
        owners = index.owners(index.rating_ends)
        classes = vocabulary.classes(index.rating_label)
        chosen = np.isin(index.shard[owners], shards)
        unknown = chosen & (classes < 0)
        beyond = chosen & ((index.rating_start >= index.n_frames[owners]) | (index.rating_start < 0))
        ratings = np.flatnonzero(chosen & ~unknown & ~beyond)
        super().__init__(index, owners[ratings], max_len, seed, damage)
        if not ratings.size:
            raise UserError(f"{index.folder}: no usable segment ratings in {counted(len(shards), 'shard')}")
        LOGGER.info(
            "%s: %s in %s; left out: %d beyond the end of their video, %d outside the vocabulary",
            index.folder,
            counted(len(ratings), "rating"),
            counted(len(shards), "shard"),
            beyond.sum(),
            unknown.sum(),
        )
        if unknown.any():
            LOGGER.warning(
                "%s: %d of %d ratings are of labels outside %s, such as %d, and do not count; is it the table of this "
                "data?",
                index.folder,
                unknown.sum(),
                chosen.sum(),
                vocabulary.source,
                index.rating_label[unknown][0],
            )
        self.offset, self.context = offset, context
        self.starts, self.classes = index.rating_start[ratings], classes[ratings]
        self.scores = index.rating_score[ratings]
        self._known = _known_classes(index, vocabulary)
        self.n_classes = len(vocabulary)

    def __getitems__(self, keys: Sequence[Key]) -> SegmentBatch:
        from yt8m.data import native_reading

        epochs, examples = _columns(keys)
        records = self.records[examples]
        # A batch that spans two epochs may need a video twice, with different frames.
        videos_of_epochs, video_of_rating = np.unique(epochs * len(self.index) + records, return_inverse=True)
        epoch, record = np.divmod(videos_of_epochs, len(self.index))
        sample = self._sample(record, epoch) if self.context else None
        size, width = len(keys), self.reader.frame_dim
        specs: list[ArraySpec] = [
            ((size, SEGMENT_SECONDS + 2 * self.offset, width), np.uint8),
            ((size,), np.int64),
            ((size,), self.scores.dtype.type),
            ((size, self.n_classes), np.bool_),
            ((size,), np.int64),
            ((2,), np.int64),
            *([] if sample is None else PackedFrames.specs(sample[0], width)),
        ]
        memory, arrays = allocate(specs, self.pinned)
        segments, classes, scores, negatives, video_index, totals = arrays[:6]
        met = self._read_segments(records, self.starts[examples], segments)
        videos = None
        if sample is not None:
            videos, videos_met = self._read_videos(record, sample, arrays[6:])
            met &= videos_met[video_of_rating]
        if not met.all():
            return self.__getitems__(_readable(keys, met))
        n_known = native_reading.mark_classes(negatives, True, records, *self._known)
        classes[:], scores[:], video_index[:] = self.classes[examples], self.scores[examples], video_of_rating
        totals[:] = size, negatives.size - n_known
        return SegmentBatch(
            torch.from_numpy(segments),
            torch.from_numpy(classes),
            torch.from_numpy(scores),
            torch.from_numpy(negatives),
            videos,
            torch.from_numpy(video_index),
            records,
            torch.from_numpy(totals),
            memory,
        )

    def _read_segments(self, records: np.ndarray, starts: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Read expanded segments: frames [start − offset, start + 5 + offset), zeros beyond the video.

        `segments`: the target, (S, 5 + 2·offset, D) uint8. Returns which could be read, (S,) bool.
        """
        from yt8m.data import native_reading

        length = segments.shape[1]
        firsts = starts.astype(np.int64) - self.offset
        lacking = np.maximum(-firsts, 0)  # at the head
        ends = np.minimum(firsts + length, self.n_frames[records])
        kept = ends - firsts - lacking
        for row in np.flatnonzero(kept < length).tolist():
            segments[row, : lacking[row]] = 0
            segments[row, lacking[row] + kept[row] :] = 0
        stops = np.cumsum(kept)
        seconds = np.empty(stops[-1] if stops.size else 0, np.int64)
        native_reading.list_seconds(firsts + lacking, stops, seconds)
        rows = Rows(records, seconds, stops - kept, stops, np.arange(len(records)) * length + lacking)
        return self.reader.read_rows(rows, segments.reshape(-1, self.reader.frame_dim))


def _known_classes(index: Index, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """The labelled or rated classes of each record: a ragged array and its ends."""
    owners = np.concatenate([index.owners(index.label_ends), index.owners(index.rating_ends)])
    classes = np.concatenate([vocabulary.classes(index.labels), vocabulary.classes(index.rating_label)])
    owners, classes = owners[classes >= 0], classes[classes >= 0]
    order = np.argsort(owners, kind="stable")
    return classes[order], np.cumsum(np.bincount(owners, minlength=len(index)))


class WholeVideoDataset(ShardDataset[list[tuple[int, Tensor]]]):
    """All frames of test videos: whole records with verified checksums.

    `records`: rows of the index, in order. A batch is a list of (example, frames (L, D) uint8), without unreadable
    videos.
    """

    def __init__(self, index: Index, records: np.ndarray, damage: Damage = RAISE) -> None:
        super().__init__(index, records, -1, None, damage)

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[int, Tensor]]:
        examples = [example for _, example in keys]
        requests = []
        for record in self.records[examples].tolist():
            _, (frames,) = allocate([((int(self.n_frames[record]), self.reader.frame_dim), np.uint8)], self.pinned)
            requests.append(Frames(record, slice(0, len(frames)), frames))
        met = self.reader.read(requests, whole=True)
        return [
            (example, torch.from_numpy(request.out))
            for example, request, whole in zip(examples, requests, met)
            if whole
        ]


def read_shard(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read a .tfrecord file: id and frames (L, D) uint8 of each video in turn; one frame per second, rgb then audio.

    Checksums are verified. Raises `UserError` unless the file is an undamaged shard of frame-level features.
    """
    index = index_file(Path(path))
    dataset = WholeVideoDataset(index, np.arange(len(index)))
    for number, video_id in enumerate(index.video_id.tolist()):
        ((_, frames),) = dataset.__getitems__([(0, number)])
        yield video_id.decode(errors="replace"), frames.numpy()
