"""Prefetching of batches: threads read while the model computes."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch

from yt8m.common.errors import UserError
from yt8m.data.datasets import ShardDataset
from yt8m.data.order import Key, TrainingBatches
from yt8m.data.threads import map_ahead

BATCHES_AHEAD = 2  # per worker

Batch = TypeVar("Batch")


class BatchLoader(Generic[Batch]):
    """The batches of a data set in the order of their keys, prefetched by `workers` threads.

    `keys` yields the keys of each batch. Threads, not processes: they release the GIL while reading, and batches need
    not be passed between processes. Content and order are the same for any number of workers; with 0 the caller reads.
    For a CUDA `device`, the large tensors of batches are in pinned memory.
    """

    def __init__(
        self,
        dataset: ShardDataset[Batch],
        keys: Iterable[list[Key]],
        workers: int,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.dataset, self.keys, self.workers, self.device = dataset, keys, workers, device
        if device.type == "cuda":
            dataset.pin_memory()

    def __iter__(self) -> Generator[Batch, None, None]:
        yield from self._ahead() if self.workers else map(self.dataset.__getitems__, self.keys)

    def _ahead(self) -> Iterator[Batch]:
        # Each thread has its own current CUDA device.
        set_device = (torch.cuda.set_device, (self.device,)) if self.device.type == "cuda" else ()
        return map_ahead(self.dataset.__getitems__, self.keys, self.workers, BATCHES_AHEAD * self.workers, *set_device)


class TrainingLoader(BatchLoader[Batch]):
    """A resumable `BatchLoader` of an endless stream of training batches."""

    def __init__(
        self,
        dataset: ShardDataset[Batch],
        stream: TrainingBatches,
        workers: int,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        super().__init__(dataset, stream, workers, device)
        self._stream = stream
        self._handed_out = 0

    def __iter__(self) -> Generator[Batch, None, None]:
        self._handed_out = 0
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream after the batches handed out, as plain values."""
        return {"data": self.dataset.index.digest, **self._stream.state_dict(self._handed_out)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume there at the next iteration. Raises `UserError` naming the differences in data or order."""
        if state.get("data") != self.dataset.index.digest:
            raise UserError(
                f"{self.dataset.index.folder}: not the shards that the order of examples was made from; "
                "restore those or start over"
            )
        self._stream.load_state_dict(state)
        self._handed_out = 0
