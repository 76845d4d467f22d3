"""Parameter groups for optimizers with weight decay."""

import math
from typing import Any

from torch import nn

_NORMALIZATION_LAYERS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LazyBatchNorm1d,
    nn.LazyBatchNorm2d,
    nn.LazyBatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LazyInstanceNorm1d,
    nn.LazyInstanceNorm2d,
    nn.LazyInstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def _is_bias(name: str) -> bool:
    """Whether a parameter's own name is that of a bias: bias, bias_ih_l0, in_proj_bias, biases."""
    words = name.split("_")
    return "bias" in words or "biases" in words


def parameter_groups(model: nn.Module, lr: float, weight_decay: float, name: str = "") -> list[dict[str, Any]]:
    """Split the parameters of `model` that train into one group with decay and one without.

    Exempt from decay are the parameters of normalization layers and every bias. A parameter that
    several modules share is listed once, and is exempt when any of them would exempt it.
    Parameters with `requires_grad` False are left out, and so are groups without parameters. For
    different rates in different submodules, add up the lists of several calls.

    Args:
        model: the module whose parameters, with those of its submodules, are split.
        lr: learning rate of both groups, finite and at least 0.
        weight_decay: decay of the first group, finite and at least 0.
        name: what to prefix to the groups' names, with a dot.

    Returns:
        Up to two dicts for `torch.optim`, with the keys "params", "lr", "weight_decay" and "name"
        ("decay" or "no_decay" with the prefix). Parameters are in the order of the modules.

    Raises:
        ValueError: `lr` or `weight_decay` is out of range.
    """
    for label, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{label} must be finite and at least 0, got {value}")
    trained: dict[int, nn.Parameter] = {}
    exempt: set[int] = set()
    for module in model.modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            trained.setdefault(id(parameter), parameter)
            if isinstance(module, _NORMALIZATION_LAYERS) or _is_bias(own_name):
                exempt.add(id(parameter))
    prefix = f"{name}." if name else ""
    groups = [
        {
            "params": [parameter for key, parameter in trained.items() if key not in exempt],
            "lr": lr,
            "weight_decay": weight_decay,
            "name": f"{prefix}decay",
        },
        {
            "params": [parameter for key, parameter in trained.items() if key in exempt],
            "lr": lr,
            "weight_decay": 0.0,
            "name": f"{prefix}no_decay",
        },
    ]
    return [group for group in groups if group["params"]]
