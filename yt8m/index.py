"""What lies where in a folder of shards: one pass over headers and contexts, remembered in a cache.

The index of a folder holds for every record its shard, offset, id, labels, ratings and the place of its
frames. It is kept in `cache/index/` beside the name, size and modification time of each shard, so that
a changed or added shard is read again and nothing else is.
"""
import logging
import mmap
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from yt8m.errors import RecordError, UserError
from yt8m.files import replacing
from yt8m.records import (
    FOOTER_BYTES, HEADER_BYTES, FrameBlock, parse_record, read_frames, read_payload, read_unusual_frames,
    record_spans)

LOGGER = logging.getLogger(__name__)
FORMAT_VERSION = 1
_SHARDS_WORTH_A_PROCESS = 16
_UNUSUAL = -1


@dataclass(frozen=True)
class Index:
    """Records of a folder of shards, in the order of sorted shard names and then of offsets.

    R records: `shard` (R,) row in `shards`; `offset`, `length` (R,) of the record and its payload in
    bytes; `video_id` (R,) bytes; `n_frames` (R,) seconds that have both features; per feature the place
    of the frames in the payload (R,), -1 where TensorFlow has to decode, how many there are, and their
    width in bytes. Labels of record r are `labels[label_ends[r-1]:label_ends[r]]`, ratings likewise.
    """

    folder: Path
    shards: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    video_id: np.ndarray
    rgb_start: np.ndarray
    rgb_count: np.ndarray
    rgb_width: np.ndarray
    audio_start: np.ndarray
    audio_count: np.ndarray
    audio_width: np.ndarray
    labels: np.ndarray
    label_ends: np.ndarray
    rating_start: np.ndarray
    rating_label: np.ndarray
    rating_score: np.ndarray
    rating_ends: np.ndarray

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def n_frames(self) -> np.ndarray:
        """Seconds of each record that have both features, (R,)."""
        return np.minimum(self.rgb_count, self.audio_count)

    def owners(self, ends: np.ndarray) -> np.ndarray:
        """The record that each entry of a ragged array belongs to, from the array's `ends`."""
        return np.repeat(np.arange(len(self)), np.diff(ends, prepend=0))

    def of_record(self, record: int, values: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The entries of a ragged array that belong to one record."""
        return values[ends[record - 1] if record else 0:ends[record]]

    def describe(self, record: int) -> str:
        """File, offset and video id of a record, for messages."""
        path = self.folder / self.shards[self.shard[record]]
        return f"{path}: record at byte {self.offset[record]}, video {self.video_id[record].decode(errors='replace')}"


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, sorted by name. Raises `UserError` if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the .tfrecord shards there or set --data-dir")
    paths = sorted(path for path in folder.glob("*.tfrecord") if path.is_file())
    if not paths:
        raise UserError(f"{folder}: no .tfrecord files in this folder")
    return paths


def load_index(folder: Path, cache_dir: Path) -> Index:
    """The index of all shards of `folder`, from the cache as far as it still holds.

    Raises `UserError` for a missing or empty folder and `RecordError` for a damaged shard.
    """
    paths = shard_paths(folder)
    stamps = np.array([(path.stat().st_size, path.stat().st_mtime_ns) for path in paths], np.int64)
    cache = cache_dir / "index" / f"{folder.parent.name}-{folder.name}.npz"
    tables = _cached_tables(cache, paths, stamps)
    missing = [path for path in paths if path.name not in tables]
    if missing:
        jobs = max(1, min(os.cpu_count() or 1, len(missing) // _SHARDS_WORTH_A_PROCESS))
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
        read = parallel(joblib.delayed(_scan_shard)(path) for path in missing)
        progress = tqdm(zip(missing, read), f"indexing {folder}", len(missing), unit="shard", disable=None)
        tables.update((path.name, table) for path, table in progress)
    arrays = _merge([tables[path.name] for path in paths])
    names = np.array([path.name for path in paths])
    if missing:
        try:
            with replacing(cache) as temporary, temporary.open("wb") as file:
                np.savez(file, version=FORMAT_VERSION, shards=names, stamps=stamps, **arrays)
        except OSError as error:
            LOGGER.warning("the index of %s is not kept: %s", folder, error)
    return Index(folder=folder, shards=names, **arrays)


_RECORD_ARRAYS = {"shard": np.int32, "offset": np.int64, "length": np.int32, "rgb_start": np.int32,
                  "rgb_count": np.int32, "rgb_width": np.int32, "audio_start": np.int32,
                  "audio_count": np.int32, "audio_width": np.int32, "label_ends": np.int64,
                  "rating_ends": np.int64}
_RAGGED = {"label_ends": {"labels": np.int32},
           "rating_ends": {"rating_start": np.int32, "rating_label": np.int32, "rating_score": np.float32}}


def _scan_shard(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an index for one shard (`shard` is 0)."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise RecordError(f"{path}: empty file; download the shard again")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    records = [parse_record(buffer, offset, length, path) for offset, length in record_spans(buffer, path)]
    table = {"shard": np.zeros(len(records), np.int32),
             "video_id": np.array([record.video_id for record in records], np.bytes_)}
    for name in ("offset", "length", "rgb_count", "rgb_width", "audio_count", "audio_width"):
        table[name] = np.array([getattr(record, name) for record in records], _RECORD_ARRAYS[name])
    for key in ("rgb", "audio"):
        blocks = [getattr(record, key) for record in records]
        starts = [_UNUSUAL if block is None else block.start for block in blocks]
        table[f"{key}_start"] = np.array(starts, np.int32)
    for ends, values in _RAGGED.items():
        for name, kind in values.items():
            entries = np.concatenate([getattr(record, name) for record in records])
            if kind == np.int32:
                entries = entries.clip(-2**31, 2**31 - 1)  # no label or second is out there; stay unknown
            table[name] = entries.astype(kind)
        table[ends] = np.cumsum([len(getattr(record, next(iter(values)))) for record in records])
    return table


def _cached_tables(cache: Path, paths: list[Path], stamps: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The tables of those shards that the cache knows and that have not changed since, by name."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            stored = dict(file)
        if stored["version"] != FORMAT_VERSION:
            return {}
    except FileNotFoundError:
        return {}
    except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged zip file raises
        LOGGER.warning("%s cannot be read (%s); the shards are indexed anew", cache, error)
        return {}
    known = {name: row for row, name in enumerate(stored["shards"])}
    tables = {}
    for path, stamp in zip(paths, stamps):
        row = known.get(path.name)
        if row is not None and (stored["stamps"][row] == stamp).all():
            tables[path.name] = _table_of_shard(stored, row)
    return tables


def _table_of_shard(stored: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    first, last = np.searchsorted(stored["shard"], [row, row + 1])
    table = {name: stored[name][first:last] for name in (*_RECORD_ARRAYS, "video_id")}
    table["shard"] = np.zeros(last - first, np.int32)
    for ends, values in _RAGGED.items():
        begin = stored[ends][first - 1] if first else 0
        stop = stored[ends][last - 1] if last else 0
        table[ends] = table[ends] - begin
        table.update((name, stored[name][begin:stop]) for name in values)
    return table


def _merge(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tables of all shards as one, `shard` numbering them."""
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    sizes = [len(table["offset"]) for table in tables]
    merged["shard"] = np.repeat(np.arange(len(tables), dtype=np.int32), sizes)
    for ends, (values, *_) in _RAGGED.items():
        before = np.cumsum([0] + [len(table[values]) for table in tables[:-1]])
        merged[ends] = merged[ends] + np.repeat(before, sizes)
    return merged


class ShardReader:
    """Reads frames of indexed records from memory-mapped shards, a bounded number of them open at a time.

    May be sent to another process, where it opens the shards again.
    """

    MAX_OPEN = 128

    def __init__(self, index: Index) -> None:
        self.index = index
        self.widths = _common_widths(index)
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def frame_dim(self) -> int:
        """Width of a frame, rgb and audio side by side."""
        return sum(self.widths)

    def require_widths(self, rgb: int, audio: int) -> None:
        """Raise `UserError` where a model is made for other feature widths than the data has."""
        if self.widths != (rgb, audio):
            raise UserError(
                f"{self.index.folder}: features are {self.widths[0]} (rgb) and {self.widths[1]} (audio) wide, the "
                f"model is made for {rgb} and {audio}; set video_dim and audio_dim in its configuration")

    def read(self, record: int, selection: slice | np.ndarray, out: np.ndarray) -> None:
        """Copy the selected frames of a record into `out`, uint8 (frames, rgb width + audio width)."""
        if not out.size:
            return
        index = self.index
        buffer = self._buffer(index.shard[record])
        offset, length = int(index.offset[record]), int(index.length[record])
        if offset + HEADER_BYTES + length + FOOTER_BYTES > len(buffer):
            raise RecordError(f"{index.describe(record)}: lies beyond the end of the file, which has changed since "
                              "it was indexed; run the command again")
        rgb_width = self.widths[0]
        regular = _UNUSUAL not in (index.rgb_start[record], index.audio_start[record])
        if regular:
            rgb = FrameBlock(int(index.rgb_start[record]), int(index.rgb_count[record]), rgb_width)
            audio = FrameBlock(int(index.audio_start[record]), int(index.audio_count[record]), self.widths[1])
            start = offset + HEADER_BYTES
            regular = (read_frames(buffer, start, rgb, selection, out[:, :rgb_width])
                       and read_frames(buffer, start, audio, selection, out[:, rgb_width:]))
        if not regular:
            path = index.folder / index.shards[index.shard[record]]
            rgb_frames, audio_frames = read_unusual_frames(buffer, offset, length, path)
            expected = [(index.rgb_count[record], rgb_width), (index.audio_count[record], self.widths[1])]
            if [rgb_frames.shape, audio_frames.shape] != expected:
                raise RecordError(f"{index.describe(record)}: holds other frames than the size of its lists says")
            out[:, :rgb_width] = rgb_frames[selection]
            out[:, rgb_width:] = audio_frames[selection]

    def verify(self, record: int) -> None:
        """Check the payload of a record against its checksum. Raises `RecordError`."""
        index = self.index
        shard = index.shard[record]
        read_payload(self._buffer(shard), int(index.offset[record]), int(index.length[record]),
                     index.folder / index.shards[shard])

    def _buffer(self, shard: int) -> mmap.mmap:
        buffer = self._open.get(shard)
        if buffer is None:
            path = self.index.folder / self.index.shards[shard]
            try:
                with path.open("rb") as file:
                    buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise RecordError(f"{path}: cannot be read any more ({error}); run the command again") from None
            self._open[shard] = buffer
            if len(self._open) > self.MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return buffer


def _common_widths(index: Index) -> tuple[int, int]:
    """Widths of rgb and audio frames, the same in all records. Raises `RecordError` naming one that differs."""
    widths = []
    for key in ("rgb", "audio"):
        count, width = getattr(index, f"{key}_count"), getattr(index, f"{key}_width")
        with_frames = np.flatnonzero(count)
        if not with_frames.size:
            raise RecordError(f"{index.folder}: no record has any frame of {key}")
        first = with_frames[0]
        odd = with_frames[width[with_frames] != width[first]]
        if odd.size:
            raise RecordError(f"{index.describe(odd[0])}: frames of {key} are {width[odd[0]]} wide, "
                              f"those of {index.describe(first)} {width[first]}")
        widths.append(int(width[first]))
    return widths[0], widths[1]
