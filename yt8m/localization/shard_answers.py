"""Localizing classes in the videos of one shard.

Dimensions: L frames of a video, D features of a frame, S segments of a video, C classes.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from helperbot.files import replacing

from yt8m.common.devices import resolve_workers
from yt8m.common.errors import UserError, counted
from yt8m.common.progress import Progress
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.frames import EVERYTHING
from yt8m.data.index import Index, index_file
from yt8m.data.records import RAISE, Damage
from yt8m.localization.localizer import Localizer
from yt8m.localization.spans import TABLE, WRITERS, Localization, Query, find_spans, suggestion
from yt8m.models.model_folders import ModelFolder
from yt8m.prediction.inference import Computation, require_features, video_groups

LOGGER = logging.getLogger(__name__)
SEGMENTS_AT_A_TIME = 256  # few, so that the first answers come soon; a video is never divided


def localize_file(
    path: Path,
    folders: Sequence[ModelFolder],
    computation: Computation,
    query: Query,
    *,
    offset: int | None = None,
    video_ids: Sequence[str] | None = None,
    damage: Damage = RAISE,
) -> tuple[int, Iterator[Localization]]:
    """How many videos of a shard there are to localize, and the answers for them, in order.

    `video_ids`: those alone, in their order; all by default. Without those that cannot be read, if `damage` skips them.
    Raises `UserError`.
    """
    index = index_file(path, damage)
    dataset = WholeVideoDataset(index, _choose_records(index, video_ids), damage)
    require_features(folders, dataset.reader)
    localizer = Localizer(folders, computation, offset)
    LOGGER.info(
        "%s: looking at %s with %s on %s",
        path,
        counted(len(dataset), "video"),
        ", ".join(folder.name for folder in folders),
        computation.device,
    )
    return len(dataset), _localize_videos(dataset, localizer, query)


def write_answers(
    answers: Iterator[Localization], n_videos: int, query: Query, output: Path | None, form: str | None
) -> None:
    """Write the answers for so many videos to a file or, if `output` is None, to standard output.

    `form` is one of `WRITERS`; None is what the file's name says. Raises `UserError`.
    """
    if output is not None or not sys.stdout.isatty():  # otherwise the answers show how far it is
        answers = _with_progress(answers, n_videos)
    form = form or _format_of(output)
    with _open_output(output, form) as stream:
        WRITERS[form](answers, query, stream)


# --- what is asked for --------------------------------------------------------------------------------


def _choose_records(index: Index, video_ids: Sequence[str] | None) -> np.ndarray:
    """Rows of the index: of all its videos in order, or of those with these ids, in their order.

    Of several records with the same video id the first counts; the others are reported. Raises `UserError` for a
    video that is not there.
    """
    known, first = np.unique(index.video_id, return_index=True)
    records = np.sort(first)
    if video_ids is not None:
        rows = dict(zip(known.tolist(), first.tolist()))
        for video_id in video_ids:
            if os.fsencode(video_id) not in rows:
                names = [name.decode(errors="replace") for name in index.video_id[records].tolist()]
                raise UserError(f"--videos {video_id}: no such video in {index.folder}; {suggestion(video_id, names)}")
        records = np.array([rows[os.fsencode(video_id)] for video_id in dict.fromkeys(video_ids)])
    n_repeats = int(np.isin(index.video_id, index.video_id[records]).sum()) - len(records)
    if n_repeats:
        LOGGER.warning("%s: %s of an id that came before left out", index.folder, counted(n_repeats, "video"))
    return records


# --- prediction ---------------------------------------------------------------------------------------


def _localize_videos(dataset: WholeVideoDataset, localizer: Localizer, query: Query) -> Iterator[Localization]:
    """The answers for the videos of the data set, in order, without those that cannot be read.

    A group of videos is predicted at a time, so that any number of them takes the same memory.
    """
    counts = EVERYTHING.count_left(dataset.n_frames[dataset.records])
    groups = video_groups(np.cumsum(counts), SEGMENTS_AT_A_TIME)
    keys = [[(0, video) for video in range(group.start, group.stop)] for group in groups]
    device = localizer.predictor.computation.device
    for group in BatchLoader(dataset, keys, resolve_workers(None, device), device):
        for (number, frames), probabilities in zip(group, localizer.probabilities([frames for _, frames in group])):
            video_id = bytes(dataset.index.video_id[dataset.records[number]]).decode(errors="replace")
            yield find_spans(video_id, len(frames), probabilities, localizer.vocabulary, query)


def _with_progress(answers: Iterable[Localization], n_videos: int) -> Iterator[Localization]:
    with Progress("localizing", n_videos, "video", LOGGER) as progress:
        for answer in answers:
            yield answer
            progress.update(1)


# --- output -------------------------------------------------------------------------------------------


def check_output(path: Path | None, features: Path) -> None:
    """Raise `UserError` for an output that cannot be written, or would destroy the features."""
    if path is not None and path.is_dir():
        raise UserError(f"--output {path}: is a folder, expected the name of a file")
    if path is not None and path.exists() and features.exists() and path.samefile(features):
        raise UserError(f"--output {path}: is the file of features; write to another one")


class _ExactOutput:
    """Standard output for programs, which are to get every letter as it is."""

    def write(self, text: str) -> int:
        """Write. Raises `UserError` for a letter that the encoding lacks."""
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"standard output: {error.encoding} has no {text[error.start]!a}; set PYTHONIOENCODING=utf-8, or write "
                "to a file with --output"
            ) from None
        return sys.stdout.write(text)

    def flush(self) -> None:
        """Write what is held."""
        sys.stdout.flush()


@contextmanager
def _open_output(path: Path | None, form: str) -> Iterator[TextIO]:
    """What to write to: a file, which appears once it is finished, or standard output."""
    if path is None:
        yield sys.stdout if form == TABLE else cast(TextIO, _ExactOutput())
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as output:
        yield output
    LOGGER.info("wrote %s", path)


def _format_of(path: Path | None) -> str:
    """The format that a file's ending asks for."""
    ending = "" if path is None else path.suffix.lower().removeprefix(".")
    return ending if ending in ("json", "csv") else TABLE
