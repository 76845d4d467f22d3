"""Fixtures: a tiny generated data set and commands run as a user would, in this process."""

import gc
import importlib
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helperbot import close_logger
from hypothesis import HealthCheck, settings

from tests.processes import Outcome, run_command

TINY = (
    "--train-videos 40 --valid-videos 16 --rated-videos 32 --test-videos 6 --classes 5 --shard-videos 4 "
    "--min-seconds 44 --max-seconds 70 --seed 3"
).split()


# Files that take longest, longest first: where files are handed out to several processes, none is to be left with a
# long one at the end.
LONG_FILES = (
    "test_docs.py",
    "test_resume.py",
    "test_distributed.py",
    "test_report.py",
    "test_rate.py",
    "test_helperbot_distributed.py",
    "test_pipeline.py",
    "test_export_model.py",
    "test_helperbot_state.py",
    "test_gpu_benchmark.py",
    "test_helperbot_examples.py",
    "test_records.py",
    "test_commands.py",
    "test_prediction.py",
)


def pytest_configure() -> None:
    """Let no test fail for a busy machine, nor the processes that tests start ignore SIGINT, as a shell's background
    jobs do, or SIGHUP, as under nohup."""
    settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put `LONG_FILES` first."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def fixture_no_telegram(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not write to the chat of whoever runs them."""
    for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "TELEGRAM_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="command")
def fixture_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command of the package with the arguments of a command line."""

    def call(module: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", sys.argv)  # to be put back
        capfd.readouterr()
        status = 0
        try:
            run_command(module, *arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            gc.unfreeze()
            close_logger(logging.getLogger("yt8m"))
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture(name="tiny_data", scope="session")
def fixture_tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with generated shards and a vocabulary; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    for module, arguments in (("make_demo_data", TINY), ("prepare_vocabulary", [])):
        command = importlib.import_module(f"yt8m.{module}")
        command.main(command.build_parser().parse_args([*arguments, "--data-dir", str(folder)]))
    return folder


@pytest.fixture(name="data_dir")
def fixture_data_dir(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data folder, for a test to change."""
    return shutil.copytree(tiny_data, tmp_path / "data")
