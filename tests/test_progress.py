"""Progress: a bar on a terminal, else occasional log lines."""

import io
import logging
import sys

import pytest

from yt8m.common import progress
from yt8m.common.progress import Progress


class Terminal(io.StringIO):
    """A console, as far as a bar looks at it."""

    def isatty(self) -> bool:
        return True


def logger_to(stream: io.StringIO, level: int = logging.INFO) -> logging.Logger:
    """A logger of its own that tells a console everything from that level on."""
    logger = logging.Logger("progress", logging.DEBUG)
    handler = logging.StreamHandler(stream)
    handler.setLevel(level)
    logger.addHandler(handler)
    return logger


def test_a_terminal_shows_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    lines = io.StringIO()
    with Progress("predicting", 40, "video", logger_to(lines)) as counted:
        counted.update(10)
        counted.update(30)
    shown = terminal.getvalue()
    assert "predicting" in shown and "40.0/40.0" in shown and "100%" in shown
    assert shown.endswith("\n")  # closed: what follows has a line of its own
    assert lines.getvalue() == ""


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_a_quiet_console_shows_no_bar(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    lines = io.StringIO()
    with Progress("predicting", 40, "video", logger_to(lines, level)) as counted:
        counted.update(40)
    assert terminal.getvalue() == lines.getvalue() == ""


def test_elsewhere_a_line_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = io.StringIO()
    with Progress("predicting", 400, "video", logger_to(lines)) as counted:
        for _ in range(10):
            clock[0] += 10
            counted.update(20)
    assert lines.getvalue().splitlines() == [
        "predicting: 60 of 400, 2 videos/s, 02:50 left",
        "predicting: 120 of 400, 2 videos/s, 02:20 left",
        "predicting: 180 of 400, 2 videos/s, 01:50 left",
    ]


def test_no_line_is_logged_before_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    lines = io.StringIO()
    with Progress("predicting", 400, "video", logger_to(lines)) as counted:
        counted.update(0)
    assert lines.getvalue() == ""
