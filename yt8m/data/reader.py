"""Frames of indexed records, read from shards of which a bounded number is open."""

import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yt8m.common.config import FeatureContract
from yt8m.common.errors import RecordError, UserError
from yt8m.data.features import read_contract
from yt8m.data.index import UNUSUAL, Index
from yt8m.data.records import FOOTER_BYTES, HEADER_BYTES, RAISE, Damage, Shard, open_shard, read_payload
from yt8m.data.sequence_example import FrameBlock, block_span, read_frames, read_unusual_frames


class Frames(NamedTuple):
    """Which frames of a record to read, a slice or ascending numbers, and where to, (frames, D) uint8."""

    record: int
    selection: slice | np.ndarray
    out: np.ndarray


@dataclass(frozen=True, eq=False)
class _Feature:
    """A feature that the records have: start and number of its frames in each, (R,), their width, and which columns
    of a frame they are."""

    start: np.ndarray
    count: np.ndarray
    width: int
    columns: slice


class ShardReader:
    """Reads frames of indexed records, a bounded number of their shards open at a time.

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
        self._open: OrderedDict[int, Shard] = OrderedDict()
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
        blocks: list[list[FrameBlock] | None] = [None] * len(requests)
        for row, request in enumerate(requests):
            try:
                blocks[row] = self._announce(request, whole)
            except RecordError as error:
                self.damage.meet(error)
                met[row] = False
        # Shards are not held from there to here: there may be more of them than files that may be open.
        for row in np.flatnonzero(met).tolist():
            try:
                self._copy(requests[row], whole, blocks[row])
            except RecordError as error:
                self.damage.meet(error)
                met[row] = False
        return met

    def _announce(self, request: Frames, whole: bool) -> list[FrameBlock] | None:
        """Have the system read what a request is about.

        Returns where in the payload the frames of each feature lie; None for an unusual layout.
        """
        index, (record, selection, out) = self.index, request
        if self._odd is not None and self._odd[record]:
            raise _odd_frames(index, record, "of most records", *self.widths)
        shard = self._shard(record)
        start = int(index.offset[record]) + HEADER_BYTES
        starts = [int(feature.start[record]) for feature in self._features]
        usual = UNUSUAL not in starts
        if whole or not usual:
            shard.will_need(start, start + int(index.length[record]) + FOOTER_BYTES)
        if not usual:
            return None
        blocks = [
            FrameBlock(begin, int(feature.count[record]), feature.width)
            for begin, feature in zip(starts, self._features)
        ]
        if out.size and not whole:
            for block in blocks:
                shard.will_need(*block_span(start, block, selection))
        return blocks

    def _copy(self, request: Frames, whole: bool, blocks: list[FrameBlock] | None) -> None:
        index, (record, selection, out) = self.index, request
        if not (whole or out.size):
            return
        shard = self._shard(record)
        if blocks is not None:
            buffer, start = (
                (read_payload(*self._place(shard, record)), 0)
                if whole
                else (shard, int(index.offset[record]) + HEADER_BYTES)
            )
            if not out.size or all(
                read_frames(buffer, start, block, selection, out[:, feature.columns])
                for block, feature in zip(blocks, self._features)
            ):
                return
        found = read_unusual_frames(*self._place(shard, record))
        expected = [(index.rgb_count[record], self.widths[0]), (index.audio_count[record], self.widths[1])]
        if [frames.shape for frames in found] != expected:
            raise index.error(record, "holds other frames than the size of its lists says")
        for frames, feature in zip(found, self._features):
            out[:, feature.columns] = frames[selection]

    def _place(self, shard: Shard, record: int) -> tuple[Shard, int, int, Path, bytes]:
        """Where a record lies, and whose it is."""
        index = self.index
        return shard, int(index.offset[record]), int(index.length[record]), shard.path, bytes(index.video_id[record])

    def _shard(self, record: int) -> Shard:
        """The shard of a record, opened if need be."""
        index = self.index
        number = int(index.shard[record])
        with self._lock:
            shard = self._open.get(number)
            if shard is not None:
                self._open.move_to_end(number)
        if shard is None:
            shard = open_shard(index.path(record), index.stamps[number])  # other threads need not wait for a slow disk
            with self._lock:
                shard = self._open.setdefault(number, shard)
                self._open.move_to_end(number)
                if len(self._open) > self._max_open:
                    self._open.popitem(last=False)
        return shard


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
