"""Parameter groups and learning rate schedules."""

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


def warmup_linear_decay(
    step: int, steps: int, warmup: float, start_factor: float = 0.01, end_factor: float = 0.01
) -> float:
    """Return the factor for a linear warm-up followed by a linear decay.

    The factor is the continuous, piecewise linear function through `(0, start_factor)`,
    `(warmup * steps, 1)` and `(steps, end_factor)`. Training takes the steps 0 to `steps - 1`, so
    the last one is taken at one slope's distance from `end_factor`, and `end_factor` holds from
    step `steps` on. With `warmup` 0 there is no first part: the factor at step 0 is 1.

    Args:
        step: how many steps are finished, at least 0.
        steps: how many steps the whole schedule has, at least 1.
        warmup: the part of the steps spent on the warm-up, in [0, 1).
        start_factor: factor at step 0, in [0, 1].
        end_factor: factor at step `steps` and after, in [0, 1].

    Returns:
        A factor in [min(start_factor, end_factor), 1].

    Raises:
        ValueError: an argument is out of its range.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not step >= 0:
        raise ValueError(f"step must be at least 0, got {step}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), got {warmup}")
    for label, factor in (("start_factor", start_factor), ("end_factor", end_factor)):
        if not math.isfinite(factor) or not 0 <= factor <= 1:
            raise ValueError(f"{label} must be in [0, 1], got {factor}")
    if step >= steps:
        return end_factor
    peak = warmup * steps
    if step < peak:
        return _between(start_factor, 1.0, step / peak)
    # warmup < 1 does not keep warmup * steps from being rounded up to steps, but then step < peak
    # holds for every step < steps: the division below never is one by zero.
    return _between(1.0, end_factor, (step - peak) / (steps - peak))


def _between(first: float, second: float, part: float) -> float:
    """Interpolate; the weighted sum, unlike first + part * difference, is exact at both ends."""
    return (1.0 - part) * first + part * second
