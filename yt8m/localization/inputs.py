"""Inputs of `localize`, shards, arrays of features or films, and the answers for their videos.

Dimensions: L seconds of a video, D features of a second, S segments of a video, C classes.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from yt8m.common.devices import resolve_workers
from yt8m.common.errors import ForeignRecordError, RecordError, UserError, counted
from yt8m.common.progress import Progress
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.features import find_contract, require_same
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS
from yt8m.data.index import Index, index_file
from yt8m.data.partitions import SUFFIX
from yt8m.data.records import Damage, composed
from yt8m.data.sequence_example import FEATURES
from yt8m.localization.localizer import Localizer
from yt8m.localization.spans import Localization, Query, find_spans, suggestion
from yt8m.making.feature_arrays import read_array
from yt8m.prediction.inference import require_features, video_groups

if TYPE_CHECKING:
    from yt8m.films.extraction import Part
    from yt8m.films.extractors.base import Extractor

LOGGER = logging.getLogger(__name__)
SEGMENTS_AT_A_TIME = 256  # few, for early first answers; a video is never divided
_ARRAY = ".npy"


@dataclass(frozen=True)
class Answer:
    """The answer for a video: its spans, the `probabilities` (S, C) of its segments, and its film, if any."""

    localization: Localization
    probabilities: np.ndarray
    film: Path | None = None


def _answer(
    video_id: str,
    video: Tensor,
    values: np.ndarray,
    localizer: Localizer,
    query: Query,
    step: int,
    film: Path | None = None,
) -> Answer:
    """The answer for a video (L, D) uint8 whose segments have the probabilities `values` (S, C)."""
    rows = localizer.probabilities_by_second(video) if step == 1 and len(video) else values
    return Answer(find_spans(video_id, len(video), rows, localizer.vocabulary, query, step), values, film)


class Input(ABC):
    """A source of videos."""

    @property
    @abstractmethod
    def place(self) -> Path:
        """Their path."""

    @property
    @abstractmethod
    def video_ids(self) -> list[str]:
        """Their ids, in order."""

    @abstractmethod
    def answers(self, localizer: Localizer, query: Query, chosen: Sequence[str]) -> Iterator[Answer]:
        """The answers for the chosen videos, in that order. Raises `UserError`, if possible before the first."""


class _Shard(Input):
    """The videos of a .tfrecord file. Of records with the same id only the first counts; the others are reported."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self._path, self._damage = path, damage

    @property
    def place(self) -> Path:
        return self._path

    @cached_property
    def _index(self) -> Index:
        return index_file(self._path, self._damage)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The first row of the index with each id."""
        _, first = np.unique(self._index.video_id, return_index=True)
        return {os.fsdecode(self._index.video_id[row]): row for row in np.sort(first).tolist()}

    @property
    def video_ids(self) -> list[str]:
        try:
            return list(self._rows)
        except ForeignRecordError:
            raise
        except RecordError:
            if self._damage.skip:  # and has been named
                return []
            raise

    def answers(self, localizer: Localizer, query: Query, chosen: Sequence[str]) -> Iterator[Answer]:
        """Predicts a group of videos at a time, so that memory does not grow with their number. Leaves out unreadable
        ones if damage is skipped."""
        records = np.array([self._rows[video_id] for video_id in chosen], np.int64)
        n_repeats = int(np.isin(self._index.video_id, self._index.video_id[records]).sum()) - len(records)
        if n_repeats:
            LOGGER.warning("%s: %s with a duplicate id left out", self._path, counted(n_repeats, "video"))
        dataset = WholeVideoDataset(self._index, records, self._damage)
        require_features(localizer.folders, dataset.reader)
        return self._predicted(dataset, localizer, query)

    @staticmethod
    def _predicted(dataset: WholeVideoDataset, localizer: Localizer, query: Query) -> Iterator[Answer]:
        counts = EVERYTHING.count_left(dataset.n_frames[dataset.records])
        groups = video_groups(np.cumsum(counts), SEGMENTS_AT_A_TIME)
        keys = [[(0, video) for video in range(group.start, group.stop)] for group in groups]
        device = localizer.predictor.computation.device
        for group in BatchLoader(dataset, keys, resolve_workers(None, device), device):
            for (number, frames), values in zip(group, localizer.probabilities([frames for _, frames in group])):
                video_id = bytes(dataset.index.video_id[dataset.records[number]]).decode(errors="replace")
                yield _answer(video_id, frames, values, localizer, query, query.step or SEGMENT_SECONDS)


class _SingleVideo(Input):
    """One video, whose id is the name of its file."""

    def __init__(self, path: Path, video_id: str, film: Path | None = None) -> None:
        self._path, self._video_id, self._film = path, video_id, film

    @property
    def place(self) -> Path:
        return self._path

    @property
    def video_ids(self) -> list[str]:
        return [self._video_id]

    @abstractmethod
    def frames(self, localizer: Localizer) -> np.ndarray:
        """Features (L, D) uint8. Raises `UserError`."""

    def answers(self, localizer: Localizer, query: Query, chosen: Sequence[str]) -> Iterator[Answer]:
        step = query.step or (SEGMENT_SECONDS if self._film is None else 1)
        for video_id in chosen:
            video = torch.from_numpy(self.frames(localizer))
            yield _answer(video_id, video, localizer.probabilities([video])[0], localizer, query, step, self._film)


class _Array(_SingleVideo):
    """An array of features, visual and, if any, audio ones side by side; or an array in `rgb/` with audio features in
    `audio/` beside it."""

    def frames(self, localizer: Localizer) -> np.ndarray:
        values = read_array(self._path.parent, self._path.name.removesuffix(_ARRAY))
        rgb, audio = FEATURES
        beside = self._path.parent.parent / audio
        if self._path.parent.name == rgb and localizer.features.audio is not None and beside.is_dir():
            sound = read_array(beside, self._path.name.removesuffix(_ARRAY))
            length = min(len(values), len(sound))
            values = np.concatenate([values[:length], sound[:length]], axis=1)
        for folder in (self._path.parent, self._path.parent.parent):
            contract = find_contract(folder)
            if contract is not None and values.dtype == np.uint8:
                require_same(contract, folder, localizer.features, localizer.folders[0].path)
                break
        try:
            return localizer.quantized(values)
        except UserError as error:
            raise UserError(f"{self._path}: {error}") from None


@dataclass
class FilmExtractor:
    """Opens an extractor for the first film: `name`, None for the models' own; `assets` as in its `Options`."""

    name: str | None
    assets: Path | None
    _opened: "Extractor | None" = field(default=None, init=False)

    def __call__(self, localizer: Localizer) -> "Extractor":
        """The extractor of a localizer's features. Raises `UserError` if it is unknown, or not the one that made the
        models' training features."""
        if self._opened is None:
            from yt8m.films.extraction import require_extractor  # needs PyAV, which shards and arrays do not
            from yt8m.films.extractors.base import Options, open_extractor

            whose = localizer.folders[0].path
            own = localizer.features.extractor
            name = self.name or (None if own is None else own.name)
            if name is None:
                raise UserError(
                    f"{whose}: does not name the extractor of its training features; name it with "
                    "--extractor (for models of the released data set: --extractor yt8m --assets FOLDER)"
                )
            self._opened = open_extractor(name, Options(self.assets, localizer.predictor.computation.device))
            require_extractor(self._opened, localizer.features, whose)
        return self._opened


