"""User errors of all commands: one line that names the fault, status 2, nothing lost."""

import errno
import importlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
import yaml
from helperbot import distributed

from tests.conftest import Outcome
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, agnostic_folder, video_folder, write_config
from yt8m.__main__ import COMMANDS
from yt8m.common import devices
from yt8m.common.exits import ending_of

Command = Callable[..., Outcome]
N_CLASSES = 5


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """One error line with these parts, and status 2."""
    assert outcome.status == 2, outcome
    lines = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and outcome.err.splitlines()[-1] == lines[0], outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.fixture(name="video_config")
def fixture_video_config(tmp_path: Path) -> Path:
    """A good configuration for pre-training."""
    return write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})


def test_help_is_light() -> None:
    # Of all commands in one process, with names in the order of their import: the first to blame is told.
    script = (
        "import importlib, sys\n"
        "heavy = {'torch', 'tensorflow', 'pandas', 'numpy', 'matplotlib', 'sklearn', 'pydantic'}\n"
        f"for name in {COMMANDS!r}:\n"
        "    importlib.import_module(f'yt8m.{name}').build_parser().format_help()\n"
        "    if heavy & set(sys.modules): sys.exit(f'{name}: {heavy & set(sys.modules)}')\n"
        "import yt8m.__main__ as every\n"
        "every.build_parser().format_help()\n"
        f"for name in {COMMANDS!r}: every.build_command_parser(name).format_help()\n"
        "sys.exit(f'yt8m: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


PACKAGE = Path(importlib.import_module("yt8m").__file__ or "").parent
MODULES = {
    ".".join(("yt8m", *path.relative_to(PACKAGE).with_suffix("").parts)): path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
}
# From the bottom to the top: each part imports from itself and from those before it.
PARTS = (
    "common",
    "data",
    "making",
    "models",
    "films",
    "training",
    "prediction",
    "ranking",
    "scoring",
    "localization",
    "fitting",
    "reporting",
    "rating",
)


def test_importing_any_module_has_no_side_effects(tmp_path: Path) -> None:
    # What other packages do when they are first imported is theirs.
    script = (
        "import importlib, random, sys, torch.utils.data, numpy, pandas, sklearn.metrics, joblib, helperbot\n"
        "import sklearn.model_selection, pydantic, yaml, tqdm\n"
        "before = torch.get_rng_state(), random.getstate(), "
        "str(numpy.random.get_state())\n"
        f"for name in {sorted(MODULES)!r}: importlib.import_module(name)\n"
        "assert torch.equal(before[0], torch.get_rng_state())\n"
        "assert before[1:] == (random.getstate(), str(numpy.random.get_state()))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    part = module.split(".")[1]
    allowed = PARTS[: PARTS.index(part) + 1] if part in PARTS else (*PARTS, "cli")
    imported = set(re.findall(r"(?:from|import)\s+yt8m\.(\w+)", MODULES[module]))
    assert imported <= set(allowed)


def test_no_circle_of_imports() -> None:
    imports = {
        name: {f"{found[1]}.{found[2]}" for found in re.finditer(r"from (yt8m\S*) import (\w+)", source)}
        | set(re.findall(r"from (yt8m\.\S+) import", source))
        for name, source in MODULES.items()
    }
    order = list(TopologicalSorter({name: found & MODULES.keys() for name, found in imports.items()}).static_order())
    assert order.index("yt8m.common.errors") < order.index("yt8m.cli")


def test_helperbot_does_not_know_yt8m() -> None:
    package = Path(importlib.import_module("helperbot").__file__ or "").parent
    sources = list(package.glob("*.py"))
    assert sources and not [path for path in sources if "yt8m" in path.read_text(encoding="utf-8")]


def test_config_mistakes(command: Command, tiny_data: Path, tmp_path: Path) -> None:
    model = {**DBOF, "hidden_dimm": 4, "p_drop": "often"}
    del model["fcn_dim"]
    config = write_config(tmp_path / "bad.yaml", video={"model": model, "training": {**TRAINING, "lr": "fast"}})
    outcome = command("train_video", config, "--name", "x", "--data-dir", tiny_data)
    assert_refused(
        outcome,
        "bad.yaml",
        "4 problems",
        "video.model.hidden_dimm: unknown key",
        "video.model.fcn_dim: missing key",
        "video.model.p_drop",
        "video.training.lr",
        "'fast'",
    )
    assert_refused(command("train_video", tmp_path / "none.yaml", "--name", "x"), "none.yaml", "no such configuration")
    segment = write_config(tmp_path / "segment.yaml", pure_segment={"training": TRAINING})
    assert_refused(command("train_video", segment, "--name", "x"), "segment.yaml", "video.model: missing section")


def test_missing_data(command: Command, data_dir: Path, video_config: Path, tmp_path: Path) -> None:
    def train() -> Outcome:
        return command("train_video", video_config, "--name", "x", "--data-dir", data_dir)

    assert_refused(
        command("train_video", video_config, "--name", "x", "--data-dir", tmp_path / "nowhere"),
        "segment_vocabulary.csv",
        "prepare_vocabulary",
    )
    shutil.rmtree(data_dir / "video" / "valid")
    assert_refused(train(), "video/valid", "no such folder")
    (data_dir / "video" / "valid").mkdir()
    assert_refused(train(), "video/valid", "no .tfrecord files")
    (data_dir / "segment_vocabulary.csv").unlink()
    assert_refused(train(), "segment_vocabulary.csv", "prepare_vocabulary")
    assert not (data_dir / "cache" / "video").exists()


def test_a_damaged_shard_is_named(command: Command, data_dir: Path, video_config: Path) -> None:
    shard = sorted((data_dir / "video" / "train").glob("*.tfrecord"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_refused(
        command("train_video", video_config, "--name", "x", "--data-dir", data_dir),
        shard.name,
        "record at byte",
        "truncated",
    )


def test_damage_in_a_loader_thread_is_named(command: Command, data_dir: Path, tmp_path: Path) -> None:
    command("prepare_test_meta", "--data-dir", data_dir)
    agnostic_folder(data_dir / "cache" / "segment" / "m_0", DBOF, data_dir)
    shard = sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[0]
    stat = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1  # inside the last record's features; size and time stay as they were
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for workers in (0, 1):
        outcome = command("inference_memmap", "--data-dir", data_dir, "--workers", workers)
        assert_refused(outcome, shard.name, "checksum mismatch")
        assert not list((data_dir / "cache" / "predictions").glob("*.npy"))
    assert not (tmp_path / "sub.csv").exists()


def test_wrong_base_models(command: Command, data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "segment.yaml", pure_segment={"training": TRAINING})

    def train(base: Path) -> Outcome:
        return command("train_pure_segment", config, base, "--fold", 0, "--name", "x", "--data-dir", data_dir)

    assert_refused(train(tmp_path / "none"), "none", "no such model folder")
    base = video_folder(tmp_path / "base", DBOF, N_CLASSES + 1)
    assert_refused(train(base), "base", "other classes than those of", "segment_vocabulary.csv")
    (base / "model.pth").unlink()
    assert_refused(train(base), "base", "no model.pth")
    other = video_folder(tmp_path / "other", {**DBOF, "video_dim": 24, "audio_dim": 8}, data_dir)
    assert_refused(train(other), "1024", "24 and 8", "same extractor")
    aware = write_config(tmp_path / "aware.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    base = video_folder(tmp_path / "base", DBOF, data_dir)
    for context, segment in ((base, other), (other, base)):
        outcome = command(
            "train_segment_w_context", aware, context, segment, "--fold", 0, "--name", "x", "--data-dir", data_dir
        )
        assert_refused(outcome, "1024", "24 and 8", "same extractor")
    assert not (data_dir / "cache" / "segment").exists()


def test_folds(command: Command, data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "segment.yaml", pure_segment={"training": TRAINING})
    base = video_folder(tmp_path / "base", DBOF, data_dir)
    arguments = ("train_pure_segment", config, base, "--name", "x", "--data-dir", data_dir, "--fold")
    for value in ("8", "-1", "all", ""):
        assert_refused(command(*arguments, value), "--fold", f"found '{value}'", "0 to 7 or none")
    for shard in sorted((data_dir / "segment" / "train").glob("*.tfrecord"))[5:]:
        shard.unlink()
    assert_refused(command(*arguments, 0), "5 shards", "8 folds", "--fold none")


def test_inference_mistakes(command: Command, data_dir: Path) -> None:
    def infer(*options: object) -> Outcome:
        return command("inference_memmap", "--data-dir", data_dir, *options)

    assert_refused(infer(), "test_meta.npz", "prepare_test_meta")
    assert command("prepare_test_meta", "--data-dir", data_dir).status == 0
    assert_refused(infer(), "cache/segment", "no such folder of models")
    agnostic_folder(data_dir / "cache" / "segment" / "good_0", DBOF, data_dir)
    (data_dir / "cache" / "segment" / "unfinished_1").mkdir()
    assert_refused(infer(), "unfinished_1", "not a finished model")
    assert_refused(infer("--model-names", "missing_0"), "missing_0", "no such model folder")
    assert_refused(infer("--model-names", "good_0", "--offset", -1), "--offset")
    assert_refused(infer("--model-names", "good_0", "--device", "tpu"), "--device tpu")
    assert_refused(infer("--model-names", "good_0", "--device", "cuda:99"), "--device cuda:99")
    assert infer("--model-names", "good_0").status == 0
    sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[0].unlink()
    assert_refused(infer("--model-names", "good_0"), "prepare_test_meta")


def test_submission_mistakes(command: Command, data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "sub.csv"
    output.write_text("an earlier submission", encoding="utf-8")

    def submit(*options: object) -> Outcome:
        return command("create_submission_from_memmaps", "--data-dir", data_dir, "--output", output, *options)

    assert_refused(submit(), "prepare_test_meta")
    command("prepare_test_meta", "--data-dir", data_dir)
    assert_refused(submit(), "no predictions", "inference_memmap")
    assert_refused(submit("--model-names", "ghost"), "ghost.npy", "no such predictions")
    assert "ghost is named more than once" in submit("--model-names", "ghost", "ghost").err
    assert output.read_text(encoding="utf-8") == "an earlier submission"


def test_a_run_that_diverges_says_what_to_do(command: Command, data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "v.yaml", video={"model": DBOF, "training": {**TRAINING, "lr": 1e30}})
    outcome = command("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu")
    assert_refused(outcome, "at step", "training.lr")
    assert not (data_dir / "cache" / "video" / "x" / "model.pth").exists()


def test_a_run_with_nan_evaluations_exports_nothing(
    command: Command, data_dir: Path, video_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helperbot import Bot

    monkeypatch.setattr(Bot, "_evaluate", lambda *_: {"loss": float("nan")})
    outcome = command("train_video", video_config, "--name", "x", "--data-dir", data_dir, "--device", "cpu")
    assert_refused(outcome, "nothing to export", "'loss'", "training.lr")
    assert not (data_dir / "cache" / "video" / "x" / "model.pth").exists()


def test_validation_ratings_that_all_agree(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yt8m.data import datasets

    original = datasets.RatedSegmentDataset.__init__

    def agree(self: datasets.RatedSegmentDataset, *arguments: object) -> None:
        original(self, *arguments)
        self.scores[:] = 1

    monkeypatch.setattr(datasets.RatedSegmentDataset, "__init__", agree)
    config = write_config(tmp_path / "segment.yaml", pure_segment={"training": TRAINING})
    base = video_folder(tmp_path / "base", DBOF, data_dir)
    assert_refused(
        command("train_pure_segment", config, base, "--fold", 0, "--name", "x", "--data-dir", data_dir),
        "fold 0",
        "AUC is not defined",
    )


def test_seed_from_the_environment(command: Command, video_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "many")
    assert_refused(command("train_video", video_config, "--name", "x"), "SEED", "'many'")
    monkeypatch.setenv("SEED", str(2**64))
    assert_refused(command("train_video", video_config, "--name", "x"), "SEED", "2^63 - 1", str(2**64))


def test_half_of_a_launchers_environment(command: Command, video_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    outcome = command("train_video", video_config, "--name", "x", "--device", "cpu")
    assert_refused(outcome, "RANK and WORLD_SIZE are set, but not MASTER_PORT", "torchrun")


def test_a_process_that_is_alone_says_what_it_waits_for(
    command: Command,
    video_config: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Training and prediction, of two ranks of which only one is started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    host, _, port = place.partition(":")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", host), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_SILENCE", 0.1)
    monkeypatch.setattr(devices, "ARRIVAL", timedelta(seconds=0.4))
    for arguments in (("train_video", video_config, "--name", "x", "--device", "cpu"), ("inference_memmap",)):
        outcome = command(*arguments, "--data-dir", data_dir)
        assert_refused(outcome, f"waiting for 1 of 2 ranks at {place}: rank 1; start every rank", "unset RANK")
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            f"waiting for 1 of 2 ranks at {place}: rank 1 (for at most 0 s)"
        ]
        caplog.clear()
    assert not (data_dir / "cache" / "video").exists()


@pytest.mark.parametrize("found", [False, True])
def test_compilation_without_a_compiler(
    command: Command, video_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """Or with one that cannot compile; before the data, which there is none of, is looked at."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if found:
        for name in ("g++", "c++", "clang++"):
            (programs / name).write_text("#!/bin/sh\necho Python.h: No such file >&2\nexit 1\n", encoding="utf-8")
            (programs / name).chmod(0o755)
    for name, value in (("PATH", programs), ("TORCHINDUCTOR_CACHE_DIR", tmp_path / "compiled")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("CXX", raising=False)
    torch.compiler.reset()
    outcome = command("train_video", video_config, "--name", "x", "--compile", "--data-dir", tmp_path / "none")
    assert_refused(outcome, "--compile: torch.compile does not work here (", "g++", "leave out --compile")


def test_a_lack_of_threads_is_one_line(
    command: Command, video_config: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = "train_video", video_config, "--name", "x", "--data-dir", data_dir, "--device", "cpu"

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outcome = command(*train, "--workers", 2)
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].endswith(
        "error: the system allows this user no more threads and processes; set a lower --workers or OMP_NUM_THREADS, "
        "end other processes, or raise the limit (ulimit -u)"
    )
    assert command(*train).status == 0  # goes on


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),  # of Python
        RuntimeError("Resource temporarily unavailable"),  # of C++ in torch
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),  # of a new process
    ],
)
def test_a_lack_of_threads_and_processes_is_known_in_each_form(error: Exception) -> None:
    ending = ending_of(error, "use less", "set a lower OMP_NUM_THREADS")
    assert ending is not None and ending.status == 2
    assert ending.text.startswith("the system allows this user no more threads and processes; set a lower OMP_NUM")
    assert ending_of(RuntimeError("anything else"), "", "") is None


def test_options_out_of_range(command: Command, video_config: Path) -> None:
    for options in (
        ("--steps", 0),
        ("--seed", -1),
        ("--seed", 2**64),
        ("--workers", "some"),
        ("--name", "a/b"),
        ("--patience", 0),
        ("--window", 10**20),
    ):
        outcome = command("train_video", video_config, "--name", "x", *options)
        assert outcome.status == 2 and options[0] in outcome.err.splitlines()[-1]


def test_prepare_vocabulary_does_not_replace_another_one(command: Command, data_dir: Path) -> None:
    path = data_dir / "segment_vocabulary.csv"
    derived = path.read_text(encoding="utf-8")
    outcome = command("prepare_vocabulary", "--data-dir", data_dir)
    assert outcome.status == 0 and "left as it is" in outcome.out
    path.write_text("Index,Name\n1,one\n", encoding="utf-8")
    assert_refused(command("prepare_vocabulary", "--data-dir", data_dir), "segment_vocabulary.csv", "--overwrite")
    assert command("prepare_vocabulary", "--data-dir", data_dir, "--overwrite").status == 0
    assert path.read_text(encoding="utf-8") == derived


def test_make_demo_data_does_not_overwrite(command: Command, data_dir: Path) -> None:
    assert_refused(command("make_demo_data", "--data-dir", data_dir), "exists already")
    assert_refused(command("make_demo_data", "--min-seconds", 9, "--max-seconds", 8), "--min-seconds 9")


def test_other_feature_widths_from_the_configuration(command: Command, data_dir: Path, tmp_path: Path) -> None:
    """Data of another kind: 24 visual and 8 audio features; nothing else has to be said."""
    from yt8m.making import demo_data

    shutil.rmtree(data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "RGB", 24)
        patch.setattr(demo_data, "AUDIO", 8)
        sizes = (
            "--train-videos",
            12,
            "--valid-videos",
            6,
            "--rated-videos",
            16,
            "--test-videos",
            3,
            "--shard-videos",
            2,
            "--classes",
            3,
            "--min-seconds",
            45,
            "--max-seconds",
            60,
        )
        assert command("make_demo_data", "--data-dir", data_dir, *sizes).status == 0
    where = ("--data-dir", data_dir, "--device", "cpu")
    assert command("prepare_vocabulary", "--data-dir", data_dir).status == 0
    widths = {"video_dim": 24, "audio_dim": 8}
    video = write_config(tmp_path / "v.yaml", video={"model": {**NEXTVLAD, **widths}, "training": TRAINING})
    aware = write_config(tmp_path / "a.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    base = data_dir / "cache" / "video" / "base"
    for arguments in (
        ("train_video", video, "--name", "base", *where),
        ("train_segment_w_context", aware, base, base, "--fold", 0, "--name", "aware", *where),
        ("prepare_test_meta", "--data-dir", data_dir),
        ("inference_memmap", *where),
        ("create_submission_from_memmaps", "--data-dir", data_dir, "--output", tmp_path / "sub.csv"),
    ):
        outcome = command(*arguments)
        assert outcome.status == 0, outcome.err
    assert (tmp_path / "sub.csv").is_file()
    state = torch.load(base / "model.pth", weights_only=True)
    assert state["model.video_encoder.expansion_mapper.weight"].shape == (48, 24)
    assert yaml.safe_load((base / "config.yaml").read_text(encoding="utf-8"))["video"]["model"]["video_dim"] == 24
