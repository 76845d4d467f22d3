"""The training loop."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from helperbot.callbacks import Callback, MovingAverage
from helperbot.devices import batch_size, move_to
from helperbot.guards import FiniteGuard, check_parameters
from helperbot.logs import get_logger
from helperbot.metrics import Metric


class Bot:  # pylint: disable=too-many-instance-attributes
    """Trains a model, evaluating it every so many steps.

    A batch is a tensor or any nesting of dicts, lists, tuples, named tuples and dataclasses with
    tensors in it; the Bot moves it to the device before it hands it on.

    Args:
        model: the module to train; moved to `device`.
        optimizer: an optimizer of the model's parameters, one that needs no closure. It should
            have no state yet unless the model already is on `device`.
        forward: gets (model, batch) and returns the outputs, of any structure.
        criterion: gets (outputs, batch) and returns the loss, the mean over the batch, as a
            tensor without dimensions.
        train_batches: the batches of one epoch. Iterated again when it is exhausted; it may also
            be endless.
        valid_batches: the batches to evaluate on, an iterable that can be iterated many times;
            None for training without evaluations.
        metrics: what to evaluate in addition to the loss.
        callbacks: see `Callback`.
        device: where to train.
        clip_grad_norm: the greatest global norm of the gradients, above 0; greater ones are
            scaled down to it. `math.inf` only measures the norm. None does neither.
        log_interval: log a line every so many steps, at least 1.
        logger: where the log lines go, at the level INFO. By default the logger "helperbot",
            which is set up to write to stderr if the application has not configured logging.
        progress: whether to show a progress bar when stderr is a terminal.
        batch_size_of: gets a batch and returns how many examples it has; by default the first
            dimension of the first tensor in it.

    Attributes:
        step: how many steps are finished, over all calls of `train`.
        total_steps: what `step` will be at the end of the present (or last) call of `train`.
        last_loss: loss of the last step, a detached tensor without dimensions, on the device.
        last_grad_norm: norm of the gradients of the last step before clipping, likewise; None
            without clipping.
        history: one dict for each evaluation made by `train`: "step" (int), "train_loss" (float,
            the mean over the steps since the evaluation before), "lr" (float, see `lr`) and
            "results" (dict of name to float).
        stop_reason: why `stop` was called since the last start of `train`, or None.

    Raises:
        ValueError: `clip_grad_norm` or `log_interval` is out of its range.
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
        batch_size_of: Callable[[Any], int] | None = None,
    ) -> None:
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm must be above 0 or None, got {clip_grad_norm}")
        if log_interval < 1:
            raise ValueError(f"log_interval must be at least 1, got {log_interval}")
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.optimizer = optimizer
        self.forward = forward
        self.criterion = criterion
        self.train_batches = train_batches
        self.valid_batches = valid_batches
        self.metrics = tuple(metrics)
        self.callbacks = tuple(callbacks)
        self.clip_grad_norm = clip_grad_norm
        self.log_interval = log_interval
        self.logger = _default_logger() if logger is None else logger
        self.progress = progress
        self.batch_size_of = batch_size if batch_size_of is None else batch_size_of

        self.step = 0
        self.total_steps = 0
        self.last_loss: torch.Tensor | None = None
        self.last_grad_norm: torch.Tensor | None = None
        self.history: list[dict[str, Any]] = []
        self.stop_reason: str | None = None

        # Reading a value costs nothing on the CPU, but elsewhere it waits for the device.
        self._guard = FiniteGuard(immediate=self.device.type == "cpu")
        self._loss_sum: torch.Tensor | None = None
        self._loss_count = 0
        self._clock = _StepClock()
        # The log lines need an average: the user's if there is one, else one of our own.
        averages = [callback for callback in self.callbacks if isinstance(callback, MovingAverage)]
        if not averages:
            averages = [MovingAverage(log_interval)]
            self.callbacks = (*averages, *self.callbacks)
        self._average = averages[0]

    @property
    def lr(self) -> float:
        """The learning rate; with several parameter groups, the greatest of theirs."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def stop(self, reason: str) -> None:
        """End the training after the present step; its evaluation and hooks still take place."""
        self.stop_reason = reason

    def train(self, steps: int, ckpt_interval: int) -> list[dict[str, Any]]:
        """Train for `steps` more steps, or until `stop` is called.

        Evaluates (given valid_batches) after every `ckpt_interval` steps of this call and after
        its last one. The model is left in training mode.

        Args:
            steps: how many steps, at least 1.
            ckpt_interval: how many steps from one evaluation to the next, at least 1.

        Returns:
            `history`, with the evaluations of earlier calls first.

        Raises:
            ValueError: an argument is less than 1, there is no batch, or the criterion does not
                return a tensor without dimensions.
            NonFiniteLossError: a loss, a measured gradient norm or a parameter is not finite. On
                the CPU, a loss or norm is noticed before the optimizer's step, so the weights
                are still good. Elsewhere that would mean waiting for the device in every step:
                there it is noticed at the next log line or evaluation, and always before the
                evaluation, so a spoilt model is never evaluated or saved by a callback there.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if ckpt_interval < 1:
            raise ValueError(f"ckpt_interval must be at least 1, got {ckpt_interval}")
        self.stop_reason = None
        first = self.step
        self.total_steps = first + steps
        self._reset_train_loss()
        self.model.train()
        for callback in self.callbacks:
            callback.on_train_start(self)
        self._clock.restart(self.step)
        with (
            closing(self._endless_batches()) as batches,
            self._progress_bar(steps) as progress_bar,
        ):
            while self.step < self.total_steps and self.stop_reason is None:
                self._train_step(next(batches))
                due = (self.step - first) % ckpt_interval == 0 or self.step == self.total_steps
                log_due = self.step % self.log_interval == 0
                if due or log_due:
                    self._guard.check()
                for callback in self.callbacks:
                    callback.on_step_end(self)
                progress_bar.update(1)
                if log_due:
                    self._log_step(progress_bar)
                if due or self.stop_reason is not None:
                    self._checkpoint()
        if self.stop_reason is not None:
            self.logger.info("stopped at step %d: %s", self.step, self.stop_reason)
        for callback in self.callbacks:
            callback.on_train_end(self)
        return self.history

    def evaluate(self, batches: Iterable[Any] | None = None) -> dict[str, float]:
        """Evaluate the model in evaluation and inference mode.

        Afterwards each module is in the mode in which it was before.

        Args:
            batches: what to evaluate on; by default the Bot's valid_batches.

        Returns:
            The "loss", which is the mean of the criterion weighted by the batches' sizes, and the
            values of the metrics.

        Raises:
            ValueError: there are no batches, a batch has no examples, the criterion does not
                return a tensor without dimensions, or two results have the same name.
        """
        if batches is None:
            batches = self.valid_batches
        if batches is None:
            raise ValueError("nothing to evaluate on: the Bot has no valid_batches")
        for metric in self.metrics:
            metric.reset()
        loss_sum: torch.Tensor | None = None
        examples = 0
        with _evaluation_mode(self.model), torch.inference_mode():
            for batch in batches:
                batch = move_to(batch, self.device)
                size = self.batch_size_of(batch)
                if size < 1:
                    raise ValueError(f"a validation batch has {size} examples")
                outputs = self.forward(self.model, batch)
                # Summed on the device: reading each batch's loss would wait for it every time.
                weighted = self._loss(outputs, batch).double() * size
                loss_sum = weighted if loss_sum is None else loss_sum + weighted
                examples += size
                for metric in self.metrics:
                    metric.update(outputs, batch)
            if loss_sum is None:
                raise ValueError(
                    "the validation set is empty (or is an iterator that is exhausted: give an "
                    "iterable that can be iterated many times)"
                )
            return self._results(loss_sum.item() / examples)

    def _results(self, loss: float) -> dict[str, float]:
        results = {"loss": loss}
        for metric in self.metrics:
            value = metric.compute()
            values = value if isinstance(value, dict) else {metric.name: value}
            for name, number in values.items():
                if name in results:
                    raise ValueError(f"two results of the evaluation are named {name!r}")
                results[name] = float(number)
        return results

    def _loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        loss = self.criterion(outputs, batch)
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0:
            got = (
                f"shape {tuple(loss.shape)}"
                if isinstance(loss, torch.Tensor)
                else f"a {type(loss).__name__}"
            )
            raise ValueError(f"the criterion must return a tensor without dimensions, got {got}")
        return loss

    def _train_step(self, batch: Any) -> None:
        for callback in self.callbacks:
            callback.on_step_start(self)
        batch = move_to(batch, self.device)
        number = self.step + 1
        loss = self._loss(self.forward(self.model, batch), batch)
        self._guard.observe("the training loss", loss, number)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_grad_norm is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
            self._guard.observe("the gradient norm", norm, number)
            self.last_grad_norm = norm.detach()
        self.optimizer.step()
        # A copy, because a compiled criterion may write its next result to the same memory.
        self.last_loss = loss.detach().clone()
        total = self.last_loss.double()
        self._loss_sum = total if self._loss_sum is None else self._loss_sum + total
        self._loss_count += 1
        self.step = number

    def _endless_batches(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self.train_batches:
                empty = False
                yield batch
            if empty:
                raise ValueError(
                    "train_batches gives no batch: it is empty, or is an iterator that is "
                    "exhausted (give an iterable that can be iterated again)"
                )

    def _checkpoint(self) -> None:
        """Evaluate after a step, keep and log the results and tell the callbacks."""
        start = time.perf_counter()
        self._guard.check()
        check_parameters(self.model.named_parameters(), self.step)
        if self.valid_batches is not None:
            results = self.evaluate()
            train_loss = self._read_train_loss()
            self._reset_train_loss()
            self.history.append(
                {"step": self.step, "train_loss": train_loss, "lr": self.lr, "results": results}
            )
            self.logger.info(
                "evaluation at step %d/%d | train loss %.6g | %s | %.1f s",
                self.step,
                self.total_steps,
                train_loss,
                " | ".join(f"{name} {value:.6g}" for name, value in results.items()),
                time.perf_counter() - start,
            )
            for callback in self.callbacks:
                callback.on_eval_end(self, dict(results))
        self._clock.leave_out(time.perf_counter() - start)

    def _reset_train_loss(self) -> None:
        self._loss_sum = None
        self._loss_count = 0

    def _read_train_loss(self) -> float:
        if self._loss_sum is None:
            raise RuntimeError("no step since the last evaluation")
        return self._loss_sum.item() / self._loss_count

    def _progress_bar(self, steps: int) -> tqdm:
        shown = self.progress and sys.stderr.isatty()
        return tqdm(
            total=steps,
            disable=not shown,
            file=sys.stderr,
            unit="step",
            dynamic_ncols=True,
            leave=False,
        )

    def _log_step(self, progress_bar: tqdm) -> None:
        loss = self._average.statistics()["loss"]  # waits for the device, so before the clock
        rate = self._clock.steps_per_second(self.step)
        left = (self.total_steps - self.step) / rate
        progress_bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.logger.info(
            "step %d/%d | loss %.6g | lr %.3g | %.1f steps/s | %s left",
            self.step,
            self.total_steps,
            loss,
            self.lr,
            rate,
            tqdm.format_interval(left),
        )


class _StepClock:
    """Measures steps per second since the last measurement, evaluations left out."""

    def __init__(self) -> None:
        self._step = 0
        self._start = 0.0

    def restart(self, step: int) -> None:
        """Begin to measure; `step` steps are finished."""
        self._step = step
        self._start = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Do not count the `seconds` just passed."""
        self._start += seconds

    def steps_per_second(self, step: int) -> float:
        """Return the rate of the steps up to `step`, above 0, and restart there."""
        # Clocks are coarse on some systems: at least a nanosecond keeps the rate finite.
        rate = (step - self._step) / max(time.perf_counter() - self._start, 1e-9)
        self.restart(step)
        return rate


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode, and at the end each module back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Set one by one: train() would also set the submodules, and may be overridden.
        for module, training in modes:
            module.training = training


def _default_logger() -> logging.Logger:
    logger = logging.getLogger("helperbot")
    return logger if logger.hasHandlers() else get_logger("helperbot")
