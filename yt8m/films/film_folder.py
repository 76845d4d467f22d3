"""Data folders of films: features from an extractor, as bytes by one contract, in shards or arrays.

Dimensions: N seconds of a film, V visual and A audio features.
"""

import csv
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from helperbot.files import locked, remove_leftovers, replacing

from yt8m.common.config import FeatureContract
from yt8m.common.errors import UserError, counted, listed
from yt8m.common.progress import Progress
from yt8m.data.features import (
    CONTRACT_NAME,
    PUBLISHED_RANGE,
    feature_contract,
    find_contract,
    require_same,
    save_contract,
)
from yt8m.data.partitions import PARTITIONS, SUFFIX
from yt8m.data.sequence_example import FEATURES
from yt8m.films.decoding import Film
from yt8m.films.extraction import Threads, encoding_threads, identity, quantize, require_extractor
from yt8m.films.extractors.base import Extractor, Range
from yt8m.films.film_files import name_films
from yt8m.films.film_store import FilmFile, FilmStore, begin_adding
from yt8m.films.workers import work
from yt8m.making.feature_arrays import array_path, usual_range
from yt8m.making.shard_writing import SHARD_VIDEOS, NewFolder, VideoRecord, finish_interrupted, write_shard
from yt8m.models.model_files import CONFIG_NAME
from yt8m.models.model_folders import open_folder

LOGGER = logging.getLogger(__name__)
FILMS_TABLE = "films.csv"
FILMS_COLUMNS = ("video_id", "path", "seconds", "notes")
(TEST,) = (partition for partition in PARTITIONS if not partition.labelled)
_TRIM = 0, 0  # use all of a film; only the challenge's raters never saw its ends
_STORE = Path("cache", "films")
_SAMPLE_FILMS, _SAMPLE_ROWS = 16, 4096  # of the first films, for the ranges
_SAMPLING = 19  # key that separates this use of the seed from others
_MANY_CLIPPED = 0.01  # share of values that suggests a range of other films


@dataclass(frozen=True)
class Summary:
    """Contents of a folder after a run: `contract`, None if empty, total `films` and `seconds`; `failures` has a line
    for each film of the run that failed."""

    contract: FeatureContract | None
    films: int
    seconds: int
    failures: list[str]


@dataclass(frozen=True)
class Parallelism:
    """How to extract films: with `processes` that share the encoding `threads`, neither of which changes a byte, and
    with `decode_threads` each, of which more than one may change frames of damaged films."""

    processes: int
    threads: int
    decode_threads: int = 1

    @classmethod
    def on(cls, device: torch.device, processes: int | None, decode_threads: int = 1) -> "Parallelism":
        """What suits a device; `processes` None: one per core."""
        return cls(processes or len(os.sched_getaffinity(0)), encoding_threads(device), decode_threads)


def read_like(place: Path) -> FeatureContract:
    """The contract of a folder of features or of a model. Raises `UserError` if it has none."""
    if (place / CONFIG_NAME).is_file():
        return open_folder(place).features
    for folder in (place, place / TEST.folder):
        contract = find_contract(folder)
        if contract is not None:
            return contract
    raise UserError(f"--like {place}: has neither a {CONTRACT_NAME} nor a model's {CONFIG_NAME}")


@contextmanager
def open_film_folder(folder: Path) -> Iterator["FilmFolder"]:
    """A data folder of films' features, created if missing and locked while open.

    Raises `UserError` if another process is writing to it.
    """
    store = folder / _STORE
    store.mkdir(parents=True, exist_ok=True)
    occupied = UserError(f"{folder}: another process is extracting to it; wait for it or stop it")
    with locked(store / ".lock", occupied):
        for place, name in (
            (store, "*"),
            (folder, FILMS_TABLE),
            (folder, CONTRACT_NAME),
            *((folder / key, "*") for key in FEATURES),
        ):
            remove_leftovers(place, name)
        yield FilmFolder(folder, store)


