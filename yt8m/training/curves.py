"""Plots of training runs and learning-rate range tests."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from helperbot.files import replacing

from yt8m.training.metrics import PERCENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """A figure of this size, in inches, for a file.

    Notebooks set their backend in MPLBACKEND for all processes that they start; if it is not installed, importing
    matplotlib would fail.
    """
    named = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.figure import Figure
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return Figure(figsize=(width, height))


PANEL_WIDTH, PANEL_HEIGHT = 5.5, 3.2  # inches
LEFT, RIGHT, BOTTOM, TOP = 0.65, 0.15, 0.5, 0.35  # margins in inches, for ticks and titles


def read_history(path: Path) -> pd.DataFrame:
    """A run's `history.csv`, with percentages converted to fractions."""
    table = pd.read_csv(path)
    return table.assign(**{name: table[name] / 100 for name in PERCENT if name in table})


def plot_curves(history: Path, picture: Path) -> None:
    """Draw loss, learning rate and each metric of a `history.csv` over the steps, as PNG."""
    table = read_history(history)
    metrics = [
        name
        for name in table.columns
        if name not in ("step", "loss", "lr", "examples_per_second", "train_loss", "valid_loss")
    ]
    panels = [
        ("loss", ["loss", "train_loss", "valid_loss"]),
        ("learning rate", ["lr"]),
        *((name, [name]) for name in metrics),
    ]
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    width, height = PANEL_WIDTH * n_columns, PANEL_HEIGHT * n_rows
    figure = new_figure(width, height)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    # By hand, since the panels are equal: matplotlib's layout takes longer than the drawing.
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        bottom=BOTTOM / height,
        top=1 - TOP / height,
        wspace=(LEFT + RIGHT) / (PANEL_WIDTH - LEFT - RIGHT),
        hspace=(BOTTOM + TOP) / (PANEL_HEIGHT - BOTTOM - TOP),
    )
    labels = {"loss": "training, last 100 steps", "train_loss": "training", "valid_loss": "validation"}
    for axis, (title, columns) in zip(axes.flat, panels):
        for column in columns:
            if column in table and table[column].notna().any():
                values = table[["step", column]].dropna()
                axis.plot(
                    values["step"],
                    values[column],
                    label=labels.get(column),
                    linewidth=1.5,
                    marker="o" if len(values) < 40 else None,
                    markersize=3,
                )
        axis.set(title=title, xlabel="step")
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.grid(alpha=0.3)
        if title == "loss":
            axis.legend()
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


@dataclass(frozen=True)
class Curve:
    """Learning rate, loss and smoothed loss of each step taken, (n,) each."""

    lr: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray


def draw(curve: Curve, best: float | None, configured: float, picture: Path) -> None:
    """Draw a curve as PNG, with lines at the `best` learning rate, if any, and at the configuration's."""
    figure = new_figure(7, 4.5)
    figure.set_layout_engine("constrained")
    axis = figure.add_subplot()
    axis.plot(curve.lr, curve.loss, color="tab:blue", alpha=0.3, linewidth=1, label="loss")
    axis.plot(curve.lr, curve.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if best is not None:
        axis.axvline(best, color="tab:red", linestyle="--", label=f"steepest descent, {short_rate(best)}")
    axis.axvline(configured, color="tab:gray", linestyle=":", label=f"the configuration, {short_rate(configured, 6)}")
    # The loss that ended the test may be huge: scale the plot to the others.
    low, high = curve.loss[:-1].min(), curve.smoothed[:-1].max()
    margin = 0.1 * (high - low) or 1.0
    axis.set(
        title=picture.stem, xlabel="learning rate", ylabel="loss", xscale="log", ylim=(low - margin, high + margin)
    )
    axis.grid(alpha=0.3)
    axis.legend()
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def short_rate(rate: float, decimals: int = 1) -> str:
    """A readable learning rate: 3.2e-04, 3e-04."""
    digits, exponent = f"{rate:.{decimals}e}".split("e")
    return f"{float(digits):g}e{exponent}"
