"""Worker processes that end with their parent, and whose deaths are handled one by one."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from yt8m.common.errors import UserError

Job = TypeVar("Job")
Advance = Callable[[int], object]  # called with the amount of work just done
Work = Callable[[Job, Advance], None]


def work(
    jobs: Sequence[Job], processes: int, advance: Advance, begin: Callable[..., Work[Job]], *arguments: Any
) -> Iterator[tuple[Job, UserError | None]]:
    """Do jobs in some processes, 1 for this one; yields each finished job and its error, if any.

    `begin(*arguments)`, called once in each process, gives the function that does a job and reports progress. The
    death of a process is an error of its job. Errors of `begin` and exceptions other than `UserError` are raised here.
    """
    if processes == 1:
        do = begin(*arguments)
        for job in jobs:
            yield job, _attempt(do, job, advance)
        return
    rest = deque(jobs)
    running: list[_Process[Job]] = []
    try:
        while rest or running:
            while rest and len(running) < processes:
                running.append(_Process(begin, arguments, rest.popleft()))
            ready = wait([process.connection for process in running])
            for process in [process for process in running if process.connection in ready]:
                answer = process.receive()
                if isinstance(answer, int):
                    advance(answer)
                    continue
                yield process.job, answer
                if rest and not isinstance(answer, _Died):
                    process.give(rest.popleft())
                else:
                    running.remove(process)
                    process.end()
    finally:
        for process in running:
            process.end()


def _attempt(do: Work[Job], job: Job, advance: Advance) -> UserError | None:
    try:
        do(job, advance)
    except UserError as error:
        return error
    return None


class _Died(UserError):
    """A process ended before its job was done."""


class _Unready(UserError):
    """A process cannot begin work on any job."""


class _Process(Generic[Job]):
    """A process, the connection to it, and its current job."""

    def __init__(self, begin: Callable[..., Work[Job]], arguments: tuple[Any, ...], job: Job) -> None:
        context = multiprocessing.get_context("forkserver")  # inherits no threads
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, begin, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.give(job)

    def give(self, job: Job) -> None:
        """Give it a job."""
        self.job = job
        with suppress(BrokenPipeError):  # it has died, as `receive` will notice
            self.connection.send(job)

    def receive(self) -> int | UserError | None:
        """The amount of work just done or, at the end of the job, its error or None."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            reason = "; is there too little memory for so many --processes?" if code == -signal.SIGKILL else ""
            return _Died(f"the worker process ended with status {code}{reason}")
        if isinstance(answer, _Unready) or isinstance(answer, Exception) and not isinstance(answer, UserError):
            raise answer
        return answer

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, begin: Callable[..., Work[Any]], arguments: tuple[Any, ...]) -> None:
    """Do the jobs received over a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    jobs: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_jobs, args=(connection, jobs), daemon=True).start()
    do: Work[Any] | None = None
    while True:
        job = jobs.get()
        answer: Exception | None
        try:
            do = do or _begun(begin, arguments)
            answer = _attempt(do, job, connection.send)
        except Exception as error:  # pylint: disable=broad-exception-caught  # raised in the parent
            error.add_note(traceback.format_exc())
            answer = error
        connection.send(answer)


def _begun(begin: Callable[..., Work[Job]], arguments: tuple[Any, ...]) -> Work[Job]:
    try:
        return begin(*arguments)
    except UserError as error:
        raise _Unready(str(error)) from error


def _read_jobs(connection: Connection, jobs: "SimpleQueue[Any]") -> None:
    """Read jobs, and end this process at once when its parent has ended."""
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, ConnectionResetError):
        os._exit(1)
