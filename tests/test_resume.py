"""Killed runs: the same command resumes them and ends in the same weights, bit by bit."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helperbot
import pandas as pd
import pytest
import torch
from helperbot.saving import StateSaver
from helperbot.state import save_file

from tests.conftest import Outcome
from tests.interrupted import await_state, run_interrupted
from tests.killed import kill_until
from tests.processes import fork, run_command
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config
from yt8m import __version__
from yt8m.data.index import load_index
from yt8m.training import resume
from yt8m.training.resume import code_identity

Command = Callable[..., Outcome]
SETTINGS = {**TRAINING, "steps": 7, "ckpt_interval": 3}
OLD = {"offset", "negative_weight"}  # keys, beside those of SETTINGS, before a run recorded the code
KILLED = -9


@pytest.fixture(name="made", scope="module")
def fixture_made(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations and base models."""
    folder = tmp_path_factory.mktemp("made")
    write_config(folder / "video.yaml", video={"model": DBOF, "training": SETTINGS})
    write_config(folder / "nextvlad.yaml", video={"model": NEXTVLAD, "training": SETTINGS})
    write_config(folder / "agnostic.yaml", pure_segment={"training": SETTINGS})
    write_config(folder / "aware.yaml", segment_w_context={"model": CONTEXT, "training": SETTINGS})
    video_folder(folder / "dbof", DBOF, tiny_data)
    video_folder(folder / "nextvlad_base", NEXTVLAD, tiny_data)
    return folder


def arguments(kind: str, made: Path, data_dir: Path, workers: int = 0) -> list[str]:
    """The command line of a run, see `folder_of`."""
    module, *rest = {
        "dbof": ("train_video", made / "video.yaml"),
        "nextvlad": ("train_video", made / "nextvlad.yaml"),
        "agnostic": ("train_pure_segment", made / "agnostic.yaml", made / "dbof", "--fold", 2),
        "refit": ("train_pure_segment", made / "agnostic.yaml", made / "dbof", "--fold", "none"),
        "aware": ("train_segment_w_context", made / "aware.yaml", made / "dbof", made / "nextvlad_base", "--fold", 2),
    }[kind]
    return [
        str(part)
        for part in (
            module,
            *rest,
            "--name",
            "x",
            "--data-dir",
            data_dir,
            "--device",
            "cpu",
            "--seed",
            5,
            "--save-every",
            2,
            "--workers",
            workers,
        )
    ]


def folder_of(kind: str, data_dir: Path) -> Path:
    """Where the run puts its model."""
    name = {"agnostic": "segment/x_2", "aware": "segment/x_2", "refit": "segment/x_none"}.get(kind, "video/x")
    return data_dir / "cache" / name


def interrupt(moment: str, at: int, command_line: list[str]) -> Outcome:
    """Start a run in a process of its own that kills itself, see `tests.interrupted`."""
    return fork(run_interrupted, moment, at, *command_line)


