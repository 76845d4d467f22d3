"""Noticing losses, gradients and weights that are no longer finite."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class NonFiniteLossError(ArithmeticError):
    """Training has diverged; `step` is the step (counted from 1) where this was first seen.

    `batch` is what the Bot's `identify` said of that step's batch, or None.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
        self.batch: Any = None


class TooFewExamplesError(ValueError):
    """All processes together have too few examples for a step, or none to evaluate on."""


class RecentBatches:
    """Remembers what identifies the batches of the last steps.

    Args:
        identify: gets a batch and returns what to remember of it; None to remember nothing.
        keep: of how many steps.
    """

    def __init__(self, identify: Callable[[Any], Any] | None, keep: int) -> None:
        self.identify = identify
        self.keep = keep
        self._remembered: dict[int, Any] = {}

    def remember(self, step: int, batch: Any) -> None:
        """Take note of the batch of a step, and forget that of `keep` steps before."""
        if self.identify is not None:
            self._remembered[step] = self.identify(batch)
            self._remembered.pop(step - self.keep, None)

    def batch(self, step: int) -> Any:
        """What was remembered of a step's batch, or None."""
        return self._remembered.get(step)


class FiniteGuard:
    """Watches one-element tensors for values that are infinite or NaN.

    Args:
        immediate: whether `observe` itself raises, which has to read the value. Where reading
            means waiting for the device, leave it False: the first bad step is then remembered
            in a tensor on the device, and only `check` reads it.
    """

    def __init__(self, immediate: bool) -> None:
        self.immediate = immediate
        self._first_bad: dict[str, torch.Tensor] = {}

    def observe(self, name: str, value: torch.Tensor, step: int) -> None:
        """Look at `value` (any shape with one element), called `name`, of step `step` (from 1).

        Raises:
            NonFiniteLossError: the value is not finite, and the guard is an immediate one.
        """
        if self.immediate:
            if not bool(torch.isfinite(value)):
                raise NonFiniteLossError(f"{name} is {value.item()} at step {step}", step)
            return
        bad = ~torch.isfinite(value.detach())
        first = self._first_bad.get(name)
        if first is None:
            first = torch.zeros_like(bad, dtype=torch.int64)
        self._first_bad[name] = torch.where(bad & (first == 0), step, first)

    def check(self) -> None:
        """Read what was remembered since the last check, and forget it.

        Raises:
            NonFiniteLossError: one of the values observed since was not finite.
        """
        remembered, self._first_bad = self._first_bad, {}
        bad = [(int(first), name) for name, first in remembered.items() if int(first) > 0]
        if bad:
            step = min(first for first, _ in bad)
            name = next(name for first, name in bad if first == step)
            raise NonFiniteLossError(f"{name} is not finite at step {step}", step)


def check_parameters(named: Iterable[tuple[str, torch.nn.Parameter]], step: int) -> None:
    """Check that all elements of the parameters `(name, parameter)` that train are finite.

    A finite loss may still have gradients that are not, and these spoil the weights one step
    before the loss shows it. Reads one flag from the device.

    Raises:
        NonFiniteLossError: some are not; the message names the first parameter and `step`.
    """
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if not trained:
        return
    device = trained[0][1].device
    finite = torch.stack([torch.isfinite(parameter.detach()).all().to(device) for _, parameter in trained])
    if not bool(finite.all()):
        name = trained[finite.tolist().index(False)][0]
        raise NonFiniteLossError(f"parameter {name} is not finite after step {step}", step)
