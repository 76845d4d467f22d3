"""The index of a folder of shards, from one pass over headers and contexts, cached.

It holds for every record its shard, offset, id, labels, ratings and the place of its frames. It is stored in
`cache/index/` with the name and stamp (`records.stamp_of`) of each shard, so that only changed or added shards are
read again.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from helperbot.files import replacing

from yt8m.common.errors import Faults, ForeignRecordError, RecordError, UserError, counted, listed
from yt8m.common.progress import Progress
from yt8m.data.partitions import FOLD_SEED, N_FOLDS, NO_FOLD, SUFFIX, official_name
from yt8m.data.records import (
    DOWNLOAD,
    RAISE,
    Damage,
    Shard,
    composed,
    open_shard,
    read_payload,
    record_spans,
    shown_id,
    stamp_of,
)
from yt8m.data.sequence_example import FrameBlock, Record, check_record, parse_record

LOGGER = logging.getLogger(__name__)
FORMAT_VERSION = 3
_SHARDS_WORTH_A_PROCESS = 16
_SECONDS_BETWEEN_SAVES = 60.0
UNUSUAL = -1


@dataclass(frozen=True)
class Index:
    """Records of a folder of shards, in the order of sorted shard names and offsets.

    `stamps` (shards, 4): `stamp_of` each shard when it was read, the size in bytes first. Of R records: `shard` (R,):
    row in `shards`; `offset` of the record and `length` of its payload in bytes, (R,); `video_id` (R,) bytes;
    `n_frames` (R,): seconds that have all features; per feature, (R,) each: the start of the frames in the payload (-1
    if protobuf has to decode them), their number, and their width in bytes. Labels of record r are
    `labels[label_ends[r-1]:label_ends[r]]`, ratings likewise.
    """

    folder: Path
    shards: np.ndarray
    stamps: np.ndarray
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

    @cached_property
    def has_audio(self) -> bool:
        """Whether any record has audio features; if not, it is a data set without audio."""
        return bool(self.audio_count.any())

    @property
    def n_frames(self) -> np.ndarray:
        """Seconds of each record that have both features, or visual ones in a data set without audio, (R,)."""
        return np.minimum(self.rgb_count, self.audio_count) if self.has_audio else self.rgb_count

    def owners(self, ends: np.ndarray) -> np.ndarray:
        """The record of each entry of a ragged array with these `ends`."""
        return np.repeat(np.arange(len(self)), np.diff(ends, prepend=0))

    def of_record(self, record: int, values: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The entries of a ragged array for one record."""
        return values[ends[record - 1] if record else 0 : ends[record]]

    def of_records(self, records: np.ndarray, values: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The entries of a ragged array for some records, concatenated.

        Returns the position in `records` of each entry's record, and the entries.
        """
        stops = ends[records]
        counts = stops - np.where(records > 0, ends[records - 1], 0)
        owners = np.repeat(np.arange(len(records)), counts)
        return owners, values[np.arange(len(owners)) + np.repeat(stops - np.cumsum(counts), counts)]

    def path(self, record: int) -> Path:
        """The shard of a record."""
        return self.folder / str(self.shards[self.shard[record]])

    def error(self, record: int, what: str) -> RecordError:
        """An error about a record that names its file, offset and video."""
        return RecordError(self.path(record), what, int(self.offset[record]), bytes(self.video_id[record]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the index except folder and stamps; the same for both names of a shard."""
        digest = hashlib.sha256("\n".join(map(official_name, self.shards.tolist())).encode())
        for name in (*_RECORD_ARRAYS, "video_id", *(name for values in _RAGGED.values() for name in values)):
            values = getattr(self, name)
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def split_fold(index: Index, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `index.shards` to train and to validate on in one of 8 folds. Raises `UserError`."""
    n_shards = len(index.shards)
    if not 0 <= fold < N_FOLDS:
        raise UserError(f"--fold {fold}: folds are numbered 0 to {N_FOLDS - 1}")
    if n_shards < N_FOLDS:
        raise UserError(
            f"{index.folder}: {counted(n_shards, 'shard')} cannot be split into {N_FOLDS} folds; "
            f"at least {N_FOLDS} are needed; training on all of them, --fold {NO_FOLD}, needs no folds"
        )
    return fold_rows(n_shards, fold)


def fold_rows(n_shards: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """The training and validation rows of a fold of `n_shards` shards, at least 8."""
    from sklearn.model_selection import KFold  # takes as long to import as torch does

    return list(KFold(N_FOLDS, shuffle=True, random_state=FOLD_SEED).split(range(n_shards)))[fold]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, sorted by official name, so that the order is the same for either name.

    Ignores hidden files, such as those of macOS. Raises `UserError` if there are no shards, or for a shard present
    under both of its names.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the .tfrecord shards there or set --data-dir")
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise UserError(f"{folder}: no .tfrecord files in this folder")
    by_name: dict[str, Path] = {}
    faults = Faults(folder, "remove one of the two, or all of their videos count twice")
    for path in sorted(found):
        name = official_name(path.name)
        if by_name.setdefault(name, path) != path:
            faults.add(f"{by_name[name].name} and {path.name} are names of the same shard")
    faults.raise_any()
    return [path for _, path in sorted(by_name.items())]


def passed_over(folder: Path) -> list[str]:
    """The files of a folder with names like shards that are not used, sorted."""
    names = {path.name for path in folder.iterdir() if SUFFIX in path.name.lower() and not path.name.startswith(".")}
    return sorted(names - {path.name for path in shard_paths(folder)})


def load_index(folder: Path, cache_dir: Path, damage: Damage = RAISE) -> Index:
    """The index of all shards of `folder`, from the cache where still valid.

    If `damage` is skipped, the readable records of a damaged shard are in the index, and it is read again next time.
    Raises `UserError` for a missing or empty folder, `ForeignRecordError` for a shard of another kind, and
    `RecordError` for the first damaged shard, after caching the others. A killed call can be resumed.
    """
    paths = shard_paths(folder)
    stamps = np.array([stamp_of(path.stat()) for path in paths], np.int64)
    cache = cache_dir / "index" / f"{folder.parent.name}-{folder.name}.npz"
    tables = _cached_tables(cache, paths, stamps)
    missing = [path for path in paths if path.name not in tables]
    errors: dict[str, list[RecordError]] = {}
    if missing:
        keep = partial(_keep, cache, tables, paths, stamps)
        found, errors = _scan_shards(missing, f"indexing {folder}", _SHARDS_WORTH_A_PROCESS, whole=False, keep=keep)
        tables |= found
    foreign = next(
        (error for error in chain.from_iterable(errors.values()) if isinstance(error, ForeignRecordError)), None
    )
    if foreign is not None:
        raise foreign
    if errors and not damage.skip:
        first = next(iter(errors.values()))[0]
        if len(errors) > 1:
            others = f"{len(errors)} shards are damaged, `python -m yt8m.check_data {folder}` lists them all"
            raise RecordError(first.path, f"{first.what}; {others}", first.offset, first.video_id)
        raise first
    for error in chain.from_iterable(errors.values()):
        damage.handle(error)
    index = _index(folder, paths, stamps, tables)
    if len(index) == 0:
        raise UserError(f"{folder}: no readable record in {len(paths)} shards; {DOWNLOAD}")
    _warn_of_missing_features(index)
    return index


def _warn_of_missing_features(index: Index) -> None:
    """Warn of records without audio in a data set with audio; none of their seconds count."""
    lacking = np.flatnonzero((index.rgb_count > 0) & (index.audio_count == 0)) if index.has_audio else np.empty(0, int)
    if lacking.size:
        LOGGER.warning(
            "%s: %d of %d videos have frames but no audio, while others have both; they are left out: %s",
            index.folder,
            len(lacking),
            len(index),
            listed([shown_id(bytes(index.video_id[record])) for record in lacking]),
        )


def index_file(path: Path, damage: Damage = RAISE) -> Index:
    """The index of one shard anywhere, not cached. Its `folder` is the file, so that messages name it.

    If `damage` is skipped, the index holds the undamaged records that can be found. Raises `UserError` for a missing
    file, `RecordError` for the first damage, or if all records are left out.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a .tfrecord file of frame features")
    stamps = np.array([stamp_of(path.stat())], np.int64)
    table, errors = _scan_shard(path, whole=False)
    for error in errors:
        if isinstance(error, ForeignRecordError):
            raise error
        damage.handle(error)
    if not table["offset"].size:
        raise RecordError(path, f"no readable record; {DOWNLOAD}")
    return Index(folder=path, shards=np.array([""]), stamps=stamps, **_merge([table]))


def check_folder(folder: Path) -> tuple[Index, list[RecordError]]:
    """Read every byte of a folder's shards: the index of the undamaged records, and the errors of the others.

    Verifies checksums and locates every frame. Raises `UserError` for a missing or empty folder.
    """
    paths = shard_paths(folder)
    stamps = np.array([stamp_of(path.stat()) for path in paths], np.int64)
    tables, errors = _scan_shards(paths, f"checking {folder}", 1, whole=True)
    return _index(folder, paths, stamps, tables), list(chain.from_iterable(errors.values()))


_Tables = dict[str, dict[str, np.ndarray]]  # the index arrays of each shard, by its name


def _scan_shards(
    paths: list[Path],
    title: str,
    worth_a_process: int,
    whole: bool,
    keep: Callable[[_Tables, Collection[str]], None] | None = None,
) -> tuple[_Tables, dict[str, list[RecordError]]]:
    """Tables of shards, scanned in parallel, and the errors of damaged ones, by name.

    `keep` gets the tables and the names of damaged shards periodically and at the end.
    """
    tables: _Tables = {}
    errors: dict[str, list[RecordError]] = {}
    jobs = max(1, min(os.cpu_count() or 1, len(paths) // worth_a_process))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    scanned = parallel(joblib.delayed(_scan_shard)(path, whole) for path in paths)
    kept = time.monotonic()
    with Progress(title, len(paths), "shard", LOGGER) as progress:
        for path, (table, found) in zip(paths, scanned):
            tables[path.name] = table
            if found:
                errors[path.name] = found
            progress.update(1)
            if keep is not None and time.monotonic() - kept >= _SECONDS_BETWEEN_SAVES:
                keep(tables, errors)
                kept = time.monotonic()
    if keep is not None:
        keep(tables, errors)
    return tables, errors


def _index(folder: Path, paths: list[Path], stamps: np.ndarray, tables: _Tables) -> Index:
    arrays = _merge([tables[path.name] for path in paths])
    return Index(folder=folder, shards=np.array([path.name for path in paths]), stamps=stamps, **arrays)


def _keep(
    cache: Path, cached: _Tables, paths: list[Path], stamps: np.ndarray, found: _Tables, damaged: Collection[str]
) -> None:
    """Write old and new tables of undamaged shards into the cache; warn if that fails."""
    tables = cached | found
    rows = [row for row, path in enumerate(paths) if path.name in tables and path.name not in damaged]
    if not rows:
        return
    names = [paths[row].name for row in rows]
    arrays: dict[str, Any] = _merge([tables[name] for name in names])
    try:
        with replacing(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, version=FORMAT_VERSION, shards=np.array(names), stamps=stamps[rows], **arrays)
    except OSError as error:
        LOGGER.warning("%s: the index cannot be cached: %s", paths[0].parent, error)


_RECORD_ARRAYS: dict[str, type[np.generic]] = {
    "shard": np.int32,
    "offset": np.int64,
    "length": np.int32,
    "rgb_start": np.int32,
    "rgb_count": np.int32,
    "rgb_width": np.int32,
    "audio_start": np.int32,
    "audio_count": np.int32,
    "audio_width": np.int32,
    "label_ends": np.int64,
    "rating_ends": np.int64,
}
_RAGGED: dict[str, dict[str, type[np.generic]]] = {
    "label_ends": {"labels": np.int32},
    "rating_ends": {"rating_start": np.int32, "rating_label": np.int32, "rating_score": np.float32},
}


def _scan_shard(path: Path, whole: bool) -> tuple[dict[str, np.ndarray], list[RecordError]]:
    """The index arrays of one shard (`shard` is 0), and the errors of the other records.

    Reads every byte if `whole`, otherwise only headers and contexts.
    """
    records: list[Record] = []
    errors: list[RecordError] = []
    try:
        shard = open_shard(path)
        for offset, length in record_spans(shard, path):
            try:
                records.append(_scan_record(shard, offset, length, path, whole))
            except ForeignRecordError as error:  # so are all others
                errors.append(error)
                break
            except RecordError as error:
                errors.append(error)
    except RecordError as error:  # the next record cannot be found
        errors.append(error)
    return _table(records), errors


def _scan_record(shard: Shard, offset: int, length: int, path: Path, whole: bool) -> Record:
    try:
        record = parse_record(shard, offset, length, path)
    except RecordError:
        read_payload(shard, offset, length, path)  # report damage instead
        raise
    if record.rgb is not None and record.audio is None:  # the usual layout without an audio list
        record = replace(record, audio=FrameBlock(0, 0, 0))
    if whole:
        check_record(shard, record, path)
    return record


def _table(records: list[Record]) -> dict[str, np.ndarray]:
    """Parsed records of one shard as arrays."""
    table = {
        "shard": np.zeros(len(records), np.int32),
        "video_id": np.array([record.video_id for record in records], np.bytes_),
    }
    for name in ("offset", "length", "rgb_count", "rgb_width", "audio_count", "audio_width"):
        table[name] = np.array([getattr(record, name) for record in records], _RECORD_ARRAYS[name])
    for key in ("rgb", "audio"):
        blocks = [getattr(record, key) for record in records]
        starts = [UNUSUAL if block is None else block.start for block in blocks]
        table[f"{key}_start"] = np.array(starts, np.int32)
    for ends, values in _RAGGED.items():
        for name, kind in values.items():
            entries = np.concatenate([np.empty(0, kind), *(getattr(record, name) for record in records)])
            if kind == np.int32:
                entries = entries.clip(-(2**31), 2**31 - 1)  # values this large stay unknown
            table[name] = entries.astype(kind)
        table[ends] = np.cumsum([len(getattr(record, next(iter(values)))) for record in records], dtype=np.int64)
    return table


def _cached_tables(cache: Path, paths: list[Path], stamps: np.ndarray) -> _Tables:
    """The tables of unchanged shards in the cache, by name."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            stored = dict(file)
        if stored["version"] != FORMAT_VERSION:
            return {}
    except FileNotFoundError:
        return {}
    except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged zip file raises
        LOGGER.warning("%s cannot be read (%s); the shards are indexed again", cache, error)
        return {}
    known = {name: row for row, name in enumerate(stored["shards"])}
    bounds = np.searchsorted(stored["shard"], np.arange(len(known) + 1, dtype=stored["shard"].dtype))
    tables = {}
    for path, stamp in zip(paths, stamps):
        row = known.get(path.name)
        if row is not None and (stored["stamps"][row] == stamp).all():
            tables[path.name] = _table_of_shard(stored, *bounds[row : row + 2])
    return tables


def _table_of_shard(stored: dict[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
    """The table of the shard whose records are `first` to `last`."""
    table = {name: stored[name][first:last] for name in (*_RECORD_ARRAYS, "video_id")}
    table["shard"] = np.zeros(last - first, np.int32)
    for ends, values in _RAGGED.items():
        begin = stored[ends][first - 1] if first else 0
        stop = stored[ends][last - 1] if last else 0
        table[ends] = table[ends] - begin
        table.update((name, stored[name][begin:stop]) for name in values)
    return table


def _composed(video_ids: np.ndarray) -> np.ndarray:
    """Ids (R,) bytes, in UTF-8 with composed accents, so that ids that look alike are the same."""
    if not video_ids.size or video_ids.view(np.uint8).max() < 128:
        return video_ids
    texts = [composed(video_id.decode(errors="surrogateescape")) for video_id in video_ids.tolist()]
    return np.array([text.encode(errors="surrogateescape") for text in texts], np.bytes_)


def _merge(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the tables of all shards; `shard` numbers them."""
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    sizes = [len(table["offset"]) for table in tables]
    merged["video_id"] = _composed(merged["video_id"])
    merged["shard"] = np.repeat(np.arange(len(tables), dtype=np.int32), sizes)
    for ends, (values, *_) in _RAGGED.items():
        before = np.cumsum([0] + [len(table[values]) for table in tables[:-1]])
        merged[ends] = merged[ends] + np.repeat(before, sizes)
    return merged
