"""A training run: from an experiment to an exported model, through any interruption."""
import argparse
import logging
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from helperbot import (
    BestCheckpoints, Bot, EarlyStopping, HistoryFile, LearningRateSchedule, MovingAverage, NonFiniteLossError,
    StateError, TensorBoardLog, get_logger, process_group, warmup_linear_decay)
from helperbot.distributed import rank, world_size

from yt8m.artifacts import export_model
from yt8m.cli import resolve_device, resolve_half, resolve_workers
from yt8m.curves import plot_curves
from yt8m.errors import UserError
from yt8m.experiments import Builder, Experiment, Sources
from yt8m.notifications import reporting
from yt8m.runs import begin_run

LOGGER = logging.getLogger(__name__)
CLIP_GRAD_NORM = 10.0
WARMUP_START = 0.01
LOG, CHECKPOINTS, STATE = "train.log", "checkpoints", "state.pt"
HISTORY, CURVES, TENSORBOARD = "history.csv", "curves.png", "tensorboard"
IDS_SHOWN = 20


@dataclass(frozen=True)
class Options:
    """How to train, from the command line; `patience`: evaluations without improvement before the end, or None."""

    device: torch.device
    seed: int
    patience: int | None
    save_every: int
    log_every: int
    amp: torch.dtype | None
    accumulate: int
    compiled: bool


def run_training(args: argparse.Namespace, folder: Path, build: Builder) -> None:
    """Train what `build` makes of the command line and export it to `folder`; go on where a run was interrupted.

    Raises `UserError`. Ends the process with status 128 + n after signal n, the state of the run saved.
    """
    device = resolve_device(args.device)
    with process_group(device):
        get_logger("yt8m", level=logging.INFO if rank() == 0 else logging.ERROR)
        amp = resolve_half(args.amp, device)
        options = Options(device, args.seed, args.patience, args.save_every, args.log_every, amp, args.accumulate,
                          args.compile)
        torch.manual_seed(args.seed)
        experiment = build(args, Sources(args.data_dir, args.seed, resolve_workers(args.workers, device), device,
                                         args.damage))
        origin = {"seed": args.seed, "processes": world_size(), "amp": str(amp), "accumulate": args.accumulate,
                  "compile": args.compile, "patience": args.patience, **experiment.origin,
                  "config": experiment.config}
        if not begin_run(folder, origin, args.restart, (CHECKPOINTS, HISTORY, CURVES, TENSORBOARD)):
            return
        if rank() > 0:
            torch.manual_seed(args.seed + rank())  # dropout of its own; the weights come from rank 0
        with reporting(f"{folder}, {experiment.settings.steps} steps") as report:
            report.result = _train(folder, experiment, options)


def _train(folder: Path, experiment: Experiment, options: Options) -> str:
    """Train and export; returns what to tell of the outcome."""
    settings, task = experiment.settings, experiment.task
    if rank() == 0:
        get_logger("yt8m", folder / LOG)
    best = BestCheckpoints(folder / CHECKPOINTS, task.monitor, task.mode)
    bot = _make_bot(folder, experiment, options, best)
    try:
        if bot.resume():
            LOGGER.info("%s: going on after step %d of %d", folder, bot.step, settings.steps)
        else:
            LOGGER.info("%s: seed %d, %d steps of %d on %s in %d processes, %d parameters", folder, options.seed,
                        settings.steps, settings.batch_size, options.device, world_size(),
                        sum(value.numel() for value in experiment.model.parameters()))
        bot.train(settings.steps, settings.ckpt_interval)
    except NonFiniteLossError as error:
        raise UserError(_diverged(folder, error, bot, settings.lr)) from None
    except StateError as error:
        raise UserError(f"{error}; begin anew with --restart") from None
    if bot.signal:
        LOGGER.info("%s: the state is saved; the same command goes on from step %d", folder, bot.step)
        sys.exit(128 + bot.signal)
    try:
        score, step, _ = best.best
    except LookupError as error:
        raise UserError(f"{folder}: nothing to export: {error}; lower training.lr, now {settings.lr:g}, and begin anew "
                        "with --restart") from None
    if rank() == 0:
        best.load_best(experiment.model)
        plot_curves(folder / HISTORY, folder / CURVES)
        export_model(folder, experiment.config, experiment.model)
        shutil.rmtree(folder / CHECKPOINTS)
    outcome = f"exported the weights of step {step}, {task.monitor} {score:.6g}"
    LOGGER.info("%s: %s", folder, outcome)
    return outcome


def _make_bot(folder: Path, experiment: Experiment, options: Options, best: BestCheckpoints) -> Bot:
    settings, task = experiment.settings, experiment.task
    factor = partial(warmup_linear_decay, steps=settings.steps, warmup=task.schedule.warmup,
                     start_factor=WARMUP_START, end_factor=task.schedule.end)
    callbacks = [LearningRateSchedule(factor), MovingAverage(), best, HistoryFile(folder / HISTORY),
                 TensorBoardLog(folder / TENSORBOARD)]
    if options.patience is not None:
        callbacks.append(EarlyStopping(task.monitor, task.mode, options.patience))
    optimizer = torch.optim.AdamW(experiment.groups, lr=settings.lr, eps=settings.eps, fused=True)
    return Bot(experiment.model, optimizer, task.forward, task.criterion, experiment.training, experiment.validation,
               metrics=[task.metric_type()], callbacks=callbacks, device=options.device,
               clip_grad_norm=CLIP_GRAD_NORM, logger=LOGGER, state_file=folder / CHECKPOINTS / STATE,
               save_every=options.save_every, log_interval=options.log_every, amp=options.amp,
               accumulate=options.accumulate, split_batch=lambda batch, parts: batch.split(parts),
               ema_decay=settings.ema_decay, compiled=options.compiled, identify=lambda batch: batch.examples)


def _diverged(folder: Path, error: NonFiniteLossError, bot: Bot, lr: float) -> str:
    """The one line about a run that is not to go on."""
    ids = []
    if error.batch is not None:
        ids = [video.decode(errors="replace") for video in bot.train_batches.dataset.index.video_id[error.batch]]
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    state = folder / CHECKPOINTS / STATE
    last = (f"the last good state is {state}, of step {bot.saved_step}" if bot.saved_step is not None
            else "no state had been saved yet")
    return (f"{folder}: {error}; videos of that batch: {', '.join(ids[:IDS_SHOWN])}{more}; {last}; lower training.lr "
            f"(now {lr:g}) or raise training.eps, and begin anew with --restart")
