"""Threads that work off a list of tasks and tell the main thread what happens, until it has heard enough."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_SECONDS_TO_STOP = 0.5

Task = TypeVar("Task")
Result = TypeVar("Result")


class Stopped(Exception):
    """The work is not wanted any more."""


@dataclass(frozen=True)
class Moved:
    """So many bytes more have been read or received; fewer, if what was there has to be discarded."""

    count: int


@dataclass(frozen=True)
class Said:
    """Something worth a line in the log."""

    text: str


@dataclass(frozen=True)
class Done(Generic[Task, Result]):
    """A task and what came of it."""

    task: Task
    result: Result


Event = Moved | Said | Done[Task, Result]


class Watch:
    """What a working thread tells, and how it hears that it should stop."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop = threading.Event()

    def moved(self, count: int) -> None:
        """So many bytes more, or fewer. Raises `Stopped` if it is time to."""
        if self.stop.is_set():
            raise Stopped
        self.events.put(Moved(count))

    def say(self, text: str) -> None:
        """A line for the log."""
        self.events.put(Said(text))

    def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopped` as soon as it is time to."""
        if self.stop.wait(seconds):
            raise Stopped


def work_off(
    tasks: Sequence[Task], n_threads: int, make_worker: Callable[[Watch], Callable[[Task], Result]]
) -> Generator[Event[Task, Result], None, None]:
    """Do the tasks in threads, each with a worker of its own, and yield what they tell, as it comes.

    A worker's exception is raised here and ends the work; so does leaving the iteration early. Threads that hang in
    a connection do not hold up the end of the process.
    """
    watch = Watch()
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        try:
            worker = make_worker(watch)
            while not watch.stop.is_set():
                task = waiting.get_nowait()
                watch.events.put(Done(task, worker(task)))
        except (queue.Empty, Stopped):
            pass
        except BaseException as error:  # pylint: disable=broad-exception-caught  # the main thread raises it
            watch.events.put(error)

    # Not an executor: its threads are waited for at exit, and Ctrl-C would take as long as a server that hangs.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(n_threads, len(tasks)))]
    try:
        for thread in threads:
            thread.start()
        left = len(tasks)
        while left:
            event = watch.events.get()
            if isinstance(event, BaseException):
                raise event
            left -= isinstance(event, Done)
            yield event
    finally:
        watch.stop.set()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
