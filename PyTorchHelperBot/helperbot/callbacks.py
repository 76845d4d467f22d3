"""Callbacks: what happens beside the steps of the training loop."""

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
    """What callbacks see of a `Bot`, which says what it is."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    state_file: Path | None
    step: int
    history: list[dict[str, Any]]
    log: list[dict[str, Any]]
    resumed: bool

    @property
    def last_loss(self) -> torch.Tensor | None: ...  # pylint: disable=missing-function-docstring

    @property
    def last_grad_norm(self) -> torch.Tensor | None: ...  # pylint: disable=missing-function-docstring

    def stop(self, reason: str) -> None: ...  # pylint: disable=missing-function-docstring

    def in_log(self, results: dict[str, float]) -> dict[str, float]: ...  # pylint: disable=missing-function-docstring


class Callback:
    """Base class with hooks that do nothing; subclasses override those they need.

    The Bot calls each hook of all its callbacks in the order in which it was given them.
    """

    def on_train_start(self, bot: BotLike) -> None:
        """Called by `Bot.train` before the first step, with the model in training mode."""

    def on_step_start(self, bot: BotLike) -> None:
        """Called before each step; `bot.step` steps are finished."""

    def on_step_end(self, bot: BotLike) -> None:
        """Called after each step; `bot.step` steps are finished, this one included.

        `bot.last_loss` and `bot.last_grad_norm` are detached tensors on the Bot's device. Reading
        them (with `item`, say) makes the CPU wait for a GPU, so better not do it every step.
        """

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Called after each of the evaluations in `Bot.train`, with its results."""

    def on_log(self, bot: BotLike, entry: dict[str, Any]) -> None:
        """Called after each log line, with its entry in `bot.log`."""

    def on_state_saved(self, bot: BotLike) -> None:
        """Called in process 0 after the state of the run has been written to a file."""

    def on_train_end(self, bot: BotLike) -> None:
        """Called when `Bot.train` has ended regularly, but not when it raises or by a signal."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to know, tensors and plain values; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, before `on_train_start`."""


def _check_mode(mode: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f'mode must be "min" or "max", got {mode!r}')


def _improves(score: float, best: float | None, mode: Mode) -> bool:
    """Whether a score is better than the best one before it; NaN never is."""
    if best is None:
        return not math.isnan(score)
    return score < best if mode == "min" else score > best


def _monitored(results: dict[str, float], monitor: str) -> float:
    if monitor not in results:
        names = ", ".join(sorted(results)) or "none at all"
        raise ValueError(f"no result is named {monitor!r}; there are: {names}")
    return results[monitor]


