"""Training runs: batches in parts, half precision, log lines, signals."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helperbot import Bot, parameter_groups
from helperbot.files import locked
from torch import Tensor, nn

from tests.conftest import Outcome
from tests.shards import AUDIO, RGB, index_videos, make_video
from tests.small_models import (
    CONTEXT,
    DBOF,
    NEXTVLAD,
    TRAINING,
    agnostic_folder,
    aware_folder,
    video_folder,
    write_config,
)
from yt8m.common.errors import UserError
from yt8m.data.datasets import RatedSegmentDataset, VideoDataset
from yt8m.data.packed_frames import PackedFrames
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder
from yt8m.training.losses import SegmentTask, VideoTask

Command = Callable[..., Outcome]
VOCABULARY = Vocabulary(np.array([3, 7, 20, 21]), ("a", "b", "c", "d"))
VIDEOS = [
    make_video(number, 44 + 3 * number, (3, 7 * (number % 2)), ((10, 7, 1.0), (30, 20, 0.0), (35, 3, 1.0)))
    for number in range(5)
]


class _Toy(nn.Module):
    """A model without batch norm: the mean frame of the segment and that of its video, and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * (RGB + AUDIO), len(VOCABULARY))

    def forward(
        self,
        frames: Tensor | PackedFrames,
        videos: PackedFrames | None = None,
        _lengths: None = None,
        video_index: Tensor | None = None,
    ) -> Tensor:
        """Videos or segments, these perhaps with their videos, → logits."""
        means = _means(frames) if isinstance(frames, PackedFrames) else frames.float().mean(dim=1)
        context = means if videos is None else _means(videos)[video_index]
        return self.linear(torch.cat([means, context], dim=1) / 255)


def _means(videos: PackedFrames) -> Tensor:
    return videos.padded().float().sum(dim=1) / videos.lengths.unsqueeze(1)


@pytest.mark.parametrize("models", [(DBOF,), (NEXTVLAD,), (DBOF, NEXTVLAD)], ids=["dbof", "nextvlad", "both"])
def test_all_but_batch_norms_and_biases_have_weight_decay(models: tuple[dict, ...], tmp_path: Path) -> None:
    if len(models) == 2:
        folders = [aware_folder(tmp_path / "aware", *models, VOCABULARY)]
    else:
        folders = [make(tmp_path / make.__name__, *models, VOCABULARY) for make in (video_folder, agnostic_folder)]
    for folder in map(open_folder, folders):
        model = load_video_model(folder) if folder.kind == "video" else load_segment_model(folder)
        expected: dict[float, list[str]] = {0.1: [], 0.0: []}
        for path, module in model.named_modules():
            for name, _ in module.named_parameters(path, recurse=False):
                exempt = isinstance(module, nn.BatchNorm1d) or name.endswith("bias")
                expected[0.0 if exempt else 0.1].append(name)
        names = {id(parameter): name for name, parameter in model.requires_grad_(True).named_parameters()}
        groups = parameter_groups(model, 1e-3, 0.1)
        assert {group["weight_decay"]: [names[id(value)] for value in group["params"]] for group in groups} == expected


@pytest.mark.parametrize("kind", ["videos", "segments", "context"])
def test_a_batch_in_parts_has_the_same_loss_and_gradient(kind: str, tmp_path: Path) -> None:
    index = index_videos(tmp_path, [VIDEOS[:3], VIDEOS[3:]])
    if kind == "videos":
        dataset, task = VideoDataset(index, VOCABULARY, 7, 1), VideoTask()
    else:
        dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(2), 3, kind == "context", 7, 1)
        task = SegmentTask(0.5, 0.5)
    batch = dataset.__getitems__([(0, example) for example in range(len(dataset))])
    outcomes = []
    for parts in (1, 2, 3, len(dataset), 100):
        torch.manual_seed(0)
        model = _Toy()
        bot = Bot(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            task.forward,
            task.criterion,
            [batch],
            accumulate=parts,
            split_batch=lambda whole, number: whole.split(number),
        )
        bot.train(1, 1)
        outcomes.append((bot.last_loss, model.linear.weight.grad))
    for loss, gradient in outcomes[1:]:
        torch.testing.assert_close(loss, outcomes[0][0])
        torch.testing.assert_close(gradient, outcomes[0][1])


def train(
    command: Command, data_dir: Path, tmp_path: Path, name: str, model: dict, *options: object, **training: object
) -> Path:
    """Train a video model; returns its folder."""
    config = write_config(tmp_path / f"{name}.yaml", video={"model": model, "training": {**TRAINING, **training}})
    outcome = command("train_video", config, "--name", name, "--data-dir", data_dir, "--device", "cpu", *options)
    assert outcome.status == 0, outcome.err
    return data_dir / "cache" / "video" / name


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_half_precision_learns_about_the_same(model: dict, command: Command, data_dir: Path, tmp_path: Path) -> None:
    losses = {}
    for amp in ("off", "bf16", "fp16"):
        folder = train(command, data_dir, tmp_path, amp, {**model, "p_drop": 0.0}, "--amp", amp)
        losses[amp] = pd.read_csv(folder / "history.csv")["train_loss"].iloc[0]
        weights = torch.load(folder / "model.pth", weights_only=True)
        assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.03) and losses["bf16"] != losses["off"]
    assert losses["fp16"] == pytest.approx(losses["off"], rel=0.03) and losses["fp16"] != losses["off"]


