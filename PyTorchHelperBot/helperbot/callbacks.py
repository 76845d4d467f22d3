"""Callbacks: what happens beside the steps of the training loop."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from helperbot.distributed import rank
from helperbot.state import save_file

if TYPE_CHECKING:
    from helperbot.bot import Bot

Mode = Literal["min", "max"]


class Callback:
    """Base class with hooks that do nothing; subclasses override those they need.

    The Bot calls each hook of all its callbacks in the order in which it was given them.
    """

    def on_train_start(self, bot: Bot) -> None:
        """Called by `Bot.train` before the first step, with the model in training mode."""

    def on_step_start(self, bot: Bot) -> None:
        """Called before each step; `bot.step` steps are finished."""

    def on_step_end(self, bot: Bot) -> None:
        """Called after each step; `bot.step` steps are finished, this one included.

        `bot.last_loss` and `bot.last_grad_norm` are detached tensors on the Bot's device. Reading
        them (with `item`, say) makes the CPU wait for a GPU, so better not do it every step.
        """

    def on_eval_end(self, bot: Bot, results: dict[str, float]) -> None:
        """Called after each of the evaluations in `Bot.train`, with its results."""

    def on_log(self, bot: Bot, entry: dict[str, Any]) -> None:
        """Called after each log line, with its entry in `bot.log`."""

    def on_state_saved(self, bot: Bot) -> None:
        """Called in process 0 after the state of the run has been written to a file."""

    def on_train_end(self, bot: Bot) -> None:
        """Called when `Bot.train` has ended regularly, but not when it raises or by a signal."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to know, tensors and plain values; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, before `on_train_start`."""


def _check_mode(mode: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f'mode must be "min" or "max", got {mode!r}')


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

    def on_step_start(self, bot: Bot) -> None:
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
            rate = group["initial_lr"] * factor
            # A rate held in a tensor (for compiled optimizers) must stay the same tensor.
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


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

    def on_step_end(self, bot: Bot) -> None:
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
    """Keeps the model's state dicts of the best evaluations in files.

    The files are named after the step (`step_00000100.pt`). Each is written under a temporary
    name and then renamed, so that there is never a half-written one. Of equal scores the earlier
    one ranks higher, and a score that is NaN is never kept. Files from earlier runs in the same
    folder are not looked at, but replaced where a name is the same. Use one instance per Bot.
    Where a Bot saves its state, files that fall out are deleted only once a state without them is
    saved: a run killed in between still finds them. Of several processes only process 0 writes.

    Args:
        folder: where the files go; made, with its parents, when missing.
        monitor: name of the result that is the score.
        mode: whether the least ("min") or the greatest ("max") score is the best.
        keep: how many files to keep, at least 1.

    Raises:
        ValueError: `mode` or `keep` is not among those allowed.
    """

    def __init__(self, folder: str | os.PathLike[str], monitor: str, mode: Mode = "min", keep: int = 1) -> None:
        _check_mode(mode)
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode
        self.keep = keep
        self._kept: list[Checkpoint] = []
        self._dropped: list[Path] = []

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints kept at present, the best one first."""
        return list(self._kept)

    @property
    def best(self) -> Checkpoint:
        """The best checkpoint, which is the tuple (score, step, path).

        Raises:
            LookupError: nothing is saved yet.
        """
        if not self._kept:
            raise LookupError(
                f"no checkpoint is saved in {self.folder}: no evaluation so far has given a "
                f"{self.monitor!r} other than NaN"
            )
        return self._kept[0]

    def load_best(self, model: torch.nn.Module) -> None:
        """Load the best checkpoint into `model`, which stays on its device.

        Raises:
            LookupError: nothing is saved yet.
            FileNotFoundError: the file is gone.
            RuntimeError: the state dict does not fit the model.
        """
        state = torch.load(self.best.path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)

    def on_eval_end(self, bot: Bot, results: dict[str, float]) -> None:
        """Save the model if it is among the best, and delete what falls out.

        Raises:
            ValueError: there is no result of the monitored name, or this instance already holds
                a checkpoint of the same step (from another Bot).
            OSError: a file cannot be written or deleted.
        """
        score = _monitored(results, self.monitor)
        if math.isnan(score):
            return
        if any(checkpoint.step == bot.step for checkpoint in self._kept):
            raise ValueError(f"there is a checkpoint of step {bot.step} already: use one instance per Bot")
        new = Checkpoint(score, bot.step, self.folder / f"step_{bot.step:08d}.pt")
        sign = 1 if self.mode == "min" else -1
        # The sort is stable and the new one comes last: it ranks below its equals.
        ranked = sorted([*self._kept, new], key=lambda checkpoint: sign * checkpoint.score)
        kept, dropped = ranked[: self.keep], ranked[self.keep :]
        if new in dropped:
            return
        if rank() == 0:
            save_file(bot.model.state_dict(), new.path)
        self._kept = kept
        self._dropped += [checkpoint.path for checkpoint in dropped]
        if bot.state_file is None:
            self._delete_dropped()

    def on_state_saved(self, bot: Bot) -> None:
        """Delete the files that no saved state needs any more."""
        self._delete_dropped()

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoints kept, (score, step, file name) each."""
        return {"kept": [(kept.score, kept.step, kept.path.name) for kept in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the checkpoints kept; their files are in the folder."""
        self._kept = [Checkpoint(score, step, self.folder / name) for score, step, name in state["kept"]]
        self._dropped = []  # what fell out after that state may be among those kept again

    def _delete_dropped(self) -> None:
        dropped, self._dropped = self._dropped, []
        if rank() == 0:
            for path in dropped:
                path.unlink(missing_ok=True)


class EarlyStopping(Callback):
    """Stops the training when a result does not improve any more.

    Args:
        monitor: name of the result.
        mode: whether the result improves by getting less ("min") or greater ("max").
        patience: stop after this many evaluations in a row without improvement, at least 1.
        min_delta: a result improves only if it beats the best by more than this, at least 0. NaN
            is never an improvement.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, monitor: str, mode: Mode, patience: int, min_delta: float = 0.0) -> None:
        _check_mode(mode)
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if not math.isfinite(min_delta) or min_delta < 0:
            raise ValueError(f"min_delta must be finite and at least 0, got {min_delta}")
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        self._best: float | None = None
        self._waited = 0

    def on_train_start(self, bot: Bot) -> None:
        """Start afresh: every call of `Bot.train` has its own best result and full patience.

        A call that goes on with a resumed run goes on with that one's.
        """
        if not bot.resumed:
            self._best = None
            self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]

    def on_eval_end(self, bot: Bot, results: dict[str, float]) -> None:
        """Compare the result with the best one, and stop the Bot when patience is used up.

        Raises:
            ValueError: there is no result of the monitored name.
        """
        score = _monitored(results, self.monitor)
        if self._improves(score):
            self._best = score
            self._waited = 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            best = "no value other than NaN" if self._best is None else f"{self._best:.6g}"
            bot.stop(f"{self.monitor} has not improved in {self._waited} evaluations (best: {best})")

    def _improves(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self._best is None:
            return True
        gain = self._best - score if self.mode == "min" else score - self._best
        return gain > self.min_delta
