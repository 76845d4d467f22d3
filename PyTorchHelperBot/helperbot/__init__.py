"""helperbot: a small PyTorch training loop with callbacks, metrics and checkpoints.

Names are imported on first use, so `helperbot.files` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helperbot.bot import Bot
    from helperbot.callbacks import (
        BestCheckpoints,
        Callback,
        Checkpoint,
        EarlyStopping,
        HistoryFile,
        LearningRateSchedule,
        MovingAverage,
        TensorBoardLog,
    )
    from helperbot.devices import move_to, resolve_amp
    from helperbot.distributed import LaunchError, process_group
    from helperbot.logs import close_logger, get_logger, logging_to
    from helperbot.metrics import Metric
    from helperbot.optim import parameter_groups, warmup_linear_decay
    from helperbot.state import StateError
    from helperbot.training_step import NonFiniteLossError, TooFewExamplesError

__version__ = "0.6.0"

_MODULES = {
    "BestCheckpoints": "callbacks",
    "Bot": "bot",
    "Callback": "callbacks",
    "Checkpoint": "callbacks",
    "EarlyStopping": "callbacks",
    "HistoryFile": "callbacks",
    "LaunchError": "distributed",
    "LearningRateSchedule": "callbacks",
    "Metric": "metrics",
    "MovingAverage": "callbacks",
    "NonFiniteLossError": "training_step",
    "StateError": "state",
    "TensorBoardLog": "callbacks",
    "TooFewExamplesError": "training_step",
    "close_logger": "logs",
    "get_logger": "logs",
    "logging_to": "logs",
    "move_to": "devices",
    "parameter_groups": "optim",
    "process_group": "distributed",
    "resolve_amp": "devices",
    "warmup_linear_decay": "optim",
}

__all__ = [
    "BestCheckpoints",
    "Bot",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "HistoryFile",
    "LaunchError",
    "LearningRateSchedule",
    "Metric",
    "MovingAverage",
    "NonFiniteLossError",
    "StateError",
    "TensorBoardLog",
    "TooFewExamplesError",
    "close_logger",
    "get_logger",
    "logging_to",
    "move_to",
    "parameter_groups",
    "process_group",
    "resolve_amp",
    "warmup_linear_decay",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
