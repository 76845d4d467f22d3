"""Saving states of a run in the background."""

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from helperbot.devices import HostCopies
from helperbot.distributed import rank
from helperbot.state import LoadedState, StateFiles


def check_interval(every: int | timedelta) -> None:
    """Raise `ValueError` for less than 1 step (int) or no time (timedelta) between states."""
    if isinstance(every, timedelta):
        if every <= timedelta(0):
            raise ValueError(f"save_every must be a time above 0, got {every}")
    elif every < 1:
        raise ValueError(f"save_every must be at least 1, got {every}")


class StateSaver:
    """Decides when to save the state of a run; process 0 writes it in a thread.

    The caller waits only while tensors are copied to host memory, which takes as much memory as a state and is kept for
    the next one, see `HostCopies`. At most one state is being written at a time.

    Args:
        path: file of the newest state; the one before is kept beside it, see `StateFiles`.
        every: steps (int) or time between states, see `check_interval`.

    Attributes:
        taken: number of states taken in this process since it began or resumed the run, except those that could not
            be written.
    """

    def __init__(self, path: Path, every: int | timedelta) -> None:
        self.every = every
        self.taken = 0
        self._files = StateFiles(path)
        self._copies = HostCopies()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0  # of the state last taken
        self._time = time.monotonic()  # when it was taken

    def begin(self) -> None:
        """Start the clock for the next state."""
        self._time = time.monotonic()

    def due_after(self, step: int) -> bool:
        """Whether a state of this step is to be saved, by the number of steps."""
        return not isinstance(self.every, timedelta) and step % self.every == 0

    def due_by_time(self) -> bool:
        """Whether a state is due by the clock of this process; never while one is being written."""
        if not isinstance(self.every, timedelta) or self.writing:
            return False
        return time.monotonic() - self._time >= self.every.total_seconds()

    @property
    def writing(self) -> bool:
        """Whether a state is being written now."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, state: dict[str, Any], step: int) -> None:
        """Copy the state of a step and start writing it. `finish` must have been called for the one before."""
        assert self._thread is None
        self.taken += 1
        self._step, self._time = step, time.monotonic()
        if rank() == 0:
            copied = self._copies.copy(state)
            self._thread = threading.Thread(target=self._write, args=(copied,), name="state writer")
            self._thread.start()

    def _write(self, state: dict[str, Any]) -> None:
        try:
            self._copies.wait()
            self._files.write(state)
        except BaseException as error:  # pylint: disable=broad-exception-caught  # raised by finish
            self._error = error

    def finish(self) -> int | None:
        """Wait until the state last taken is written; returns its step, or None if it already had been.

        Raises:
            OSError: it could not be written (disk full, for example); the files are unchanged.
        """
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            self.taken -= 1
            raise error
        return self._step

    def load(self) -> LoadedState | None:
        """See `StateFiles.load`."""
        self.taken = 0
        return self._files.load()
