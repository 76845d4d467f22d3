"""helperbot: a small PyTorch training loop with callbacks, metrics and checkpoints.

Names are imported when they are first used, so that `helperbot.files` is there without torch.
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
        LearningRateSchedule,
        MovingAverage,
    )
    from helperbot.devices import move_to, pin_memory
    from helperbot.distributed import LaunchError, process_group
    from helperbot.guards import NonFiniteLossError, TooFewExamplesError
    from helperbot.logs import close_logger, get_logger, logging_to
    from helperbot.metrics import Metric
    from helperbot.optim import parameter_groups
    from helperbot.precision import resolve_amp
    from helperbot.progress import HistoryFile, TensorBoardLog
    from helperbot.schedules import warmup_linear_decay
    from helperbot.state import StateError

__version__ = "0.4.0"

_MODULES = {
    "BestCheckpoints": "callbacks",
    "Bot": "bot",
    "Callback": "callbacks",
    "Checkpoint": "callbacks",
    "EarlyStopping": "callbacks",
    "HistoryFile": "progress",
    "LaunchError": "distributed",
    "LearningRateSchedule": "callbacks",
    "Metric": "metrics",
    "MovingAverage": "callbacks",
    "NonFiniteLossError": "guards",
    "StateError": "state",
    "TensorBoardLog": "progress",
    "TooFewExamplesError": "guards",
    "close_logger": "logs",
    "get_logger": "logs",
    "logging_to": "logs",
    "move_to": "devices",
    "parameter_groups": "optim",
    "pin_memory": "devices",
    "process_group": "distributed",
    "resolve_amp": "precision",
    "warmup_linear_decay": "schedules",
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
    "pin_memory",
    "process_group",
    "resolve_amp",
    "warmup_linear_decay",
]


def __getattr__(name: str) -> Any:
    """One of `__all__`."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
