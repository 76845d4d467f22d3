"""Process groups and collectives for the processes that `torchrun` starts. With one process everything is a no-op."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group, which its default arguments would keep
from torch import nn
from torch.nn.parallel import DistributedDataParallel

LOGGER = logging.getLogger(__name__)
ARRIVAL = timedelta(minutes=10)
_SILENCE = 5.0  # seconds of waiting before a log line
_PAUSE = 0.1  # seconds between polls
_SHOWN = 8  # missing ranks listed
_PLACE = "MASTER_ADDR", "MASTER_PORT"  # set by launchers beside RANK and WORLD_SIZE

_WRAPPERS: WeakSet[DistributedDataParallel] = WeakSet()  # of the current group

Batch = TypeVar("Batch")


class LaunchError(RuntimeError):
    """The environment describes the processes wrongly, or some of them do not arrive."""


def launched() -> bool:
    """Whether the environment says that a launcher such as `torchrun` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """The rank of this process on its machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def process_group(
    device: torch.device, timeout: timedelta | None = None, arrival: timedelta = ARRIVAL
) -> Iterator[None]:
    """Join the other processes of a launcher for the duration of the block. Does nothing without a launcher.

    Args:
        device: where exchanged tensors are. CUDA tensors go through NCCL, CPU tensors through gloo. "cuda" without an
            index is the GPU of `local_rank`.
        timeout: how long a collective waits for other processes; None is torch's default, 30 minutes.
        arrival: how long to wait for the others to start, unless `torchrun` does. After some seconds a log line says
            which are missing.

    Raises:
        LaunchError: the environment does not say where to meet, or not all processes arrive in time.
    """
    if not launched():
        yield
        return
    host, port, own, count = _launch()
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() if device.index is None else device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = _meet(host, port, own, count, arrival)
        dist.init_process_group(backend, store=store, rank=own, world_size=count, timeout=timeout)
    world = dist.group.WORLD
    assert world is not None  # just made
    # Held until last: torch frees these without the GIL, but before 2.8 not the group.
    names = dict.fromkeys(("cpu", device.type))
    backends = [world._get_backend(torch.device(name)) for name in names]  # pylint: disable=protected-access
    del world
    try:
        yield
        dist.barrier()  # a process that still communicates needs the others
    finally:
        for wrapper in _WRAPPERS:
            _release_group(wrapper)
        _WRAPPERS.clear()
        dist.destroy_process_group()
        backends.clear()


def _launch() -> tuple[str, int, int, int]:
    """Host and port of the meeting place, rank and world size. Raises `LaunchError`."""
    missing = [name for name in _PLACE if name not in os.environ]
    if missing:
        raise LaunchError(
            f"environment: RANK and WORLD_SIZE are set, but not {' and '.join(missing)}; start with torchrun, or unset "
            "them to run in one process"
        )
    numbers = {}
    for name, most in (("MASTER_PORT", 65535), ("WORLD_SIZE", 2**31), ("RANK", 2**31)):
        text = os.environ[name]
        if not text.isdecimal() or int(text) > most:
            raise LaunchError(f"environment: {name} is {text!r}, expected a whole number; torchrun sets it")
        numbers[name] = int(text)
    own, count = numbers["RANK"], numbers["WORLD_SIZE"]
    if own >= count:
        raise LaunchError(f"environment: RANK is {own}, expected 0 to WORLD_SIZE - 1, and WORLD_SIZE is {count}")
    return os.environ["MASTER_ADDR"], numbers["MASTER_PORT"], own, count


def _meet(host: str, port: int, own: int, count: int, arrival: timedelta) -> dist.Store:
    """Wait for all processes; returns the store that process 0 hosts. Raises `LaunchError`."""
    place = f"{host}:{port}"
    if own > 0:  # torch would wait silently, and end with pages of errors
        _wait_for(lambda: [] if _answers(host, port) else [0], count, place, arrival)
    try:
        store = dist.TCPStore(host, port, count, own == 0, wait_for_workers=False)
        store.set(_arrived(own), "")
        _wait_for(lambda: [n for n in range(count) if not store.check([_arrived(n)])], count, place, arrival)
    except dist.DistError as error:
        reason = str(error).strip().splitlines()[0]
        raise LaunchError(f"the {count} ranks cannot meet at {place} (MASTER_ADDR, MASTER_PORT): {reason}") from None
    return store


def _arrived(number: int) -> str:
    """The key with which a process announces itself."""
    return f"arrived/{number}"


def _answers(host: str, port: int) -> bool:
    """Whether the port accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=_SILENCE):
            return True
    except OSError:
        return False


def _wait_for(missing: Callable[[], list[int]], count: int, place: str, arrival: timedelta) -> None:
    """Wait until no rank is missing, and log if it takes long. Raises `LaunchError` after `arrival`."""
    start, told = time.monotonic(), False
    while absent := missing():
        waited = time.monotonic() - start
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        names = f"rank{'s' * (len(absent) > 1)} {', '.join(map(str, absent[:_SHOWN]))}{more}"
        what = f"{len(absent)} of {count} ranks at {place}: {names}"
        if waited > arrival.total_seconds():
            raise LaunchError(
                f"gave up after {waited:.0f} s waiting for {what}; start every rank from 0 to WORLD_SIZE - 1 with the "
                "same MASTER_ADDR and MASTER_PORT, or unset RANK and WORLD_SIZE to run in one process"
            )
        if not told and waited > _SILENCE:
            LOGGER.warning("waiting for %s (for at most %.0f s)", what, arrival.total_seconds())
            told = True
        time.sleep(_PAUSE)


