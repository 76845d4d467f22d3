"""What the three trainers share: optimizer, schedule, loop, best checkpoint, export."""
import argparse
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from helperbot import (
    BestCheckpoints, Bot, EarlyStopping, LearningRateSchedule, MovingAverage, NonFiniteLossError, get_logger,
    warmup_linear_decay)
from pydantic import BaseModel
from torch import Tensor

from yt8m.artifacts import export_model
from yt8m.cli import resolve_device, resolve_workers
from yt8m.config import SegmentTraining, VideoModelConfig, VideoTraining
from yt8m.damage import Damage
from yt8m.dataloader import BatchLoader
from yt8m.datasets import RatedSegmentDataset, SegmentBatch, VideoBatch, VideoDataset
from yt8m.errors import UserError
from yt8m.index import load_index
from yt8m.loss import segment_loss, video_loss
from yt8m.metrics import SegmentMetrics, VideoMetrics
from yt8m.models import VideoModel
from yt8m.sampling import SequentialBatches, TrainingBatches, split_fold
from yt8m.segment_models import SegmentModel
from yt8m.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)
CLIP_GRAD_NORM = 10.0
WARMUP_START = 0.01
CHECKPOINTS, LOG = "checkpoints", "train.log"


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` of the steps, then linear decay to `end` times the rate."""

    warmup: float
    end: float


@dataclass(frozen=True)
class Run:
    """What a command line says of a run. `patience`: evaluations without improvement before it ends, or None."""

    folder: Path
    device: torch.device
    workers: int
    seed: int
    patience: int | None
    damage: Damage


def start_run(args: argparse.Namespace, folder: Path) -> Run:
    """Seed torch and settle what the command line left open. Creates nothing yet."""
    get_logger("yt8m")
    device = resolve_device(args.device)
    torch.manual_seed(args.seed)
    return Run(folder, device, resolve_workers(args.workers, device), args.seed, args.patience,
               args.damage)


def exported_config(**sections: BaseModel) -> dict[str, Any]:
    """Sections of a configuration as plain values, the way an exported model's `config.yaml` holds them."""
    return {name: section.model_dump(mode="json", exclude_none=True) for name, section in sections.items()}


@dataclass(frozen=True)
class VideoTask:
    """Pre-training: labels of videos; the best checkpoint has the lowest validation loss."""

    schedule = Schedule(warmup=0.2, end=0.01)
    monitor, mode = "loss", "min"
    metric_type = VideoMetrics

    def forward(self, model: VideoModel, batch: VideoBatch) -> Tensor:
        """Logits (B, C)."""
        return model(batch.frames, batch.lengths)

    def criterion(self, logits: Tensor, batch: VideoBatch) -> Tensor:
        """Mean cross-entropy over videos and classes."""
        return video_loss(logits, batch.labels)


@dataclass(frozen=True)
class SegmentTask:
    """Fine-tuning: ratings of segments; the best checkpoint has the highest ROC AUC."""

    negative_weight: float

    schedule = Schedule(warmup=0.25, end=0.001)
    monitor, mode = "auc", "max"
    metric_type = SegmentMetrics

    def forward(self, model: SegmentModel, batch: SegmentBatch) -> Tensor:
        """Logits (S, C)."""
        if batch.videos is None:
            return model(batch.segments)
        return model(batch.segments, batch.videos, batch.lengths, batch.video_index)

    def criterion(self, logits: Tensor, batch: SegmentBatch) -> Tensor:
        """Loss of the ratings and of the mined negatives."""
        return segment_loss(logits, batch.classes, batch.scores, batch.negatives, self.negative_weight)


Loaders = tuple[BatchLoader, BatchLoader]


def video_loaders(data_dir: Path, vocabulary: Vocabulary, model: VideoModelConfig, settings: VideoTraining,
                  window: int | None, run: Run) -> Loaders:
    """Training and validation batches of `video/train` and `video/valid`; see `sampling.epoch_order` for `window`."""
    indexes = [load_index(data_dir / "video" / part, data_dir / "cache", run.damage) for part in ("train", "valid")]
    train_set, valid_set = (VideoDataset(index, vocabulary, model.max_len, seed, run.damage)
                    for index, seed in zip(indexes, (run.seed, None)))
    for dataset in (train_set, valid_set):
        dataset.reader.require_widths(model.video_dim, model.audio_dim)
    return _loaders(train_set, valid_set, settings.batch_size, window, run)


def segment_loaders(data_dir: Path, fold: int, vocabulary: Vocabulary, model: VideoModelConfig,
                    context_max_len: int | None, settings: SegmentTraining, run: Run) -> Loaders:
    """Training and validation batches of a fold of the rated set, `segment/train`.

    `context_max_len`: the most frames of a video that come along in training; None for segments alone.
    """
    index = load_index(data_dir / "segment" / "train", data_dir / "cache", run.damage)
    train_set, valid_set = (
        RatedSegmentDataset(index, vocabulary, shards, settings.offset, context_max_len is not None,
                            context_max_len or -1, seed, run.damage)
        for shards, seed in zip(split_fold(index, fold), (run.seed, None)))
    train_set.reader.require_widths(model.video_dim, model.audio_dim)
    if len(set(valid_set.scores > 0)) < 2:
        raise UserError(f"{index.folder}: all {len(valid_set)} ratings of fold {fold}'s validation shards agree, so "
                        "that ROC AUC is not defined; choose another --fold or add rated shards")
    return _loaders(train_set, valid_set, settings.batch_size, None, run)


def _loaders(train_set: VideoDataset | RatedSegmentDataset, valid_set: VideoDataset | RatedSegmentDataset,
             batch_size: int, window: int | None, run: Run) -> Loaders:
    training = TrainingBatches(train_set.shards, batch_size, run.seed, window)
    return (BatchLoader(train_set, training, run.workers, run.device),
            BatchLoader(valid_set, SequentialBatches(len(valid_set), batch_size), run.workers, run.device))


def train(model: VideoModel | SegmentModel, groups: list[dict[str, Any]], task: VideoTask | SegmentTask,
          settings: VideoTraining, loaders: Loaders, config: dict[str, Any], run: Run) -> None:
    """Train a model, keep the weights of its best evaluation and export them with `config` to the run's folder."""
    get_logger("yt8m", run.folder / LOG)
    LOGGER.info("%s: seed %d, %d steps of %d on %s, %d parameters", run.folder, run.seed, settings.steps,
                settings.batch_size, run.device, sum(value.numel() for value in model.parameters()))
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, eps=settings.eps, fused=True)
    schedule = task.schedule
    best = BestCheckpoints(run.folder / CHECKPOINTS, task.monitor, task.mode)
    callbacks = [
        LearningRateSchedule(partial(warmup_linear_decay, steps=settings.steps, warmup=schedule.warmup,
                                     start_factor=WARMUP_START, end_factor=schedule.end)),
        MovingAverage(),
        best,
    ]
    if run.patience is not None:
        callbacks.append(EarlyStopping(task.monitor, task.mode, run.patience))
    bot = Bot(model, optimizer, task.forward, task.criterion, *loaders, metrics=[task.metric_type()],
              callbacks=callbacks, device=run.device, clip_grad_norm=CLIP_GRAD_NORM, logger=LOGGER)
    try:
        bot.train(settings.steps, settings.ckpt_interval)
    except NonFiniteLossError as error:
        raise UserError(f"{run.folder}: {error}; lower training.lr (now {settings.lr:g}) or raise training.eps, "
                        f"now {settings.eps:g}") from None
    try:
        best.load_best(model)
    except LookupError as error:
        raise UserError(f"{run.folder}: nothing to export: {error}; lower training.lr, now {settings.lr:g}") from None
    export_model(run.folder, config, model)
    shutil.rmtree(run.folder / CHECKPOINTS)
    score, step, _ = best.best
    LOGGER.info("%s: exported the weights of step %d, %s %.6g", run.folder, step, task.monitor, score)
