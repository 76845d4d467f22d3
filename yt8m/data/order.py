"""The order of examples: a pure function of the data and a seed.

It does not depend on the number of processes or threads, or on earlier reads.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from yt8m.common.errors import UserError

STATE_VERSION = 2  # of the order of examples and the sampling of frames, see `yt8m.data.frames`

Key = tuple[int, int]  # (epoch, example)


def epoch_order(shards: np.ndarray, seed: int, epoch: int, window: int | None = None) -> np.ndarray:
    """The order of the examples in an epoch: a permutation of their numbers.

    `shards` (examples,): the shard of each example. Without `window` all orders are equally likely. With it, `window`
    shards at a time are taken in random order and their examples shuffled, so that these shards fit the page cache.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(shards))
    if window is None:
        return order
    names, shard = np.unique(shards, return_inverse=True)
    turn = rng.permutation(len(names)) // window
    return order[np.argsort(turn[shard[order]], kind="stable")]


class TrainingBatches:
    """An endless stream of batches of (epoch, example), a pure function of its arguments.

    `shards` (examples,): the shard of each example. Epochs, each in its own `epoch_order`, follow without a gap, so
    that every batch is full and no example is left out. Of every `world_size` consecutive batches, rank r gets the
    r-th: all ranks together follow the order of one process with larger batches. The state holds the number of examples
    that all ranks have used, and what the order depends on.
    """

    def __init__(
        self,
        shards: np.ndarray,
        batch_size: int,
        seed: int,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self.shards, self.batch_size, self.seed, self.window = shards, batch_size, seed, window
        self.rank, self.world_size = rank, world_size
        self.start = 0  # examples already used

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, np.empty(0, np.int64)
        for first in count(self.start + self.rank * self.batch_size, self.world_size * self.batch_size):
            batch: list[Key] = []
            while len(batch) < self.batch_size:
                now, place = divmod(first + len(batch), len(self.shards))
                if now != epoch:
                    epoch, order = now, epoch_order(self.shards, self.seed, now, self.window)
                batch += [(epoch, example) for example in order[place : place + self.batch_size - len(batch)].tolist()]
            yield batch

    def state_dict(self, batches: int = 0) -> dict[str, Any]:
        """The state after `batches` batches of an iteration, as plain values."""
        return {
            "version": STATE_VERSION,
            **self._order(),
            "position": self.start + batches * self.world_size * self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume there at the next iteration, even with another batch size or number of ranks.

        Raises `UserError` naming the differences if the order has changed.
        """
        version = state.get("version")
        if version != STATE_VERSION:
            raise UserError(
                "cannot resume: the run was begun by a release that chooses examples and frames in another way "
                f"(version {version}, here {STATE_VERSION}); start over with --restart, or resume with that release"
            )
        differing = [
            f"{name} was {state.get(name)}, is {value}"
            for name, value in self._order().items()
            if state.get(name) != value
        ]
        if differing:
            raise UserError(
                f"cannot resume the order of examples: {'; '.join(differing)}; restore that, or start over with "
                "--restart"
            )
        self.start = state["position"]

    def _order(self) -> dict[str, Any]:
        return {"examples": len(self.shards), "seed": self.seed, "window": self.window}


class SequentialBatches:
    """Every example once, in order, as (0, example); the last batch may be smaller.

    Of every `world_size` consecutive batches, rank r gets the r-th.
    """

    def __init__(self, n_examples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_examples, self.batch_size = n_examples, batch_size
        self._starts = range(rank * batch_size, n_examples, world_size * batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts:
            yield [(0, example) for example in range(start, min(start + self.batch_size, self.n_examples))]
