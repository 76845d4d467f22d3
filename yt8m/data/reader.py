"""Frames of indexed records, copied straight from memory-mapped shards."""

import mmap
import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from yt8m.common.config import FeatureContract
from yt8m.common.errors import RecordError, UserError
from yt8m.data.damage import RAISE, Damage
from yt8m.data.features import read_contract
from yt8m.data.index import UNUSUAL, Index
from yt8m.data.records import (
    FOOTER_BYTES,
    HEADER_BYTES,
    FrameBlock,
    block_span,
    map_shard,
    read_frames,
    read_payload,
    read_unusual_frames,
    will_need,
)


class Frames(NamedTuple):
    """Which frames of a record to read, a slice or ascending numbers, and where to, (frames, D) uint8."""

    record: int
    selection: slice | np.ndarray
    out: np.ndarray


class _Place(NamedTuple):
    """Where the frames of a record lie: in which map, and for the usual layout where in the payload, per feature."""

    buffer: mmap.mmap
    blocks: list[FrameBlock] | None


@dataclass(frozen=True, eq=False)
class _Feature:
    """A feature that the records have: start and number of its frames in each, (R,), their width, and which columns
    of a frame they are."""

    start: np.ndarray
    count: np.ndarray
    width: int
    columns: slice


class ShardReader:
    """Reads frames of indexed records from memory-mapped shards, a bounded number of them open at a time.

    Opening a shard costs as much as reading a segment, so they stay open: up to `MAX_OPEN`, and up to a quarter
    of the files that the process may have open. That limit is raised as far as the process may raise it itself
    (`ulimit -Hn`). May be used by several threads at once.
    """

    MAX_OPEN = 4096

    def __init__(self, index: Index, damage: Damage = RAISE) -> None:
        self.index, self.damage = index, damage
        self.widths = _common_widths(index, damage.skip)
        self._features = _features(index, self.widths)
        self._odd = _other_widths(index, self.widths) if damage.skip else None
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._max_open = min(self.MAX_OPEN, max(1, _open_files(4 * self.MAX_OPEN) // 4))
        self._lock = threading.Lock()

    @property
    def frame_dim(self) -> int:
        """Width of a frame, rgb and audio, if there is any, side by side."""
        return sum(self.widths)

    @cached_property
    def features(self) -> FeatureContract:
        """What the features are, see `yt8m.data.features`. Raises `UserError`."""
        return read_contract(self.index.folder, *self.widths)

    def require_widths(self, rgb: int, audio: int) -> None:
        """Raise `UserError` where a configuration is for other feature widths than the data has."""
        if self.widths != (rgb, audio):
            raise UserError(
                f"{self.index.folder}: features are {self.widths[0]} (rgb) and {self.widths[1]} (audio) wide, the "
                f"model is made for {rgb} and {audio}; set video_dim and audio_dim in its configuration"
            )

    def read(self, requests: Sequence[Frames], whole: bool = False) -> np.ndarray:
        """Copy frames of records to where each request says, having the system read for all requests at once.

        `whole` says that whole records are read: their checksums are verified. Returns which requests were
        met, (requests,) bool: all of them, unless damage is skipped. Raises `RecordError`.
        """
        met = np.ones(len(requests), bool)
        places: list[_Place | None] = [None] * len(requests)
        for row, request in enumerate(requests):
            try:
                places[row] = self._locate(request, whole)
            except RecordError as error:
                self.damage.meet(error)
                met[row] = False
        for row, (request, place) in enumerate(zip(requests, places)):
            if place is not None:
                try:
                    if whole:
                        self._payload(place.buffer, request.record)
                    self._copy(request, place)
                except RecordError as error:
                    self.damage.meet(error)
                    met[row] = False
        return met

    def _locate(self, request: Frames, whole: bool) -> _Place:
        """Find the frames of a request and have the system read them."""
        index, (record, selection, out) = self.index, request
        if self._odd is not None and self._odd[record]:
            raise _odd_frames(index, record, "of most records", *self.widths)
        buffer = self._buffer(record)
        offset, length = int(index.offset[record]), int(index.length[record])
        starts = [int(feature.start[record]) for feature in self._features]
        usual = UNUSUAL not in starts
        if whole or not usual:
            will_need(buffer, offset, offset + HEADER_BYTES + length + FOOTER_BYTES)
        if not usual:
            return _Place(buffer, None)
        blocks = [
            FrameBlock(start, int(feature.count[record]), feature.width)
            for start, feature in zip(starts, self._features)
        ]
        if out.size and not whole:
            first, stop = (
                (selection.start, selection.stop)
                if isinstance(selection, slice)
                else (int(selection[0]), int(selection[-1]) + 1)
            )
            for block in blocks:
                will_need(buffer, *block_span(offset + HEADER_BYTES, block, first, stop))
        return _Place(buffer, blocks)

    def _copy(self, request: Frames, place: _Place) -> None:
        index, (record, selection, out) = self.index, request
        if not out.size:
            return
        if place.blocks is not None:
            start = int(index.offset[record]) + HEADER_BYTES
            if all(
                read_frames(place.buffer, start, block, selection, out[:, feature.columns])
                for block, feature in zip(place.blocks, self._features)
            ):
                return
        found = read_unusual_frames(
            place.buffer,
            int(index.offset[record]),
            int(index.length[record]),
            index.path(record),
            bytes(index.video_id[record]),
        )
        expected = [(index.rgb_count[record], self.widths[0]), (index.audio_count[record], self.widths[1])]
        if [frames.shape for frames in found] != expected:
            raise index.error(record, "holds other frames than the size of its lists says")
        for frames, feature in zip(found, self._features):
            out[:, feature.columns] = frames[selection]

    def _payload(self, buffer: mmap.mmap, record: int) -> memoryview:
        index = self.index
        return read_payload(
            buffer,
            int(index.offset[record]),
            int(index.length[record]),
            index.path(record),
            bytes(index.video_id[record]),
        )

    def _buffer(self, record: int) -> mmap.mmap:
        """The mapped shard of a record, opened if need be."""
        index = self.index
        shard = int(index.shard[record])
        with self._lock:
            buffer = self._open.get(shard)
            if buffer is not None:
                self._open.move_to_end(shard)
        if buffer is None:
            buffer = map_shard(index.path(record), index.stamps[shard])  # other threads need not wait for a slow disk
            with self._lock:
                buffer = self._open.setdefault(shard, buffer)
                self._open.move_to_end(shard)
                if len(self._open) > self._max_open:
                    self._open.popitem(last=False)
        if buffer.size() != len(buffer):  # touching what has been cut off would kill the process
            raise index.error(record, "the shard has changed its size since it was opened; run the command again")
        return buffer


def _open_files(wanted: int) -> int:
    """How many files the process may have open, at most `wanted`, having raised its limit to that as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = (wanted if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if allowed < min(wanted, most):
        allowed = min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return min(allowed, wanted)


def _features(index: Index, widths: tuple[int, int]) -> list[_Feature]:
    """The features of a folder, rgb and, unless it is a data set without, audio."""
    rgb, audio = widths
    found = [_Feature(index.rgb_start, index.rgb_count, rgb, slice(0, rgb))]
    if audio:
        found.append(_Feature(index.audio_start, index.audio_count, audio, slice(rgb, rgb + audio)))
    return found


def _common_widths(index: Index, majority: bool) -> tuple[int, int]:
    """Widths of rgb and audio frames: the same in all records, or with `majority` those of most.

    That of audio is 0 where no record has any. Raises `RecordError` naming a record that differs.
    """
    widths = []
    for key in ("rgb", "audio"):
        width = getattr(index, f"{key}_width")[getattr(index, f"{key}_count") > 0]
        if not width.size:
            if key == "rgb":
                raise UserError(
                    f"{index.folder}: no record has any frame of rgb; wanted are shards with the feature list rgb and, "
                    "where there is sound, audio, a frame a second"
                )
            widths.append(0)
            continue
        found, sizes = np.unique(width, return_counts=True)
        widths.append(int(found[np.argmax(sizes)]))
    common = widths[0], widths[1]
    other = _other_widths(index, common)
    if other.any() and not majority:
        odd, usual = int(np.argmax(other)), int(np.argmax(~other & (index.n_frames > 0)))
        raise _odd_frames(
            index,
            odd,
            f"of {index.path(usual)}, record at byte {index.offset[usual]},",
            index.rgb_width[usual],
            index.audio_width[usual],
        )
    return common


def _other_widths(index: Index, widths: tuple[int, int]) -> np.ndarray:
    """Which records have frames of another width, (R,) bool."""
    return ((index.rgb_count > 0) & (index.rgb_width != widths[0])) | (
        (index.audio_count > 0) & (index.audio_width != widths[1])
    )


def _odd_frames(index: Index, record: int, whose: str, rgb: int, audio: int) -> RecordError:
    return index.error(
        record,
        f"frames are {index.rgb_width[record]} (rgb) and {index.audio_width[record]} (audio) "
        f"wide, those {whose} {rgb} and {audio}",
    )
