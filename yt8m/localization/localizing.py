"""Localizing classes in the videos of one file: what is asked for, and the models' probabilities for it.

Dimensions: L frames of a video, D features of a frame, S segments of a video, C classes.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from helperbot.files import replacing

from yt8m.common.devices import resolve_device, resolve_half, resolve_workers
from yt8m.common.errors import UserError
from yt8m.common.memory import keep_freed_memory
from yt8m.common.names import did_you_mean
from yt8m.common.progress import Progress
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.index import Index, index_file
from yt8m.data.segments import EVERYTHING
from yt8m.data.vocabulary import Vocabulary, named_vocabulary, plain_name
from yt8m.localization.span_formats import TABLE, WRITERS, counted
from yt8m.localization.spans import Localization, Query, find_spans
from yt8m.prediction.inference import Computation, Predictor, mean_probabilities, video_groups
from yt8m.prediction.members import chosen_folders, load_members

LOGGER = logging.getLogger(__name__)
SEGMENTS_AT_A_TIME = 256  # few, so that the first answers come soon; a video is never divided


def run_localization(args: argparse.Namespace) -> None:
    """Localize the videos of a file. Raises `UserError`."""
    _check_output(args.output, args.file)
    device = resolve_device(args.device)
    if device.type == "cpu":
        keep_freed_memory()
    computation = Computation(device, resolve_half(args.amp, device), tuple(sorted(args.shifts)), EVERYTHING)
    folders = chosen_folders(
        args.model_dir or args.data_dir / "cache" / "segment", args.model_names, named_vocabulary(args.vocabulary)
    )
    vocabulary = folders[0].vocabulary()  # the others' outputs are mapped to it
    classes = None if args.classes is None else find_classes(args.classes, vocabulary)
    query = Query(classes, args.top, args.threshold)
    index = index_file(args.file, args.damage)
    dataset = WholeVideoDataset(index, _choose_records(index, args.video_id), args.damage)
    predictor = Predictor(load_members(folders, args.offset, vocabulary, dataset.reader, device), computation)
    LOGGER.info(
        "%s: looking at %s with %s on %s",
        args.file,
        counted(len(dataset), "video"),
        ", ".join(folder.name for folder in folders),
        device,
    )
    answers = _localize_videos(dataset, predictor, vocabulary, query, resolve_workers(None, device))
    if args.output is not None or not sys.stdout.isatty():  # otherwise the answers show how far it is
        answers = _with_progress(answers, len(dataset))
    form = args.format or _format_of(args.output)
    with _open_output(args.output, form) as output:
        WRITERS[form](answers, query, output)


# --- what is asked for --------------------------------------------------------------------------------


def find_classes(names: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """The classes with these names, capitals or not, or label ids; a name that several classes have means all of them.

    Raises `UserError` that suggests what may have been meant.
    """
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(vocabulary.names):
        by_name.setdefault(name.casefold(), []).append(number)
    by_label = {str(label): [number] for number, label in enumerate(vocabulary.labels.tolist())}
    found: list[int] = []
    for name in names:
        numbers = by_name.get(plain_name(name).casefold()) or by_label.get(name.strip())
        if numbers is None:
            raise UserError(
                f"--classes {name}: no class of {vocabulary.source} has this name or label id; "
                f"{_suggestion(name, vocabulary.names)}"
            )
        found += numbers
    return list(dict.fromkeys(found))


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
                raise UserError(f"--videos {video_id}: no such video in {index.folder}; {_suggestion(video_id, names)}")
        records = np.array([rows[os.fsencode(video_id)] for video_id in dict.fromkeys(video_ids)])
    n_repeats = int(np.isin(index.video_id, index.video_id[records]).sum()) - len(records)
    if n_repeats:
        LOGGER.warning("%s: %s of an id that came before left out", index.folder, counted(n_repeats, "video"))
    return records


def _suggestion(text: str, known: Sequence[str]) -> str:
    """What a user may have meant who wrote `text`, or at least what there is."""
    return did_you_mean(text, known) or f"{', '.join(known[:3])}{' and others' * (len(known) > 3)} are there"


# --- prediction ---------------------------------------------------------------------------------------


def _localize_videos(
    dataset: WholeVideoDataset, predictor: Predictor, vocabulary: Vocabulary, query: Query, workers: int
) -> Iterator[Localization]:
    """The answers for the videos of the data set, in order, without those that cannot be read.

    A group of videos is predicted at a time, so that any number of them takes the same memory.
    """
    counts = EVERYTHING.count_left(dataset.n_frames[dataset.records])
    groups = video_groups(np.cumsum(counts), SEGMENTS_AT_A_TIME)
    keys = [[(0, video) for video in range(group.start, group.stop)] for group in groups]
    for group in BatchLoader(dataset, keys, workers, predictor.computation.device):
        videos = [frames for _, frames in group]
        for (number, frames), probabilities in zip(group, mean_probabilities(predictor, videos, len(vocabulary))):
            video_id = bytes(dataset.index.video_id[dataset.records[number]]).decode(errors="replace")
            yield find_spans(video_id, len(frames), probabilities, vocabulary, query)


def _with_progress(answers: Iterable[Localization], n_videos: int) -> Iterator[Localization]:
    with Progress("localizing", n_videos, "video", LOGGER) as progress:
        for answer in answers:
            yield answer
            progress.update(1)


# --- output -------------------------------------------------------------------------------------------


def _check_output(path: Path | None, features: Path) -> None:
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
