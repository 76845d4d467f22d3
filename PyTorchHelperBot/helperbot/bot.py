"""The training loop."""

import logging
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from helperbot.callbacks import Callback, MovingAverage
from helperbot.devices import batch_size, move_to
from helperbot.distributed import in_step, is_distributed, rank, sum_over_ranks
from helperbot.logs import get_logger
from helperbot.metrics import Metric
from helperbot.saving import StateSaver, check_interval
from helperbot.signals import SignalFlag
from helperbot.state import STATE_VERSION, StateError, random_state, set_random_state
from helperbot.training_step import (
    FiniteGuard,
    NonFiniteLossError,
    RecentBatches,
    Stepper,
    TooFewExamplesError,
    check_parameters,
)

_SIGNAL_INTERVAL = 10  # steps


class Bot:  # pylint: disable=too-many-instance-attributes
    """Trains a model and evaluates it at intervals.

    A batch is a tensor or any nesting of dicts, lists, tuples, named tuples and dataclasses of tensors. The first
    dimension of its first tensor is the number of examples. The Bot moves each batch to the device; copies from pinned
    memory to CUDA overlap with computation.

    Args:
        model: the module to train; moved to `device`.
        optimizer: of the model's parameters; one that needs no closure. It should have no state yet unless the model
            is already on `device`.
        forward: maps (model, batch) to the outputs, of any structure.
        criterion: maps (outputs, batch) to the mean loss of the batch, a 0-d tensor.
        train_batches: the batches of one epoch, iterated again when exhausted; may be endless. To resume, the Bot
            calls its `state_dict` and `load_state_dict` if it has them; otherwise every iteration must give the same
            batches, and those already seen are skipped.
        valid_batches: the batches to evaluate on, a reusable iterable; None trains without evaluations.
        metrics: what to evaluate besides the loss.
        callbacks: see `Callback`.
        device: where to train.
        clip_grad_norm: maximum global norm of the gradients, above 0. `math.inf` measures the norm without clipping;
            None does neither.
        log_interval: steps between log lines, at least 1.
        logger: where log lines go, at level INFO. By default the logger "helperbot", which is set up to write to
            stderr unless the application has configured logging.
        progress: whether to show a progress bar if stderr is a terminal.
        state_file: where to keep the state of the run, see `save` and `resume`; None keeps none. The state before is
            kept beside it, in `state.previous.pt` for `state.pt`.
        save_every: steps (int, at least 1) or time (timedelta, above 0) between saves of the state; it is also saved
            around each evaluation. A thread writes it from a copy in host memory, which is kept for the next one: as
            large as the state, or for CUDA, where it is pinned, up to twice that. A save waits until the one before is
            written; one by time is not due before.
        amp: the half precision of `torch.autocast` for `forward` and `criterion`, see `resolve_amp`; None for none.
            With float16 the loss is scaled.
        accumulate: number of parts in which a batch goes through the model, at least 1. The gradient is that of the
            whole batch, except that batch norms see the parts.
        split_batch: maps (batch, parts), before it is moved, to that many batches, some possibly empty; a single
            process may return fewer. Required if `accumulate` is above 1.
        compiled: whether to train through `torch.compile`.
        identify: maps a batch, before it is moved, to what `NonFiniteLossError.batch` reports, such as the ids of its
            examples.
        least_examples: minimum number of examples in a step, at least 1; batch norms need 2.

    With several processes (see `helperbot.distributed`) each Bot trains on its own batches. Gradients are those of the
    mean over the examples of all processes, batch norms are synchronized, and losses and metrics cover all processes.
    Batches may differ in size and even be empty if the model and the criterion accept empty batches (a NaN loss of an
    empty batch is ignored).

    Attributes:
        step: number of finished steps.
        total_steps: `step` at the end of `train`.
        last_loss: loss of the last step, a detached 0-d tensor on the device.
        last_grad_norm: gradient norm of the last step before clipping, likewise; None without `clip_grad_norm`.
        history: a dict for each evaluation of `train`: "step" (int), "train_loss" (float, mean since the previous
            evaluation), "lr" (float, see `lr`) and "results" (dict of name to float).
        log: a dict for each log line: "step", "loss" (the average shown), "lr" and "examples_per_second".
        stop_reason: the argument of `stop`, or None.
        signal: number of the signal (SIGTERM, SIGINT, SIGHUP) that ended `train`, or None.
        resumed: whether `resume` loaded a state that `train` has not continued yet.
        saved_step: step of the state in `state_file`, or None; in other processes than 0, of the state last taken.

    Raises:
        ValueError: an argument is out of range.
    """

    # pylint: disable-next=too-many-arguments,too-many-positional-arguments,too-many-locals
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward: Callable[[nn.Module, Any], Any],
        criterion: Callable[[Any, Any], torch.Tensor],
        train_batches: Iterable[Any],
        valid_batches: Iterable[Any] | None = None,
        metrics: Sequence[Metric] = (),
        callbacks: Sequence[Callback] = (),
        device: torch.device | str = "cpu",
        clip_grad_norm: float | None = None,
        log_interval: int = 100,
        logger: logging.Logger | None = None,
        progress: bool = True,
        state_file: Path | None = None,
        save_every: int | timedelta = timedelta(minutes=10),
        amp: torch.dtype | None = None,
        accumulate: int = 1,
        split_batch: Callable[[Any, int], Sequence[Any]] | None = None,
        compiled: bool = False,
        identify: Callable[[Any], Any] | None = None,
        least_examples: int = 1,
    ) -> None:
        for name, value in (("log_interval", log_interval), ("least_examples", least_examples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        check_interval(save_every)
        self.device = torch.device(device)
        self._stepper = Stepper(
            model,
            optimizer,
            forward,
            criterion,
            self.device,
            clip_grad_norm,
            amp,
            accumulate,
            split_batch,
            compiled,
            least_examples,
        )
        self.model = self._stepper.model
        self.optimizer = optimizer
        self.forward = forward
        self.train_batches = train_batches
        self.valid_batches = valid_batches
        self.metrics = tuple(metrics)
        self.callbacks = tuple(callbacks)
        self.log_interval = log_interval
        self.logger = _default_logger() if logger is None else logger
        self.progress = progress
        self.state_file = state_file
        self._saver = None if state_file is None else StateSaver(state_file, save_every)

        self.step = 0
        self.total_steps = 0
        self.history: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []
        self.stop_reason: str | None = None
        self.signal: int | None = None
        self.resumed = False
        self.saved_step: int | None = None

        # Reading a value is free on the CPU; elsewhere it waits for the device.
        self._guard = FiniteGuard(immediate=self.device.type == "cpu")
        self._recent = RecentBatches(identify, log_interval)
        self._loss_sum: torch.Tensor | None = None
        self._loss_count = 0
        self._examples = 0  # since the last log line, in all processes
        self._batches_taken = 0  # in the current iteration of train_batches
        self._clock = _StepClock()
        # Log lines show the average of the user's callback, or of one added here.
        averages = [callback for callback in self.callbacks if isinstance(callback, MovingAverage)]
        if not averages:
            averages = [MovingAverage(log_interval)]
            self.callbacks = (*averages, *self.callbacks)
        self._average = averages[0]

    @property
    def lr(self) -> float:
        """The learning rate, the maximum over the parameter groups."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    @property
    def states_taken(self) -> int:
        """Number of states taken to be saved since the Bot was made or resumed; without those that failed."""
        return 0 if self._saver is None else self._saver.taken

    @property
    def last_loss(self) -> torch.Tensor | None:
        """Loss of the last step; see the class."""
        return self._stepper.last_loss

    @property
    def last_grad_norm(self) -> torch.Tensor | None:
        """Gradient norm of the last step before clipping; see the class."""
        return self._stepper.last_grad_norm

    def stop(self, reason: str) -> None:
        """End training after the current step, its evaluation and its hooks."""
        self.stop_reason = reason

    def train(self, steps: int, ckpt_interval: int) -> list[dict[str, Any]]:
        """Train until `steps` steps are finished or `stop` is called. A Bot trains once, and again after each `resume`.

        Evaluates (given `valid_batches`) every `ckpt_interval` steps and after the last step. Leaves the model in
        training mode.

        Args:
            steps: number of steps of the whole run, at least 1 and at least `step`.
            ckpt_interval: steps between evaluations, at least 1.

        Returns:
            `history`, including evaluations from before `resume`.

        Raises:
            ValueError: an argument is out of range, there are no batches, or the criterion does not return a 0-d
                tensor.
            RuntimeError: this Bot has already trained and has not been resumed.
            TooFewExamplesError: a step has fewer than `least_examples` examples.
            NonFiniteLossError: a loss, a measured gradient norm or a parameter is not finite. On the CPU a loss or
                norm is detected before the optimizer's step, so the weights are still good. Other devices are read
                only at log lines and evaluations, to avoid waiting in every step; a model is always checked before it
                is evaluated or saved.
            OSError: a state could not be written. Whatever ends training, it waits for a state that is being written.
        """
        if steps < max(1, self.step):
            raise ValueError(f"steps must be at least {max(1, self.step)}, got {steps}")
        if ckpt_interval < 1:
            raise ValueError(f"ckpt_interval must be at least 1, got {ckpt_interval}")
        if self.total_steps and not self.resumed:
            raise RuntimeError("this Bot has already trained; call resume to continue")
        self.signal = None
        self.total_steps = steps
        self.model.train()
        for callback in self.callbacks:
            callback.on_train_start(self)
        self._clock.restart(self.step)
        with (
            closing(self._endless_batches(self.resumed)) as batches,
            self._progress_bar() as progress_bar,
            SignalFlag(self.state_file is not None) as flag,
        ):
            with self._saving():
                ending = self.stop_reason is not None
                if self.resumed and (self._due(ckpt_interval) or ending) and not self._evaluated():
                    self._checkpoint(flag)
                self.resumed = False
                while self.step < self.total_steps and self.stop_reason is None and not self.signal:
                    self._train_step(self._next_batch(batches))
                    progress_bar.disable = progress_bar.disable or bool(flag.number)  # the terminal may be gone
                    progress_bar.update(1)
                    self._after_step(flag, progress_bar, self._due(ckpt_interval))
            if not self.signal:
                self._read_signal(flag)  # nothing else would
        if self.signal:
            self.logger.info("ended at step %d by signal %d", self.step, self.signal)
            return self.history
        if self.stop_reason is not None:
            self.logger.info("stopped at step %d: %s", self.step, self.stop_reason)
        for callback in self.callbacks:
            callback.on_train_end(self)
        return self.history

    def _after_step(self, flag: SignalFlag, progress_bar: "tqdm[Any]", due: bool) -> None:
        """Check, log, save and evaluate as due after a step; `due`: an evaluation is."""
        if self._saver is not None and not self._saver.writing:
            self._finish_save()
        log_due = self.step % self.log_interval == 0
        save_due = self._saver is not None and self._saver.due_after(self.step)
        if due or log_due or save_due:
            self._check_finite()
        for callback in self.callbacks:
            callback.on_step_end(self)
        if log_due:
            self._log_step(progress_bar)
        # Asking the other processes waits for the device.
        if self.device.type == "cpu" or due or save_due or self.step % _SIGNAL_INTERVAL == 0:
            save_due = self._read_signal(flag) or save_due
        due = due or self.stop_reason is not None
        if due or save_due or self.signal:
            self._check_finite()
            self._begin_save()  # first, since the evaluation may take long
        if due and not self.signal:
            self._checkpoint(flag)

    def save(self) -> None:
        """Write the state of the run to `state_file`, if given. Only process 0 writes. All must call this together.

        It holds everything that training depends on: model, optimizer, callbacks, random generators, the position in
        the training batches, history. On a CPU, a run that is killed and resumed ends with bit-identical weights.

        Raises:
            OSError: this or the state before could not be written; the files are unchanged.
        """
        self._begin_save()
        self._finish_save()

    def _begin_save(self) -> None:
        """Copy the state, which a thread then writes; waits until the one before is written."""
        if self._saver is None:
            return
        self._finish_save()
        self._saver.save(self.state_dict(), self.step)
        if rank() > 0:
            self.saved_step = self.step

    def _finish_save(self) -> None:
        """Wait until the state last taken is written, and tell callbacks. Raises `OSError` if it could not be."""
        step = None if self._saver is None else self._saver.finish()
        if step is not None:
            self.saved_step = step
            for callback in self.callbacks:
                callback.on_state_saved(self)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Ensure that the state last taken in the block is written, however the block ends."""
        if self._saver is not None:
            self._saver.begin()
        try:
            yield
        except BaseException:
            try:
                self._finish_save()
            except OSError as error:  # must not hide the error that ended the block
                self.logger.warning("the last state is not saved: %s", error)
            raise
        self._finish_save()

    def resume(self) -> bool:
        """Load the newest undamaged state, if there is one; the next `train` continues from there.

        If `state_file` is missing or damaged, by its checksums, that is the state before it. All processes must call
        this together.

        Returns:
            Whether a state was loaded.

        Raises:
            StateError: all files are damaged, or the newest undamaged one does not fit this Bot.
        """
        if self._saver is None:
            return False
        self._finish_save()
        loaded = self._saver.load()
        if loaded is None:
            return False
        try:
            self.load_state_dict(loaded.state)
        except (KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            message = f"{loaded.path}: does not fit this run ({type(error).__name__}: {reason})"
            raise StateError(message) from error
        if loaded.damage is not None and rank() == 0:
            self.logger.warning("%s; going back to the one before it, of step %d", loaded.damage, self.step)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run, as tensors and plain values. All processes must call this together."""
        return {
            "version": STATE_VERSION,
            "step": self.step,
            "stop_reason": self.stop_reason,
            **self._stepper.state_dict(),
            "callbacks": [(type(callback).__name__, callback.state_dict()) for callback in self.callbacks],
            "history": self.history,
            "log": self.log,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "batches": self._place_in_batches(),
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a Bot that was built in the same way."""
        names = [type(callback).__name__ for callback in self.callbacks]
        saved = [name for name, _ in state["callbacks"]]
        if saved != names:
            raise ValueError(f"the state has the callbacks {saved}, the Bot {names}")
        self._stepper.load_state_dict(state)
        for callback, (_, own) in zip(self.callbacks, state["callbacks"]):
            callback.load_state_dict(move_to(own, self.device))
        self.step = self.saved_step = state["step"]
        self.stop_reason = state["stop_reason"]
        self.history, self.log = state["history"], state["log"]
        loss_sum = state["loss_sum"]
        self._loss_sum = None if loss_sum is None else loss_sum.to(self.device)
        self._loss_count = state["loss_count"]
        if hasattr(self.train_batches, "load_state_dict"):
            self.train_batches.load_state_dict(state["batches"])
            self._batches_taken = 0  # none to skip
        else:
            self._batches_taken = state["batches"]
        set_random_state(state["random"], self.device)
        self.resumed = True

    def _place_in_batches(self) -> Any:
        """The position in the training batches: their own state, or the number taken."""
        if hasattr(self.train_batches, "state_dict"):
            return self.train_batches.state_dict()
        return self._batches_taken

    def _due(self, ckpt_interval: int) -> bool:
        """Whether an evaluation follows this step."""
        return self.step > 0 and (self.step % ckpt_interval == 0 or self.step == self.total_steps)

    def _evaluated(self) -> bool:
        """Whether this step needs no evaluation any more."""
        last = self.history[-1]["step"] if self.history else -1
        return self.valid_batches is None or last == self.step

    def _read_signal(self, flag: SignalFlag) -> bool:
        """Read the signals of all processes, so that all end after the same step.

        Returns whether it is time to save, which process 0 decides.
        """
        if self._saver is None:
            return False
        overdue = rank() == 0 and self._saver.due_by_time()
        if not is_distributed():
            self.signal = flag.number
            return overdue
        news = torch.tensor([flag.number or 0, int(overdue)], device=self.device)
        signals, overdue_saves = sum_over_ranks(news).tolist()
        if signals:
            self.signal = flag.number or flag.default
        return bool(overdue_saves)

    def _check_finite(self) -> None:
        """Raise `NonFiniteLossError`, with its batch, if anything was not finite since the last check."""
        try:
            self._guard.check()
            check_parameters(self.model.named_parameters(), self.step)
            self._stepper.check_loss_scale(self.step)
        except NonFiniteLossError as error:
            error.batch = self._recent.batch(error.step)
            raise

    def evaluate(self, batches: Iterable[Any] | None = None) -> dict[str, float]:
        """Evaluate the model in evaluation and inference mode, then restore the mode of each module.

        Args:
            batches: what to evaluate on; `valid_batches` by default.

        Returns:
            "loss", the criterion's mean weighted by batch size, and the values of the metrics.

        Raises:
            TooFewExamplesError: there are no examples.
            ValueError: the criterion does not return a 0-d tensor, or two results have the same name.
        """
        if batches is None:
            batches = self.valid_batches
        if batches is None:
            raise ValueError("no batches to evaluate on: the Bot has no valid_batches")
        return self._evaluate(batches, None)

    def _evaluate(self, batches: Iterable[Any], flag: SignalFlag | None) -> dict[str, float]:
        """See `evaluate`. Raises `_Interrupted` on a signal."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        examples = torch.zeros((), dtype=torch.int64, device=self.device)
        for metric in self.metrics:
            metric.reset()
        with _evaluation_mode(self.model), torch.inference_mode():
            for batch in in_step(batches):
                if flag is not None and flag.number and not is_distributed():
                    raise _Interrupted
                size = 0 if batch is None else batch_size(batch)
                if size > 0:
                    batch = self._stepper.move(batch)
                    with self._stepper.autocast():
                        outputs = self.forward(self.model, batch)
                        loss = self._stepper.loss(outputs, batch)
                    # Summed on the device, to read (and wait for) it only once.
                    loss_sum += loss.double() * size
                    examples += size
                    for metric in self.metrics:
                        metric.update(outputs, batch)
                for metric in self.metrics:
                    metric.exchange()
            total = int(sum_over_ranks(examples))
            if total == 0:
                raise TooFewExamplesError(
                    "the validation set is empty or an exhausted iterator; pass an iterable that can be iterated again"
                )
            return self._results(sum_over_ranks(loss_sum).item() / total)

    def _results(self, loss: float) -> dict[str, float]:
        results = {"loss": loss}
        for metric in self.metrics:
            value = metric.compute()
            values = value if isinstance(value, dict) else {metric.name: value}
            for name, number in values.items():
                if name in results:
                    raise ValueError(f"two results are named {name!r}")
                results[name] = float(number)
        return results

    def _next_batch(self, batches: Iterator[Any]) -> Any:
        """The next batch to train on; saves the state if reading it fails."""
        try:
            return next(batches)
        except Exception:
            # Saving takes all processes, and the others may not have failed.
            if not is_distributed():
                self._finish_save()
                if self.step not in (0, self.saved_step):
                    self._check_finite()
                    self._begin_save()
            raise

    def _train_step(self, batch: Any) -> None:
        for callback in self.callbacks:
            callback.on_step_start(self)
        number = self.step + 1
        self._recent.remember(number, batch)
        try:
            self._examples += self._stepper.step(batch, number, self._guard)
        except NonFiniteLossError as error:
            error.batch = self._recent.batch(error.step)
            raise
        assert self.last_loss is not None  # there has been a step
        self._loss_sum = self.last_loss.double() if self._loss_sum is None else self._loss_sum + self.last_loss
        self._loss_count += 1
        self.step = number

    def _endless_batches(self, resumed: bool) -> Generator[Any, None, None]:
        skip = self._batches_taken
        # A state may have been saved at the very end of an iteration.
        may_be_empty = resumed
        while True:
            empty = True
            for batch in islice(self.train_batches, skip, None):
                empty = False
                self._batches_taken += 1
                yield batch
            if empty and not may_be_empty:
                raise ValueError(
                    "train_batches is empty or an exhausted iterator; pass an iterable that can be iterated again"
                )
            skip = self._batches_taken = 0
            may_be_empty = False

    def _checkpoint(self, flag: SignalFlag) -> None:
        """Evaluate; record, log and hand on the results; save the state."""
        start = time.perf_counter()
        self._check_finite()
        if self.valid_batches is not None:
            try:
                results = self._evaluate(self.valid_batches, flag)
            except _Interrupted:
                self._read_signal(flag)
                return
            train_loss = self._read_train_loss()
            self._reset_train_loss()
            self.history.append({"step": self.step, "train_loss": train_loss, "lr": self.lr, "results": results})
            self.logger.info(
                "evaluation at step %d/%d | train loss %.6g | %s | %.1f s",
                self.step,
                self.total_steps,
                train_loss,
                " | ".join(
                    f"{name} {value:.6g}" for name, value in self.in_log(results).items() if not math.isnan(value)
                ),
                time.perf_counter() - start,
            )
            for callback in self.callbacks:
                callback.on_eval_end(self, dict(results))
            self._begin_save()
        self._read_signal(flag)  # after the last step nothing else would
        self._clock.leave_out(time.perf_counter() - start)

    def in_log(self, results: dict[str, float]) -> dict[str, float]:
        """Results in the units of log lines, see `Metric.in_log`."""
        for metric in self.metrics:
            results = results | metric.in_log(results)
        return results

    def _reset_train_loss(self) -> None:
        self._loss_sum = None
        self._loss_count = 0

    def _read_train_loss(self) -> float:
        if self._loss_sum is None:
            raise RuntimeError("no step since the last evaluation")
        return self._loss_sum.item() / self._loss_count

    def _progress_bar(self) -> "tqdm[Any]":
        shown = self.progress and sys.stderr.isatty() and rank() == 0
        return tqdm(
            initial=self.step,
            total=self.total_steps,
            disable=not shown,
            file=sys.stderr,
            unit="step",
            dynamic_ncols=True,
            leave=False,
        )

    def _log_step(self, progress_bar: "tqdm[Any]") -> None:
        loss = self._average.loss()  # waits for the device, so before the clock
        steps, seconds = self._clock.measure(self.step)
        examples = self._examples / seconds
        self._examples = 0
        progress_bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.log.append({"step": self.step, "loss": loss, "lr": self.lr, "examples_per_second": examples})
        self.logger.info(
            "step %d/%d | loss %.6g | lr %.3g | %.1f examples/s | %s left",
            self.step,
            self.total_steps,
            loss,
            self.lr,
            examples,
            tqdm.format_interval((self.total_steps - self.step) * seconds / steps),
        )
        for callback in self.callbacks:
            callback.on_log(self, dict(self.log[-1]))


class _Interrupted(Exception):
    """A signal during an evaluation, which is repeated from the state saved before it."""


class _StepClock:
    """Times steps, excluding evaluations."""

    def __init__(self) -> None:
        self._step = 0
        self._start = 0.0

    def restart(self, step: int) -> None:
        """Start timing; `step` steps are finished."""
        self._step = step
        self._start = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Exclude the last `seconds`."""
        self._start += seconds

    def measure(self, step: int) -> tuple[int, float]:
        """Return the steps and seconds (above 0) since the start, and restart at `step`."""
        # Clocks may be coarse; at least a nanosecond keeps rates finite.
        measured = step - self._step, max(time.perf_counter() - self._start, 1e-9)
        self.restart(step)
        return measured


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode, then restore the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Not by train(), which sets submodules, too, and may be overridden.
        for module, training in modes:
            module.training = training


def _default_logger() -> logging.Logger:
    logger = logging.getLogger("helperbot")
    return logger if logger.hasHandlers() else get_logger("helperbot")
