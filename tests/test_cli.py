"""The command line: the entry point, options of the same meaning everywhere, exit statuses."""

import argparse
import csv
import errno
import gc
import importlib
import io
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.small_models import DBOF, TRAINING, agnostic_folder, write_config
from yt8m import __version__
from yt8m.__main__ import COMMANDS, GROUPS, build_command_parser
from yt8m.__main__ import main as yt8m
from yt8m.cli import run
from yt8m.common.errors import UserError, counted
from yt8m.common.exits import STATUSES, Terminated, raised_terminations

Command = Callable[..., Outcome]
PACKAGE = Path(importlib.import_module("yt8m").__file__ or "").parent
TIMEOUT = 120  # seconds; far more than any of these takes

# What an option may mean elsewhere, and why: option, property, and the commands that have a meaning of their own.
EXPLAINED = {
    # what is written has a form of its own in each command
    ("--output", "metavar"): set(COMMANDS),
    ("--output", "default"): {"create_submission_from_memmaps"},
    ("--format", "choices"): {"localize", "export_model", "extract_features"},
    ("--format", "default"): {"export_model", "extract_features"},
    # a short run of its own length; fine-tuning alone has folds
    ("--steps", "default"): {"find_lr"},
    ("--fold", "default"): {"find_lr"},
    # no model is measured on shards that none holds out
    ("--fold", "type"): {"evaluate"},
    ("--fold", "choices"): {"evaluate"},
    ("--fold", "metavar"): {"evaluate"},
    # predictions are in full precision unless told otherwise
    ("--amp", "default"): {"inference_memmap", "localize"},
    # whole videos on one side, single segments on the other; a page has more room than a terminal
    ("--batch-size", "default"): {"evaluate"},
    ("--top", "default"): {"report"},
    # the sizes of a made-up data set, one of which is how many classes it has; 1000 videos a shard but for few videos
    ("--classes", "type"): {"make_demo_data"},
    ("--classes", "metavar"): {"make_demo_data"},
    ("--classes", "default"): {"make_demo_data"},
    ("--classes", "nargs"): {"make_demo_data"},
    ("--shard-videos", "default"): {"make_demo_data"},
    # films take longer to make than features
    ("--min-seconds", "default"): {"make_demo_films"},
    ("--max-seconds", "default"): {"make_demo_films"},
    # too many videos for a command line; films are files in a folder
    ("--videos", "type"): {"fit", "make_records", "rate"},
    ("--videos", "metavar"): {"fit", "make_records", "rate"},
    ("--videos", "nargs"): {"fit", "make_records", "rate"},
    # from one learning rate to another; shards of a plan to a folder
    ("--to", "type"): {"find_lr"},
    # or a data folder that is made, not one of shards
    ("--to", "metavar"): {"find_lr", "extract_features", "make_demo_films"},
    ("--to", "default"): {"find_lr"},
}


