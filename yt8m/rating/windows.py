"""Questions and answers of browser windows: no segment is in two windows at once, and answers are saved at once."""

import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.fitting.minimum import LEAST_RATINGS
from yt8m.rating.choice import Chooser
from yt8m.rating.film_list import ListedFilm
from yt8m.rating.ratings_file import RatedSegment, RatingsFile

OPEN, NO, YES, SKIPPED = -1, 0, 1, 2  # states of a question
LEASE_SECONDS = 900.0  # of silence after which another window may get a window's question


class NotAskedError(ValueError):
    """A window's answer to a question that it was not asked, or no longer has."""


@dataclass
class Window:
    """A window: its question, its answered questions, oldest first, and the time of its last request."""

    question: int | None
    answered: list[int]
    seen: float


class RatingWindows:
    """The questions about films, and their answers in a file. Thread-safe.

    `labels` of the classes for the file, and their `names` for the page; `command`: the command to run next. Questions
    answered in the file are not asked again. All methods except `leave` return the page's state.
    """

    def __init__(
        self,
        films: Sequence[ListedFilm],
        labels: Sequence[str],
        names: Sequence[str],
        chooser: Chooser,
        file: RatingsFile,
        command: str,
    ) -> None:
        self.films, self.labels, self.names, self.chooser, self.file = films, labels, names, chooser, file
        self.command = command
        self._questions = chooser.questions
        self._status = np.full(len(self._questions), OPEN, np.int8)
        self._windows: dict[str, Window] = {}
        self._unplayable: dict[int, None] = {}  # films, in the order of discovery
        self._lock = threading.Lock()
        numbers = {self._key(number): number for number in range(len(self._questions))}
        self._before = [numbers[key] for key in file.scores if key in numbers]  # answered by no open window
        for number in self._before:
            self._status[number] = file.scores[self._key(number)]

    def ask(self, window: str) -> dict[str, Any]:
        """The current question of a window, or its next one."""
        with self._lock:
            return self._next(self._window(window))

    def answer(self, window: str, question: int, score: int | None) -> dict[str, Any]:
        """Save an answer, 1 or 0, or None to skip the question until the next start of the command.

        Raises `NotAskedError`, or `OSError` if the answer could not be written; the question then stays.
        """
        with self._lock:
            asked = self._window(window)
            if asked.question is None or asked.question != question:
                raise NotAskedError
            if score is not None:
                self.file.add(self._key(question), score)
            self._status[question] = SKIPPED if score is None else score
            asked.answered.append(question)
            asked.question = None
            return self._next(asked)

    def undo(self, window: str) -> dict[str, Any]:
        """Take back the last answer of a window or, if it has none, of closed ones, and ask that question again.

        Raises `OSError` if that could not be written; the answer then stays.
        """
        with self._lock:
            asking = self._window(window)
            answered = asking.answered or self._before
            if answered:
                question = answered[-1]
                if self._status[question] != SKIPPED:
                    self.file.remove(self._key(question))
                answered.pop()
                self._status[question] = OPEN
                if self._may_be_asked(asking)[question]:
                    asking.question = question
            return self._next(asking)

    def give_up(self, window: str, question: int) -> dict[str, Any]:
        """Stop asking about the film of a question, which the browser cannot play."""
        with self._lock:
            asking = self._window(window)
            if asking.question is None or asking.question != question:
                raise NotAskedError
            self._unplayable[int(self._questions.films[question])] = None
            return self._next(asking)

    def leave(self, window: str) -> None:
        """Forget a closed window; others may get its question and take back its answers."""
        with self._lock:
            self._close(window)

    def _window(self, name: str) -> Window:
        """A known or new window; closes those that have been silent for long."""
        now = time.monotonic()
        for other in [other for other, window in self._windows.items() if now - window.seen > LEASE_SECONDS]:
            self._close(other)
        window = self._windows.setdefault(name, Window(None, [], now))
        window.seen = now
        return window

    def _close(self, name: str) -> None:
        window = self._windows.pop(name, None)
        if window is not None:
            self._before += window.answered

    def _key(self, question: int) -> RatedSegment:
        film, start, label = self._row(question)
        return self.films[film].video_id, start, self.labels[label]

    def _row(self, question: int) -> tuple[int, int, int]:
        """Film, start second and class of a question."""
        questions = self._questions
        return int(questions.films[question]), int(questions.starts[question]), int(questions.classes[question])

    def _may_be_asked(self, window: Window) -> np.ndarray:
        """The questions (Q,) open to a window: of playable films, and segments not in other windows."""
        films, starts = self._questions.films, self._questions.starts
        free = self._open()
        for other in self._windows.values():
            if other is not window and other.question is not None:
                free &= (films != films[other.question]) | (starts != starts[other.question])
        return free

    def _next(self, window: Window) -> dict[str, Any]:
        """Give a window its current or next question, and return the page's state."""
        free = self._may_be_asked(window)
        if window.question is None or not free[window.question]:
            asked = self._status != OPEN
            asked[[other.question for other in self._windows.values() if other.question is not None]] = True
            window.question = self.chooser.choose(free, asked)
        return {
            "question": None if window.question is None else self._describe(window.question),
            "classes": self._progress(),
            "rated": int(np.isin(self._status, (YES, NO)).sum()),
            "skipped": int((self._status == SKIPPED).sum()),
            "undo": bool(window.answered or self._before),
            "others": bool(window.question is None and self._open().any()),
            "unplayable": [self._conversion(number) for number in self._unplayable],
            "file": str(self.file.path),
            "command": self.command,
            "least": LEAST_RATINGS,
        }

    def _describe(self, question: int) -> dict[str, Any]:
        film, start, label = self._row(question)
        return {
            "number": question,
            "film": film,
            "name": self.films[film].name,
            "start": start,
            "end": start + SEGMENT_SECONDS,
            "begins": self.films[film].played_begins,
            "class": self.names[label],
        }

    def _progress(self) -> list[dict[str, Any]]:
        """The numbers of answers of each class, and of the questions left, in order."""
        counts = {
            status: np.bincount(self._questions.classes[chosen], minlength=len(self.labels)).tolist()
            for status, chosen in ((YES, self._status == YES), (NO, self._status == NO), (OPEN, self._open()))
        }
        return [
            {"class": name, "yes": yes, "no": no, "open": left}
            for name, yes, no, left in zip(self.names, counts[YES], counts[NO], counts[OPEN])
        ]

    def _open(self) -> np.ndarray:
        """The unanswered questions (Q,) of playable films."""
        return (self._status == OPEN) & ~np.isin(self._questions.films, list(self._unplayable))

    def _conversion(self, film: int) -> dict[str, str]:
        return {"name": self.films[film].name, "command": shlex.join(self.films[film].conversion)}
