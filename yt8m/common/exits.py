"""Exit statuses of commands, and their one-line error messages."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO, cast

from yt8m.common.errors import UserError

MISTAKE = 2
INTERRUPTED = 128 + signal.SIGINT
STATUSES = {
    "0": "done",
    "1": "check_data, check_submission, download or extract_features found something wrong or missing; with a "
    "traceback: a bug",
    "2": "an error in the command line, a file or the data, or something missing on the machine; one line names the "
    "remedy",
    "130": "ended by Ctrl-C (SIGINT)",
    "143": "ended by SIGTERM, as preemptible machines send it",
    "129": "ended by SIGHUP, as a closed terminal sends it; training has saved its state in all three cases",
    "141": "the reader of the output has gone (SIGPIPE), as `head` does after ten lines",
}

_STANDARD_OUTPUT = "standard output"
_NO_THREADS = "the system allows this user no more threads and processes"
# Exhausted resources, whatever the file.
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Ending:
    """An exit status and the line that explains it, empty if nobody is there to read it."""

    status: int
    text: str


def ending_of(error: Exception, less_memory: str, fewer_threads: str) -> Ending | None:
    """The ending of a command by an error; None for a bug, which needs its traceback.

    `less_memory` and `fewer_threads`: remedies for a lack of memory or threads.
    """
    if isinstance(error, UserError):
        return Ending(MISTAKE, str(error))
    if isinstance(error, OSError):
        return _ending_of_os_error(error, fewer_threads)
    shortage = _shortage_of_memory(error)
    if shortage is not None:
        return Ending(MISTAKE, f"{shortage}; {less_memory}")
    return _ending_of_runtime_error(str(error), fewer_threads) if isinstance(error, RuntimeError) else None


def _ending_of_os_error(error: OSError, fewer_threads: str) -> Ending | None:
    """For a full disk, a folder without permission, a file in place of a folder, a pipe that nobody reads."""
    if isinstance(error, BrokenPipeError) and error.filename == _STANDARD_OUTPUT:
        return Ending(128 + signal.SIGPIPE, "")
    if error.filename is not None:
        return Ending(MISTAKE, f"{error.filename}: {error.strerror}")
    if error.errno == errno.EAGAIN:  # from starting a process
        return Ending(MISTAKE, f"{_NO_THREADS}; {fewer_threads}")
    return Ending(MISTAKE, os.strerror(error.errno)) if error.errno in _EXHAUSTED else None


def _ending_of_runtime_error(text: str, fewer_threads: str) -> Ending | None:
    """For errors without an exception of their own in Python or torch."""
    if text in ("can't start new thread", os.strerror(errno.EAGAIN)):  # Python's, and C++'s
        return Ending(MISTAKE, f"{_NO_THREADS}; {fewer_threads}")
    if "gloo" in text and "by peer" in text:  # a connection was reset or closed
        return Ending(MISTAKE, "another process of this run has ended; see its message for the reason")
    return None


class Terminated(SystemExit):
    """SIGTERM or SIGHUP; its `code` is the exit status."""


@contextmanager
def raised_terminations() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Terminated`, as Ctrl-C raises `KeyboardInterrupt`.

    Ignored signals stay ignored, and a second signal acts as usual. No effect outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def restore() -> None:
        for number, handler in heeded.items():
            signal.signal(number, handler)

    def end(number: int, _: FrameType | None) -> None:
        restore()
        raise Terminated(128 + number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()


class _NamedOutput:
    """A wrapper of a stream that marks its `OSError`s as those of standard output, and escapes characters that its
    encoding lacks, as in `\\u30c7`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to the buffer or the stream."""
        encoding = self._stream.encoding or "utf-8"
        with _naming():
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write to the buffer or the stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the buffer."""
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
    """Mark errors of standard output as such, within the block and in the flush at its end."""
    if sys.stdout is None:  # the process was started with it closed
        yield
        return
    with redirect_stdout(cast(TextIO, _NamedOutput(sys.stdout))):
        try:
            yield
        except SystemExit:  # all is printed
            sys.stdout.flush()
            raise
        sys.stdout.flush()


def settle(stream: TextIO | None) -> None:
    """Flush a stream or, if that fails, redirect it to nowhere: the interpreter would flush again at exit, and fail."""
    if stream is None:  # the process was started with it closed
        return
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _shortage_of_memory(error: Exception) -> str | None:
    """The message of an out-of-memory error; None for other errors."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError):
        return f"out of memory: {text or 'no more is free'}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return f"out of memory: {text.partition(' GPU ')[0].rstrip('.')}"
    allocator = "DefaultCPUAllocator: "  # torch has no exception of its own for the CPU
    if isinstance(error, RuntimeError) and f"{allocator}can't allocate memory" in text:
        return f"out of memory: {text.partition(allocator)[2].partition('. ')[0]}"
    return None
