"""Callbacks of the training loop: learning rates, checkpoints, early stopping, history files."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch

from helperbot.distributed import rank
from helperbot.files import replacing
from helperbot.state import save_file

Mode = Literal["min", "max"]

_NO_TENSORFLOW = "tensorboard.compat.notf"


class BotLike(Protocol):
    """The part of `Bot` that callbacks use; documented there."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    state_file: Path | None
    step: int
    history: list[dict[str, Any]]
    log: list[dict[str, Any]]
    resumed: bool

    @property
    def states_taken(self) -> int: ...  # pylint: disable=missing-function-docstring

    @property
    def last_loss(self) -> torch.Tensor | None: ...  # pylint: disable=missing-function-docstring

    def stop(self, reason: str) -> None: ...  # pylint: disable=missing-function-docstring

    def in_log(self, results: dict[str, float]) -> dict[str, float]: ...  # pylint: disable=missing-function-docstring


class Callback:
    """Base class whose hooks do nothing. The Bot calls its callbacks in order."""

    def on_train_start(self, bot: BotLike) -> None:
        """Called before the first step, with the model in training mode."""

    def on_step_start(self, bot: BotLike) -> None:
        """Called before each step; `bot.step` steps are finished."""

    def on_step_end(self, bot: BotLike) -> None:
        """Called after each step; `bot.step` includes it.

        Reading a value on a GPU (`bot.last_loss.item()`, for example) waits for it; avoid that in every step.
        """

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Called after each evaluation in `Bot.train`, with its results."""

    def on_log(self, bot: BotLike, entry: dict[str, Any]) -> None:
        """Called after each log line, with its entry in `bot.log`."""

    def on_state_saved(self, bot: BotLike) -> None:
        """Called in process 0 after the state of `bot.saved_step` has been written, before another one is taken.

        Training has continued meanwhile: `bot.step` may be later, and differ between runs.
        """

    def on_train_end(self, bot: BotLike) -> None:
        """Called at the end of `Bot.train`, unless it raises or ends by a signal."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, tensors on the Bot's device; called before `on_train_start`."""


def _check_mode(mode: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f'mode must be "min" or "max", got {mode!r}')


def _improves(score: float, best: float | None, mode: Mode) -> bool:
    """Whether a score beats the best so far; NaN never does."""
    if best is None:
        return not math.isnan(score)
    return score < best if mode == "min" else score > best


def _monitored(results: dict[str, float], monitor: str) -> float:
    if monitor not in results:
        names = ", ".join(sorted(results)) or "none"
        raise ValueError(f"no result is named {monitor!r}; the results are {names}")
    return results[monitor]


class LearningRateSchedule(Callback):
    """Sets the learning rates before each step.

    Each parameter group gets its initial rate, kept in the group as "initial_lr" as torch's schedulers do, times the
    factor.

    Args:
        factor: maps the number of finished steps (0 before the first) to a finite factor of at least 0.
    """

    def __init__(self, factor: Callable[[int], float]) -> None:
        self.factor = factor

    def on_step_start(self, bot: BotLike) -> None:
        """Set the rates.

        Raises:
            ValueError: the factor is negative or not finite.
        """
        factor = self.factor(bot.step)
        if not math.isfinite(factor) or factor < 0:
            raise ValueError(f"the learning rate factor at step {bot.step} must be finite and at least 0, got {factor}")
        for group in bot.optimizer.param_groups:
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])
            group["lr"] = group["initial_lr"] * factor


