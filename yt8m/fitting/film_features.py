"""Features of the annotated films of a fit."""

import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch

from yt8m.common.errors import UserError, counted
from yt8m.films.extractors.base import Options, open_extractor
from yt8m.films.film_files import find_films, name_films
from yt8m.films.film_folder import Parallelism, open_film_folder
from yt8m.fitting.annotated import Annotated
from yt8m.making.feature_arrays import array_path, require_known

LOGGER = logging.getLogger(__name__)


class AnnotatedFilms:
    """The films in a folder that are annotated."""

    def __init__(self, videos: Path, annotated: Annotated) -> None:
        """Raises `UserError` for annotations without a film."""
        self._annotated = annotated
        self._films = _find_named_films(videos, annotated.videos, annotated.sources)

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


def _find_named_films(videos: Path, wanted: Collection[str], source: object) -> list[Path]:
    """The films of a folder with these ids, or all films if their ids depend on each other.

    Raises `UserError` for ids without a film; `source` is where the ids are from.
    """
    named = name_films(find_films([videos]), {})
    ids = list(named.values())
    require_known(wanted, ids, f"film {{0}} in {videos}", source, "an id is a film's name without the extension")
    chosen = {film: video_id for film, video_id in named.items() if video_id in wanted}
    if name_films(list(chosen), {}) != chosen:
        return list(named)
    n_others = len(named) - len(chosen)
    if n_others:
        LOGGER.info("%s: %s without a label or rating that counts left out", videos, counted(n_others, "film"))
    return list(chosen)
