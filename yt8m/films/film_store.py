"""Unquantized features, a file per film, so that interrupted work can resume.

Dimensions: N seconds of a film, V visual and A audio features.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from helperbot.files import replacing
from pydantic import ValidationError

from yt8m.common.config import ExtractorIdentity, Section
from yt8m.common.errors import RecordError, UserError
from yt8m.data.features import pieces
from yt8m.films.extraction import Part, Threads, identity, stream_features
from yt8m.films.extractors.base import Extractor

_VALUES, _ENTRY = ".f32", ".json"


class FilmFile(Section):
    """The state of a film when its features were made: absolute `path`, `size` in bytes, modification time."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FilmFile":
        """The current state of a film. Raises `RecordError` if there is none, as behind a broken link."""
        try:
            status = path.stat()
        except OSError as error:
            raise RecordError(path, f"cannot be read ({error.strerror})") from None
        return cls(path=str(path), size=status.st_size, mtime_ns=status.st_mtime_ns)


class StoredFilm(Section):
    """A film's features in a store; `visual` and `audio` are V and A."""

    film: FilmFile
    extractor: ExtractorIdentity
    visual: int
    audio: int
    seconds: int
    notes: list[str]


class FilmStore:
    """A folder with features of films; `entries` by video id."""

    def __init__(self, folder: Path) -> None:
        """Open a folder. Raises `UserError` for foreign or damaged entries."""
        self._folder = folder
        self.entries = {path.name.removesuffix(_ENTRY): _read_entry(path) for path in sorted(folder.glob(f"*{_ENTRY}"))}

    def known_films(self) -> dict[Path, str]:
        """The video ids of the films, by path."""
        return {Path(entry.film.path): video_id for video_id, entry in self.entries.items()}

    def follow(self, films: Sequence[Path]) -> list[str]:
        """Let moved films, of the same name, size and time as missing ones, keep their ids.

        Returns the sorted paths of the missing films that were not found.
        """
        gone = {
            (Path(entry.film.path).name, entry.film.size, entry.film.mtime_ns): video_id
            for video_id, entry in self.entries.items()
            if not Path(entry.film.path).exists()
        }
        known = self.known_films()
        for path in films if gone else ():
            try:
                film = FilmFile.of(path)
            except RecordError:  # it fails when it is to be extracted
                continue
            video_id = None if path in known else gone.pop((path.name, film.size, film.mtime_ns), None)
            if video_id is not None:
                self._save(video_id, self.entries[video_id].model_copy(update={"film": film}))
                self.refresh(video_id)
        return sorted(self.entries[video_id].film.path for video_id in gone.values())

    def has(self, video_id: str, film: FilmFile, extractor: ExtractorIdentity) -> bool:
        """Whether it has the features of a film in its current state."""
        entry = self.entries.get(video_id)
        return entry is not None and entry.film == film and entry.extractor == extractor

    def add(
        self, video_id: str, extractor: Extractor, path: Path, threads: Threads, advance: Callable[[int], object]
    ) -> None:
        """Extract and store the features of a film; `advance` is called with the number of seconds just done.

        Raises `UserError` for a file that is not a film or has no readable frame.
        """
        film = FilmFile.of(path)
        seconds = 0
        with replacing(self._path(video_id, _VALUES)) as temporary, temporary.open("wb") as file:

            def take(part: Part) -> None:
                nonlocal seconds
                file.write(np.concatenate(part, axis=1).astype("<f4").tobytes())
                seconds += len(part.rgb)
                advance(len(part.rgb))

            notes = stream_features(path, extractor, take, threads)
            self._path(video_id, _ENTRY).unlink(missing_ok=True)  # its values are about to be replaced
        entry = StoredFilm(
            film=film,
            extractor=identity(extractor),
            visual=extractor.visual,
            audio=extractor.audio,
            seconds=seconds,
            notes=notes,
        )
        self._save(video_id, entry)

    def refresh(self, video_id: str) -> None:
        """Read the entry that another process has added."""
        self.entries[video_id] = _read_entry(self._path(video_id, _ENTRY))

    def parts(self, video_id: str) -> Iterator[Part]:
        """The features of a film, part by part. Raises `UserError` if any are missing."""
        for rows in pieces(self.entries[video_id].seconds):
            yield self._read(video_id, rows.start, rows.stop)

    def sample(self, video_id: str, count: int) -> Part:
        """The features of at most `count` seconds spread over a film. Raises `UserError` as `parts` does."""
        seconds = self.entries[video_id].seconds
        count = min(count, seconds)
        rows = ((np.arange(count) + 0.5) * (seconds / count)).astype(int).tolist()
        return Part(*map(np.concatenate, zip(*(self._read(video_id, row, row + 1) for row in rows))))

    def _read(self, video_id: str, start: int, stop: int) -> Part:
        """The features of some seconds; read, since mapped memory would count as this process's."""
        entry, path = self.entries[video_id], self._path(video_id, _VALUES)
        width = entry.visual + entry.audio
        stop = min(stop, entry.seconds)
        try:
            whole = path.stat().st_size == 4 * width * entry.seconds
            values = np.fromfile(path, "<f4", (stop - start) * width, offset=4 * width * start)
        except FileNotFoundError:
            whole = False
        if not whole:
            raise UserError(
                f"{path}: damaged or missing; remove {self._path(video_id, _ENTRY)} and run the same command again"
            )
        return Part(*np.split(values.reshape(-1, width), [entry.visual], axis=1))

    def _save(self, video_id: str, entry: StoredFilm) -> None:
        with replacing(self._path(video_id, _ENTRY)) as temporary:
            temporary.write_text(entry.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _path(self, video_id: str, ending: str) -> Path:
        return self._folder / f"{video_id}{ending}"


def begin_adding(
    folder: Path, open_it: Callable[[], Extractor], threads: Threads
) -> Callable[[tuple[str, Path], Callable[[int], object]], None]:
    """A function that adds a film to a store, for `yt8m.films.workers`."""
    return partial(_add, FilmStore(folder), open_it(), threads)


def _add(
    store: FilmStore, extractor: Extractor, threads: Threads, named: tuple[str, Path], advance: Callable[[int], object]
) -> None:
    video_id, path = named
    store.add(video_id, extractor, path, threads, advance)


def _read_entry(path: Path) -> StoredFilm:
    try:
        return StoredFilm.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        raise UserError(f"{path}: damaged, or of another program; remove it and run the command again") from None
