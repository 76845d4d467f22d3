"""The course of a training run as a picture."""

from pathlib import Path

import pandas as pd
from helperbot.files import replacing

from yt8m.common.pictures import new_figure
from yt8m.training.metrics import PERCENT

PANEL_WIDTH, PANEL_HEIGHT = 5.5, 3.2  # inches
LEFT, RIGHT, BOTTOM, TOP = 0.65, 0.15, 0.5, 0.35  # of them beside the axes, for ticks and titles


def read_history(path: Path) -> pd.DataFrame:
    """A run's `history.csv`, with fractions where the file has percent."""
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
    # By hand, since the panels are alike: matplotlib's own layout takes longer than the drawing.
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
