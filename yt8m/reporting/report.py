"""Models and evaluations for the report: plain values from the cache folder."""

import json
import logging
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from yt8m.common.errors import UserError
from yt8m.models.model_files import WEIGHTS_NAME, read_origin
from yt8m.models.model_folders import ModelFolder, load_state, open_folder
from yt8m.reporting.pages import fill_page, json_in_html
from yt8m.scoring.evaluation import FORMAT_VERSION
from yt8m.training.curves import read_history
from yt8m.training.losses import SegmentTask, VideoTask
from yt8m.training.trainer import HISTORY

LOGGER = logging.getLogger(__name__)
_MOST_POINTS = 600  # of a curve
_WORDS = {
    "loss": "training loss, last 100 steps",
    "lr": "learning rate",
    "examples_per_second": "examples per second",
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "auc": "AUC",
    "gap": "GAP@20",
    "map": "MAP",
    "negative_accuracy": "accuracy on mined negatives",
}
_TASKS: dict[str, type[VideoTask] | type[SegmentTask]] = {"video": VideoTask, "segment": SegmentTask}


def read_evaluations(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read files of `evaluate`, newest first. Raises `UserError` for other files."""
    evaluations = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as an evaluation ({error})") from None
        if not isinstance(document, dict) or document.get("version") != FORMAT_VERSION:
            raise UserError(f"{path}: not an evaluation of this version; run `python -m yt8m.evaluate` again")
        evaluations.append({"file": path.stem, **document})
    return sorted(evaluations, key=lambda document: document["time"], reverse=True)


def describe_models(cache_dir: Path) -> list[dict[str, Any]]:
    """The finished models in the cache folder, video models first, with their curves.

    Unreadable folders are left out with a warning.
    """
    described = []
    for kind in ("video", "segment"):
        for weights in sorted((cache_dir / kind).glob(f"*/{WEIGHTS_NAME}")):
            try:
                described.append(_describe(open_folder(weights.parent), kind))
            except UserError as error:
                LOGGER.warning("%s; the report leaves this model out", error)
    return described


def _describe(folder: ModelFolder, kind: str) -> dict[str, Any]:
    task = _TASKS[kind]
    monitor = "valid_loss" if task.monitor == "loss" else task.monitor  # its name in the history
    origin = read_origin(folder.path) or {}
    sections = origin.get("config", {})
    trained: dict[str, Any] = next((section["training"] for section in sections.values() if "training" in section), {})
    history = folder.path / HISTORY
    try:
        table = read_history(history) if history.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{history}: cannot be read as a table ({' '.join(str(error).split())})") from None
    return {
        "name": folder.name,
        "kind": folder.kind,
        "base": _base(folder),
        "steps": trained.get("steps"),
        "fold": None if "fold" not in origin else str(origin["fold"]),
        "best": _best(table, monitor, task.mode),
        "monitor": _WORDS.get(monitor, monitor),
        "parameters": sum(value.numel() for value in load_state(folder.path, "meta").values()),
        "curves": None if table is None else _curves(table),
    }


def _base(folder: ModelFolder) -> str:
    """The families of a model's parts, as text."""
    config = folder.config
    if config.context_base is not None and config.segment_base is not None:
        return f"{config.context_base.model.type} for the context, {config.segment_base.model.type} for the segment"
    return config.video.model.type if config.video is not None else ""


def _best(table: pd.DataFrame | None, column: str, mode: str) -> str | None:
    """The best evaluation of a training run, as text."""
    if table is None or column not in table or table[column].isna().all():
        return None
    row = table.loc[table[column].idxmin() if mode == "min" else table[column].idxmax()]
    return f"{_WORDS.get(column, column)} {row[column]:.4g} at step {row['step']:,.0f}"


def _curves(table: pd.DataFrame) -> dict[str, list[float | None]]:
    """The columns of a run's history by their names on the page, thinned out except for evaluations, with None for
    missing values."""
    evaluated = table["train_loss"].notna() if "train_loss" in table else pd.Series(False, table.index)
    table = table[evaluated | (table.index % max(1, -(-len(table) // _MOST_POINTS)) == 0)]
    return {
        _WORDS.get(name, name): [None if math.isnan(value) else value for value in table[name].astype(float)]
        for name in table
        if table[name].notna().any()
    }


def render_page(data: dict[str, Any], *, youtube: bool) -> str:
    """The page for plain values, which `page/report.js` documents.

    `youtube`: whether it may embed YouTube's player.
    """
    from plotly.offline import get_plotlyjs

    tables = files("itables") / "html"
    return fill_page(
        "report",
        data["title"],
        data,
        frames=youtube,
        chart_library=get_plotlyjs(),
        table_style=tables.joinpath("dt_bundle.css").read_text(encoding="utf-8"),
        table_library=json_in_html(tables.joinpath("dt_bundle.js").read_text(encoding="utf-8")),
    )
