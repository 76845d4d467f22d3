"""Nested batches on devices, and the half precision that suits a device."""

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

import torch

_AMP_CHOICES = "auto", "bf16", "fp16", "off"

Batch = TypeVar("Batch")


def _is_dataclass_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def move_to(batch: Batch, device: torch.device | str) -> Batch:
    """Return `batch` with its tensors on `device`.

    Args:
        batch: a tensor, or any nesting of dicts, lists, tuples, named tuples and dataclasses. Containers are copied;
            other values are kept as they are. If it has an attribute `memory`, a 1-d tensor of uint8 on the CPU, that
            is copied at once with all contiguous tensors that lie in it at multiples of their element size, of which
            its own size must be a multiple, too; others are copied one by one.
        device: where the tensors go. Copies from pinned memory to CUDA overlap with computation.

    Returns:
        A value of the same structure and types. Tensors already on `device` are not copied.
    """
    device = torch.device(device)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        # Only copies to CUDA: the stream orders them before their use, but a copy to the CPU could be read too early.
        return tensor.to(device, non_blocking=device.type == "cuda")

    memory = getattr(batch, "memory", None)
    if isinstance(memory, torch.Tensor) and memory.dtype == torch.uint8 and memory.device.type == "cpu" != device.type:
        return _map(batch, _MovedMemory(memory, move))
    return _map(batch, move)


class _MovedMemory:
    """Maps tensors that lie in a block of memory to the same in its copy, and moves others.

    Args:
        memory: the block, (bytes,) uint8.
        move: moves a tensor.
    """

    def __init__(self, memory: torch.Tensor, move: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._memory, self._move = memory, move
        self._moved = {torch.uint8: move(memory)}  # as each type of element

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        offset = tensor.data_ptr() - self._memory.data_ptr()
        inside = tensor.is_contiguous() and 0 <= offset <= self._memory.nbytes - tensor.nbytes
        aligned = offset % tensor.itemsize == self._memory.nbytes % tensor.itemsize == 0
        if tensor.device != self._memory.device or not tensor.numel() or not (inside and aligned):
            return self._move(tensor)
        if tensor.dtype not in self._moved:
            self._moved[tensor.dtype] = self._moved[torch.uint8].view(tensor.dtype)
        return self._moved[tensor.dtype].as_strided(tensor.shape, tensor.stride(), offset // tensor.itemsize)


class BatchMover:
    """Moves batches to a device; to CUDA on a stream of its own, where copies from pinned memory overlap with steps.

    Args:
        device: where the tensors go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._under_way: deque[tuple[torch.cuda.Event, Any]] = deque()  # batches whose memory is being read

    def __call__(self, batch: Batch) -> Batch:
        """As `move_to`; nothing waits for the copies but what is computed from them."""
        if self._stream is None:
            return move_to(batch, self.device)
        with torch.cuda.stream(self._stream):
            moved = move_to(batch, self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in {tensor.untyped_storage().data_ptr(): tensor for tensor in _tensors(moved)}.values():
            tensor.record_stream(current)  # else its memory could be used again by the next copy too early
        event = torch.cuda.Event()
        event.record(self._stream)
        self._under_way.append((event, batch))
        while self._under_way and self._under_way[0][0].query():
            self._under_way.popleft()
        return moved


class HostCopies:
    """Copies of nested tensors in host memory, which is kept for the next copies of tensors of the same shapes.

    Tensors on CUDA are copied to pinned memory, behind the work that the device has been given and without waiting for
    it. Takes as much host memory as the tensors; of pinned memory up to twice as much, since torch rounds each tensor
    up to a power of two.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._copied: list[torch.cuda.Event] = []  # of each device

    def copy(self, value: Batch) -> Batch:
        """Return `value` with copies of its tensors, which are valid after `wait` and until the next call.

        Args:
            value: as for `move_to`.
        """
        earlier, self._buffers = iter(self._buffers), []
        devices = {tensor.device for tensor in _tensors(value) if tensor.device.type == "cuda"}
        copied = _map(value, lambda tensor: self._copy(tensor.detach(), next(earlier, None)))
        self._copied = []
        for device in devices:
            with torch.cuda.device(device):
                event = torch.cuda.Event(blocking=True)
                event.record()
            self._copied.append(event)
        return copied

    def _copy(self, tensor: torch.Tensor, buffer: torch.Tensor | None) -> torch.Tensor:
        on_cuda = tensor.device.type == "cuda"
        layout = tensor.shape, tensor.dtype, tensor.stride()
        if buffer is None or (buffer.shape, buffer.dtype, buffer.stride()) != layout:
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=on_cuda)
        self._buffers.append(buffer)
        return buffer.copy_(tensor, non_blocking=on_cuda)

    def wait(self) -> None:
        """Wait until the copies are there. May be called in another thread."""
        for event in self._copied:
            with torch.cuda.device(event.device):  # a thread has a current device of its own
                event.synchronize()


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to the tensors of a batch."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, MutableMapping):
        # Copying keeps what a subclass adds, such as a default factory.
        moved = copy.copy(value)
        for key, item in value.items():
            moved[key] = _map(item, function)
        return moved
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)([_map(item, function) for item in value])
    if _is_dataclass_instance(value):
        # dataclasses.replace rejects fields with init=False and repeats __post_init__.
        moved = copy.copy(value)
        for field in dataclasses.fields(value):
            item = _map(getattr(value, field.name), function)
            object.__setattr__(moved, field.name, item)  # also if frozen
        return moved
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in `value`, depth first."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif _is_dataclass_instance(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def batch_size(batch: Any) -> int:
    """The first dimension of the first tensor in `batch`.

    Raises:
        ValueError: there is no tensor, or the first one is 0-d.
    """
    first = next(_tensors(batch), None)
    if first is None:
        raise ValueError(f"no tensor in a batch of type {type(batch).__name__}")
    if first.ndim == 0:
        raise ValueError("the first tensor of the batch has no dimensions")
    return first.shape[0]


def resolve_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The data type for mixed precision, or None for full precision.

    Args:
        name: "bf16", "fp16", "off" or "auto", which is None on a CPU, and on CUDA bfloat16 if the GPU has it (compute
            capability 8.0), else float16.
        device: where to compute.

    Raises:
        ValueError: the name is none of these, or the GPU has no bfloat16.
    """
    if name not in _AMP_CHOICES:
        raise ValueError(f"expected one of {', '.join(_AMP_CHOICES)}, got {name!r}")
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return None
    if name == "fp16":
        return torch.float16
    # Older GPUs emulate it, more slowly than float32.
    native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if not native and name == "bf16":
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bfloat16: use fp16 or auto")
    return torch.bfloat16 if native else torch.float16
