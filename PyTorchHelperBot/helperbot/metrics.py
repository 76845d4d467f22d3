"""The base class of metrics."""

from abc import ABC, abstractmethod
from typing import Any


class Metric(ABC):
    """A value computed over all batches of an evaluation.

    The Bot calls `reset`, then `update` and `exchange` for each batch, then `compute`, all in inference mode.

    Args:
        name: the key of the value in the results.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches seen."""

    @abstractmethod
    def update(self, outputs: Any, batch: Any) -> None:
        """Add a batch and the model's outputs for it, both on the Bot's device."""

    def exchange(self) -> None:  # noqa: B027  # optional
        """Send what `update` has collected to another process; by default nothing.

        All processes call this together, including those that have run out of batches.
        """

    @abstractmethod
    def compute(self) -> float | dict[str, float]:
        """Return the value over all batches of all processes since `reset`, the same in every process.

        The keys of a dict replace `name` in the results.
        """

    def in_log(self, results: dict[str, float]) -> dict[str, float]:  # pylint: disable=unused-argument
        """The results that log lines show in another unit; by default none."""
        return {}
