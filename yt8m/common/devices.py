"""Devices, precisions and threads, as named on the command line."""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from helperbot import LaunchError, process_group, resolve_amp
from helperbot.distributed import ARRIVAL, launched, local_rank

from yt8m.common.errors import UserError

LOGGER = logging.getLogger(__name__)

MOST_WORKERS = 8  # feed an H100
GPU_FILE = Path("/dev/nvidia0")  # exists wherever an NVIDIA driver is installed
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_KEPT_BYTES = 1 << 30
_OLDEST, _NEWEST_OF_OLD = (5, 0), (9, 0)  # what torch 2.7.1, of requirements-p100.txt, has kernels for


def resolve_device(name: str) -> torch.device:
    """The device that `--device` names: auto, cpu, cuda or cuda:i.

    Raises `UserError` for one that does not exist, or that this build of torch has no kernels for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and GPU_FILE.exists():
            LOGGER.warning(
                "there is a GPU, but torch %s cannot use it (%s); computing on the CPU",
                torch.__version__,
                f"built for CUDA {torch.version.cuda}; is the driver new enough?"
                if torch.version.cuda
                else "built without CUDA",
            )
    if launched():  # by torchrun: each process has its own GPU
        if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"--device {name}: all local processes would share that GPU; --device cuda gives each its own"
            )
        name = f"cuda:{local_rank()}" if name == "cuda" else name
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:i")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # reading threads select it by number
        n_found = torch.cuda.device_count()
        if device.index >= n_found:
            raise UserError(f"--device {name}: torch {torch.__version__} sees {n_found} GPU{'s' * (n_found != 1)} here")
        _require_kernels(device)
    return device


def _require_kernels(device: torch.device) -> None:
    """Raise `UserError`, with what to install, for a GPU that would fail in its first kernel."""
    if torch.version.cuda is None:  # AMD's GPUs have other names
        return
    capability, architectures = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if has_kernels(capability, architectures):
        return
    if capability < _OLDEST:
        remedy = "no supported torch has them; use --device cpu"
    else:
        file = "requirements-p100.txt" if capability <= _NEWEST_OF_OLD else "requirements.txt"
        remedy = f"set up with `REQUIREMENTS={file} bash scripts/setup.bash`, or use --device cpu"
    card = f"{torch.cuda.get_device_name(device)} (sm_{capability[0]}{capability[1]})"
    raise UserError(
        f"--device {device}: torch {torch.__version__} has no kernels for {card}, only for "
        f"{', '.join(architectures)}; {remedy}"
    )


def has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a GPU of this compute capability runs code compiled for these architectures.

    Machine code (sm_75) runs on GPUs of the same major and the same or a higher minor number, intermediate code
    (compute_75) also on all newer ones. Architectures with a letter (sm_90a) are for exactly that GPU.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        if not number.isdecimal():
            if number[:-1] == f"{capability[0]}{capability[1]}":
                return True
            continue
        built_for = int(number[:-1]), int(number[-1])
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return True
    return False


def resolve_half(name: str, device: torch.device) -> torch.dtype | None:
    """The half precision that `--amp` chooses, or None. Raises `UserError` if the device lacks it."""
    try:
        return resolve_amp(name, device)
    except ValueError as error:
        raise UserError(f"--amp {name}: {error}") from None


def resolve_workers(workers: int | None, device: torch.device) -> int:
    """The number of reading threads for `--workers`.

    By default none on a CPU, where they would compete with training, and for a GPU half of this process's share of the
    processor cores, from 2 to `MOST_WORKERS`.
    """
    if workers is not None:
        return workers
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(2, cores // 2), MOST_WORKERS)


def require_compilation(device: torch.device) -> None:
    """Raise `UserError` if `torch.compile` fails on a small function; takes a few seconds."""
    try:
        double = torch.compile(lambda values: values + values, options={"fx_graph_cache": False})  # always compile
        double(torch.ones(1, device=device))
    except RuntimeError as error:
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise UserError(
            f"--compile: torch.compile does not work here ({reason}); install a C++ compiler and Python's headers "
            "(Debian: apt-get install g++ python3-dev), or leave out --compile"
        ) from None


@contextmanager
def joined(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """`helperbot.process_group`, with `UserError` if the processes do not connect."""
    with ExitStack() as stack:
        try:
            stack.enter_context(process_group(device, timeout, ARRIVAL))
        except LaunchError as error:
            raise UserError(str(error)) from None
        yield


def keep_freed_memory() -> None:
    """Make the C library keep memory freed by CPU tensors, up to 1 GB, for reuse.

    By default it returns large blocks to the system, and each page costs a fault on its next use. Only glibc has the
    setting; elsewhere nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            set_option(option, _KEPT_BYTES)
