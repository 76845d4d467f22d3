"""The order of examples: a pure function of the data and a seed.

Nothing here depends on how many processes or threads read, or on what has been read before.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from yt8m.common.errors import UserError

STATE_VERSION = 2  # of the order of examples and of the choice of their frames, see `yt8m.data.frames`

Key = tuple[int, int]  # (epoch, example)


def epoch_order(shards: np.ndarray, seed: int, epoch: int, window: int | None = None) -> np.ndarray:
    """The order of the examples in an epoch, a permutation of their numbers.

    `shards` (examples,): the shard that each example lies in. Without `window` every order is equally
    likely. With it the shards, in random order, are taken so many at a time, and only the examples of
    those are shuffled: reads stay within `window` shards, which then fit the page cache.
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

    `shards` (examples,): the shard of each example. Epochs, each in its own `epoch_order`, follow each
    other without a gap, so every batch is full and no example is left out. Of every `world_size` batches
    in a row rank r has the r-th: together the ranks go the way of one process with batches so much
    larger. The state is how many examples all of them have done with, and what the order depends on.
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
        self.start = 0  # examples of the stream that are done with

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
        """Where the stream is once so many batches of an iteration are done with, as plain values."""
        return {
            "version": STATE_VERSION,
            **self._order(),
            "position": self.start + batches * self.world_size * self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there at the next iteration, also with another batch size or number of ranks.

        Raises `UserError` naming what differs if the order is another one.
        """
        version = state.get("version")
        if version != STATE_VERSION:
            raise UserError(
                "cannot go on: the run was begun by a release that chooses examples and frames in another way (version "
                f"{version}, here {STATE_VERSION}); begin anew with --restart, or go on with that release"
            )
        differing = [
            f"{name} was {state.get(name)}, is {value}"
            for name, value in self._order().items()
            if state.get(name) != value
        ]
        if differing:
            raise UserError(
                f"cannot go on in the order of examples: {'; '.join(differing)}; put that back, or begin anew with "
                "--restart"
            )
        self.start = state["position"]

    def _order(self) -> dict[str, Any]:
        return {"examples": len(self.shards), "seed": self.seed, "window": self.window}


class SequentialBatches:
    """Every example once, in order, as (0, example); the last batch may be smaller.

    Of every `world_size` batches in a row rank r has the r-th.
    """

    def __init__(self, n_examples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_examples, self.batch_size = n_examples, batch_size
        self._starts = range(rank * batch_size, n_examples, world_size * batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts:
            yield [(0, example) for example in range(start, min(start + self.batch_size, self.n_examples))]
