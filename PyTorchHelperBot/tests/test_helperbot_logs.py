"""Logging set-up."""

import errno
import logging
import subprocess
import sys

import pytest
from helperbot import close_logger, get_logger, logging_to
from tqdm import tqdm


def test_lines_go_to_stderr_and_file_once_after_two_calls(tmp_path, capsys):
    file = tmp_path / "logs" / "run.log"
    logger = get_logger("helperbot-test-twice", file)
    try:
        assert get_logger("helperbot-test-twice", file) is logger
        logger.info("grüße")
        logger.debug("not this")
        assert file.read_text(encoding="utf-8").count("INFO grüße\n") == 1
        captured = capsys.readouterr()
        assert captured.err.count("INFO grüße\n") == 1
        assert "not this" not in captured.err
        assert captured.out == ""
    finally:
        close_logger(logger)


def test_context_manager_closes_the_file_and_undoes_the_set_up(tmp_path, capsys):
    file = tmp_path / "run.log"
    with logging_to("helperbot-test-context", file, logging.DEBUG) as logger:
        handlers = list(logger.handlers)
        logger.debug("inside")
    logger.warning("outside")
    assert not logger.handlers
    assert logger.propagate and logger.level == logging.NOTSET
    assert file.read_text(encoding="utf-8").endswith("DEBUG inside\n")
    assert all(getattr(h, "stream", None) is None for h in handlers if hasattr(h, "baseFilename"))
    with logging_to("helperbot-test-context", file) as logger:
        logger.info("again")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1] for line in lines] == ["inside", "again"]
    assert "again" in capsys.readouterr().err


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_a_quiet_console_leaves_the_file_complete(level, tmp_path, capsys):
    file = tmp_path / "run.log"
    with logging_to("helperbot-test-quiet", file, level, logging.WARNING) as logger:
        logger.info("only in the file")
        get_logger("helperbot-test-quiet", tmp_path / "other.log", level)  # says nothing of the console
        logger.info("in both files")
        logger.warning("everywhere")
    lines = [line.split(" ", 3)[-1] for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines == ["only in the file", "in both files", "everywhere"]
    assert len((tmp_path / "other.log").read_text(encoding="utf-8").splitlines()) == 2
    assert [line.split(" ", 3)[-1] for line in capsys.readouterr().err.splitlines()] == ["everywhere"]


def test_the_level_of_the_console_may_change_and_ends_with_it(capsys):
    name = "helperbot-test-console-level"
    logger = get_logger(name, level=logging.DEBUG, console_level=logging.ERROR)
    try:
        logger.warning("not shown")
        get_logger(name, level=logging.DEBUG, console_level=logging.DEBUG)
        logger.debug("shown")
    finally:
        close_logger(logger)
    with logging_to(name, console_level=logging.ERROR):
        pass
    with logging_to(name) as logger:
        logger.info("shown, too")
    assert [line.split(" ", 3)[-1] for line in capsys.readouterr().err.splitlines()] == ["shown", "shown, too"]


def test_closing_leaves_the_handlers_of_others():
    logger = get_logger("helperbot-test-others")
    other = logging.NullHandler()
    logger.addHandler(other)
    close_logger(logger)
    assert logger.handlers == [other]


def test_file_that_cannot_be_opened_leaves_the_logger_as_it_was(tmp_path):
    with pytest.raises(OSError):
        get_logger("helperbot-test-failing", tmp_path)
    assert not logging.getLogger("helperbot-test-failing").handlers


def test_lines_do_not_break_a_progress_bar(capsys):
    with logging_to("helperbot-test-bar") as logger, tqdm(total=2, file=sys.stderr) as shown:
        shown.update(1)
        logger.info("a line")
    printed = capsys.readouterr().err
    line = next(part for part in printed.replace("\r", "\n").split("\n") if "a line" in part)
    assert line.endswith("INFO a line") and "%|" not in line


def test_import_configures_nothing():
    code = "import logging, helperbot; print(logging.getLogger().handlers, logging.getLogger('helperbot').handlers)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert result.stdout.strip() == "[] []"


def test_a_line_that_cannot_be_written_is_an_error_that_names_the_file(capsys):
    logger = get_logger("helperbot-test-full", "/dev/full")
    try:
        with pytest.raises(OSError) as caught:
            logger.info("lost")
        assert caught.value.filename == "/dev/full" and caught.value.errno == errno.ENOSPC
    finally:
        close_logger(logger)  # which has nothing to add
    assert "Logging error" not in capsys.readouterr().err
