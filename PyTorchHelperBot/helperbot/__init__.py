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
from helperbot.guards import NonFiniteLossError
from helperbot.logs import close_logger, get_logger, logging_to
from helperbot.metrics import MeanMetric, Metric
from helperbot.optim import parameter_groups
from helperbot.schedules import warmup_linear_decay

__version__ = "0.3.0"

__all__ = [
    "BestCheckpoints",
    "Bot",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LearningRateSchedule",
    "MeanMetric",
    "Metric",
    "MovingAverage",
    "NonFiniteLossError",
    "batch_size",
    "close_logger",
    "get_logger",
    "logging_to",
    "move_to",
    "parameter_groups",
    "pin_memory",
    "warmup_linear_decay",
]
