"""Parameter groups for optimizers with weight decay."""

import math
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters of `model` that train into one group with decay and one without.

    Exempt from decay is what has fewer than two dimensions, as the parameters of batch norms have, or
    "bias" in its name. Parameters with `requires_grad` False are left out, and so are groups without
    parameters. For different rates in different submodules, add up the lists of several calls.

    Args:
        model: the module whose parameters, with those of its submodules, are split.
        lr: learning rate of both groups, finite and at least 0.
        weight_decay: decay of the first group, finite and at least 0.

    Returns:
        Up to two dicts for `torch.optim`, with the keys "params", "lr" and "weight_decay", the one with
        decay first. Parameters are in the order of the modules.

    Raises:
        ValueError: `lr` or `weight_decay` is out of range.
    """
    for label, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{label} must be finite and at least 0, got {value}")
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or "bias" in name.rpartition(".")[2]
            (no_decay if exempt else decay).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decay, "lr": lr, "weight_decay": weight_decay},
        {"params": no_decay, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
