"""Logging to files and to the console, above progress bars."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

FORMAT = "%(asctime)s %(levelname)s %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class _TqdmStderr:
    """A stream that writes to the current `sys.stderr`, above the progress bars."""

    def write(self, text: str) -> None:
        """Write `text`, redrawing the bars."""
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


class _ConsoleHandler(logging.StreamHandler[_TqdmStderr]):
    """The console handler of `get_logger`, recognized by its class."""

    def __init__(self) -> None:
        super().__init__(_TqdmStderr())


class _LogFileHandler(logging.FileHandler):
    """A file handler of `get_logger`, recognized by its class."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that kept a line from being written, such as a full disk; logging would only print it."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise OSError(error.errno, error.strerror, self.baseFilename) from None

    def close(self) -> None:
        """Close the file. What it could not hold has been raised before."""
        with suppress(OSError):
            super().close()


def get_logger(
    name: str, file: str | os.PathLike[str] | None = None, level: int = logging.INFO, console_level: int | None = None
) -> logging.Logger:
    """Set up the logger `name` to write to stderr and, if given, to `file`.

    Repeated calls add no second handler for the console or for the same file; another file is added to those before.
    Records do not propagate to parent loggers, which might print them again.

    Args:
        name: the logger's name.
        file: a UTF-8 text file to append to; its folder is created if missing.
        level: minimum level, such as `logging.INFO`.
        console_level: minimum level on stderr, if higher. None keeps that of an earlier call, initially `level`.

    Returns:
        The logger; `close_logger` undoes the setup.

    Raises:
        OSError: the file cannot be opened. A line that cannot be written to it raises one, too, where it is logged.
    """
    logger = logging.getLogger(name)
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    added: list[logging.Handler] = []
    if file is not None:  # first, since only this can fail
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
    """Remove and close the handlers that `get_logger` added to `logger`, if any."""
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
    """`get_logger` as a context that closes the logger."""
    logger = get_logger(name, file, level, console_level)
    try:
        yield logger
    finally:
        close_logger(logger)
