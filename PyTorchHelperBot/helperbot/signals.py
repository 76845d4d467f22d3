"""Signals as flags, for an orderly end."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None  # as `signal.signal` has it


class SignalFlag:
    """A context in which SIGTERM, SIGINT and SIGHUP set a flag instead of ending the process.

    Ignored signals (SIGHUP under nohup) stay ignored, and a second signal acts as usual. Has no effect outside of the
    main thread or when not `active`.

    Attributes:
        number: of the signal received, or None.
    """

    default = int(signal.SIGTERM)  # of a process that ends because another one got a signal

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