@pytest.fixture(name="uninterrupted", scope="module")
def fixture_uninterrupted(
    made: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of an uninterrupted run of a kind, made once, in a process of its own."""
    folders: dict[str, Path] = {}

    def run_once(kind: str) -> Path:
        if kind not in folders:
            data_dir = shutil.copytree(tiny_data, tmp_path_factory.mktemp(kind) / "data")
            done = fork(run_command, *arguments(kind, made, data_dir))
            assert done.status == 0, done.err
            folders[kind] = folder_of(kind, data_dir)
        return folders[kind]

    return run_once


def assert_same_run(folder: Path, expected: Path) -> None:
    """Two finished folders hold the same weights, the same history, and nothing that a run needs to go on."""
    ours, theirs = (torch.load(path / "model.pth", weights_only=True) for path in (folder, expected))
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    tables = [pd.read_csv(path / "history.csv").drop(columns="examples_per_second") for path in (folder, expected)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert not (folder / "checkpoints").exists()
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "kind, moment, at, workers",
    [
        ("dbof", "step", 5, 0),
        ("dbof", "save", 1, 2),
        ("dbof", "write", 1, 0),
        ("dbof", "write", 4, 0),
        ("dbof", "aside", 1, 0),
        ("dbof", "best", 2, 0),
        ("dbof", "export", 1, 0),
        ("nextvlad", "evaluation", 2, 2),
        ("agnostic", "save", 4, 2),
        ("agnostic", "step", 3, 0),
        ("aware", "best", 1, 0),
        ("aware", "aside", 3, 2),
        ("refit", "write", 2, 0),
        ("refit", "step", 5, 2),
        ("refit", "export", 1, 0),
    ],
)
def test_a_killed_run_ends_in_the_same_weights(
    kind: str,
    moment: str,
    at: int,
    workers: int,
    made: Path,
    data_dir: Path,
    uninterrupted: Callable[[str], Path],
    command: Command,
) -> None:
    command_line = arguments(kind, made, data_dir, workers)
    killed = interrupt(moment, at, command_line)
    assert killed.status == KILLED, killed.err
    folder = folder_of(kind, data_dir)
    assert not (folder / "model.pth").exists()
    outcome = command(*command_line)
    assert outcome.status == 0, outcome.err
    if (moment, at) not in (("save", 1), ("write", 1)):  # nothing had been saved
        assert "resuming after step" in outcome.err
    assert_same_run(folder, uninterrupted(kind))


def test_interpreters_of_their_own_end_in_the_same_weights(
    made: Path, data_dir: Path, uninterrupted: Callable[[str], Path]
) -> None:
    module, *rest = arguments("aware", made, data_dir, 2)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", "step", "6", module, *rest],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert killed.returncode == KILLED, killed.stderr
    done = subprocess.run(
        [sys.executable, "-m", f"yt8m.{module}", *rest], check=False, capture_output=True, text=True, cwd=made
    )
    assert done.returncode == 0 and "resuming after step" in done.stderr, done.stderr
    assert_same_run(folder_of("aware", data_dir), uninterrupted("aware"))


@pytest.mark.parametrize("moment, at", [("term", 4), ("term-evaluation", 1)])
def test_sigterm_saves_the_state_and_the_same_command_goes_on(
    moment: str, at: int, made: Path, data_dir: Path, uninterrupted: Callable[[str], Path], command: Command
) -> None:
    command_line = arguments("dbof", made, data_dir)
    ended = interrupt(moment, at, command_line)
    assert ended.status == 143, ended.err
    assert "Traceback" not in ended.err
    step = 4 if moment == "term" else 3
    assert f"the state is saved; the same command resumes from step {step}" in ended.err.splitlines()[-1]
    outcome = command(*command_line)
    assert outcome.status == 0 and f"resuming after step {step} of 7" in outcome.err
    assert_same_run(folder_of("dbof", data_dir), uninterrupted("dbof"))


@pytest.mark.parametrize("kind", ["dbof", "aware", "index"])
def test_a_run_killed_at_random_moments_ends_in_the_same_files(kind: str, made: Path, data_dir: Path) -> None:
    """Trainings begin with the index of their shards. More kills: `KILLS=20 pytest tests/test_resume.py -k random`."""
    command_line: list[object] = ["prepare_test_meta", "--data-dir", data_dir]
    if kind != "index":
        command_line = [*arguments(kind, made, data_dir), "--save-every", "1", "--steps", "40"]
    kills = int(os.environ.get("KILLS", "3"))
    assert kill_until(kills, data_dir / "cache", *command_line) >= kills


@pytest.mark.parametrize("moment, said", [("cut", "has been cut off"), ("eio", "cannot be read (Input/output error)")])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_can_no_longer_be_read_ends_the_run_with_its_name_and_no_step_is_lost(
    moment: str,
    said: str,
    workers: int,
    made: Path,
    data_dir: Path,
    uninterrupted: Callable[[str], Path],
    command: Command,
) -> None:
    command_line = [*arguments("dbof", made, data_dir, workers), "--save-every", "100"]
    load_index(data_dir / "video" / "train", data_dir / "cache")
    load_index(data_dir / "video" / "valid", data_dir / "cache")
    shards = {path: (path.read_bytes(), path.stat()) for path in (data_dir / "video").rglob("*.tfrecord")}
    ended = interrupt(moment, 3 + workers, command_line)  # threads read ahead
    assert ended.status == 2, ended.err
    *_, before, last = ended.err.splitlines()
    assert said in last and str(data_dir / "video") in last and "Traceback" not in ended.err
    found = re.search(r"the same command resumes from the state of step (\d)", before)
    assert found is not None
    for path, (content, stat) in shards.items():
        if path.stat().st_size != len(content):
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outcome = command(*command_line)
    assert outcome.status == 0 and f"resuming after step {found[1]} of 7" in outcome.err
    assert_same_run(folder_of("dbof", data_dir), uninterrupted("dbof"))


def test_a_run_does_not_go_on_with_other_frames_than_it_began_with(
    made: Path, data_dir: Path, command: Command
) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    path = folder_of("dbof", data_dir) / "checkpoints" / "state.pt"
    state = torch.load(path, weights_only=True)
    state["batches"]["version"] -= 1  # as a release before left it
    save_file(state, path)
    outcome = command(*command_line)
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert "in another way (version 1, here 2); start over with --restart" in outcome.err.splitlines()[-1]
    assert command(*command_line, "--restart").status == 0


def test_a_truncated_shard_may_be_skipped(made: Path, data_dir: Path) -> None:
    load_index(data_dir / "video" / "train", data_dir / "cache")
    load_index(data_dir / "video" / "valid", data_dir / "cache")
    ended = interrupt("cut", 1, [*arguments("dbof", made, data_dir), "--on-error", "skip"])
    assert ended.status == 0, ended.err
    assert "left out: " in ended.err and "has been cut off" in ended.err
    assert (folder_of("dbof", data_dir) / "model.pth").exists()


def test_a_run_killed_repeatedly_completes(
    made: Path, data_dir: Path, command: Command, uninterrupted: Callable[[str], Path]
) -> None:
    command_line = arguments("agnostic", made, data_dir)
    for _ in range(3):
        assert interrupt("step", 3, command_line).status == KILLED  # of each process: steps 3, 5, 7
    assert "resuming after step 6" in command(*command_line).err
    assert_same_run(folder_of("agnostic", data_dir), uninterrupted("agnostic"))


def test_another_run_under_the_same_name_is_refused_naming_what_differs(
    made: Path, data_dir: Path, tmp_path: Path, command: Command
) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    folder = folder_of("dbof", data_dir)
    (folder / ".lock").unlink()  # of the process that is no more
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refused(*line: str) -> str:
        outcome = command(*line)
        assert outcome.status == 2, outcome
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return outcome.err.strip().splitlines()[-1]

    changed = write_config(tmp_path / "changed.yaml", video={"model": DBOF, "training": {**SETTINGS, "lr": 0.5}})
    line = refused("train_video", str(changed), *command_line[2:])
    assert "config.video.training.lr was 0.001, is 0.5" in line and "--restart" in line and str(folder) in line
    assert "seed was 5, is 6" in refused(*command_line, "--seed", "6")
    assert "steps was 7, is 9" in refused(*command_line, "--steps", "9")
    assert "window was None, is 2" in refused(*command_line, "--window", "2")
    assert "accumulate was 1, is 2" in refused(*command_line, "--accumulate", "2")
    lost = sorted((data_dir / "video" / "valid").glob("*.tfrecord"))[0]
    kept = lost.rename(lost.with_suffix(".kept"))
    assert "video/valid has changed" in refused(*command_line)
    kept.rename(lost)
    vocabulary = data_dir / "segment_vocabulary.csv"
    rows = vocabulary.read_text(encoding="utf-8").splitlines()
    vocabulary.write_text("\n".join(rows[:-1]) + "\n", encoding="utf-8")
    assert "vocabulary has changed" in refused(*command_line)
    vocabulary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert command(*command_line).status == 0


def test_a_finished_run_is_left_as_it_is_and_restart_begins_anew(made: Path, data_dir: Path, command: Command) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert command(*command_line).status == 0
    weights = folder_of("dbof", data_dir) / "model.pth"
    stamp = weights.stat().st_mtime_ns
    outcome = command(*command_line)
    assert outcome.status == 0 and "is already finished" in outcome.err
    assert weights.stat().st_mtime_ns == stamp
    refused = command(*command_line, "--seed", "6")
    assert refused.status == 2 and "seed was 5, is 6" in refused.err and weights.stat().st_mtime_ns == stamp
    outcome = command(*command_line, "--seed", "6", "--restart")
    assert outcome.status == 0 and weights.stat().st_mtime_ns > stamp
    assert json.loads((weights.parent / "run.json").read_text(encoding="utf-8"))["seed"] == 6


# --- other code ------------------------------------------------------------------------------------------

OTHER = {"version": "0.9.7", "digest": "0123456789" * 6 + "0123"}


def change_run_json(folder: Path, **changes: object) -> None:
    """Change values of a `run.json`, or leave them out (None)."""
    path = folder / "run.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None or key not in changes}
    path.write_text(json.dumps(kept), encoding="utf-8")


def keys_of_old(training: dict[str, object]) -> dict[str, object]:
    """Those of a training's keys that there were before a run recorded the code, one of which is no more."""
    return {key: value for key, value in training.items() if key in SETTINGS or key in OLD} | {"ema_decay": None}


def codes(folder: Path) -> list[dict[str, str]]:
    """What `run.json` says has trained a run."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["code"]


def test_a_run_records_the_code(made: Path, data_dir: Path, command: Command) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    folder = folder_of("dbof", data_dir)
    assert codes(folder) == [code_identity()]
    assert code_identity()["version"] == __version__
    assert command(*command_line).status == 0
    assert codes(folder) == [code_identity()]


@pytest.mark.parametrize(
    "before, named",
    [
        ([OTHER], "yt8m 0.9.7 (code 01234567)"),
        ([{**OTHER, "version": __version__}], f"yt8m {__version__} (code 01234567)"),
        (None, "an unidentified version of yt8m"),  # before there was this key
        ("1.0", "an unidentified version of yt8m"),
        ([None], "an unidentified version of yt8m"),
    ],
)
def test_a_run_does_not_go_on_with_other_code_unless_it_may(
    before: object, named: str, made: Path, data_dir: Path, command: Command
) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    folder = folder_of("dbof", data_dir)
    change_run_json(folder, code=before)
    (folder / ".lock").unlink()  # of the process that is no more
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = command(*command_line)
    line = outcome.err.strip().splitlines()[-1]
    now = f"yt8m {__version__} (code {code_identity()['digest'][:8]})"
    assert outcome.status == 2 and f"{folder}: has been trained by {named}, this is {now}" in line
    assert "--allow-other-code" in line and "--restart" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    outcome = command(*command_line, "--allow-other-code")
    assert outcome.status == 0 and named in outcome.err and "resuming after step" in outcome.err
    assert codes(folder) == [*(before if isinstance(before, list) else []), code_identity()]


def test_a_run_resumed_with_other_code_resumes_with_that(
    made: Path, data_dir: Path, command: Command, uninterrupted: Callable[[str], Path]
) -> None:
    command_line = arguments("agnostic", made, data_dir)
    folder = folder_of("agnostic", data_dir)
    assert interrupt("step", 3, command_line).status == KILLED
    change_run_json(folder, code=[OTHER])
    assert interrupt("step", 2, [*command_line, "--allow-other-code"]).status == KILLED
    assert codes(folder) == [OTHER, code_identity()]
    assert "resuming after step" in command(*command_line).err
    assert codes(folder) == [OTHER, code_identity()]
    assert_same_run(folder, uninterrupted("agnostic"))
    change_run_json(folder, code=[OTHER])
    assert command(*command_line, "--restart").status == 0
    assert codes(folder) == [code_identity()]


def test_a_run_of_an_earlier_release_goes_on_as_that_release_would(
    made: Path, data_dir: Path, tmp_path: Path, command: Command
) -> None:
    as_before = {"center_inputs": False, "prior_bias": False}
    section = {"model": DBOF, "training": {**SETTINGS, **as_before}}
    command_line = ["train_video", str(write_config(tmp_path / "before.yaml", video=section))]
    command_line += arguments("dbof", made, data_dir)[2:]
    assert interrupt("step", 5, command_line).status == KILLED
    folder = folder_of("dbof", data_dir)
    config = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
    config["video"]["training"] = keys_of_old(config["video"]["training"])
    change_run_json(folder, code=None, config=config)
    outcome = command(*arguments("dbof", made, data_dir), "--allow-other-code")
    assert outcome.status == 2
    for key in as_before:
        assert f"config.video.training.{key} was False, is True" in outcome.err
    assert command(*command_line).status == 2
    outcome = command(*command_line, "--allow-other-code")
    assert outcome.status == 0 and "resuming after step 4" in outcome.err


@pytest.mark.parametrize("kind", ["dbof", "aware"])
def test_a_finished_run_is_left_as_it_is_whatever_the_code_and_the_keys_it_knew(
    kind: str, made: Path, data_dir: Path, uninterrupted: Callable[[str], Path], command: Command
) -> None:
    folder = shutil.copytree(uninterrupted(kind), folder_of(kind, data_dir))
    config = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
    section = config["video" if kind == "dbof" else "segment_w_context"]
    section["training"] = keys_of_old(section["training"])
    change_run_json(folder, code=None, config=config)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = command(*arguments(kind, made, data_dir))
    assert outcome.status == 0 and "is already finished" in outcome.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    # What is not said is the default, and not whatever is asked for.
    section["training"]["clip_grad_norm"] = 3
    change_run_json(folder, config=config)
    outcome = command(*arguments(kind, made, data_dir))
    assert outcome.status == 2 and "training.clip_grad_norm was 3.0, is 10.0;" in outcome.err
    section["training"]["learning_rate"] = 3
    change_run_json(folder, config=config)
    outcome = command(*arguments(kind, made, data_dir))
    assert outcome.status == 2 and "training.learning_rate was 3, is None" in outcome.err


def test_models_trained_by_other_code_are_evaluated_and_reported(
    data_dir: Path, uninterrupted: Callable[[str], Path], command: Command
) -> None:
    folder = shutil.copytree(uninterrupted("agnostic"), folder_of("agnostic", data_dir))
    index = load_index(data_dir / "segment" / "train", data_dir / "cache")
    change_run_json(folder, code=[OTHER], **{"segment/train": index.digest})
    outcome = command("evaluate", "--data-dir", data_dir, "--fold", 2, "--resamples", 0)
    assert outcome.status == 0 and "x_2" in outcome.out, outcome.err
    outcome = command("report", "--data-dir", data_dir)
    assert outcome.status == 0 and "leaves this model out" not in outcome.err, outcome.err


@pytest.mark.parametrize("part", ["common", "data", "models", "training", "helperbot"])
def test_the_identity_of_the_code_is_that_of_what_decides_the_weights(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_identity()
    for module, file in ((resume, "yt8m/training/resume.py"), (helperbot, "helperbot/__init__.py")):
        assert module.__file__ is not None
        original = Path(module.__file__)
        package = next(path for path in original.parents if path.name == file.split("/", maxsplit=1)[0])
        shutil.copytree(package, tmp_path / package.name)
        monkeypatch.setattr(module, "__file__", str(tmp_path / file))
    assert code_identity() == before
    for name in ("ranking/fusion.py", "cli.py", "data/segment_vocabulary.csv"):
        (tmp_path / "yt8m" / name).write_text("changed\n", encoding="utf-8")
    assert code_identity() == before
    folder = tmp_path / (part if part == "helperbot" else f"yt8m/{part}")
    first = min(path for path in folder.glob("*.py") if path.name != "__init__.py")
    renamed = first.rename(first.with_name("renamed.py"))
    assert code_identity()["digest"] != before["digest"] and code_identity()["version"] == before["version"]
    renamed.rename(first)
    assert code_identity() == before
    first.write_bytes(first.read_bytes() + b"\n")
    assert code_identity()["digest"] != before["digest"]


def test_a_model_from_elsewhere_is_not_overwritten(made: Path, data_dir: Path, command: Command) -> None:
    folder = folder_of("dbof", data_dir)
    shutil.copytree(made / "dbof", folder)
    outcome = command(*arguments("dbof", made, data_dir))
    assert outcome.status == 2 and "does not say how it was made" in outcome.err and "--restart" in outcome.err


def damage(state: Path, kind: str) -> None:
    """Cut a file off, or change a bit of a tensor of which loading it without checksums would not tell."""
    content = bytearray(state.read_bytes())
    if kind == "torn":
        content = content[:-50]
    else:
        with zipfile.ZipFile(state) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            content[content.index(archive.read(largest)) + largest.file_size // 2] ^= 1
    state.write_bytes(content)


@pytest.mark.parametrize("kind", ["dbof", "agnostic"])
@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_a_run_whose_newest_state_is_damaged_goes_on_from_the_one_before(
    kind: str, how: str, made: Path, data_dir: Path, command: Command, uninterrupted: Callable[[str], Path]
) -> None:
    command_line = arguments(kind, made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    state = folder_of(kind, data_dir) / "checkpoints" / "state.pt"
    damage(state, how)
    outcome = command(*command_line)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "WARNING" in line]
    assert f"{state}: cannot be read as the state of a run (" in line
    assert line.endswith("; going back to the one before it, of step 3")
    assert "resuming after step 3 of 7" in outcome.err
    assert_same_run(folder_of(kind, data_dir), uninterrupted(kind))


def test_two_damaged_states_are_named_and_left_alone(made: Path, data_dir: Path, command: Command) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    state = folder_of("dbof", data_dir) / "checkpoints" / "state.pt"
    previous = state.with_name("state.previous.pt")
    damage(previous, "flipped")
    whole, other = state.read_bytes(), previous.read_bytes()
    for content in (whole[:-50], b"", b"not a state"):
        state.write_bytes(content)
        outcome = command(*command_line)
        assert outcome.status == 2 and str(state) in outcome.err and "--restart" in outcome.err
        assert f"nor can {previous}, the one before; start over with --restart" in outcome.err
        assert "Traceback" not in outcome.err and (state.read_bytes(), previous.read_bytes()) == (content, other)
    state.write_bytes(whole)
    assert command(*command_line).status == 0


def test_restart_ignores_both_states(made: Path, data_dir: Path, command: Command) -> None:
    command_line = arguments("dbof", made, data_dir)
    assert interrupt("step", 5, command_line).status == KILLED
    checkpoints = folder_of("dbof", data_dir) / "checkpoints"
    assert {"state.pt", "state.previous.pt"} < set(os.listdir(checkpoints))
    (checkpoints / "state.pt").write_bytes(b"not a state")
    outcome = command(*command_line, "--restart")
    assert outcome.status == 0 and "resuming after" not in outcome.err


def test_states_are_saved_by_time_and_however_often_a_run_ends_in_the_same_weights(
    made: Path, data_dir: Path, command: Command, uninterrupted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(10**9))
    monkeypatch.setattr(helperbot.saving, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    taken: list[int] = []
    save = StateSaver.save

    def noted(saver: StateSaver, state: dict[str, Any], step: int) -> None:
        taken.append(step)
        save(saver, state, step)
        await_state()  # or the next would not be due

    monkeypatch.setattr(StateSaver, "save", noted)
    times = {"1h": [3, 3, 6, 6, 7, 7], "1s": [1, 2, 3, 3, 4, 5, 6, 6, 7, 7]}
    for number, (time, steps) in enumerate(times.items()):
        taken.clear()
        line = [*arguments("dbof", made, data_dir), "--save-every", time]
        assert command(*line, *(["--restart"] if number else [])).status == 0
        assert taken == steps
        assert_same_run(folder_of("dbof", data_dir), uninterrupted("dbof"))


def test_a_state_holds_tensors_and_plain_values_alone(made: Path, data_dir: Path) -> None:
    assert interrupt("step", 5, arguments("aware", made, data_dir)).status == KILLED
    state = torch.load(folder_of("aware", data_dir) / "checkpoints" / "state.pt", weights_only=True)
    assert state["version"] == 2 and state["step"] == 4

    def check(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert isinstance(key, str | int)
                check(item)
        elif isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            assert isinstance(value, torch.Tensor | int | float | str | bool | None), type(value)

    check(state)
    assert not [name for name in os.listdir(folder_of("aware", data_dir) / "checkpoints") if name.startswith(".")]
