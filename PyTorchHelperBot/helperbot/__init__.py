"""helperbot: a small PyTorch training loop with callbacks, metrics and checkpoints."""

from helperbot.bot import Bot
from helperbot.callbacks import (
    BestCheckpoints,
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRateSchedule,
    MovingAverage,
)
from helperbot.devices import batch_size, move_to, pin_memory
from helperbot.distributed import process_group
from helperbot.guards import NonFiniteLossError
from helperbot.logs import close_logger, get_logger, logging_to
from helperbot.metrics import MeanMetric, Metric
from helperbot.optim import parameter_groups
from helperbot.precision import resolve_amp
from helperbot.progress import HistoryFile, TensorBoardLog
from helperbot.schedules import warmup_linear_decay
from helperbot.state import StateError

__version__ = "0.3.0"

__all__ = [
    "BestCheckpoints",
    "Bot",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "HistoryFile",
    "LearningRateSchedule",
    "MeanMetric",
    "Metric",
    "MovingAverage",
    "NonFiniteLossError",
    "StateError",
    "TensorBoardLog",
    "batch_size",
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
