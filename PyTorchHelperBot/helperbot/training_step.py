"""The optimizer step, and the detection of divergence."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from helperbot.devices import BatchMover, batch_size
from helperbot.distributed import data_parallel, is_distributed, sum_over_ranks, synchronize_batch_norm, world_size

_LEAST_LOSS_SCALE = 1e-3


class NonFiniteLossError(ArithmeticError):
    """Training has diverged, as first seen at `step` (from 1).

    `batch` is what the Bot's `identify` returned for that step's batch, or None.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
        self.batch: Any = None


class TooFewExamplesError(ValueError):
    """All processes together have too few examples for a step, or none for an evaluation."""


class RecentBatches:
    """What identifies the batches of the last steps.

    Args:
        identify: maps a batch to what to remember; None remembers nothing.
        keep: number of steps.
    """

    def __init__(self, identify: Callable[[Any], Any] | None, keep: int) -> None:
        self.identify = identify
        self.keep = keep
        self._remembered: dict[int, Any] = {}

    def remember(self, step: int, batch: Any) -> None:
        """Add the batch of a step, and drop that of `keep` steps before."""
        if self.identify is not None:
            self._remembered[step] = self.identify(batch)
            self._remembered.pop(step - self.keep, None)

    def batch(self, step: int) -> Any:
        """What identifies the batch of a step, or None."""
        return self._remembered.get(step)


class FiniteGuard:
    """Watches one-element tensors for infinities and NaN.

    Args:
        immediate: whether `observe` reads the value and raises. Otherwise values stay on the device, and nothing
            waits for it, until `check` reads them all at once.
    """

    def __init__(self, immediate: bool) -> None:
        self.immediate = immediate
        self._observed: list[tuple[int, str, torch.Tensor]] = []

    def observe(self, name: str, value: torch.Tensor, step: int) -> None:
        """Check the one-element tensor `value`, called `name`, of step `step` (from 1), which nothing may change.

        Raises:
            NonFiniteLossError: the value is not finite and the guard is immediate.
        """
        if not self.immediate:
            self._observed.append((step, name, value.detach().reshape(())))
        elif not bool(torch.isfinite(value)):
            raise NonFiniteLossError(f"{name} is {value.item()} at step {step}", step)

    def check(self) -> None:
        """Read and forget what was observed since the last check.

        Raises:
            NonFiniteLossError: a value was not finite.
        """
        observed, self._observed = self._observed, []
        if not observed:
            return
        finite = torch.stack([value for _, _, value in observed]).isfinite().tolist()
        if not all(finite):
            step, name, _ = observed[finite.index(False)]
            raise NonFiniteLossError(f"{name} is not finite at step {step}", step)


def check_parameters(named: Iterable[tuple[str, torch.nn.Parameter]], step: int) -> None:
    """Check that the trainable parameters among `(name, parameter)` are finite, reading one flag from the device.

    A finite loss may have gradients that are not; the weights then show it a step before the loss.

    Raises:
        NonFiniteLossError: the message names the first bad parameter and `step`.
    """
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if not trained:
        return
    device = trained[0][1].device
    finite = torch.stack([torch.isfinite(parameter.detach()).all().to(device) for _, parameter in trained])
    if not bool(finite.all()):
        name = trained[finite.tolist().index(False)][0]
        raise NonFiniteLossError(f"parameter {name} is not finite after step {step}", step)


