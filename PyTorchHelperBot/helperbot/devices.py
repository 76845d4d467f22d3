"""Nested batches on devices, and the half precision that suits a device."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

import torch

_AMP_CHOICES = "auto", "bf16", "fp16", "off"

Batch = TypeVar("Batch")


def _is_dataclass_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def move_to(batch: Batch, device: torch.device | str) -> Batch:
    """Return `batch` with every tensor in it on `device`.

    Args:
        batch: a tensor, or any nesting of dicts, lists, tuples, named tuples and dataclasses.
            Containers are copied, never changed; anything else in them is passed on as it is.
        device: where the tensors go. Copies to CUDA are non-blocking, which makes them overlap
            with computation when the tensors are in pinned memory.

    Returns:
        A value of the same structure and types. Tensors already on `device` are not copied.
    """
    device = torch.device(device)
    # Only copies *to* CUDA may be non-blocking: the stream orders them before their use there,
    # whereas a non-blocking copy to the CPU could be read before it is finished.
    return _map(batch, lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))


def pin_memory(batch: Batch) -> Batch:
    """Return `batch` with every tensor in it in pinned memory, to be copied to CUDA faster.

    Args:
        batch: as for `move_to`.

    Returns:
        A value of the same structure and types.
    """
    return _map(batch, lambda tensor: tensor.pin_memory())


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to the tensors in a batch."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, MutableMapping):
        # A copy with its items replaced keeps what a subclass adds (say, a default factory).
        moved = copy.copy(value)
        for key, item in value.items():
            moved[key] = _map(item, function)
        return moved
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)([_map(item, function) for item in value])
    if _is_dataclass_instance(value):
        # Not dataclasses.replace: it rejects fields with init=False and repeats __post_init__.
        moved = copy.copy(value)
        for field in dataclasses.fields(value):
            item = _map(getattr(value, field.name), function)
            object.__setattr__(moved, field.name, item)  # works for frozen dataclasses, too
        return moved
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in `value`, depth first, in the order in which they are held."""
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
    """Return the first dimension of the first tensor found in `batch`.

    Raises:
        ValueError: `batch` holds no tensor, or the first one has no dimensions.
    """
    first = next(_tensors(batch), None)
    if first is None:
        raise ValueError(f"no tensor in a batch of type {type(batch).__name__}")
    if first.ndim == 0:
        raise ValueError("the first tensor of the batch has no dimensions, so none of examples")
    return first.shape[0]


def resolve_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in, or None for no mixed precision.

    Args:
        name: "bf16", "fp16", "off", or "auto": on CUDA bfloat16 where the card has it (compute
            capability 8.0 and later), else float16; on a CPU none.
        device: where to compute.

    Raises:
        ValueError: the name is not one of these, or the card has no bfloat16.
    """
    if name not in _AMP_CHOICES:
        raise ValueError(f"expected one of {', '.join(_AMP_CHOICES)}, got {name!r}")
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return None
    if name == "fp16":
        return torch.float16
    # The emulation on older cards would be slower than float32.
    native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if not native and name == "bf16":
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bfloat16: use fp16 or auto")
    return torch.bfloat16 if native else torch.float16
