"""Mixed precision: which half precision a device is good at."""

import torch

_CHOICES = ("auto", "bf16", "fp16", "off")


def resolve_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in, or None for no mixed precision.

    Args:
        name: "bf16", "fp16", "off", or "auto": on CUDA bfloat16 where the card has it (compute
            capability 8.0 and later), else float16; on a CPU none.
        device: where to compute.

    Raises:
        ValueError: the name is not one of these, or the card has no bfloat16.
    """
    if name not in _CHOICES:
        raise ValueError(f"expected one of {', '.join(_CHOICES)}, got {name!r}")
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return None
    if name == "fp16":
        return torch.float16
    # The emulation on older cards would be slower than float32.
    native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if not native and name == "bf16":
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bfloat16: use fp16 or auto")
    return torch.bfloat16 if native else torch.float16
