"""Several processes that train one model, as `torchrun` starts them.

Everything here works with one process, too, and then costs nothing.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def launched() -> bool:
    """Whether the environment says that a launcher such as `torchrun` has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """Which of the processes of its machine this one is; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def process_group(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """Join the other processes of a launcher for the duration of the block; nothing without one.

    Args:
        device: what the processes exchange lies on. CUDA devices talk through NCCL, CPUs through gloo. "cuda" without
            a number is the GPU of this process's `local_rank`.
        timeout: how long a process waits for the others before it gives up; None for torch's own,
            10 minutes with NCCL and 30 with gloo.
    """
    if not launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() if device.index is None else device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield
        dist.barrier()  # a process that is still talking needs the others
    finally:
        # A DistributedDataParallel that outlives the group may abort the process at its exit.
        gc.collect()
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def barrier() -> None:
    """Wait until all processes are here."""
    if is_distributed():
        dist.barrier()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let process 0 go through the block before the others, which then find what it has made."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, without gradient. All must call this alike."""
    if not is_distributed():
        return value
    total = value.detach().to(_common_device(), copy=True)
    dist.all_reduce(total)
    return total.to(value.device)


def _common_device() -> torch.device:
    """Where tensors have to be to go between the processes."""
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of a tensor of all processes, those of process 0 first.

    Args:
        rows: (any number, ...); the processes may have different numbers of rows.
    """
    if not is_distributed():
        return rows
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    counts = sum_over_ranks(counts)
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:], device=_common_device())
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    gathered = torch.cat([part[:count] for part, count in zip(parts, counts.tolist())])
    return gathered.to(rows.device)


class _SumOverRanks(torch.autograd.Function):  # pylint: disable=abstract-method
    """`sum_over_ranks` with a gradient: every process's loss depends on every process's value."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:  # pylint: disable=arguments-differ,unused-argument
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # pylint: disable=arguments-differ,unused-argument
        return sum_over_ranks(grad)


class SyncBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over the batches of all processes; torch's own has no CPU kernel.

    The processes may have different numbers of examples.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # pylint: disable=redefined-builtin
        """(N, C) or (N, C, L), as `nn.BatchNorm1d`."""
        if not (self.training and is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        dtype = input.dtype
        if dtype in (torch.float16, torch.bfloat16):
            input = input.float()  # sums and statistics need the precision
        dims = [0] if input.ndim == 2 else [0, 2]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = input.new_tensor([input.numel() / self.num_features])
        totals = _SumOverRanks.apply(torch.cat([input.sum(dims), count]))
        total = totals[-1].detach()
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
        # They are there wherever `track_running_stats` is set.
        assert tracked is not None and mean_buffer is not None and variance_buffer is not None
        tracked.add_(1)
        momentum = 1.0 / float(tracked) if self.momentum is None else self.momentum
        mean_buffer.lerp_(mean, momentum)
        variance_buffer.lerp_(unbiased_variance, momentum)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Have the batch norms of a model use the batches of all processes. Names stay as they are.

    Args:
        model: changed in place, but for itself being a batch norm.
        device: where it will be; CUDA has a kernel of torch's own for it.

    Returns:
        The model.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:  # pylint: disable=unidiomatic-typecheck
            module.__class__ = SyncBatchNorm1d
    return model