class FilmFolder:
    """A data folder of films' features; `contract` is that of its contents, None if empty."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder, self._store_path = folder, store
        self._store = FilmStore(store)
        self.contract = find_contract(folder)

    def fill(
        self,
        films: Sequence[Path],
        open_it: Callable[[], Extractor],
        parallelism: Parallelism,
        *,
        like: FeatureContract | None = None,
        as_arrays: bool = False,
    ) -> Summary:
        """Extract the films without results, then write all results.

        Args:
            films: absolute paths.
            open_it: opens the extractor; called in each process.
            parallelism: processes and threads.
            like: the contract to use, see `read_like`; None: that of the folder, or else one made from these films.
            as_arrays: write arrays instead of shards.

        Raises:
            UserError: the extractor does not work, the folder has another extractor or range, or results are missing.
        """
        extractor = open_it()
        for contract, whose in ((self.contract, self._folder), (like, "--like")):
            if contract is not None:
                require_extractor(extractor, contract, whose)
        if self.contract is not None and like is not None:
            require_same(self.contract, self._folder, like, "--like")
        gone = self._store.follow(films)
        if gone:
            LOGGER.warning("films are gone, their features are kept: %s", listed(gone))
        names = name_films(films, self._store.known_films())
        self._require_results(set(names.values()))
        failures = self._extract(names, extractor, open_it, parallelism)
        lines = [_line(film, failures[film]) for film in films if film in failures]
        if not self._store.entries:
            return Summary(None, 0, 0, lines)
        done = sorted(video_id for film, video_id in names.items() if film not in failures)
        if self.contract is None:
            self.contract = self._make_contract(done, extractor, like)
            save_contract(self.contract, self._folder)
        writer = _Writer(self._store, self.contract)
        if as_arrays:
            writer.write_arrays(self._folder)
        else:
            writer.write_shards(self._folder / TEST.folder)
        self._write_table()
        self._say(done, writer)
        seconds = sum(entry.seconds for entry in self._store.entries.values())
        return Summary(self.contract, len(self._store.entries), seconds, lines)

    def _require_results(self, video_ids: set[str]) -> None:
        """Raise `UserError` if results of earlier films are missing, so that they would be lost from the output."""
        table = self._folder / FILMS_TABLE
        if not table.is_file():
            return
        with table.open(encoding="utf-8", newline="") as file:
            listed_ids = [row.get(FILMS_COLUMNS[0]) or "" for row in csv.DictReader(file)]
        gone = [video_id for video_id in listed_ids if video_id not in self._store.entries.keys() | video_ids]
        if gone:
            raise UserError(
                f"{table}: lists films whose results are missing from {self._store_path}: {listed(gone)}; name these "
                "films, too, or remove the table to leave them out"
            )

    def _extract(
        self,
        names: Mapping[Path, str],
        extractor: Extractor,
        open_it: Callable[[], Extractor],
        parallelism: Parallelism,
    ) -> dict[Path, UserError]:
        """Extract the films without results; returns the errors of those that failed."""
        failures: dict[Path, UserError] = {}
        seconds: dict[tuple[str, Path], int] = {}
        for film, video_id in names.items():
            try:
                if not self._store.has(video_id, FilmFile.of(film), identity(extractor)):
                    with Film(film) as opened:
                        seconds[video_id, film] = round(opened.announced or 0)
            except UserError as fault:
                failures[film] = fault
        if not seconds:
            return failures
        tasks = sorted(seconds, key=lambda task: (-seconds[task], task))  # the longest first
        processes = min(parallelism.processes, len(tasks))
        threads = Threads(max(parallelism.threads // processes, 1), parallelism.decode_threads)
        opener = (lambda: extractor) if processes == 1 else open_it
        with Progress(_title(0, tasks), sum(seconds.values()), "second", LOGGER) as progress:
            results = work(tasks, processes, progress.update, begin_adding, self._store_path, opener, threads)
            for number, ((video_id, film), error) in enumerate(results, 1):
                progress.rename(_title(number, tasks))
                if error is None:
                    self._store.refresh(video_id)
                else:
                    failures[film] = error
        return failures

    def _make_contract(
        self, video_ids: Sequence[str], extractor: Extractor, like: FeatureContract | None
    ) -> FeatureContract:
        """The contract made from these films, or that of `like`."""
        if like is not None:
            if like.extractor is None:
                LOGGER.warning("--like: names no extractor; assuming %s", extractor.name)
            return like.model_copy(update={"extractor": identity(extractor), "trim": _TRIM})
        order = np.random.default_rng(_SAMPLING).permutation(len(video_ids))[:_SAMPLE_FILMS]
        rows = -(-_SAMPLE_ROWS // len(order))
        samples = list(map(np.concatenate, zip(*(self._store.sample(video_ids[row], rows) for row in order.tolist()))))
        rgb = extractor.visual_range or _range_of(samples[0])
        audio = extractor.audio_range or _range_of(samples[1])
        made = feature_contract(extractor.visual, extractor.audio, rgb, audio, identity(extractor))
        return made.model_copy(update={"trim": _TRIM})

    def _write_table(self) -> None:
        with (
            replacing(self._folder / FILMS_TABLE) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(FILMS_COLUMNS)
            for video_id, entry in sorted(self._store.entries.items()):
                rows.writerow([video_id, entry.film.path, entry.seconds, "; ".join(entry.notes)])

    def _say(self, video_ids: Sequence[str], writer: "_Writer") -> None:
        """Log what was lost of the films of this run, and whether many values were clipped."""
        films: dict[str, list[str]] = {}
        for video_id in video_ids:
            entry = self._store.entries[video_id]
            for note in entry.notes:
                films.setdefault(note, []).append(entry.film.path)
        for note, paths in films.items():
            LOGGER.warning("%s: %s", note, listed(paths))
        if writer.clipped > _MANY_CLIPPED * writer.values:
            LOGGER.warning(
                "%.2g %% of all values were outside the ranges of %s, made from other films, and were clipped",
                100 * writer.clipped / writer.values,
                self._folder / CONTRACT_NAME,
            )


class _Writer:
    """Writes all results of a store as bytes; counts all `values` and the `clipped` ones."""

    def __init__(self, store: FilmStore, contract: FeatureContract) -> None:
        self._store, self._contract = store, contract
        self._video_ids = sorted(store.entries)
        self.values = self.clipped = 0

    def write_shards(self, folder: Path) -> None:
        """Replace the shards of a folder."""
        finish_interrupted(folder)
        n_shards = -(-len(self._video_ids) // SHARD_VIDEOS)
        ends = [len(self._video_ids) * number // n_shards for number in range(n_shards + 1)]
        digits = max(4, len(str(n_shards - 1)))
        with NewFolder(folder) as new:
            for number, (start, end) in enumerate(zip(ends, ends[1:])):
                records = (
                    VideoRecord(video_id, self._bytes(video_id), None) for video_id in self._video_ids[start:end]
                )
                write_shard(new.path / f"{TEST.stem}{number:0{digits}d}{SUFFIX}", records)
            save_contract(self._contract, new.path)
            new.publish()

    def write_arrays(self, folder: Path) -> None:
        """Write an array per feature and film, in folders named after the features."""
        for video_id in self._video_ids:
            for key, values in self._bytes(video_id).items():
                with replacing(array_path(folder / key, video_id)) as temporary, temporary.open("wb") as file:
                    np.save(file, values)
                save_contract(self._contract, folder / key)

    def _bytes(self, video_id: str) -> dict[str, np.ndarray]:
        """The features of a film, each (N, width) uint8."""
        filled = 0
        values = np.empty((self._store.entries[video_id].seconds, sum(self._contract.widths)), np.uint8)
        for part in self._store.parts(video_id):
            quantized, clipped = quantize(part, self._contract)
            values[filled : filled + len(quantized)] = quantized
            filled += len(quantized)
            self.clipped += clipped
        self.values += values.size
        parts = np.split(values, [self._contract.rgb.width], axis=1)
        return {key: part for key, part in zip(FEATURES, parts) if part.shape[1]}


def _title(number: int, tasks: Sequence[object]) -> str:
    return f"extracting, {number} of {counted(len(tasks), 'film')} done"


def _line(film: Path, error: UserError) -> str:
    """The error of a film, in a line that names it."""
    return str(error) if str(film) in str(error) else f"{film}: {error}"


def _range_of(sample: np.ndarray) -> Range:
    """The values for the bytes 0 and 255."""
    if not sample.size:  # no such features
        return PUBLISHED_RANGE
    low, high = float(sample.min()), float(sample.max())
    return usual_range(sample.astype(np.float64), (low, high)) or (low, low + 1)
