"""Reading frames of indexed records with a bounded number of open shards."""

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
from yt8m.data.sequence_example import FrameBlock, block_span, frame_header, read_frames, read_unusual_frames

_NO_FILE = -1


class Frames(NamedTuple):
    """A request for frames of a record: a slice or ascending numbers, and the target, (frames, D) uint8."""

    record: int
    selection: slice | np.ndarray
    out: np.ndarray


class Rows(NamedTuple):
    """A request for frames of V records in rows of one array. All fields are int64.

    The frames `seconds[begins[v]:ends[v]]`, ascending, of `records[v]` go to rows of the array from `rows[v]` on.
    `seconds` is (N,), the others (V,).
    """

    records: np.ndarray
    seconds: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    rows: np.ndarray

    def part(self, first: int, stop: int) -> "Rows":
        """The request for the records `first` to `stop`."""
        chosen = slice(first, stop)
        return Rows(self.records[chosen], self.seconds, self.begins[chosen], self.ends[chosen], self.rows[chosen])


@dataclass(frozen=True, eq=False)
class _Feature:
    """A feature of the records: start and number of its frames in each, (R,), their width, and their columns in a
    frame."""

    start: np.ndarray
    count: np.ndarray
    width: int
    columns: slice


class ShardReader:
    """Reads frames of indexed records with a bounded number of open shards. Thread-safe.

    Opening a shard costs as much as reading a segment, so shards stay open: up to `MAX_OPEN`, and up to a quarter of
    the process's limit of open files, which is raised as needed, up to the hard limit (`ulimit -Hn`).
    """

    MAX_OPEN = 4096

    def __init__(self, index: Index, damage: Damage = RAISE) -> None:
        self.index, self.damage = index, damage
        self.widths = _common_widths(index, damage.skip)
        self._features = _features(index, self.widths)
        self._odd = _other_widths(index, self.widths) if damage.skip else None
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._max_open = min(self.MAX_OPEN, max(1, _open_files(4 * self.MAX_OPEN) // 4))
        self._most_held = max(1, self._max_open // 4)  # by one thread; held shards stay open
        self._lock = threading.Lock()
        self._stay_open = len(index.shards) <= self._max_open
        self._descriptors = np.full(len(index.shards), _NO_FILE, np.int32)  # of open shards, if they stay open

    @property
    def frame_dim(self) -> int:
        """Width of a frame: rgb and any audio side by side."""
        return sum(self.widths)

    @cached_property
    def features(self) -> FeatureContract:
        """The feature contract, see `yt8m.data.features`. Raises `UserError`."""
        return read_contract(self.index.folder, *self.widths)

    def require_widths(self, rgb: int, audio: int) -> None:
        """Raise `UserError` if a configuration's feature widths differ from the data's."""
        if self.widths != (rgb, audio):
            raise UserError(
                f"{self.index.folder}: features are {self.widths[0]} (rgb) and {self.widths[1]} (audio) wide, the "
                f"model is made for {rgb} and {audio}; set video_dim and audio_dim in its configuration"
            )

    def read(self, requests: Sequence[Frames], whole: bool = False) -> np.ndarray:
        """Copy frames of records into each request's target, after announcing all reads to the system.

        `whole` reads whole records and verifies their checksums. Returns which requests succeeded, (requests,) bool:
        all, unless damage is skipped. Raises `RecordError`.
        """
        met = np.ones(len(requests), bool)
        blocks: list[list[FrameBlock] | None] = [None] * len(requests)
        for row, request in enumerate(requests):
            try:
                blocks[row] = self._announce(request, whole)
            except RecordError as error:
                self.damage.handle(error)
                met[row] = False
        # Shards are not held in between: there may be more of them than the limit of open files.
        for row in np.flatnonzero(met).tolist():
            try:
                self._copy(requests[row], whole, blocks[row])
            except RecordError as error:
                self.damage.handle(error)
                met[row] = False
        return met

    def read_rows(self, rows: Rows, out: np.ndarray) -> np.ndarray:
        """Copy frames of many records into `out` (M, D) uint8, like `read` but without the GIL.

        Returns which records could be read, (V,) bool: all, unless damage is skipped. Raises `RecordError`, and
        `ValueError` for rows outside `out`.
        """
        if rows.rows.min(initial=0) < 0 or (rows.rows + rows.ends - rows.begins).max(initial=0) > len(out):
            raise ValueError(f"rows beyond an array of {len(out)}")
        met = np.zeros(len(rows.records), bool)
        for first in range(0, len(met), self._most_held):
            stop = first + self._most_held
            self._read_rows(rows.part(first, stop), out, met[first:stop])
        return met

    def _read_rows(self, rows: Rows, out: np.ndarray, met: np.ndarray) -> None:
        """Read rows of at most `_most_held` records, and set in `met` which could be read."""
        from yt8m.data import native_reading

        files, shards = self._files(rows.records)
        payloads = self.index.offset[rows.records] + HEADER_BYTES
        starts = [feature.start[rows.records] for feature in self._features]
        for start in starts:
            files[start == UNUSUAL] = _NO_FILE
        native_reading.read_frames(
            files,
            np.stack([payloads + start for start in starts]),
            *self._layout,
            rows.seconds,
            rows.begins,
            rows.ends,
            rows.rows,
            out,
            met,
            np.empty(native_reading.PIECE + sum(self.widths), np.uint8),
        )
        del shards  # so that evicted ones close
        if met.all():
            return
        others = np.flatnonzero(~met)  # `read` handles or reports whatever is wrong
        requests = []
        for row in others.tolist():
            seconds = rows.seconds[rows.begins[row] : rows.ends[row]]
            place = slice(rows.rows[row], rows.rows[row] + len(seconds))
            requests.append(Frames(int(rows.records[row]), seconds, out[place]))
        met[others] = self.read(requests)

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Widths of the features, (F,), the bytes before each of their frames, (F, longest), and how many, (F,)."""
        headers = [frame_header(feature.width) for feature in self._features]
        sizes = np.array([len(header) for header in headers])
        padded = [list(header.ljust(sizes.max(), b"\0")) for header in headers]
        return np.array([feature.width for feature in self._features]), np.array(padded, np.uint8), sizes

    def _files(self, records: np.ndarray) -> tuple[np.ndarray, list[Shard | None]]:
        """The file descriptors of the shards of some records, (V,) int32, and the shards, which keep them open.

        `_NO_FILE` marks records left to `read`.
        """
        files = self._descriptors[self.index.shard[records]]
        shards: list[Shard | None] = []
        if (files == _NO_FILE).any():
            files, shards = self._held_files(records)
        if self._odd is not None:
            files[self._odd[records]] = _NO_FILE
        return files, shards

    def _held_files(self, records: np.ndarray) -> tuple[np.ndarray, list[Shard | None]]:
        """See `_files`; opens shards, and holds them all."""
        numbers = self.index.shard[records].tolist()
        shards: list[Shard | None]
        with self._lock:
            shards = [self._open.get(number) for number in numbers]
            for number, shard in zip(numbers, shards):
                if shard is not None:
                    self._open.move_to_end(number)
        for row, shard in enumerate(shards):
            if shard is None:
                try:
                    shards[row] = self._shard(int(records[row]))
                except RecordError:
                    pass
        return np.array([_NO_FILE if shard is None else shard.fileno() for shard in shards], np.int32), shards

    def _announce(self, request: Frames, whole: bool) -> list[FrameBlock] | None:
        """Announce the bytes of a request to the system.

        Returns the place of each feature's frames in the payload; None for an unusual layout.
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
            raise index.error(record, "the frames do not match the size of their lists")
        for frames, feature in zip(found, self._features):
            out[:, feature.columns] = frames[selection]

    def _place(self, shard: Shard, record: int) -> tuple[Shard, int, int, Path, bytes]:
        """Where a record lies, and its video id."""
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
                if self._stay_open:
                    self._descriptors[number] = shard.fileno()
        return shard


def _open_files(wanted: int) -> int:
    """Raise the process's limit of open files towards `wanted`; return it, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = (wanted if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if allowed < min(wanted, most):
        allowed = min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return min(allowed, wanted)


def _features(index: Index, widths: tuple[int, int]) -> list[_Feature]:
    """The features of a folder: rgb and, unless the data set has none, audio."""
    rgb, audio = widths
    found = [_Feature(index.rgb_start, index.rgb_count, rgb, slice(0, rgb))]
    if audio:
        found.append(_Feature(index.audio_start, index.audio_count, audio, slice(rgb, rgb + audio)))
    return found


def _common_widths(index: Index, majority: bool) -> tuple[int, int]:
    """Widths of rgb and audio frames (0: no audio): those of all records, or of most with `majority`.

    Raises `RecordError` naming a record that differs, and `UserError` if no record has rgb.
    """
    widths = []
    for key in ("rgb", "audio"):
        width = getattr(index, f"{key}_width")[getattr(index, f"{key}_count") > 0]
        if not width.size:
            if key == "rgb":
                raise UserError(
                    f"{index.folder}: no record has any frame of rgb; expected shards with the feature list rgb and, "
                    "if there is sound, audio, one frame per second"
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
    """Which records have frames of other widths, (R,) bool."""
    return ((index.rgb_count > 0) & (index.rgb_width != widths[0])) | (
        (index.audio_count > 0) & (index.audio_width != widths[1])
    )


def _odd_frames(index: Index, record: int, whose: str, rgb: int, audio: int) -> RecordError:
    return index.error(
        record,
        f"frames are {index.rgb_width[record]} (rgb) and {index.audio_width[record]} (audio) "
        f"wide, those {whose} {rgb} and {audio}",
    )
