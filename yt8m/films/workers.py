"""Work by several processes that end with this one, and of which each may die alone."""

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
Report = Callable[[int], object]  # told how much more is done
Work = Callable[[Task, Report], None]


def work(
    tasks: Sequence[Task], processes: int, report: Report, begin: Callable[..., Work[Task]], *arguments: Any
) -> Iterator[tuple[Task, UserError | None]]:
    """Do tasks by so many processes, 1 is this one: each when it is done, and what was wrong with it.

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
    """A process has ended before its task."""


class _Unready(UserError):
    """A process cannot begin, whatever its task."""


class _Process(Generic[Task]):
    """A process, the connection to it, and the task that it does."""

    def __init__(self, begin: Callable[..., Work[Task]], arguments: tuple[Any, ...], task: Task) -> None:
        context = multiprocessing.get_context("forkserver")  # nothing of this process goes along, threads and all
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, begin, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.give(task)

    def give(self, task: Task) -> None:
        """Have it do this."""
        self.task = task
        with suppress(BrokenPipeError):  # it has died, as what comes from it will say
            self.connection.send(task)

    def receive(self) -> int | UserError | None:
        """How much more of the task is done; or, if it has ended, what was wrong."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            reason = "; is there too little memory for so many --processes?" if code == -signal.SIGKILL else ""
            return _Died(f"the process that was at it ended with status {code}{reason}")
        if isinstance(answer, _Unready) or isinstance(answer, Exception) and not isinstance(answer, UserError):
            raise answer
        return answer

    def end(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, begin: Callable[..., Work[Any]], arguments: tuple[Any, ...]) -> None:
    """Do the tasks that come over a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process at the other end
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_tasks, args=(connection, tasks), daemon=True).start()
    do: Work[Any] | None = None
    while True:
        task = tasks.get()
        answer: Exception | None
        try:
            do = do or _begun(begin, arguments)
            answer = _attempt(do, task, connection.send)
        except Exception as error:  # pylint: disable=broad-exception-caught  # it is raised at the other end
            error.add_note(traceback.format_exc())
            answer = error
        connection.send(answer)


def _begun(begin: Callable[..., Work[Task]], arguments: tuple[Any, ...]) -> Work[Task]:
    try:
        return begin(*arguments)
    except UserError as error:
        raise _Unready(str(error)) from error


def _read_tasks(connection: Connection, tasks: "SimpleQueue[Any]") -> None:
    """Read tasks, and end this process, whatever it is doing, when the one at the other end has ended."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, ConnectionResetError):
        os._exit(1)
