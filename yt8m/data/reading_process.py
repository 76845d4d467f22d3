"""Batches read by a process of its own, into memory that is shared with it and that a GPU copies from.

While the thread that launches a GPU's kernels shares Python's lock with threads that read, each of its launches may
have to wait for one of them. Here it gets a batch by a short message.
"""

import atexit
import copy
import ctypes
import io
import logging
import math
import mmap
import multiprocessing
import pickle
import signal
import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from yt8m.common.errors import RecordError, UserError
from yt8m.data.datasets import ShardDataset
from yt8m.data.order import Key
from yt8m.data.threads import map_ahead

LOGGER = logging.getLogger(__name__)

HELD = 4  # batches that whoever trains may hold at a time before it gets copies
_ALIGNMENT, _SPARE = 64, 4096  # bytes
_LARGE = 1024  # bytes from which on an array lies in shared memory
_SECONDS_TO_END = 5

Batch = TypeVar("Batch")


class _Slot:
    """Shared memory for one batch at a time."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size)
        self.size = size
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._used = 0

    def lend(self) -> ctypes.Array[ctypes.c_char]:
        """The memory, for arrays that keep what this returns alive."""
        return (ctypes.c_char * self.size).from_buffer(self._map)

    def clear(self) -> None:
        """Begin with another batch."""
        self._used = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """As `np.empty`, in the slot if there is room."""
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        stop = start + math.prod(shape) * np.dtype(dtype).itemsize
        if stop > self.size:
            return np.empty(shape, dtype)
        self._used = stop
        return np.ndarray(shape, dtype, buffer=memoryview(self.lend()), offset=start)

    def find(self, array: np.ndarray) -> int | None:
        """Where an array lies in the slot; None if it does not."""
        place = array.ctypes.data - self.address
        inside = 0 <= place <= self.size - array.nbytes and array.flags.c_contiguous
        return place if inside else None


class _Pickler(pickle.Pickler):
    """Of arrays and tensors in a slot writes only where they lie."""

    def __init__(self, file: io.BytesIO, slot: _Slot) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._slot = slot

    def persistent_id(self, obj: Any) -> Any:
        """How an array or a tensor is written; None for everything else."""
        if not isinstance(obj, (np.ndarray, Tensor)):
            return None
        array = obj.numpy() if isinstance(obj, Tensor) else obj
        place = self._slot.find(array)
        if place is None and array.nbytes >= _LARGE:
            copied = self._slot.empty(array.shape, array.dtype)
            copied[...] = array
            place = self._slot.find(copied)
        return isinstance(obj, Tensor), array.shape, array.dtype.str, array.tobytes() if place is None else place


class _Unpickler(pickle.Unpickler):
    """Makes arrays and tensors anew, those of a slot without copying them."""

    def __init__(self, file: io.BytesIO, memory: ctypes.Array[ctypes.c_char]) -> None:
        super().__init__(file)
        self._memory = memory

    def persistent_load(self, pid: Any) -> Any:
        """What `_Pickler.persistent_id` stands for."""
        is_tensor, shape, dtype, where = pid
        buffer, offset = (memoryview(self._memory), where) if isinstance(where, int) else (bytearray(where), 0)
        array = np.ndarray(shape, dtype, buffer=buffer or None, offset=offset)
        return torch.from_numpy(array) if is_tensor else array


def read_apart(
    dataset: ShardDataset[Batch], keys: Iterable[list[Key]], workers: int, ahead: int, device: torch.device
) -> Generator[Batch, None, None]:
    """The batches of a data set in the order of their keys, read by `workers` threads of another process.

    At most `ahead` batches, and a few, are read further than has been asked for. Their large tensors are in pinned
    memory for a CUDA `device`. An error appears where its batch would. Raises `UserError` if the process dies.
    """
    rest = iter(keys)
    first = next(rest, None)
    if first is None:
        return
    size = len(first) * dataset.example_bytes + _SPARE
    slots = [_Slot(size) for _ in range(ahead + HELD)]
    context = multiprocessing.get_context("fork")  # the index of millions of videos is there already
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, ours, dataset, slots, workers, ahead), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads hold no lock that the process needs
        process.start()
    theirs.close()
    atexit.register(ours.close)  # which ends the process; its own module would wait for it otherwise
    registered = [slot for slot in slots if device.type == "cuda" and _register(slot)]
    try:
        yield from _receive(ours, process, dataset, slots, ahead, _chain(first, rest))
    finally:
        atexit.unregister(ours.close)
        ours.close()
        process.join(_SECONDS_TO_END)
        process.kill()
        if registered:
            torch.cuda.synchronize(device)
        for slot in registered:
            torch.cuda.cudart().cudaHostUnregister(slot.address)


def _chain(first: list[Key], rest: Iterator[list[Key]]) -> Iterator[list[Key]]:
    yield first
    yield from rest


def _register(slot: _Slot) -> bool:
    """Pin a slot for GPUs."""
    failed = int(torch.cuda.cudart().cudaHostRegister(slot.address, slot.size, 0))
    if failed:
        LOGGER.warning("memory for batches cannot be pinned (CUDA's error %d); copies to the GPU are slower", failed)
    return not failed


def _receive(
    connection: Connection,
    process: multiprocessing.process.BaseProcess,
    dataset: ShardDataset[Batch],
    slots: list[_Slot],
    ahead: int,
    keys: Iterator[list[Key]],
) -> Iterator[Batch]:
    """Ask for batches as slots are free, and hand them out."""
    free = list(range(len(slots)))
    asked: list[int] = []  # the slots of the batches that are to come
    asking = True
    try:
        while True:
            while asking and free:
                batch_keys = next(keys, None)
                asking = batch_keys is not None
                connection.send((free[0], batch_keys) if asking else None)
                if asking:
                    asked.append(free.pop(0))
            if not asked:
                return
            number = asked.pop(0)
            damage, outcome = pickle.loads(connection.recv_bytes())
            for error in damage:
                dataset.reader.damage.meet(error)
            if isinstance(outcome, Exception):
                raise outcome
            memory = slots[number].lend()
            batch = _Unpickler(io.BytesIO(outcome), memory).load()
            if len(free) + len(asked) <= ahead:  # whoever has the others keeps them, and the process waits for more
                batch = copy.deepcopy(batch)
                free.append(number)
            else:
                weakref.finalize(memory, free.append, number)
            del memory
            yield batch
            del batch
    except (EOFError, ConnectionError):
        process.join(_SECONDS_TO_END)
        raise UserError(
            f"the process that reads batches has ended (status {process.exitcode}), perhaps for want of memory; set a "
            "lower --workers"
        ) from None


def _serve(
    connection: Connection, others: Connection, dataset: ShardDataset[Any], slots: list[_Slot], workers: int, ahead: int
) -> None:
    """What the process does: make batches of the keys that it is sent, until the other end is closed."""
    others.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends with the process that trains
        signal.signal(number, signal.SIG_IGN)
    logging.disable()  # that says what damage there is
    damage, told = dataset.reader.damage, 0

    def asked() -> Iterator[tuple[int, list[Key]]]:
        try:
            while (request := connection.recv()) is not None:
                yield request
        except EOFError:
            return

    def make(request: tuple[int, list[Key]]) -> bytes:
        number, keys = request
        slot, own = slots[number], copy.copy(dataset)
        slot.clear()
        own.empty = slot.empty
        file = io.BytesIO()
        _Pickler(file, slot).dump(own.__getitems__(keys))
        return file.getvalue()

    def send(outcome: bytes | Exception) -> None:
        nonlocal told
        met: list[RecordError] = list(damage.left_out.values())
        told, new = len(met), met[told:]
        connection.send_bytes(pickle.dumps((new, outcome)))

    try:
        for outcome in map_ahead(make, asked(), workers, ahead):
            send(outcome)
    except BrokenPipeError:
        return
    except Exception as error:  # pylint: disable=broad-exception-caught  # it is raised where the batch is wanted
        send(error)
        for _ in asked():  # what is not read would be lost together with the error
            pass
