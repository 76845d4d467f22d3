"""Metrics over a whole evaluation."""

from abc import ABC, abstractmethod
from typing import Any


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

    def in_log(self, results: dict[str, float]) -> dict[str, float]:  # pylint: disable=unused-argument
        """What log lines show of the results of an evaluation, where that is another unit; by default nothing else."""
        return {}
