"""The films of a folder: what they are called, how long they are, and which file a browser is to play."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yt8m.common.errors import Faults, UserError, counted
from yt8m.data.records import RULE, unfit_ids
from yt8m.data.tables import read_table

LOGGER = logging.getLogger(__name__)
FILMS_FILE = "films.csv"  # what `extract_features` writes beside the features
FILM_COLUMNS = ("video_id", "path", "seconds")
_PLAYED = (".m4v", ".mp4", ".webm")  # what browsers play, if the codecs are right; the first is preferred
SUFFIXES = (*_PLAYED, *".mov .mkv .avi .ogv .mpg .mpeg .m2ts .mts .ts .wmv .flv .3gp .vob".split())
_SAME_LENGTH = 1.0  # seconds that a converted film may differ from the original


@dataclass(frozen=True)
class Film:
    """A film: `video_id` as in the features, `path` of the file to be played, `name` of it below its folder, and how
    many `seconds` long it is."""

    video_id: str
    path: Path
    name: str
    seconds: float


def find_films(folder: Path, listing: Path | None = None) -> list[Film]:
    """The films in a folder and the folders below it, sorted by name.

    `listing`: a CSV that says how films are called, columns video_id,path,seconds; those that it lacks, and all without
    it, are called as their files are, without the ending. Files that differ in the ending alone are one film, converted
    so that browsers play it. What is no film, or lies elsewhere behind a link, is left out, with a warning.

    Raises `UserError` for no film at all, and for names that cannot be ids or are two films'.
    """
    if not folder.is_dir():
        raise UserError(f"--videos {folder}: no such folder")
    known = {} if listing is None else _read_listing(listing, folder)
    groups: dict[Path, list[Path]] = {}
    for path in _film_files(folder):
        groups.setdefault(path.with_suffix(""), []).append(path)
    films = []
    for stem in sorted(groups):
        films += _open_group(groups[stem], folder, known)
    if not films:
        raise UserError(f"--videos {folder}: no film in it; expected files such as {', '.join(SUFFIXES[:4])}")
    _check_ids(films, folder)
    return films


def conversion(path: Path) -> tuple[str, ...]:
    """The command line that makes a film of `path` that every browser plays, beside it and under the same name."""
    target = path.with_suffix(".m4v" if path.suffix.lower() == ".mp4" else ".mp4")
    return ("ffmpeg", "-i", str(path), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", str(target))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is there and, links resolved, below a folder."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _film_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if is_inside(path, folder):
                yield path
            else:
                LOGGER.warning("%s: leads out of %s, or nowhere; left out", path, folder)


def _open_group(paths: Sequence[Path], folder: Path, known: dict[Path, tuple[str, float]]) -> list[Film]:
    """The film that some files are, or none. Raises `UserError` for files that are several films."""
    lengths = {}
    for path in sorted(paths, key=_preference):
        seconds = film_seconds(path)
        if seconds is not None:
            lengths[path] = seconds
    if not lengths:
        return []
    if max(lengths.values()) - min(lengths.values()) > _SAME_LENGTH:
        raise UserError(
            f"--videos {folder}: {' and '.join(path.name for path in lengths)} are not equally long, and would be "
            "called the same; rename one"
        )
    played, *others = lengths
    if others:
        LOGGER.info("%s is played in the place of %s", played, " and ".join(path.name for path in others))
    listed = next((known[path.resolve()] for path in lengths if path.resolve() in known), None)
    video_id, seconds = (played.stem, lengths[played]) if listed is None else listed
    return [Film(video_id, played, played.relative_to(folder).as_posix(), min(seconds, *lengths.values()))]


def _preference(path: Path) -> tuple[int, str]:
    suffix = path.suffix.lower()
    return (_PLAYED.index(suffix) if suffix in _PLAYED else len(_PLAYED), path.name)


def film_seconds(path: Path) -> float | None:
    """How long a film is; None, with a warning, for a file that cannot be read or has no moving pictures."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                LOGGER.warning("%s: has no moving pictures; left out", path)
                return None
            if container.duration is not None:
                return container.duration / av.time_base
            ends = [
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                for packet in container.demux(container.streams.video[0])
                if packet.pts is not None and packet.time_base is not None
            ]
            return max(ends, default=0.0)
    except (FFmpegError, OSError) as error:
        LOGGER.warning("%s: cannot be read as a film (%s); left out", path, error.strerror)
        return None


def _check_ids(films: Sequence[Film], folder: Path) -> None:
    faults = Faults(
        f"--videos {folder}", f"rename them, or name the folder of features whose {FILMS_FILE} has their ids"
    )
    names: dict[str, str] = {}
    for film in films:
        if unfit_ids([os.fsencode(film.video_id)]):
            faults.add(f"{film.name} cannot be called {film.video_id!r}: {RULE}")
        elif names.setdefault(film.video_id, film.name) != film.name:
            faults.add(f"{names[film.video_id]} and {film.name} would both be called {film.video_id}")
    faults.raise_any()


def _read_listing(path: Path, folder: Path) -> dict[Path, tuple[str, float]]:
    """Id and seconds of the files that a listing has; its relative paths are those below `folder`, or beside it."""
    known: dict[Path, tuple[str, float]] = {}
    faults = Faults(path)
    for line, (video_id, name, text) in read_table(path, FILM_COLUMNS):
        try:
            seconds = float(text)
        except ValueError:
            faults.add(f"line {line}: seconds: expected a number, found {text!r}")
            continue
        for place in (Path(name), folder / name, path.parent / name):
            known.setdefault(place.resolve(), (video_id, seconds))
    faults.raise_any()
    if not known:
        raise UserError(f"{path}: no film in it")
    LOGGER.info("%s: %s", path, counted(len({video_id for video_id, _ in known.values()}), "film"))
    return known
