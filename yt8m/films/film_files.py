"""Finding films, and their video ids."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from yt8m.common.errors import UserError, counted, listed
from yt8m.data.records import composed, unfit_ids
from yt8m.data.vocabulary import plain_name

LOGGER = logging.getLogger(__name__)
# Searched for in folders; a file that is named explicitly may have any extension.
SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .dv .f4v .flv .gif .h264 .h265 .ivf .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut "
    ".ogm .ogv .rm .rmvb .ts .vob .webm .wmv .wtv .y4m".split()
)
_MOST_BYTES = 200  # of an id; file names have at most 255, extensions included
_FILLER = "_"


def find_films(places: Sequence[Path]) -> list[Path]:
    """The films among files and in folders: absolute paths, each once, sorted.

    Folders are searched recursively, except for hidden entries. Raises `UserError` for a missing file or folder, or a
    folder without films.
    """
    films: set[Path] = set()
    for place in places:
        if place.is_dir():
            within, others = _look_through(place)
            if not within:
                raise UserError(f"{place}: no film in this folder; looked for {' '.join(sorted(SUFFIXES))}")
            if others:
                LOGGER.info("%s: ignored %s: %s", place, counted(len(others), "file"), listed(others))
            films |= within
        elif place.exists():
            films.add(_absolute(place))
        else:
            raise UserError(f"{place}: no such file or folder")
    return sorted(films)


def _look_through(folder: Path) -> tuple[set[Path], list[str]]:
    """The films below a folder, and the sorted names of the other files."""
    films, others = set(), []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                films.add(_absolute(Path(parent, name)))
            elif not name.startswith("."):
                others.append(name)
    return films, sorted(others)


def _absolute(path: Path) -> Path:
    """An absolute path with the links in its folder resolved, but not in its name: one path per film."""
    return path.parent.resolve() / path.name


def name_films(films: Sequence[Path], known: Mapping[Path, str]) -> dict[Path, str]:
    """The video id of each film: its file name without the extension, made valid for submissions and file names.

    Of films with the same name, all but the first get a number. `known` films keep their ids.
    """
    ids = {film: known[film] for film in films if film in known}
    plain = {film: plain_id(film.stem) for film in sorted(films) if film not in known}
    taken, wanted = set(map(composed, known.values())), set(plain.values())
    for film, name in plain.items():
        video_id, number = name, 1
        while video_id in taken or number > 1 and video_id in wanted:
            number += 1
            video_id = f"{name}-{number}"
        taken.add(video_id)
        ids[film] = video_id
    return ids


def ids_by_name(ids: Mapping[Path, str]) -> dict[str, str]:
    """What tables may have for the ids of films: file names without the extension, if only one film has the name and it
    is not an id itself."""
    known = set(ids.values())
    found: dict[str, list[str]] = {}
    for film, video_id in ids.items():
        found.setdefault(plain_name(film.stem), []).append(video_id)
    return {name: own[0] for name, own in found.items() if len(own) == 1 and name not in known}


def plain_id(name: str) -> str:
    """A name as an id: with composed accents, and underscores for the characters that ids cannot have."""
    fit = "".join(
        _FILLER if character == "/" or unfit_ids([character.encode(errors="surrogatepass")]) else character
        for character in composed(name)
    )
    return fit.encode()[:_MOST_BYTES].decode(errors="ignore") or _FILLER
