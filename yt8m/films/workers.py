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

Task = TypeVar("Task")
Report = Callable[[int], object]  # called with the amount of work just done
Work = Callable[[Task, Report], None]


def work(
    tasks: Sequence[Task], processes: int, report: Report, begin: Callable[..., Work[Task]], *arguments: Any
) -> Iterator[tuple[Task, UserError | None]]:
    """Do tasks in some processes, 1 for this one; yields each finished task and its error, if any.

    `begin(*arguments)`, called once in each process, gives the function that does a task and reports progress. The
    death of a process is an error of its task. Errors of `begin` and exceptions other than `UserError` are raised here.
    """
    if processes == 1:
        do = begin(*arguments)
        for task in tasks:
            yield task, _attempt(do, task, report)
        return
    rest = deque(tasks)
    running: list[_Process[Task]] = []
    try:
        while rest or running:
            while rest and len(running) < processes:
                running.append(_Process(begin, arguments, rest.popleft()))
            ready = wait([process.connection for process in running])
            for process in [process for process in running if process.connection in ready]:
                answer = process.receive()
                if isinstance(answer, int):
                    report(answer)
                    continue
                yield process.task, answer
                if rest and not isinstance(answer, _Died):
                    process.give(rest.popleft())
                else:
                    running.remove(process)
                    process.end()
    finally:
        for process in running:
            process.end()


def _attempt(do: Work[Task], task: Task, report: Report) -> UserError | None:
    try:
        do(task, report)
    except UserError as error:
        return error
    return None


class _Died(UserError):
    """A process ended before its task was done."""


class _Unready(UserError):
    """A process cannot begin work on any task."""


class _Process(Generic[Task]):
    """A process, the connection to it, and its current task."""

    def __init__(self, begin: Callable[..., Work[Task]], arguments: tuple[Any, ...], task: Task) -> None:
        context = multiprocessing.get_context("forkserver")  # inherits no threads
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, begin, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.give(task)

    def give(self, task: Task) -> None:
        """Give it a task."""
        self.task = task
        with suppress(BrokenPipeError):  # it has died, as `receive` will notice
            self.connection.send(task)

    def receive(self) -> int | UserError | None:
        """The amount of work just done or, at the end of the task, its error or None."""
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
    """Do the tasks received over a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_tasks, args=(connection, tasks), daemon=True).start()
    do: Work[Any] | None = None
    while True:
        task = tasks.get()
        answer: Exception | None
        try:
            do = do or _begun(begin, arguments)
            answer = _attempt(do, task, connection.send)
        except Exception as error:  # pylint: disable=broad-exception-caught  # raised in the parent
            error.add_note(traceback.format_exc())
            answer = error
        connection.send(answer)


def _begun(begin: Callable[..., Work[Task]], arguments: tuple[Any, ...]) -> Work[Task]:
    try:
        return begin(*arguments)
    except UserError as error:
        raise _Unready(str(error)) from error


def _read_tasks(connection: Connection, tasks: "SimpleQueue[Any]") -> None:
    """Read tasks, and end this process at once when its parent has ended."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, ConnectionResetError):
        os._exit(1)
