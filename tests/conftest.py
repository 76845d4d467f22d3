"""Fixtures: a tiny generated data set and commands run as a user would, in this process."""

import gc
import importlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from helperbot import close_logger

from yt8m.cli import run

TINY = (
    "--train-videos 40 --valid-videos 16 --rated-videos 32 --test-videos 6 --classes 5 --shard-videos 4 "
    "--min-seconds 44 --max-seconds 70 --seed 3"
).split()


class Outcome(NamedTuple):
    """How a command ended: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def fixture_no_telegram(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not write to the chat of whoever runs them."""
    for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "TELEGRAM_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="command")
def fixture_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command of the package with the arguments of a command line."""

    def call(module: str, *arguments: object) -> Outcome:
        command = importlib.import_module(f"yt8m.{module}")
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            run(command.main, command.build_parser())
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