class LearningRateSchedule(Callback):
    """Sets the learning rates before each step.

    Every parameter group gets its initial rate times the factor. The initial rate is kept in the
    group as "initial_lr", where torch's own schedulers keep it, too.

    Args:
        factor: gets the number of finished steps (`bot.step`, 0 before the first step) and
            returns a factor that is finite and at least 0.
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
            raise ValueError(f"the factor at step {bot.step} must be finite and at least 0, got {factor}")
        for group in bot.optimizer.param_groups:
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])
            group["lr"] = group["initial_lr"] * factor


class MovingAverage(Callback):
    """Averages of the training loss and the gradient norm over the last steps.

    The values stay tensors on the device until `statistics` reads them.

    Args:
        window: over how many steps at most, at least 1.

    Raises:
        ValueError: `window` is less than 1.
    """

    def __init__(self, window: int = 100) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self._values: dict[str, deque[torch.Tensor]] = {"loss": deque(maxlen=window), "grad_norm": deque(maxlen=window)}

    def on_step_end(self, bot: BotLike) -> None:
        for name, value in (("loss", bot.last_loss), ("grad_norm", bot.last_grad_norm)):
            if value is not None:
                self._values[name].append(value)

    def state_dict(self) -> dict[str, Any]:
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, values in self._values.items():
            values.clear()
            values.extend(state[name])

    def statistics(self) -> dict[str, float]:
        """Return the averages "loss" and "grad_norm", less those without any values.

        The gradient norm is the one before clipping; a Bot that does not clip has none.
        """
        return {
            name: torch.stack(list(values)).double().mean().item() for name, values in self._values.items() if values
        }


class Checkpoint(NamedTuple):
    """A saved state dict: the monitored score, the steps finished then, and its file."""

    score: float
    step: int
    path: Path


class BestCheckpoints(Callback):
    """Keeps the model's state dict of the best evaluation in a file.

    The file is named after the step (`step_00000100.pt`). It is written under a temporary name and
    then renamed, so that there is never a half-written one. Of equal scores the earlier one is the
    better, and a score that is NaN is never kept. Files from earlier runs in the same folder are not
    looked at, but replaced where a name is the same. Use one instance per Bot. Where a Bot saves its
    state, a file that is beaten is deleted only once a state without it is saved: a run killed in
    between still finds it. Of several processes only process 0 writes.

    Args:
        folder: where the files go; made, with its parents, when missing.
        monitor: name of the result that is the score.
        mode: whether the least ("min") or the greatest ("max") score is the best.

    Raises:
        ValueError: `mode` is not among those allowed.
    """

    def __init__(self, folder: str | os.PathLike[str], monitor: str, mode: Mode = "min") -> None:
        _check_mode(mode)
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode
        self._best: Checkpoint | None = None
        self._beaten: list[Path] = []

    @property
    def best(self) -> Checkpoint:
        """The best checkpoint, which is the tuple (score, step, path).

        Raises:
            LookupError: nothing is saved yet.
        """
        if self._best is None:
            raise LookupError(
                f"no checkpoint is saved in {self.folder}: no evaluation so far has given a "
                f"{self.monitor!r} other than NaN"
            )
        return self._best

    def load_best(self, model: torch.nn.Module) -> None:
        """Load the best checkpoint into `model`, which stays on its device.

        Raises:
            LookupError: nothing is saved yet.
            FileNotFoundError: the file is gone.
            RuntimeError: the state dict does not fit the model.
        """
        state = torch.load(self.best.path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Save the model if it is the best, and delete the one that it beats.

        Raises:
            ValueError: there is no result of the monitored name, or the checkpoint of this instance
                is of the same step (from another Bot).
            OSError: a file cannot be written or deleted.
        """
        score = _monitored(results, self.monitor)
        before = self._best
        if before is not None and before.step == bot.step:
            raise ValueError(f"there is a checkpoint of step {bot.step} already: use one instance per Bot")
        if not _improves(score, None if before is None else before.score, self.mode):
            return
        new = Checkpoint(score, bot.step, self.folder / f"step_{bot.step:08d}.pt")
        if rank() == 0:
            save_file(bot.model.state_dict(), new.path)
        self._best = new
        if before is not None:
            self._beaten.append(before.path)
        if bot.state_file is None:
            self._delete_beaten()

    def on_state_saved(self, bot: BotLike) -> None:
        """Delete the files that no saved state needs any more."""
        self._delete_beaten()

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint kept, (score, step, file name), in a list of at most one."""
        return {"kept": [] if self._best is None else [(self._best.score, self._best.step, self._best.path.name)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the checkpoint kept; its file is in the folder."""
        kept = [Checkpoint(score, step, self.folder / name) for score, step, name in state["kept"]]
        self._best = kept[0] if kept else None
        self._beaten = []  # what was beaten after that state may be what is kept again

    def _delete_beaten(self) -> None:
        beaten, self._beaten = self._beaten, []
        if rank() == 0:
            for path in beaten:
                path.unlink(missing_ok=True)


class EarlyStopping(Callback):
    """Stops the training when a result does not improve any more.

    Args:
        monitor: name of the result.
        mode: whether the result improves by getting less ("min") or greater ("max"). NaN is never an
            improvement.
        patience: stop after this many evaluations in a row without improvement, at least 1.

    Raises:
        ValueError: an argument is out of its range.
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
        """Compare the result with the best one, and stop the Bot when patience is used up.

        Raises:
            ValueError: there is no result of the monitored name.
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

    Columns: "step"; of log lines "loss", "lr" and "examples_per_second"; of evaluations "lr",
    "train_loss" (the mean since the one before), "valid_loss" and the metrics. A log line and an
    evaluation of the same step share a row. It is written anew at each evaluation, whenever the
    Bot's state has been saved, and at the end. A resumed run's file goes on. Process 0 writes.

    Args:
        path: of the file; it is replaced in one go.
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
    """Scalars for TensorBoard: the training loss, learning rate and speed, and every result.

    Needs the package tensorboard. What an interrupted run wrote after the state that it goes on
    from is hidden. Process 0 writes.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def on_train_start(self, bot: BotLike) -> None:
        """Open the event file."""
        if rank() == 0:
            # A module of this name tells tensorboard to do without TensorFlow, whose import takes
            # seconds.
            sys.modules.setdefault(_NO_TENSORFLOW, ModuleType(_NO_TENSORFLOW))
            from torch.utils.tensorboard import SummaryWriter  # only those who use it need it

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
