"""The course of a training run in files: a table, and live curves."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from helperbot.callbacks import BotLike, Callback
from helperbot.distributed import rank
from helperbot.files import replacing

NO_TENSORFLOW = "tensorboard.compat.notf"


class HistoryFile(Callback):
    """A CSV file with a row for each log line and each evaluation.

    Columns: "step"; of log lines "loss", "lr" and "examples_per_second"; of evaluations "lr",
    "train_loss" (the mean since the one before), "valid_loss" and the metrics. A log line and an
    evaluation of the same step share a row. It is written anew at each evaluation, whenever the
    Bot's state has been saved, and at the end. A resumed run's file goes on. Process 0 writes.

    Args:
        path: of the file; it is replaced in one go.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Write the file."""
        self._write(bot)

    def on_state_saved(self, bot: BotLike) -> None:
        """Write the file."""
        self._write(bot)

    def on_train_end(self, bot: BotLike) -> None:
        """Write the file."""
        self._write(bot)

    def _write(self, bot: BotLike) -> None:
        if rank() > 0:
            return
        rows: dict[int, dict[str, Any]] = {}
        for entry in bot.log:
            rows.setdefault(entry["step"], {}).update(entry)
        for evaluation in bot.history:
            results = {"valid_loss" if name == "loss" else name: value for name, value in evaluation["results"].items()}
            entry = {name: evaluation[name] for name in ("step", "lr", "train_loss")}
            rows.setdefault(entry["step"], {}).update(entry | results)
        columns = list(dict.fromkeys(["step", "loss", "lr", "examples_per_second", "train_loss"]))
        columns += [name for row in rows.values() for name in row if name not in columns]
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(columns)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(rows.items()))


class TensorBoardLog(Callback):
    """Scalars for TensorBoard: the training loss, learning rate and speed, and every result.

    Needs the package tensorboard. What an interrupted run wrote after the state that it goes on
    from is hidden. Process 0 writes.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def on_train_start(self, bot: BotLike) -> None:
        """Open the event file."""
        if rank() == 0:
            # A module of this name tells tensorboard to do without TensorFlow, whose import takes
            # seconds.
            sys.modules.setdefault(NO_TENSORFLOW, ModuleType(NO_TENSORFLOW))
            from torch.utils.tensorboard import SummaryWriter  # only those who use it need it

            purge = bot.step + 1 if bot.resumed else None
            self._writer = SummaryWriter(str(self.folder), purge_step=purge)

    def on_log(self, bot: BotLike, entry: dict[str, Any]) -> None:
        """Write the values of a log line."""
        self._add("train", entry, bot.step)

    def on_eval_end(self, bot: BotLike, results: dict[str, float]) -> None:
        """Write the results of an evaluation."""
        self._add("valid", bot.in_log(results), bot.step)

    def on_train_end(self, bot: BotLike) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, group: str, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                if name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()
