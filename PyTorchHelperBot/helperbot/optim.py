"""Parameter groups and learning rate schedules."""

import math
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into a group with weight decay and one without.

    Parameters with fewer than two dimensions (batch norms, for example) and biases do not decay. Empty groups are
    left out. For different rates in different submodules, concatenate the lists of several calls.

    Args:
        model: the module whose parameters are split.
        lr: learning rate of both groups, finite and at least 0.
        weight_decay: weight decay of the first group, finite and at least 0.

    Returns:
        Up to two dicts for `torch.optim` with the keys "params", "lr" and "weight_decay", the decaying group first,
        parameters in module order.

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
    """The learning rate factor of a linear warm-up and a linear decay.

    Piecewise linear through `(0, start_factor)`, `(warmup * steps, 1)` and `(steps, end_factor)`, then constant. With
    `warmup` 0 it starts at 1. Training takes steps 0 to `steps - 1`, so it stops just short of `end_factor`.

    Args:
        step: number of finished steps, at least 0.
        steps: length of the schedule, at least 1.
        warmup: fraction of the steps spent on the warm-up, in [0, 1).
        start_factor: factor at step 0, in [0, 1].
        end_factor: factor from step `steps` on, in [0, 1].

    Returns:
        A factor in [min(start_factor, end_factor), 1].

    Raises:
        ValueError: an argument is out of range.
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
    # Rounding may make peak equal to steps, but then step < peak: no division by zero below.
    return _between(1.0, end_factor, (step - peak) / (steps - peak))


def _between(first: float, second: float, part: float) -> float:
    """Interpolate, exactly at both ends (unlike first + part * difference)."""
    return (1.0 - part) * first + part * second
