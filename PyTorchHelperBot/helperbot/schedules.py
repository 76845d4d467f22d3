"""Learning rate schedules: pure functions from the step to a factor on the base rate."""

import math


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
