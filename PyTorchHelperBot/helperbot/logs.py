"""Logging to the console, without breaking progress bars, and to files."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

FORMAT = "%(asctime)s %(levelname)s %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class _TqdmStderr:
    """A stream that writes to stderr above the progress bars.

    It looks stderr up each time it writes, so it follows a later redirection.
    """

    def write(self, text: str) -> None:
        """Write `text`; bars are cleared before and drawn again after."""
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


class _ConsoleHandler(logging.StreamHandler[_TqdmStderr]):
    """The console handler of `get_logger`; a class of its own, to find it again."""

    def __init__(self) -> None:
        super().__init__(_TqdmStderr())


class _LogFileHandler(logging.FileHandler):
    """A file handler of `get_logger`; a class of its own, to find it again."""


def get_logger(
    name: str, file: str | os.PathLike[str] | None = None, level: int = logging.INFO, console_level: int | None = None
) -> logging.Logger:
    """Set up the logger `name` to write to stderr and, if given, to `file`.

    May be called any number of times: there is one console handler per logger, and one file
    handler per file. A further file is written beside the earlier ones. The logger's records no
    longer go to the loggers above it, whose handlers would print them a second time.

    Args:
        name: the logger's name.
        file: a text file (UTF-8) to append to; its folder is made when missing.
        level: the least level that is written, say `logging.INFO`.
        console_level: the least level that is written to stderr, for a console that is to show less than the files
            hold. None: as an earlier call set it, at first all that `level` lets through.

    Returns:
        The logger. `close_logger` undoes what this function did to it.

    Raises:
        OSError: the file cannot be opened.
    """
    logger = logging.getLogger(name)
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    added: list[logging.Handler] = []
    if file is not None:  # first, because only this can fail
        path = Path(file).resolve()
        open_files = [h.baseFilename for h in logger.handlers if isinstance(h, _LogFileHandler)]
        if str(path) not in open_files:
            path.parent.mkdir(parents=True, exist_ok=True)
            added.append(_LogFileHandler(path, encoding="utf-8"))
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        added.append(_ConsoleHandler())
    for handler in added:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    if console_level is not None:
        for handler in logger.handlers:
            if isinstance(handler, _ConsoleHandler):
                handler.setLevel(console_level)
    logger.setLevel(level)
    logger.propagate = False
    return logger


def close_logger(logger: logging.Logger) -> None:
    """Remove and close the handlers that `get_logger` added to `logger`.

    Handlers from elsewhere stay. Calling it again, or for another logger, changes nothing.
    """
    own = [h for h in logger.handlers if isinstance(h, (_ConsoleHandler, _LogFileHandler))]
    for handler in own:
        logger.removeHandler(handler)
        handler.close()
    if own:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


@contextmanager
def logging_to(
    name: str, file: str | os.PathLike[str] | None = None, level: int = logging.INFO, console_level: int | None = None
) -> Iterator[logging.Logger]:
    """Give the logger of `get_logger` with the same arguments, and close it at the end."""
    logger = get_logger(name, file, level, console_level)
    try:
        yield logger
    finally:
        close_logger(logger)
