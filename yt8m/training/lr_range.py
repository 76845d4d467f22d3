"""A learning-rate range test (Smith 2017): the loss of a short run with a growing learning rate."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from helperbot import NonFiniteLossError, TooFewExamplesError, get_logger
from helperbot.files import replacing
from helperbot.training_step import FiniteGuard, Stepper

from yt8m.common.devices import resolve_device, resolve_half, resolve_workers
from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.partitions import Fold
from yt8m.models.config import load_config
from yt8m.training.curves import Curve, draw, short_rate
from yt8m.training.experiments import (
    LEAST_EXAMPLES,
    Builder,
    Experiment,
    Sources,
    agnostic_experiment,
    aware_experiment,
    require_parts,
    video_experiment,
)
from yt8m.training.trainer import TrainingOptions, describe_device, examples_remedy

LOGGER = logging.getLogger(__name__)
BETA = 0.9  # of the moving average of the loss
EXPLODED = 4.0  # times the lowest smoothed loss
_FEWEST_STEPS = 10
_FIRST_IGNORED, _LAST_IGNORED = 5, 3  # the average is still unsettled; the loss is about to explode

# The base models of each training section's experiment.
_BASE_MODELS: dict[str, tuple[str, ...]] = {
    "video": (),
    "pure_segment": ("base_model",),
    "segment_w_context": ("context_model", "segment_model"),
}


@dataclass(frozen=True)
class Rates:
    """The `steps` learning rates to try, from `start` to `end` in geometric progression."""

    start: float
    end: float
    steps: int

    def values(self) -> np.ndarray:
        """All learning rates, (steps,). Raises `UserError` for an invalid range."""
        if self.start >= self.end:
            raise UserError(
                f"--from {self.start:g} --to {self.end:g}: the learning rate has to grow; expected --from below --to"
            )
        if self.steps < _FEWEST_STEPS:
            raise UserError(f"--steps {self.steps}: at least {_FEWEST_STEPS} are needed to see where the loss falls")
        return np.geomspace(self.start, self.end, self.steps)


def run_range_test(build: Builder, rates: Rates, picture: Path, data_dir: Path, options: TrainingOptions) -> str:
    """Run the test on the experiment that `build` makes; write `picture` (PNG) and a CSV beside it.

    Only the options for a single short run apply. Returns a line about the result. Raises `UserError`.
    """
    values = rates.values()
    if picture.suffix.lower() != ".png":
        raise UserError(f"--output {picture}: expected the name of a picture that ends in .png")
    device = resolve_device(options.device)
    amp = resolve_half(options.amp, device)
    get_logger("yt8m", level=min(options.console_level, logging.INFO), console_level=options.console_level)
    torch.manual_seed(options.seed)
    workers = resolve_workers(options.workers, device)
    LOGGER.debug("%s, mixed precision %s, %d threads read ahead", describe_device(device), amp or "off", workers)
    experiment = build(Sources(data_dir, options.seed, workers, device, options.damage))
    require_parts(experiment, 1)
    curve = measure(experiment, values, device, amp)
    configured = experiment.settings.lr
    best = steepest_descent(curve)
    write_table(curve, picture.with_suffix(".csv"))
    draw(curve, best, configured, picture)
    found = (
        f"steepest descent at lr {short_rate(best)}; lowest loss at {short_rate(curve.lr[curve.smoothed.argmin()])}"
        if best is not None
        else "the loss never falls; try other bounds, or more --steps"
    )
    return f"{picture}: {found}; the configuration has {short_rate(configured, 6)}"


def configured_experiment(
    config: Path, base_models: Sequence[Path], fold: Fold, vocabulary_file: Path | None = None
) -> Builder:
    """The builder for the only training section of a configuration.

    Raises `UserError` unless there is exactly one, with as many base models as it takes.
    """
    section = _training_section(config, len(base_models))
    if section == "video":
        return partial(video_experiment, config=config)
    if section == "pure_segment":
        (base,) = base_models
        return partial(agnostic_experiment, config=config, base_model=base, fold=fold, vocabulary_file=vocabulary_file)
    context, segment = base_models
    return partial(
        aware_experiment,
        config=config,
        context_model=context,
        segment_model=segment,
        fold=fold,
        vocabulary_file=vocabulary_file,
    )


def _training_section(path: Path, n_models: int) -> str:
    """The name of the only training section. Raises `UserError`."""
    config = load_config(path)
    sections = {name: getattr(config, name) for name in _BASE_MODELS}
    found = [name for name, section in sections.items() if section is not None and section.training is not None]
    if len(found) != 1:
        every = ", ".join(f"{name}.training" for name in found or _BASE_MODELS)
        raise UserError(
            f"{path}: {'several training sections' if found else 'no training section'}; expected exactly "
            f"one of {every}"
        )
    names = _BASE_MODELS[found[0]]
    if n_models != len(names):
        expected = " and ".join(f"{name.upper()}_DIR" for name in names) or "no base model"
        raise UserError(
            f"{path}: has {found[0]}.training, which takes {expected} after the configuration; found "
            f"{n_models} model folders"
        )
    return found[0]


def measure(experiment: Experiment[Any], rates: np.ndarray, device: torch.device, amp: torch.dtype | None) -> Curve:
    """Train one step with each learning rate (n,), as `train_*` would; changes the experiment's model.

    Parameter groups keep the ratios of their rates. Ends early after a step whose smoothed loss exceeds `EXPLODED`
    times the lowest one, and before one whose loss or gradient is not finite. Raises `UserError` if fewer than
    `_FEWEST_STEPS` steps came before that.
    """
    settings = experiment.settings
    optimizer = torch.optim.AdamW(experiment.groups, lr=settings.lr, eps=settings.eps, fused=True)
    ratios = [group["lr"] / settings.lr for group in optimizer.param_groups]
    task = experiment.task
    model = experiment.model.train()
    stepper = Stepper(
        model,
        optimizer,
        task.forward,
        task.criterion,
        device,
        settings.clip_grad_norm,
        amp,
        least_examples=LEAST_EXAMPLES,
    )
    guard = FiniteGuard(immediate=True)
    losses: list[float] = []
    smoothed: list[float] = []
    average, n_before, ended = 0.0, 0, None
    with (
        closing(iter(experiment.training)) as batches,  # stops the prefetching threads
        Progress("trying learning rates", len(rates), "step", LOGGER) as progress,
    ):
        for rate, batch in zip(rates.tolist(), batches):
            n_before = len(losses)
            for group, ratio in zip(optimizer.param_groups, ratios):
                group["lr"] = rate * ratio
            try:
                stepper.step(batch, n_before + 1, guard)
            except NonFiniteLossError as error:
                ended = str(error)
                break
            except TooFewExamplesError as error:
                raise UserError(f"{error}; {examples_remedy(experiment)}") from None
            assert stepper.last_loss is not None
            losses.append(stepper.last_loss.item())
            average = BETA * average + (1 - BETA) * losses[-1]
            smoothed.append(average / (1 - BETA ** len(losses)))
            if smoothed[-1] > EXPLODED * min(smoothed):
                ended = f"the smoothed loss is {smoothed[-1]:.4g}, its lowest was {min(smoothed):.4g}"
                break
            progress.update(1)
    if ended is not None:
        if n_before < _FEWEST_STEPS:
            raise UserError(
                f"--from {rates[0]:g}: only {n_before} steps before {ended}; expected at least "
                f"{_FEWEST_STEPS}: choose a lower --from, such as {short_rate(rates[0] / 1000)}"
            )
        LOGGER.info("ended at step %d of %d, lr %s: %s", n_before + 1, len(rates), short_rate(rates[n_before]), ended)
    return Curve(rates[: len(losses)], np.array(losses), np.array(smoothed))


def steepest_descent(curve: Curve) -> float | None:
    """The learning rate at which the smoothed loss falls fastest over log(lr), or None if it never falls.

    The first `_FIRST_IGNORED` and the last `_LAST_IGNORED` points are ignored; at least one more is required.
    """
    slope = np.gradient(curve.smoothed, np.log(curve.lr))
    place = _FIRST_IGNORED + int(slope[_FIRST_IGNORED : len(slope) - _LAST_IGNORED].argmin())
    return float(curve.lr[place]) if slope[place] < 0 else None


def write_table(curve: Curve, path: Path) -> None:
    """Write a curve as CSV: `step` from 1, `lr`, `loss`, `smoothed`, in full precision."""
    table = pd.DataFrame(
        {"step": np.arange(1, len(curve.lr) + 1), "lr": curve.lr, "loss": curve.loss, "smoothed": curve.smoothed}
    )
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