def test_a_run_tells_how_it_goes(command: Command, data_dir: Path, tmp_path: Path) -> None:
    folder = train(command, data_dir, tmp_path, "told", DBOF, "--log-every", 2, "--accumulate", 2)
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert log.count("INFO step ") == 3 and "examples/s" in log and " left" in log
    table = pd.read_csv(folder / "history.csv")
    assert table["step"].tolist() == [2, 3, 4, 6]
    assert list(table.columns) == [
        "step",
        "loss",
        "lr",
        "examples_per_second",
        "train_loss",
        "valid_loss",
        "accuracy",
        "recall",
        "precision",
        "gap",
        "map",
    ]
    assert table["valid_loss"].notna().tolist() == [False, True, False, True]
    assert table["loss"].notna().tolist() == [True, False, True, True]
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list((folder / "tensorboard").glob("events.*"))


def test_a_nan_loss_ends_the_run_naming_step_videos_and_the_last_good_state(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = VideoTask.criterion, []

    def poisoned(self: VideoTask, logits: Tensor, batch) -> Tensor:
        loss = original(self, logits, batch)
        if torch.is_grad_enabled():
            seen.append(batch.examples)
        return loss * float("nan") if len(seen) == 5 and torch.is_grad_enabled() else loss

    monkeypatch.setattr(VideoTask, "criterion", poisoned)
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    arguments = ("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu", "--save-every", 2)
    outcome = command(*arguments)
    assert outcome.status == 2
    line = outcome.err.strip().splitlines()[-1]
    assert "the training loss is nan at step 5" in line and "training.lr" in line and "--restart" in line
    folder = data_dir / "cache" / "video" / "x"
    assert f"the last good state is {folder / 'checkpoints' / 'state.pt'}, of step 4" in line
    ids = line.split("videos of that batch: ")[1].split(";")[0].split(", ")
    index = VideoDataset(*_train_set(data_dir)).index
    assert ids == [video.decode() for video in index.video_id[seen[4]]]
    assert len(seen) == 5 and not (folder / "model.pth").exists()
    assert torch.load(folder / "checkpoints" / "state.pt", weights_only=True)["step"] == 4


def _train_set(data_dir: Path) -> tuple:
    from yt8m.data.index import load_index
    from yt8m.data.vocabulary import load_vocabulary

    return load_index(data_dir / "video" / "train", data_dir / "cache"), load_vocabulary(data_dir), -1, None


def test_a_notebooks_picture_backend_loses_nothing(data_dir: Path, tmp_path: Path) -> None:
    """In a notebook's shell MPLBACKEND names a module that only its kernel has."""
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    arguments = ("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu")
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"yt8m.{arguments[0]}", *map(str, arguments[1:])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    folder = data_dir / "cache" / "video" / "x"
    assert (folder / "model.pth").exists() and (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr("yt8m.training.trainer.plot_curves", fail)
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    outcome = command("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu")
    folder = data_dir / "cache" / "video" / "x"
    assert outcome.status == 0 and f"{folder / 'curves.png'}: not drawn: no fonts" in outcome.err
    assert (folder / "model.pth").exists() and not (folder / "checkpoints").exists()


def test_amp_that_does_not_exist_is_refused(command: Command, data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    outcome = command("train_video", config, "--name", "x", "--data-dir", data_dir, "--amp", "int8")
    assert outcome.status == 2 and "--amp" in outcome.err


def test_start_and_end_are_told_to_telegram_when_it_is_set_up(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    class Sender:
        """In place of the thread that sends."""

        def send(self, text: str) -> None:
            """Keep the text."""
            sent.append(text)

        def finish(self) -> None:
            """Nothing is waited for."""

    monkeypatch.setattr("yt8m.training.notifications._start_sender", Sender)
    folder = train(command, data_dir, tmp_path, "told", DBOF)
    assert len(sent) == 2 and sent[0].startswith(f"started: {folder}, 6 steps")
    assert sent[1].startswith(f"finished: {folder}") and "exported the weights of step" in sent[1]
    command(
        "train_pure_segment",
        tmp_path / "told.yaml",
        video_folder(tmp_path / "base", DBOF, data_dir),
        "--fold",
        0,
        "--name",
        "x",
        "--data-dir",
        data_dir,
    )
    assert len(sent) == 2  # a mistake in the command line is no run


def test_two_trainings_of_one_name_at_once_are_refused(command: Command, data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "cache" / "video" / "twice"
    folder.mkdir(parents=True)
    config = write_config(tmp_path / "twice.yaml", video={"model": DBOF, "training": TRAINING})
    start = "train_video", config, "--name", "twice", "--data-dir", data_dir
    with locked(folder / ".lock", UserError("occupied")):
        outcome = command(*start)
        assert outcome.status == 2 and f"{folder}: another process is training it" in outcome.err
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert command(*start).status == 0
    assert "is already finished" in command(*start).err


def test_the_disk_has_the_model_before_the_checkpoints_are_gone(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a power cut at any moment would have it: of the model or of the state to go on from, one is on the disk."""
    done: list[tuple[str, Path]] = []
    fsync, replace, rmtree = os.fsync, os.replace, shutil.rmtree

    def tell_sync(handle: int) -> None:
        fsync(handle)
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}"))))

    def tell_replace(source: os.PathLike, target: os.PathLike) -> None:
        known = {("sync", Path(source)), ("replace", Path(source))}  # under this name, or under the one before
        assert known & set(done), f"{target}: its content may not be on the disk"
        replace(source, target)
        done.append(("replace", Path(target)))

    def tell_rmtree(path: Path, **options: bool) -> None:
        rmtree(path, **options)
        done.append(("remove", path))

    monkeypatch.setattr(os, "fsync", tell_sync)
    monkeypatch.setattr(os, "replace", tell_replace)
    monkeypatch.setattr(shutil, "rmtree", tell_rmtree)
    folder = train(command, data_dir, tmp_path, "synced", DBOF)
    end = done.index(("remove", folder / "checkpoints"))
    for name in ("config.yaml", "model.pth"):
        replaced = done.index(("replace", folder / name))
        assert ("sync", folder) in done[replaced:end]


def test_a_full_disk_ends_in_one_line_that_names_the_state(data_dir: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "full.yaml", video={"model": DBOF, "training": TRAINING})
    folder = data_dir / "cache" / "video" / "full"
    arguments = ["train_video", config, "--name", "full", "--data-dir", data_dir, "--save-every", 2, "--quiet"]
    line = " ".join(map(str, [sys.executable, "-m", "yt8m", *arguments]))
    done = subprocess.run(["bash", "-c", f"ulimit -f 20; exec {line}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"{folder / 'checkpoints' / 'state.pt'}: File too large")
    assert "Traceback" not in done.stderr
    assert subprocess.run(line.split(), capture_output=True, check=False).returncode == 0  # nothing is lost
    assert (folder / "model.pth").exists()


@pytest.mark.parametrize(
    "options, batch_size, problem",
    [
        ([], 1, "training.batch_size 1: batch norms cannot train on a single example; set a greater batch_size"),
        (["--accumulate", 5], 8, "training.batch_size 8 in --accumulate 5 parts: batch norms cannot train on a single"),
    ],
)
def test_a_batch_that_batch_norms_cannot_train_on_is_refused(
    options: list[object], batch_size: int, problem: str, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    training = {**TRAINING, "batch_size": batch_size}
    config = write_config(tmp_path / "small.yaml", video={"model": DBOF, "training": training})
    outcome = command("train_video", config, "--name", "small", "--data-dir", data_dir, *options)
    assert outcome.status == 2 and problem in outcome.err
    assert not (data_dir / "cache" / "video" / "small").exists()
    if not options:
        assert problem in command("find_lr", config, "--data-dir", data_dir).err


def test_a_part_that_may_be_of_one_video_is_refused_where_its_batch_norms_train(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    bases = [video_folder(data_dir / "cache" / "video" / name, DBOF, data_dir) for name in ("one", "two")]
    for finetune, accumulate, status in ((True, 4, 2), (False, 4, 0), (True, 1, 0)):
        section = {"model": {**CONTEXT, "finetune_context": finetune}, "training": {**TRAINING, "batch_size": 16}}
        config = write_config(tmp_path / "context.yaml", segment_w_context=section)
        outcome = command(
            "train_segment_w_context", config, *bases, "--fold", 0, "--name", f"{finetune}{accumulate}",
            "--accumulate", accumulate, "--data-dir", data_dir, "--device", "cpu",
        )  # fmt: skip
        assert outcome.status == status, outcome.err
        if status:
            assert (
                "with finetune_context batch norms cannot train on a single video, and one has 6 ratings" in outcome.err
            )


def test_a_closed_terminal_saves_the_state(data_dir: Path, tmp_path: Path) -> None:
    training = {**TRAINING, "steps": 100_000, "ckpt_interval": 100_000}
    config = write_config(tmp_path / "hangup.yaml", video={"model": DBOF, "training": training})
    arguments = ["train_video", config, "--name", "hangup", "--data-dir", data_dir, "--log-every", 5, "--seed", 1]
    line = list(map(str, [sys.executable, "-m", "yt8m", *arguments]))
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, line)  # in a session of its own, of which the terminal is that
    shown = b""
    while b"step 5/" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    state = data_dir / "cache" / "video" / "hangup" / "checkpoints" / "state.pt"
    step = torch.load(state, weights_only=True)["step"]
    assert step >= 5
    log = (data_dir / "cache" / "video" / "hangup" / "train.log").read_text(encoding="utf-8")
    assert f"ended at step {step} by signal 1" in log