class _Film(_SingleVideo):
    """A film, whose features are extracted; left out if it is unreadable and damage is skipped."""

    def __init__(self, path: Path, video_id: str, extractor: FilmExtractor, damage: Damage) -> None:
        super().__init__(path, video_id, path)
        self._extractor, self._damage, self._begins = extractor, damage, 0.0

    def answers(self, localizer: Localizer, query: Query, chosen: Sequence[str]) -> Iterator[Answer]:
        try:
            for answer in super().answers(localizer, query, chosen):
                yield replace(answer, localization=replace(answer.localization, begins=self._begins))
        except RecordError as error:
            self._damage.handle(error)

    def frames(self, localizer: Localizer) -> np.ndarray:
        from yt8m.films.decoding import Film
        from yt8m.films.extraction import Threads, encoding_threads, quantize, stream_features

        extractor = self._extractor(localizer)
        with Film(self._path) as film:
            seconds = int(film.announced or 0)
            self._begins = film.find_beginning().player
        parts: list[np.ndarray] = []
        threads = Threads(encode=encoding_threads(localizer.predictor.computation.device))
        with Progress(f"extracting features of {self._path.name}", seconds, "second", LOGGER) as progress:

            def take(part: "Part") -> None:
                parts.append(quantize(part, localizer.features)[0])
                progress.update(len(part.rgb))

            notes = stream_features(self._path, extractor, take, threads)
        for note in notes:
            LOGGER.warning("%s: %s", self._path, note)
        return np.concatenate(parts)


