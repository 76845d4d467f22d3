"""The plain way to load the shards, written from the description of the 2019 release.

`tf.data.TFRecordDataset` -> `SequenceExample.FromString` -> `decode_raw` -> float32 -> pad. Every record is decoded
completely, however little of it is used; workers are processes, each with its own shards.
"""

# pylint: disable=abstract-method  # torch's iterable data sets have no __getitem__
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from yt8m.data.frames import CANDIDATES, HEAD_SEGMENTS, SEGMENT_SECONDS, context_frames


def import_tensorflow() -> ModuleType:
    """Import TensorFlow, suppressing what it writes to standard error at its start, bypassing Python."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # and afterwards
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class PlainRecords(IterableDataset):
    """A decoder of the records in the shards of one folder."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.tfrecord"))

    def __iter__(self) -> Iterator[Any]:
        return self.records()

    def records(self) -> Iterator[dict[str, np.ndarray]]:
        """Frames (n, 1152) float32 and start seconds of ratings, of every record of this worker's shards."""
        tf = import_tensorflow()
        worker = get_worker_info()
        paths = self.paths if worker is None else self.paths[worker.id :: worker.num_workers]
        for raw in tf.data.TFRecordDataset([str(path) for path in paths]):
            example = tf.train.SequenceExample.FromString(raw.numpy())
            context, lists = example.context.feature, example.feature_lists.feature_list
            rgb, audio = (
                tf.io.decode_raw([frame.bytes_list.value[0] for frame in lists[key].feature], tf.uint8).numpy()
                for key in ("rgb", "audio")
            )
            yield {
                "frames": np.concatenate([rgb, audio], axis=1).astype(np.float32),
                "starts": np.array(context["segment_start_times"].int64_list.value, int),
            }


class PlainVideos(PlainRecords):
    """Videos without head and tail, (L, 1152) float32."""

    def __iter__(self) -> Iterator[Tensor]:
        for record in self.records():
            start, stop = context_frames(len(record["frames"]))
            yield torch.from_numpy(record["frames"][start:stop])


class PlainSegments(PlainRecords):
    """Expanded rated segments (11, 1152) float32; with `context` each comes with its video."""

    def __init__(self, folder: Path, offset: int, context: bool) -> None:
        super().__init__(folder)
        self.offset, self.context = offset, context

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for record in self.records():
            frames = torch.from_numpy(record["frames"])
            video = frames[slice(*context_frames(len(frames)))] if self.context else None
            for start in record["starts"]:
                yield expanded(frames, int(start), self.offset), video


class PlainTestSegments(PlainRecords):
    """All candidate segments of test videos, expanded, (S, 11, 1152) float32 per video."""

    def __init__(self, folder: Path, offset: int) -> None:
        super().__init__(folder)
        self.offset = offset

    def __iter__(self) -> Iterator[Tensor]:
        for record in self.records():
            frames = torch.from_numpy(record["frames"])
            n_segments = int(CANDIDATES.count_left(np.array(len(frames))))
            yield torch.stack(
                [expanded(frames, (HEAD_SEGMENTS + row) * SEGMENT_SECONDS, self.offset) for row in range(n_segments)]
            )


def expanded(frames: Tensor, start: int, offset: int) -> Tensor:
    """Frames [start - offset, start + 5 + offset), zeros beyond the video."""
    first, last = start - offset, start + SEGMENT_SECONDS + offset
    inside = frames[max(first, 0) : last]
    return torch.nn.functional.pad(inside, (0, 0, max(-first, 0), max(last - len(frames), 0)))


def pad_videos(videos: list[Tensor]) -> Tensor:
    """Videos padded to the longest, (B, L, 1152)."""
    return pad_sequence(videos, batch_first=True)


def pad_segments(items: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """A batch of segments, and the video of each of them padded to the longest."""
    segments, videos = zip(*items)
    return torch.stack(segments), None if videos[0] is None else pad_sequence(videos, batch_first=True)