@pytest.fixture(autouse=True)
def fixture_levels() -> Iterator[None]:
    """Commands set levels of loggers for their process; here one process runs many."""
    yield
    gc.unfreeze()
    for name in ("yt8m", "yt8m.cli"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def call(words: list[str]) -> int:
    """The status that `yt8m` ends with."""
    try:
        yt8m(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def options_of(name: str) -> Iterator[tuple[argparse.Action, bool]]:
    """The options of a command that take a value, and whether one of them, or of its group, has to be given."""
    parser = build_command_parser(name)
    groups = parser._mutually_exclusive_groups  # pylint: disable=protected-access  # argparse tells it nowhere else
    for action in parser._actions:  # pylint: disable=protected-access
        if action.option_strings and action.nargs != 0:
            # pylint: disable-next=protected-access
            needed = any(group.required and action in group._group_actions for group in groups)
            yield action, action.required or needed


# All commands under one name


def test_each_command_is_in_one_group() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py") if "def build_parser" in path.read_text(encoding="utf-8")}
    assert sorted(COMMANDS) == sorted(modules - {"__main__"})


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed_with_what_they_are_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(words) == 0
    printed = capsys.readouterr().out
    listed = re.findall(r"^  ([a-z]\w+)$", printed, re.MULTILINE)
    assert listed == list(COMMANDS)
    flat = " ".join(printed.split())
    for name in COMMANDS:
        summary = (importlib.import_module(f"yt8m.{name}").__doc__ or "").partition("\n")[0]
        assert f"{name} {summary}" in flat
    assert all(f"{title}:\n  {names[0]}\n" in printed for title, names in GROUPS.items())
    assert all(f"{status} {' '.join(meaning.split())}" in flat for status, meaning in STATUSES.items())


def test_other_systems_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_data = importlib.import_module("yt8m.check_data")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit) as end:
        run(check_data.main, check_data.build_parser(), ["--data-dir", str(data_dir)])
    gc.unfreeze()
    assert end.value.code == 2
    assert "error: runs only on Linux, not on darwin; use the Docker image" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["report", "--version"]):
        assert call(words) == 0
        assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("trian_video", "did you mean train_video"),
        ("check-submision", "did you mean check_submission"),
        ("inference", "did you mean inference_memmap"),
        ("xyzzy", "'xyzzy'; `yt8m --help`"),
        ("cli", "unknown command 'cli'"),
        ("common", "unknown command 'common'"),
    ],
)
def test_an_unknown_command(word: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([word, "--data-dir", "x", "more"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert printed.err.startswith("yt8m: error: unknown command ") and part in printed.err


@given(st.from_regex(r"[\w./ ][\w./ -]*", fullmatch=True).filter(lambda word: word.replace("-", "_") not in COMMANDS))
@settings(deadline=None, max_examples=30)
def test_other_words_are_refused(word: str) -> None:
    with redirect_stderr(io.StringIO()) as printed:
        assert call([word]) == 2
    assert printed.getvalue().count("\n") == 1 and f"unknown command {word!r}" in printed.getvalue()


def test_a_command_by_its_name_with_dashes(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prepare-test-meta", "prepare_test_meta"):
        assert call([name, "--data-dir", str(data_dir)]) == 0
        assert "test_meta.npz: " in capsys.readouterr().out
    assert call(["prepare-test-meta", "--data-dir", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("yt8m prepare_test_meta: error: nowhere")
    assert call(["prepare-test-meta", "--nonsense"]) == 2
    usage, *_, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: yt8m prepare_test_meta ") and error.startswith("yt8m prepare_test_meta: error: ")


# Every command's help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_description_and_examples_that_parse(name: str) -> None:
    parser = importlib.import_module(f"yt8m.{name}").build_parser()
    assert parser.description and parser.description.partition("\n")[0].endswith((".", ":", "`"))
    title, *examples = (parser.epilog or "").splitlines()
    assert title == ("example:" if len(examples) == 1 else "examples:") and examples
    for example in examples:
        match = re.fullmatch(rf"  (?:[A-Z]+=\d+ )?(?:python|torchrun \S+) -m yt8m\.{name}( .*)?", example)
        assert match is not None, example
        parser.parse_args(shlex.split(match[1] or ""))
    text = build_command_parser(name).format_help()
    assert text.startswith(f"usage: yt8m {name} ") and f"python -m yt8m.{name}" not in text
    assert f"\n  yt8m {name}" in text or f" yt8m {name} " in text.partition("example")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_defaults_the_same_way(name: str) -> None:
    parser = build_command_parser(name)
    untold = []
    for action, needed in options_of(name):
        # pylint: disable-next=protected-access
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        told = re.search(r"\(default: ([^;,)]*)", text)
        if told is None and not needed:
            untold.append(action.option_strings[0])
        if told is None or action.default in (None, [], [0]) or not isinstance(action.default, (int, float, str, Path)):
            continue
        default: Any = action.default
        same = float(told[1]) == default if isinstance(default, float) else told[1] == str(default)
        assert same or (default == 0 and told[1] == "none"), (action.option_strings, told[1], default)
    assert not untold, f"help without (default: ...): {untold}"


def test_an_option_means_the_same_everywhere() -> None:
    meanings: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in COMMANDS:
        for action, _ in options_of(name):
            for option in action.option_strings:
                values = {
                    "type": getattr(action.type, "__name__", action.type),
                    "choices": action.choices,
                    "metavar": action.metavar,
                    "default": action.default,
                    "nargs": action.nargs,
                }
                for kind, value in values.items():
                    if name not in EXPLAINED.get((option, kind), ()):
                        meanings[option, kind][str(value)].append(name)
    differing = {key: dict(found) for key, found in meanings.items() if len(found) > 1}
    assert not differing


def test_every_explained_difference_is_one() -> None:
    known = {option for name in COMMANDS for action, _ in options_of(name) for option in action.option_strings}
    assert {option for option, _ in EXPLAINED} <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_may_be_verbose_or_quiet(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_command_parser(name).parse_args(["-v", "-q"])
    assert "not allowed with argument" in capsys.readouterr().err


# What is said


def test_a_quiet_run_says_nothing_and_its_log_is_complete(command: Command, data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    logs = []
    for name in ("quiet", "verbose"):
        arguments = ("--name", name, "--data-dir", data_dir, "--device", "cpu", "--log-every", 1, f"--{name}")
        outcome = command("train_video", config, *arguments)
        assert outcome.status == 0, outcome.err
        assert outcome.out == ""
        log = (data_dir / "cache" / "video" / name / "train.log").read_text(encoding="utf-8")
        logs.append([line for line in log.splitlines() if " INFO " in line])
        if name == "quiet":
            assert outcome.err == ""
        else:
            assert all(part in outcome.err for part in (" INFO ", "threads read ahead", "GB of memory"))
    assert len(logs[0]) == len(logs[1]) > 3
    assert any("evaluation at step" in line for line in logs[0])


def test_quiet_predictions_say_nothing_and_their_log_is_complete(command: Command, data_dir: Path) -> None:
    assert command("prepare_test_meta", "--data-dir", data_dir).status == 0
    log = data_dir / "cache" / "inference" / "inference.log"
    for name, said in (("quiet", False), ("verbose", True)):
        agnostic_folder(data_dir / "cache" / "segment" / name, DBOF, data_dir)
        outcome = command("inference_memmap", "--data-dir", data_dir, "--model-names", name, f"--{name}")
        assert outcome.status == 0 and (" INFO " in outcome.err) == (" DEBUG " in outcome.err) == said, outcome.err
        assert said or outcome.err == ""
        assert f"{name}.npy" in log.read_text(encoding="utf-8")


def test_warnings_are_shown_even_in_quiet_mode(
    command: Command, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    outcome = command("prepare_test_meta", "--data-dir", data_dir, "--on-error", "skip", "-q")
    assert outcome.status == 0 and "test_meta.npz" in outcome.out
    assert "left out" in caplog.text


def on_a_terminal(*words: object) -> str:
    """What a command shows on a terminal beside its results, which go elsewhere."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    arguments = [sys.executable, "-m", "yt8m", *map(str, words)]
    with subprocess.Popen(arguments, stderr=theirs, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError as error:
            assert error.errno == errno.EIO  # the end, on Linux
        finally:
            os.close(ours)
        assert process.wait(TIMEOUT) == 0, shown
    return shown.decode()


def test_progress_bars_follow_the_console(tiny_data: Path) -> None:
    folder = tiny_data / "segment" / "test"
    assert on_a_terminal("check_data", folder, "--quiet") == ""
    verbose = on_a_terminal("check_data", folder, "-v")
    assert f"yt8m {__version__}, Python " in verbose and "GB of memory" in verbose
    assert re.search(r"checking .*100%", verbose)


@given(st.integers(0, 10**9), st.sampled_from(["video", "evaluation"]))
def test_one_thing_or_several(number: int, noun: str) -> None:
    text, word = counted(number, noun).split(" ")
    assert int(text.replace(",", "")) == number
    assert word == (noun if number == 1 else f"{noun}s")


# How commands end


def ended(main: Callable[[argparse.Namespace], None], name: str = "check_data", words: Sequence[str] = ()) -> int:
    """The status of a command that does this in the place of its own work."""
    with pytest.raises(SystemExit) as end:
        run(main, build_command_parser(name), words)
    return int(end.value.code or 0)


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    """A command that meets this error."""

    def main(_: argparse.Namespace) -> None:
        raise error

    return main


@pytest.fixture(name="prepared")
def fixture_prepared(command: Command, data_dir: Path) -> Path:
    """A data folder with what the commands that print results need."""
    assert command("prepare_test_meta", "--data-dir", data_dir).status == 0
    from yt8m.data.candidates import load_candidates
    from yt8m.data.vocabulary import load_vocabulary

    names = [
        name if isinstance(name, str) else name.decode() for name in load_candidates(data_dir / "cache").row_names()
    ]
    with (data_dir / "sub.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Class", "Segments"])
        writer.writerows([label, " ".join(names)] for label in load_vocabulary(data_dir).labels)
    return data_dir


PRINTING = (
    "check_data",
    "check_submission {0}/sub.csv",
    "evaluate --truth {0}/truth.csv --submission {0}/sub.csv --resamples 0",
    "prepare_test_meta",
    "prepare_vocabulary",
    "report",
)


@pytest.mark.parametrize("line", [*PRINTING, "", "--help", "evaluate --help"])
@pytest.mark.parametrize("buffered", [True, False])
def test_results_that_cannot_be_written(
    line: str, buffered: bool, prepared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = line.format(prepared).split()
    if words and "--help" not in words:
        words += ["--data-dir", str(prepared)]
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for file, status, lines in ((writer, 141, []), (full, 2, ["standard output: No space left on device"])):
        capfd.readouterr()
        with monkeypatch.context() as patch, io.TextIOWrapper(io.FileIO(file, "w"), write_through=not buffered) as out:
            patch.setattr(sys, "stdout", out)
            assert call(words) == status
            assert sys.stdout is out
        assert [
            text.partition(": error: ")[2] for text in capfd.readouterr().err.splitlines() if ": error: " in text
        ] == (lines)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_process_whose_results_cannot_be_written(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for line, status in (("{} | true; exit ${{PIPESTATUS[0]}}", 141), ("{} > /dev/full", 2)):
        done = subprocess.run(
            ["bash", "-c", line.format(f"{shlex.quote(sys.executable)} -m yt8m")],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == status, done.stderr
        expected = "yt8m: error: standard output: No space left on device\n"
        assert done.stderr == (expected if status == 2 else "")


def test_errors_of_the_system(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def open_it(_: argparse.Namespace) -> None:
        tmp_path.read_text(encoding="utf-8")

    assert ended(open_it) == 2
    assert capfd.readouterr().err == f"yt8m check_data: error: {tmp_path}: {os.strerror(errno.EISDIR)}\n"
    assert ended(raising(OSError(errno.ENOSPC, "full"))) == 2
    assert capfd.readouterr().err == f"yt8m check_data: error: {os.strerror(errno.ENOSPC)}\n"
    for bug in (BrokenPipeError(errno.EPIPE, "of a socket"), OSError("a bug"), ZeroDivisionError(), RuntimeError("x")):
        with pytest.raises(type(bug)):
            run(raising(bug), build_command_parser("check_data"), [])
    assert capfd.readouterr().err == ""


def test_interrupted() -> None:
    assert ended(raising(KeyboardInterrupt())) == 130 == 128 + signal.SIGINT


TRAIN = ("config.yaml", "--name", "x", "--accumulate", "3")


@pytest.mark.parametrize(
    ("name", "words", "remedy"),
    [
        ("train_video", TRAIN, "--accumulate 6 --restart"),
        ("inference_memmap", ("--batch-size", "64"), "--batch-size than 64"),
        ("evaluate", ("--fold", "0"), "--batch-size than 128"),
        ("find_lr", ("config.yaml",), "training.batch_size in config.yaml"),
        ("localize", ("file.tfrecord",), "--device cpu"),
        ("check_data", (), "a machine with more"),
    ],
)
def test_not_enough_memory(
    name: str, words: tuple[str, ...], remedy: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    size = 10**16  # bytes, more than a process can address

    def fill_array(_: argparse.Namespace) -> None:
        np.zeros(size, np.uint8)

    def fill_tensor(_: argparse.Namespace) -> None:
        torch.zeros(size, dtype=torch.uint8)

    told = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB."
    for allocate, part in (
        (fill_array, "Unable to allocate"),
        (fill_tensor, f"you tried to allocate {size} bytes"),
        (raising(MemoryError()), "no more is free"),
        (raising(torch.OutOfMemoryError(told)), "CUDA out of memory. Tried to allocate 20.00 GiB; "),
    ):
        assert ended(allocate, name, words) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith(f"yt8m {name}: error: out of memory: ") and part in line and remedy in line
    assert not caplog.records


def test_the_traceback_of_a_mistake_is_for_the_verbose(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    mistake = UserError("file: field: remedy")
    assert ended(raising(mistake)) == 2
    assert not caplog.records
    assert ended(raising(mistake), "check_data", ["-v"]) == 2
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [mistake]
    done = subprocess.run(
        [sys.executable, "-m", "yt8m", "check-data", "-v", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert (
        lines.index("Traceback (most recent call last):")
        < [number for number, line in enumerate(lines) if line.startswith("yt8m check_data: error: ")].pop()
    )


@pytest.mark.parametrize(
    "ids, read",
    [
        (["-kJ3xQv9_aB"], ["-kJ3xQv9_aB"]),
        (["a", "-kJ3xQv9_aB", "b", "c", "-0123456789"], ["a", "-kJ3xQv9_aB", "b", "c", "-0123456789"]),
        (["-kJ3xQv9_aB", "b", "--output", "x"], ["-kJ3xQv9_aB", "b"]),
        (["--J3xQv9_aB", "--model-dir", "x"], ["--J3xQv9_aB"]),
        (["a", "--model-names", "b"], ["a"]),
    ],
)
def test_ids_of_videos_may_begin_with_a_dash(ids: list[str], read: list[str]) -> None:
    for module in ("report", "localize"):
        parser = importlib.import_module(f"yt8m.{module}").build_parser()
        before = ["file.tfrecord"] if module == "localize" else []
        args = parser.parse_args([*before, "--videos", *ids])
        assert (args.videos if module == "report" else args.video_id) == read


def test_an_unknown_option_as_long_as_an_id_is_not_an_id(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("yt8m.report").build_parser().parse_args(["--videos", "a", "--model-dri", "x"])
    assert "--model-dri" in capsys.readouterr().err


TRAINERS = {
    "train_video": ["video.yaml"],
    "train_pure_segment": ["segment.yaml", "base", "--fold", "0"],
    "train_segment_w_context": ["segment.yaml", "base", "other", "--fold", "0"],
}


@pytest.mark.parametrize("module", TRAINERS)
@given(number=st.integers(1, 2**31 - 1))
def test_states_are_saved_every_so_many_steps_seconds_minutes_or_hours(module: str, number: int) -> None:
    parser = importlib.import_module(f"yt8m.{module}").build_parser()
    line = [*TRAINERS[module], "--name", "x"]
    assert parser.parse_args(line).save_every == timedelta(minutes=10)
    for unit, every in (
        ("", number),
        ("s", timedelta(seconds=number)),
        ("m", timedelta(minutes=number)),
        ("h", timedelta(hours=number)),
    ):
        assert parser.parse_args([*line, "--save-every", f"{number}{unit}"]).save_every == every


@pytest.mark.parametrize(
    "text", ["0", "-5", "0m", "-1h", "5x", "5d", "m", "", "1.5h", "10 minutes", "1h30m", "5M", "nan", "2147483648"]
)
def test_other_save_intervals_are_refused(text: str, command: Command, tmp_path: Path) -> None:
    line = ("train_video", tmp_path / "video.yaml", "--name", "x", "--data-dir", tmp_path, f"--save-every={text}")
    outcome = command(*line)
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].endswith(
        "argument --save-every: expected a number of steps, such as 500, or a time, such as 30s, 10m or 2h, "
        f"both above 0, found {text!r}"
    )


def test_a_second_signal_ends_a_command_at_once() -> None:
    """The first raises, so that the command cleans up; the second acts as before the block, here by default."""
    code = (
        "import os, signal, sys\n"
        "from yt8m.common.exits import raised_terminations\n"
        "with raised_terminations():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        print('cleaning up', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGHUP)\n"
        "        print('still there', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGHUP, "cleaning up\n", "")


def test_signals_raise_in_nested_blocks_and_never_outside() -> None:
    heard: list[int] = []

    def note(number: int, _: object) -> None:
        heard.append(number)

    def handler_within() -> object:
        with raised_terminations():
            return signal.getsignal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, note)
    try:
        with raised_terminations():
            with pytest.raises(Terminated), raised_terminations():
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(ValueError), raised_terminations():
                raise ValueError
            with pytest.raises(Terminated) as outer:
                os.kill(os.getpid(), signal.SIGTERM)
        assert outer.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is note
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(handler_within).result() is note  # only the main thread can handle signals
        assert not heard
    finally:
        signal.signal(signal.SIGTERM, before)