def find_inputs(places: Sequence[Path], damage: Damage, extractor: FilmExtractor) -> list[Input]:
    """The inputs in some files and folders: shards, arrays, and otherwise films, in order; those of a folder by name.

    A folder is searched recursively, except hidden files and `audio/` beside `rgb/`. `extractor` is for films. Raises
    `UserError` for a missing place, or a folder without inputs.
    """
    from yt8m.films.film_files import SUFFIXES, name_films

    paths: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file; name shards, arrays, films, or folders of them")
        if not place.is_dir():
            paths.append(place)
            continue
        known = {SUFFIX, _ARRAY, *SUFFIXES}
        found = sorted(path for path in _walk(place) if path.suffix.lower() in known)
        if not found:
            raise UserError(f"{place}: no shard, array or film in this folder: no {SUFFIX}, {_ARRAY}, .mp4 or the like")
        paths += found
    spelled: dict[Path, Path] = {}  # as first named, by absolute path
    for path in paths:
        spelled.setdefault(path.parent.resolve() / path.name, path)
    paths = list(spelled.values())
    singles = [path for path in paths if path.suffix.lower() != SUFFIX]
    names = name_films(singles, {})

    def input_of(path: Path) -> Input:
        if path.suffix.lower() == SUFFIX:
            return _Shard(path, damage)
        if path.suffix.lower() == _ARRAY:
            return _Array(path, names[path])
        return _Film(path, names[path], extractor, damage)

    return [input_of(path) for path in paths]


def _walk(folder: Path) -> Iterator[Path]:
    rgb, audio = FEATURES
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not (name == audio and rgb in folders)]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def localize_all(
    inputs: Sequence[Input], localizer: Localizer, query: Query, video_ids: Sequence[str] | None = None
) -> tuple[int, Iterator[Answer]]:
    """The number of videos to localize, and the answers for them, input after input.

    `video_ids`: only these, within an input in this order; by default all. Raises `UserError`, also for an id that no
    input has.
    """
    known = [own.video_ids for own in inputs]
    if not any(known):
        raise _nothing_left(inputs)
    chosen = known
    if video_ids is not None:
        wanted = list(dict.fromkeys(map(composed, video_ids)))
        there = {video_id for own in known for video_id in own}
        for video_id in wanted:
            if video_id not in there:
                where = inputs[0].place if len(inputs) == 1 else f"any of {len(inputs)} inputs"
                raise UserError(f"--videos {video_id}: no such video in {where}; {suggestion(video_id, sorted(there))}")
        chosen = [[video_id for video_id in wanted if video_id in own] for own in known]
    used = [(own, ids) for own, ids in zip(inputs, chosen) if ids]
    asked = inputs if video_ids is None else [own for own, _ in used]
    LOGGER.info(
        "localizing in %s with %s on %s",
        counted(sum(len(ids) for _, ids in used), "video"),
        ", ".join(folder.name for folder in localizer.folders),
        localizer.predictor.computation.device,
    )
    ways = [own.answers(localizer, query, ids) for own, ids in used]  # checks widths before the first answer
    return sum(len(ids) for _, ids in used), _some(chain.from_iterable(ways), asked)


def _some(answers: Iterable[Answer], inputs: Sequence[Input]) -> Iterator[Answer]:
    """The answers. Raises `UserError` after the last one if there is none."""
    answered = False
    for answer in answers:
        answered = True
        yield answer
    if not answered:
        raise _nothing_left(inputs)


def _nothing_left(inputs: Sequence[Input]) -> UserError:
    where = str(inputs[0].place) if len(inputs) == 1 else f"{len(inputs)} inputs"
    return UserError(f"{where}: all videos are left out because of damage; copy or download them again")
