"""Output of answers: to standard output, a file, or one file per video."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.localization.spans import SUBTITLES, TABLE, WRITERS, Localization, Query

LOGGER = logging.getLogger(__name__)


def write_answers(
    answers: Iterator[Localization], n_videos: int, query: Query, output: Path | None, form: str | None
) -> None:
    """Write the answers for `n_videos` videos to a file, a folder or, if `output` is None, to standard output.

    `form` is one of `WRITERS`; None: by the file's extension. Subtitles are of one video: for several, the folder
    `output` gets a file each, named by the video's id. Raises `UserError`.
    """
    if output is not None or not sys.stdout.isatty():  # otherwise the answers themselves show progress
        answers = _with_progress(answers, n_videos)
    form = form or format_of(output)
    if form not in SUBTITLES or n_videos == 1 and not (output is not None and output.is_dir()):
        with _open_output(output, form) as stream:
            WRITERS[form](answers, query, stream)
        return
    if output is None or output.exists() and not output.is_dir():
        raise UserError(f"--format {form}: {n_videos} videos have a file each; name a folder with --output")
    for answer in answers:
        with _open_output(output / f"{answer.video_id.replace('/', '_')}.{form}", form) as stream:
            WRITERS[form]([answer], query, stream)


def _with_progress(answers: Iterable[Localization], n_videos: int) -> Iterator[Localization]:
    with Progress("localizing", n_videos, "video", LOGGER) as progress:
        for answer in answers:
            yield answer
            progress.update(1)


def check_output(option: str, path: Path | None, inputs: Iterable[Path], form: str | None = None) -> None:
    """Raise `UserError` for an output of an option that cannot be written, or would overwrite an input."""
    if path is None:
        return
    if path.is_dir() and form not in SUBTITLES:
        raise UserError(f"{option} {path}: is a folder, expected the name of a file")
    for own in inputs:
        if path.exists() and own.exists() and not own.is_dir() and path.samefile(own):
            raise UserError(f"{option} {path}: is an input; write to another file")


class _ExactOutput:
    """Standard output for programs, which must get every character unchanged."""

    def write(self, text: str) -> int:
        """Write. Raises `UserError` for a character that the encoding lacks."""
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"standard output: {error.encoding} has no {text[error.start]!a}; set PYTHONIOENCODING=utf-8, or write "
                "to a file with --output"
            ) from None
        return sys.stdout.write(text)

    def flush(self) -> None:
        """Flush the buffer."""
        sys.stdout.flush()


@contextmanager
def _open_output(path: Path | None, form: str) -> Iterator[TextIO]:
    """Open the output: a file, written atomically, or standard output."""
    if path is None:
        yield sys.stdout if form == TABLE else cast(TextIO, _ExactOutput())
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as output:
        yield output
    LOGGER.info("wrote %s", path)


def format_of(path: Path | None) -> str:
    """The format for a file's extension."""
    ending = "" if path is None else path.suffix.lower().removeprefix(".")
    return ending if ending in WRITERS else TABLE
