"""The films of a folder: their ids, durations, and the files for the browser."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from yt8m.common.errors import Faults, UserError
from yt8m.data.records import composed
from yt8m.data.tables import read_table
from yt8m.films.film_files import find_films, name_films
from yt8m.films.film_folder import FILMS_COLUMNS

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedFilm:
    """A film: `video_id` as in the features, `path` of the file, `name` relative to the folder, and duration in
    `seconds` from its first frame, which is on screen when the browser's player is at second `begins`, or `copy_begins`
    of a copy that browsers play."""

    video_id: str
    path: Path
    name: str
    seconds: float
    begins: float = 0.0
    copy_begins: float = 0.0

    @property
    def converted(self) -> Path:
        """The path of a copy that browsers play: hidden, so that it does not count as another film."""
        return self.path.with_name(f".{self.path.name}.mp4")

    @property
    def conversion(self) -> tuple[str, ...]:
        """The command that makes the copy."""
        codecs = "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"
        return ("ffmpeg", "-i", str(self.path), *codecs, str(self.converted))

    @property
    def played_begins(self) -> float:
        """The browser's time at the first frame of the file to play, see `played`."""
        return self.copy_begins if self.converted.exists() else self.begins

    def played(self, folder: Path) -> Path | None:
        """The file to play, the copy if it exists; None if it is missing or outside `folder`."""
        path = self.converted if self.converted.exists() else self.path
        return path.resolve() if is_inside(path, folder) else None


def list_films(folder: Path, listing: Path | None = None) -> list[ListedFilm]:
    """The films in a folder and its subfolders, sorted by name.

    `listing`: the table of films by `extract_features`, or None; other films get the ids that `extract_features` would
    give them. Files that are not films, and links out of the folder, are left out with a warning. Raises `UserError` if
    no film is left.
    """
    if not folder.is_dir():
        raise UserError(f"--videos {folder}: no such folder")
    root = folder.resolve()
    known = {} if listing is None else _read_listing(listing)
    paths = [path for path in find_films([folder]) if _is_own(path, root)]
    ids = name_films(paths, {path: known[path][0] for path in paths if path in known})
    films = []
    for path in paths:
        times = film_times(path)
        if times is not None:
            _, listed_seconds = known.get(path, ("", times.seconds))
            seconds = min(times.seconds, listed_seconds)
            name = path.relative_to(root).as_posix()
            films.append(ListedFilm(ids[path], path, name, seconds, times.begins, times.copy_begins))
    if not films:
        raise UserError(f"--videos {folder}: no readable film in it")
    return films


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file exists and, with links resolved, is in a folder or its subfolders."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _is_own(path: Path, folder: Path) -> bool:
    own = is_inside(path, folder) and path.is_relative_to(folder)
    if not own:
        LOGGER.warning("%s: links out of %s, or is broken; left out", path, folder)
    return own


class FilmTimes(NamedTuple):
    """The `seconds` from a film's first frame to its last one's end; the others as in `ListedFilm`."""

    seconds: float
    begins: float
    copy_begins: float


def film_times(path: Path) -> FilmTimes | None:
    """The times of a film; None, with a warning, for an unreadable file or one without moving pictures."""
    from yt8m.films.container import find_beginning, open_container
    from yt8m.films.decoding import find_pictures
    from yt8m.films.pyav import av

    try:
        with open_container(path) as container:
            if not container.streams.video:
                LOGGER.warning("%s: has no moving pictures; left out", path)
                return None
            begins = find_beginning(container, find_pictures(container, path))
        return FilmTimes(round(_end_of_pictures(path) - begins.file, 2), begins.browser, begins.player)
    except av.FFmpegError as error:
        LOGGER.warning("%s: cannot be read as a film (%s); left out", path, error.strerror)
    except UserError as error:
        LOGGER.warning("%s; left out", error)
    return None


def _end_of_pictures(path: Path) -> float:
    """The end of a film's last frame by the file's clock; 0 if its frames have no times."""
    from yt8m.films.container import Track, open_container
    from yt8m.films.decoding import find_pictures
    from yt8m.films.pyav import av

    for from_the_end in (True, False):  # if seeking led nowhere, the whole file is read
        with open_container(path) as container:
            stream = find_pictures(container, path)
            if from_the_end and container.duration is not None:
                with suppress(av.FFmpegError):
                    container.seek((container.start_time or 0) + container.duration)  # the last keyframe before it
            interval = 1 / stream.guessed_rate if stream.guessed_rate else 0
            ends = [
                float(packet.pts * packet.time_base + ((packet.duration or 0) * packet.time_base or interval))
                for packet in Track(container, stream).packets()
                if packet is not None and packet.pts is not None and packet.time_base is not None
            ]
        if ends:
            return max(ends)
    return 0.0


def _read_listing(path: Path) -> dict[Path, tuple[str, float]]:
    """Ids and seconds of the films of a listing, by absolute path."""
    known: dict[Path, tuple[str, float]] = {}
    faults = Faults(path)
    for line, (video_id, name, text) in read_table(path, FILMS_COLUMNS[:3]):
        try:
            seconds = float(text)
        except ValueError:
            faults.add(f"line {line}: seconds: expected a number, found {text!r}")
            continue
        known[Path(name)] = composed(video_id), seconds
    faults.raise_any()
    return known