class MovingAverage(Callback):
    """The average of the training loss over the last steps, kept on the device until read.

    Args:
        window: maximum number of steps, at least 1.

    Raises:
        ValueError: `window` is less than 1.
    """

    def __init__(self, window: int = 100) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self._losses: deque[torch.Tensor] = deque(maxlen=window)

    def on_step_end(self, bot: BotLike) -> None:
        if bot.last_loss is not None:
            self._losses.append(bot.last_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses.clear()
        self._losses.extend(state["loss"])

    def loss(self) -> float:
        """The average, NaN before the first step; waits for a GPU."""
        return torch.stack(list(self._losses)).double().mean().item() if self._losses else math.nan


class Checkpoint(NamedTuple):
    """A saved state dict: score, step and file."""

    score: float
    step: int
    path: Path


class BestCheckpoints(Callback):
    """Keeps the model's state dict of the best evaluation in a file named after the step (`step_00000100.pt`).

    Files are written atomically, by process 0. The first of equal scores wins; NaN never does. If the Bot saves its
    state, of which it keeps the newest two, a beaten file is deleted only after two states without it have been saved,
    so a killed run finds it whichever of them it resumes from. Files of earlier runs in the folder are ignored, or
    replaced if they have the same name. Use one instance per Bot.

    Args:
        folder: where the files go; created if missing.
        monitor: name of the result to compare.
        mode: whether the smallest ("min") or the largest ("max") is best.

    Raises:
        ValueError: `mode` is neither.
    """

    def __init__(self, folder: str | os.PathLike[str], monitor: str, mode: Mode = "min") -> None:
        _check_mode(mode)
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode
        self._best: Checkpoint | None = None
        self._beaten: list[tuple[Path, int]] = []  # with the number of states that had been taken

    @property
    def best(self) -> Checkpoint:
        """The best checkpoint.

        Raises:
            LookupError: nothing has been saved.
        """
        if self._best is None:
            raise LookupError(
                f"no checkpoint in {self.folder}: no evaluation so far gave a {self.monitor!r} other than NaN"
            )
        return self._best

    def load_best(self, model: torch.nn.Module) -> None:
        """Load the best checkpoint into `model`, which stays on its device.

        Raises:
            LookupError: nothing has been saved.
            FileNotFoundError: the file is gone.
            RuntimeError: the state dict does not fit the model.
        """
        state = torch.load(self.best.path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Save the model if it is the best so far; without states, delete the one it beats.

        Raises:
            ValueError: there is no such result, or this instance has a checkpoint of the same step (of another Bot).
            OSError: a file cannot be written or deleted.
        """
        score = _monitored(results, self.monitor)
        before = self._best
        if before is not None and before.step == bot.step:
            raise ValueError(f"there already is a checkpoint of step {bot.step}: use one instance per Bot")
        if not _improves(score, None if before is None else before.score, self.mode):
            return
        new = Checkpoint(score, bot.step, self.folder / f"step_{bot.step:08d}.pt")
        if rank() == 0:
            save_file(bot.model.state_dict(), new.path)
        self._best = new
        if rank() > 0 or before is None:
            return
        if bot.state_file is None:
            before.path.unlink(missing_ok=True)
        else:
            self._beaten.append((before.path, bot.states_taken))

    def on_state_saved(self, bot: BotLike) -> None:
        """Delete the files that neither the saved state nor the one before needs."""
        kept = []
        for path, taken in self._beaten:
            if bot.states_taken >= taken + 2:
                path.unlink(missing_ok=True)
            else:
                kept.append((path, taken))
        self._beaten = kept

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint as (score, step, file name), in a list of at most one, and the names of beaten files."""
        kept = [] if self._best is None else [(self._best.score, self._best.step, self._best.path.name)]
        return {"kept": kept, "beaten": [path.name for path, _ in self._beaten]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the checkpoint; its file is in the folder."""
        kept = [Checkpoint(score, step, self.folder / name) for score, step, name in state["kept"]]
        self._best = kept[0] if kept else None
        # Needed by the state before at most. A file beaten later may be the best again.
        self._beaten = [(self.folder / name, -1) for name in state.get("beaten", [])]  # not before version 0.6


class EarlyStopping(Callback):
    """Stops training when a result no longer improves.

    Args:
        monitor: name of the result.
        mode: whether smaller ("min") or larger ("max") is better; NaN never improves.
        patience: number of successive evaluations without improvement after which to stop, at least 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, monitor: str, mode: Mode, patience: int) -> None:
        _check_mode(mode)
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self._best: float | None = None
        self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Stop the Bot if patience has run out.

        Raises:
            ValueError: there is no such result.
        """
        score = _monitored(results, self.monitor)
        if _improves(score, self._best, self.mode):
            self._best = score
            self._waited = 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            best = "no value other than NaN"
            if self._best is not None:
                best = f"{bot.in_log({self.monitor: self._best})[self.monitor]:.6g}"
            bot.stop(f"{self.monitor} has not improved in {self._waited} evaluations (best: {best})")


class HistoryFile(Callback):
    """A CSV file with a row for each log line and each evaluation.

    Columns: "step"; for log lines "loss", "lr" and "examples_per_second"; for evaluations "lr", "train_loss" (mean
    since the previous one), "valid_loss" and the metrics. A log line and an evaluation of the same step share a row.
    Process 0 rewrites it atomically at each evaluation, after each save of the state and at the end; resumed runs
    continue it.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Write the file."""
        self._write(bot)

    def on_state_saved(self, bot: BotLike) -> None:
        """Write the file."""
        self._write(bot)

    def on_train_end(self, bot: BotLike) -> None:
        """Write the file."""
        self._write(bot)

    def _write(self, bot: BotLike) -> None:
        if rank() > 0:
            return
        rows: dict[int, dict[str, Any]] = {}
        for entry in bot.log:
            rows.setdefault(entry["step"], {}).update(entry)
        for evaluation in bot.history:
            results = {"valid_loss" if name == "loss" else name: value for name, value in evaluation["results"].items()}
            entry = {name: evaluation[name] for name in ("step", "lr", "train_loss")}
            rows.setdefault(entry["step"], {}).update(entry | results)
        columns = list(dict.fromkeys(["step", "loss", "lr", "examples_per_second", "train_loss"]))
        columns += [name for row in rows.values() for name in row if name not in columns]
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(columns)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(rows.items()))


class TensorBoardLog(Callback):
    """Training loss, learning rate, speed and results as TensorBoard scalars, written by process 0.

    Needs the package tensorboard. When a run resumes, what it wrote after its saved state is hidden.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def on_train_start(self, bot: BotLike) -> None:
        """Open the event file."""
        if rank() == 0:
            # A module of this name keeps tensorboard from importing TensorFlow, which takes seconds.
            sys.modules.setdefault(_NO_TENSORFLOW, ModuleType(_NO_TENSORFLOW))
            from torch.utils.tensorboard import SummaryWriter  # optional

            purge = bot.step + 1 if bot.resumed else None
            self._writer = SummaryWriter(str(self.folder), purge_step=purge)

    def on_log(self, bot: BotLike, entry: dict[str, Any]) -> None:
        """Write the values of a log line."""
        self._add("train", entry, bot.step)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Write the results of an evaluation."""
        self._add("valid", bot.in_log(results), bot.step)

    def on_train_end(self, bot: BotLike) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, group: str, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                if name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()
