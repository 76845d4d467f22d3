"""Metrics over a whole evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from helperbot.distributed import sum_over_ranks


class Metric(ABC):
    """Something measured over all batches of one evaluation.

    The Bot calls `reset` once, `update` and `exchange` for each batch and then `compute`, all in inference mode.

    Args:
        name: under what name the results hold the value of `compute`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches seen."""

    @abstractmethod
    def update(self, outputs: Any, batch: Any) -> None:
        """Take in the model's outputs for one batch; both are on the Bot's device."""

    def exchange(self) -> None:  # noqa: B027  # most metrics have nothing to hand on
        """Hand on what `update` has taken in, if it is not to be kept here; by default nothing.

        All processes call this at once, also those without a batch of their own.
        """

    @abstractmethod
    def compute(self) -> float | dict[str, float]:
        """Return the value over all batches of all processes since `reset`, the same in each.

        A dict's own keys, instead of `name`, become the names in the results.
        """


class MeanMetric(Metric):
    """The mean of a per-example value over all examples, of all processes.

    Args:
        name: name of the mean in the results.
        function: gets (outputs, batch) and returns a 1-d tensor (any real or boolean dtype) with
            one value per example.
    """

    def __init__(self, name: str, function: Callable[[Any, Any], torch.Tensor]) -> None:
        super().__init__(name)
        self.function = function
        self._sum: torch.Tensor | None = None
        self._count = 0

    def reset(self) -> None:
        self._sum = None
        self._count = 0

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in one batch.

        Raises:
            ValueError: the function's result is not a 1-d tensor.
        """
        values = self.function(outputs, batch)
        if values.ndim != 1:
            raise ValueError(
                f"the function of metric {self.name!r} must return a 1-d tensor of per-example "
                f"values, got shape {tuple(values.shape)}"
            )
        # Summed on the device: reading each batch's value would wait for it every time.
        total = values.detach().sum(dtype=torch.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._count += values.shape[0]

    def compute(self) -> float:
        """Return the mean.

        Raises:
            ValueError: there were no examples.
        """
        # A process without batches has to take part in the sums of the others.
        own = torch.zeros((), dtype=torch.float64) if self._sum is None else self._sum
        count = int(sum_over_ranks(torch.tensor(self._count)))
        total = sum_over_ranks(own).item()
        if count == 0:
            raise ValueError(f"metric {self.name!r} has seen no examples")
        return total / count
