"""Features of films for a fit."""

import logging
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch

from yt8m.common.errors import UserError, counted, listed
from yt8m.films.extractors.base import Options
from yt8m.films.extractors.opening import open_extractor
from yt8m.films.film_files import name_films, plain_id
from yt8m.films.film_folder import Computing, open_film_folder
from yt8m.making.feature_arrays import require_known

LOGGER = logging.getLogger(__name__)


def choose_films(named: Mapping[Path, str], wanted: Collection[str], videos: Path, source: object) -> list[Path]:
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


def extract_films(
    films: list[Path], folder: Path, extractor: str, assets: Path | None, device: torch.device, processes: int | None
) -> list[str]:
    """Extract films to arrays in a folder, unless they exist; returns a line for each film that failed.

    `processes` None: one per core. Raises `UserError`.
    """
    cores = len(os.sched_getaffinity(0))
    threads = cores if device.type == "cpu" else 1  # a GPU computes one thing at a time
    with open_film_folder(folder) as opened:
        opener = partial(open_extractor, extractor, Options(assets, device))
        done = opened.fill(films, opener, Computing(processes or cores, threads), as_arrays=True)
    if done.contract is None:
        raise UserError("; ".join(done.failures))
    return done.failures
