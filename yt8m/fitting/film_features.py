"""Features of the annotated films of a fit."""

import logging
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch

from yt8m.common.errors import UserError, counted, listed
from yt8m.films.extractors.base import Options, open_extractor
from yt8m.films.film_files import name_films, plain_id
from yt8m.films.film_folder import Parallelism, open_film_folder
from yt8m.fitting.annotated import Annotated
from yt8m.making.feature_arrays import array_path, require_known

LOGGER = logging.getLogger(__name__)


class AnnotatedFilms:
    """The films in a folder that are annotated."""

    def __init__(self, videos: Path, named: Mapping[Path, str], annotated: Annotated) -> None:
        """`named`: the ids of the films in the folder. Raises `UserError` for annotations without a film."""
        self._annotated = annotated
        self._films = _choose_films(named, annotated.videos, videos, annotated.sources)

    def extract(
        self, folder: Path, extractor: str, assets: Path | None, device: torch.device, processes: int | None
    ) -> Annotated:
        """Extract arrays to a folder, unless they exist; returns the annotations of the films that could be read.

        `assets` are the extractor's files; `processes` None: one per core. Raises `UserError` if no film could be read.
        """
        with open_film_folder(folder) as opened:
            opener = partial(open_extractor, extractor, Options(assets, device))
            done = opened.fill(self._films, opener, Parallelism.on(device, processes), as_arrays=True)
        if done.contract is None:
            raise UserError("; ".join(done.failures))
        if not done.failures:
            return self._annotated
        LOGGER.warning("left out: %s: %s", counted(len(done.failures), "film"), "; ".join(done.failures))
        return self._annotated.of_videos(
            {video for video in self._annotated.videos if array_path(folder / "rgb", video).exists()}
        )


def _choose_films(named: Mapping[Path, str], wanted: Collection[str], videos: Path, source: object) -> list[Path]:
    """Of the films `named` by their ids, those with wanted ids, or all if their ids depend on each other.

    Raises `UserError` for ids without a film; `videos` is the folder of the films, `source` where the ids are from.
    """
    ids = list(named.values())
    require_known(wanted, ids, f"film {{0}} in {videos}", source, "an id is a film's name without the extension")
    chosen = {film: video_id for film, video_id in named.items() if video_id in wanted}
    _warn_of_namesakes(named, chosen)
    if name_films(list(chosen), {}) != chosen:
        return list(named)
    n_others = len(named) - len(chosen)
    if n_others:
        LOGGER.info("%s: %s without a label or rating that counts left out", videos, counted(n_others, "film"))
    return list(chosen)


def _warn_of_namesakes(named: Mapping[Path, str], chosen: Mapping[Path, str]) -> None:
    """Warn of films that are not chosen but have the name of a chosen one, to whose id a table may refer."""
    by_name: dict[str, list[Path]] = {}
    for film in named:
        by_name.setdefault(plain_id(film.stem), []).append(film)
    for name, films in by_name.items():
        others = [f"{film} is {named[film]}" for film in films if film not in chosen]
        if others and len(others) < len(films):
            meant = ", ".join(f"{chosen[film]} is {film}" for film in films if film in chosen)
            LOGGER.warning("several films are named %s: %s; left out: %s", name, meant, listed(others))
