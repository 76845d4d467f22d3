"""Ending in good order when the system asks for it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None  # what `signal.signal` takes and returns


class SignalFlag:
    """Notes SIGTERM (a preemption notice, say), SIGINT and SIGHUP (a terminal that was closed) instead
    of dying of them, within a block.

    A signal that the process ignores (SIGHUP under nohup) stays ignored, and a second one does what it
    always does. Only the main thread can note signals; elsewhere, and when not `active`, nothing is
    changed.

    Attributes:
        number: of the signal that came, or None.
    """

    default = int(signal.SIGTERM)  # for a process that ends since another one got a signal

    def __init__(self, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.number: int | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> "SignalFlag":
        if self.active:
            heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
