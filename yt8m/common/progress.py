"""Progress of long computations: a bar on a terminal, otherwise an occasional line in the log."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A context that counts finished units and shows progress, rate and remaining time.

    There is no bar if the console hides what `logger` logs at level INFO.
    """

    def __init__(self, title: str, total: int, unit: str, logger: logging.Logger) -> None:
        self._title, self._total, self._unit, self._logger = title, total, unit, logger
        self._done = 0
        self._start = self._last_line = time.monotonic()
        shown = sys.stderr.isatty() and _console_shows(logger, logging.INFO)
        self._bar = tqdm(desc=title, total=total, unit=unit, unit_scale=True) if shown else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def rename(self, title: str) -> None:
        """Change the title."""
        self._title = title
        if self._bar is not None:
            self._bar.set_description(title)

    def update(self, count: int) -> None:
        """Add `count` finished units."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES and self._done:
            self._last_line = now
            rate = self._done / (now - self._start)
            left = tqdm.format_interval(max(self._total - self._done, 0) / rate)
            self._logger.info(
                "%s: %d of %d, %.0f %ss/s, %s left", self._title, self._done, self._total, rate, self._unit, left
            )


def _console_shows(logger: logging.Logger, level: int) -> bool:
    """Whether a handler shows lines of that level on the console; file handlers do not count."""
    if not logger.isEnabledFor(level):
        return False
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            is_console = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
            if is_console and handler.level <= level:
                return True
        current = current.parent if current.propagate else None
    return False
