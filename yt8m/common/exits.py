"""How a command ends: its exit status, and the one line about what ended it."""

import errno
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TextIO, cast

from yt8m.common.errors import UserError

MISTAKE = 2
INTERRUPTED = 128 + signal.SIGINT
STATUSES = {
    "0": "done",
    "1": "check_data, check_submission, download or extract_features found something wrong or missing; with a "
    "traceback: a bug",
    "2": "a mistake in the command line, a file, the data, or what the machine lacks; one line says what to do",
    "130": "ended by Ctrl-C (SIGINT)",
    "143": "ended by SIGTERM, as preemptible machines send it",
    "129": "ended by SIGHUP, as a closed terminal sends it; training has saved its state in all three cases",
    "141": "whoever read the output has gone (SIGPIPE), as `head` does after ten lines",
}

_STANDARD_OUTPUT = "standard output"
_NO_THREADS = "the system allows this user no more threads and processes"
# What the system may be out of, whatever file it is about.
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Ending:
    """An exit status, and the line to say why; none where nobody is there to read it."""

    status: int
    text: str


def ending_of(error: Exception, less_memory: str, fewer_threads: str) -> Ending | None:
    """How a command ends that met an error; None for a bug, which needs its traceback.

    `less_memory` and `fewer_threads`: how it could do with those.
    """
    if isinstance(error, UserError):
        return Ending(MISTAKE, str(error))
    if isinstance(error, OSError):
        return _of_system(error, fewer_threads)
    shortage = _shortage_of_memory(error)
    if shortage is not None:
        return Ending(MISTAKE, f"{shortage}; {less_memory}")
    return _of_runtime(str(error), fewer_threads) if isinstance(error, RuntimeError) else None


def _of_system(error: OSError, fewer_threads: str) -> Ending | None:
    """A full disk, a folder without permission, a file where a folder should be, a pipe that nobody reads."""
    if isinstance(error, BrokenPipeError) and error.filename == _STANDARD_OUTPUT:
        return Ending(128 + signal.SIGPIPE, "")
    if error.filename is not None:
        return Ending(MISTAKE, f"{error.filename}: {error.strerror}")
    if error.errno == errno.EAGAIN:  # of starting a process
        return Ending(MISTAKE, f"{_NO_THREADS}; {fewer_threads}")
    return Ending(MISTAKE, os.strerror(error.errno)) if error.errno in _EXHAUSTED else None


def _of_runtime(text: str, fewer_threads: str) -> Ending | None:
    """What neither Python nor torch has an exception of its own for."""
    if text in ("can't start new thread", os.strerror(errno.EAGAIN)):  # Python's, and C++'s
        return Ending(MISTAKE, f"{_NO_THREADS}; {fewer_threads}")
    if "gloo" in text and "by peer" in text:  # a connection was reset or closed
        return Ending(MISTAKE, "another process of this run has ended; what that one says is the reason")
    return None


class _NamedOutput:
    """A stream whose `OSError`s say that they are those of standard output, and to which letters that its encoding
    lacks are no errors: they become `\\u30c7` and the like. All else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or hold to be written."""
        encoding = self._stream.encoding or "utf-8"
        with _naming():
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write, or hold to be written."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held."""
        with _naming():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _naming() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _STANDARD_OUTPUT
        raise


@contextmanager
def named_output() -> Iterator[None]:
    """Within the block, and in what it still holds at its end, an error of standard output says that it is one."""
    if sys.stdout is None:  # the process was started with it closed
        yield
        return
    with redirect_stdout(cast(TextIO, _NamedOutput(sys.stdout))):
        try:
            yield
        except SystemExit:  # it has printed all that it wanted to
            sys.stdout.flush()
            raise
        sys.stdout.flush()


def settle(stream: TextIO | None) -> None:
    """Write what a stream holds, or let it go nowhere: the interpreter would try once more at its end, and fail."""
    if stream is None:  # the process was started with it closed
        return
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _shortage_of_memory(error: Exception) -> str | None:
    """What memory an error says is missing, and for what; None if it does not."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError):
        return f"out of memory: {text or 'no more is free'}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch itself is not to be imported here
        return f"out of memory: {text.partition(' GPU ')[0].rstrip('.')}"
    allocator = "DefaultCPUAllocator: "  # torch has no exception of its own for the CPU
    if isinstance(error, RuntimeError) and f"{allocator}can't allocate memory" in text:
        return f"out of memory: {text.partition(allocator)[2].partition('. ')[0]}"
    return None