def data_parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """`model` with gradients averaged over all processes, until the process group ends."""
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; 2.7 has only this name.
        warnings.simplefilter("ignore", FutureWarning)
        wrapper = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # equal anyway
        )
    _WRAPPERS.add(wrapper)
    return wrapper


def _release_group(wrapper: DistributedDataParallel) -> None:
    """Make a wrapper let go of the process group, since a Bot or a traceback may keep it for longer.

    A reducer that held the group last would free it with the GIL held. Freeing it waits for gloo's threads, and they
    wait for the GIL to free the tensors of the last exchange: a deadlock.
    """
    without_backends = dist.ProcessGroup(dist.HashStore(), 0, 1)
    wrapper._update_process_group(without_backends)  # pylint: disable=protected-access


def is_distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The rank of this process."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def barrier() -> None:
    """Wait for all processes to get here."""
    if is_distributed():
        dist.barrier()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let process 0 run the block before the others, which then find what it created."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def in_step(batches: Iterable[Batch]) -> Iterator[Batch | None]:
    """The batches of this process, then None while another process has more. All processes must iterate this."""
    if not is_distributed():
        yield from batches
        return
    rest = iter(batches)
    while True:
        batch = next(rest, None)
        if not int(sum_over_ranks(torch.tensor(int(batch is not None)))):
            return
        yield batch


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, without gradient. A collective."""
    if not is_distributed():
        return value
    total = value.detach().to(_common_device(value), copy=True)
    dist.all_reduce(total)
    return total.to(value.device)


def _common_device(value: torch.Tensor) -> torch.device:
    """The device from which the backend can send a tensor."""
    backend = dist.get_backend()
    if backend == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if backend == "gloo" else value.device


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in the order of ranks. A collective.

    Args:
        rows: (rows, ...); the number of rows may differ between processes.
    """
    if not is_distributed():
        return rows
    counts = _row_counts(rows)
    padded = _padded(rows, max(counts))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)]).to(rows.device)


def gather_on_first(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The rows of all processes, in the order of ranks, on process 0; no rows on the others. A collective.

    Args:
        tensors: (rows, ...) each, with equal numbers of rows, which may differ between processes.
    """
    if not is_distributed():
        return list(tensors)
    counts = _row_counts(tensors[0])
    gathered = []
    for rows in tensors:
        padded = _padded(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in counts] if rank() == 0 else None
        dist.gather(padded, parts)
        own = [part[:count] for part, count in zip(parts, counts)] if parts is not None else [rows[:0]]
        gathered.append(torch.cat(own).to(rows.device))
    return gathered


def _row_counts(rows: torch.Tensor) -> list[int]:
    """The number of rows of each process."""
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    return sum_over_ranks(counts).tolist()


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`rows` padded with zeros to `count` rows, on a device from which the backend can send them."""
    padded = rows.new_zeros(count, *rows.shape[1:], device=_common_device(rows))
    padded[: len(rows)] = rows
    return padded


class _SumOverRanks(torch.autograd.Function):  # pylint: disable=abstract-method
    """`sum_over_ranks` with a gradient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:  # pylint: disable=arguments-differ,unused-argument
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # pylint: disable=arguments-differ
        return sum_over_ranks(grad)


class SyncBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over the batches of all processes, also on the CPU, for which torch has none.

    The number of examples may differ between processes, and be 0. In training raises `ValueError`, as `nn.BatchNorm1d`
    does, if all processes together have a single value per channel.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `nn.BatchNorm1d`: (N, C) or (N, C, L)."""
        if not (self.training and is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        dtype = input.dtype
        if dtype in (torch.float16, torch.bfloat16):
            input = input.float()  # for the sums
        dims = [0] if input.ndim == 2 else [0, 2]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = input.new_tensor([input.numel() / self.num_features])
        totals = _SumOverRanks.apply(torch.cat([input.sum(dims), count]))
        total = totals[-1].detach()
        if total < 2:
            raise ValueError(f"expected more than 1 value per channel when training, got {total:.0f} in all processes")
        mean = totals[:-1] / total
        centered = input - mean.view(shape)
        variance = _SumOverRanks.apply(centered.square().sum(dims)) / total
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach() * (total / (total - 1)))
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(dtype)

    def _update(self, mean: torch.Tensor, unbiased_variance: torch.Tensor) -> None:
        tracked, mean_buffer, variance_buffer = self.num_batches_tracked, self.running_mean, self.running_var
        # Given `track_running_stats`.
        assert tracked is not None and mean_buffer is not None and variance_buffer is not None
        tracked.add_(1)
        momentum = 1.0 / float(tracked) if self.momentum is None else self.momentum
        mean_buffer.lerp_(mean, momentum)
        variance_buffer.lerp_(unbiased_variance, momentum)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make the batch norms of a model use the batches of all processes. Names do not change.

    Args:
        model: changed in place, unless it is a batch norm itself.
        device: where the model will be.

    Returns:
        The model.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:  # pylint: disable=unidiomatic-typecheck
            module.__class__ = SyncBatchNorm1d
    return model