class Stepper:
    """Takes optimizer steps. The arguments are those of `Bot`.

    Attributes:
        model: the module being trained, on the device.
        move: maps a batch to the same on the device.
        last_loss: loss of the last step, the mean over all processes; a detached 0-d tensor.
        last_grad_norm: gradient norm of the last step before clipping, likewise; None without `clip_grad_norm`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward: Callable[[nn.Module, Any], Any],
        criterion: Callable[[Any, Any], torch.Tensor],
        device: torch.device,
        clip_grad_norm: float | None = None,
        amp: torch.dtype | None = None,
        accumulate: int = 1,
        split_batch: Callable[[Any, int], Sequence[Any]] | None = None,
        compiled: bool = False,
        least_examples: int = 1,
    ) -> None:
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm must be above 0 or None, got {clip_grad_norm}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {accumulate}")
        if accumulate > 1 and split_batch is None:
            raise ValueError("accumulate needs split_batch")
        self.device = device
        self.move = BatchMover(device)
        self.model = model.to(device)
        if is_distributed():
            self.model = synchronize_batch_norm(self.model, device)
        self._parallel = data_parallel(self.model, device) if is_distributed() else None
        self._trained: nn.Module = self.model if self._parallel is None else self._parallel
        self._part_loss: Callable[[Any], torch.Tensor] = self._loss_of
        if compiled and self._parallel is None:
            self._part_loss = torch.compile(self._loss_of)
        elif compiled:  # torch cuts what it compiles where gradients are exchanged, in a model alone
            self._trained = cast(nn.Module, torch.compile(self._trained))
        self.optimizer = optimizer
        self.forward = forward
        self.criterion = criterion
        self.clip_grad_norm = clip_grad_norm
        self.amp = amp
        self.accumulate = accumulate
        self.split_batch = split_batch
        self.least_examples = least_examples
        # Has no effect unless enabled.
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
        self.last_loss: torch.Tensor | None = None
        self.last_grad_norm: torch.Tensor | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes and losses; torch's losses compute in float32 in it."""
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def step(self, batch: Any, number: int, guard: FiniteGuard) -> int:
        """Take step `number` (from 1) on a batch, best in pinned memory; it is split where it is, and then moved.

        Returns:
            The number of examples in the batches of all processes.

        Raises:
            NonFiniteLossError: from `guard`.
            TooFewExamplesError: all processes together have fewer than `least_examples`.
        """
        parts, total = self._weighted_parts(batch)
        if total < self.least_examples:
            raise TooFewExamplesError(
                f"the batch of step {number} has {total} examples; at least {self.least_examples} needed"
            )
        self.last_loss = self._backward(parts, number, guard)
        self._scaler.unscale_(self.optimizer)
        if self.clip_grad_norm is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
            if not self._scaler.is_enabled():  # it skips steps that overflow
                guard.observe("the gradient norm", norm, number)
            self.last_grad_norm = norm.detach()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return total

    def check_loss_scale(self, step: int) -> None:
        """Check that float16 can hold the gradients at some loss scale; waits for the device.

        Raises:
            NonFiniteLossError: they overflow at every scale; the message names `step`.
        """
        if self._scaler.is_enabled() and self._scaler.get_scale() < _LEAST_LOSS_SCALE:
            message = f"the gradients overflow at every loss scale, seen at step {step}"
            raise NonFiniteLossError(message, step)

    def _weighted_parts(self, batch: Any) -> tuple[list[tuple[Any, float]], int]:
        """The parts in which any process has examples, each with its weight, and the total number of examples.

        The weights make the mean of the weighted losses over the processes (as gradients are averaged) the mean loss of
        all examples. The weight is 0 if this process has no examples in the part.
        """
        parts: Sequence[Any] = [batch]
        if self.accumulate > 1 and self.split_batch is not None:
            parts = self.split_batch(batch, self.accumulate)
        sizes = totals = [batch_size(part) for part in parts]
        if is_distributed():
            if len(parts) != self.accumulate:
                raise ValueError(
                    f"split_batch returned {len(parts)} parts; with several processes it must return {self.accumulate}"
                )
            totals = sum_over_ranks(torch.tensor(sizes)).tolist()  # on the CPU, not to wait for a device
        whole = max(1, sum(totals))
        weighted = [(part, size * world_size() / whole) for part, size, total in zip(parts, sizes, totals) if total > 0]
        return weighted, sum(totals)

    def _backward(self, parts: list[tuple[Any, float]], number: int, guard: FiniteGuard) -> torch.Tensor:
        """Compute the gradients of weighted parts; returns the loss, the mean over all processes.

        A process without examples takes part, too, since the others wait for it in collectives.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total: torch.Tensor | None = None
        for place, (part, weight) in enumerate(parts, 1):
            # Gradients are averaged over the processes once, with the last part.
            last = place == len(parts)
            part = self.move(part)
            with nullcontext() if last or self._parallel is None else self._parallel.no_sync():
                loss = self._part_loss(part)
                if weight != 1:
                    loss = loss * weight
                # Without examples the loss is NaN, but its gradients are zeros.
                value = loss.detach() if weight > 0 else loss.new_zeros(())
                value = value.to(torch.promote_types(value.dtype, torch.float32))  # sums of halves would be rounded
                total = value if total is None else total + value
                if last:
                    if is_distributed():
                        total = sum_over_ranks(total) / world_size()
                    guard.observe("the training loss", total, number)
                self._scaler.scale(loss).backward()
        assert total is not None  # there are parts
        return total

    def _loss_of(self, part: Any) -> torch.Tensor:
        """The loss of a part on the device; what is compiled."""
        with self.autocast():
            return self.loss(self.forward(self._trained, part), part)

    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        """The criterion's value, a 0-d tensor."""
        loss = self.criterion(outputs, batch)
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0:
            is_tensor = isinstance(loss, torch.Tensor)
            got = f"shape {tuple(loss.shape)}" if is_tensor else f"a {type(loss).__name__}"
            raise ValueError(f"the criterion must return a 0-d tensor, got {got}")
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Everything that further steps depend on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the `state_dict` of a Stepper that was built in the same way."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
