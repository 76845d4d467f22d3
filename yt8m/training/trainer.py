"""A training run: from an experiment to an exported model, through any interruption."""

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from helperbot import (
    BestCheckpoints,
    Bot,
    EarlyStopping,
    HistoryFile,
    LearningRateSchedule,
    MovingAverage,
    NonFiniteLossError,
    StateError,
    TensorBoardLog,
    TooFewExamplesError,
    get_logger,
    warmup_linear_decay,
)
from helperbot.distributed import rank, world_size
from helperbot.files import locked, remove_leftovers

from yt8m.common.devices import (
    joined,
    keep_freed_memory,
    require_compilation,
    resolve_device,
    resolve_half,
    resolve_workers,
)
from yt8m.common.errors import UserError, counted
from yt8m.data.partitions import NO_FOLD
from yt8m.data.records import RAISE, Damage
from yt8m.models.model_files import WEIGHTS_NAME
from yt8m.models.model_folders import save_model
from yt8m.training.curves import plot_curves
from yt8m.training.experiments import LEAST_EXAMPLES, Builder, Experiment, Sources, require_parts
from yt8m.training.notifications import RunNotifier
from yt8m.training.resume import begin_run

LOGGER = logging.getLogger(__name__)
LOG, CHECKPOINTS, STATE, LOCK = "train.log", "checkpoints", "state.pt", ".lock"
HISTORY, CURVES, TENSORBOARD = "history.csv", "curves.png", "tensorboard"
IDS_SHOWN = 20


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run.

    `device` and `amp`: as for `resolve_device` and `resolve_half`; `workers`: reading threads, None for the device's
    default; `patience`: evaluations without improvement before stopping, or None; `save_every` steps or time;
    `log_every` steps; `accumulate`: the number of parts of a batch; `compiled`: use `torch.compile`; `restart`: start
    over; `allow_other_code`: resume a run of another version of this package; `console_level`: the lowest level of log
    lines on the console.
    """

    seed: int
    device: str = "auto"
    amp: str = "auto"
    workers: int | None = None
    damage: Damage = RAISE
    patience: int | None = None
    save_every: int | timedelta = timedelta(minutes=10)
    log_every: int = 100
    accumulate: int = 1
    compiled: bool = False
    restart: bool = False
    allow_other_code: bool = False
    console_level: int = logging.INFO


def train(folder: Path, data_dir: Path, build: Builder, options: TrainingOptions) -> None:
    """Train the experiment that `build` makes and export its model to `folder`; resume an interrupted run.

    Raises `UserError`. After signal n, saves the state of the run and exits with status 128 + n.
    """
    device = resolve_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.compiled:
        require_compilation(device)
    with joined(device):
        level = min(options.console_level, logging.INFO) if rank() == 0 else logging.ERROR
        get_logger("yt8m", level=level, console_level=options.console_level)
        amp = resolve_half(options.amp, device)
        torch.manual_seed(options.seed)
        workers = resolve_workers(options.workers, device)
        LOGGER.debug("%s, mixed precision %s, %d threads read ahead", describe_device(device), amp or "off", workers)
        experiment = build(Sources(data_dir, options.seed, workers, device, options.damage))
        if rank() > 0:  # from here on it may find damage that no other process does
            get_logger("yt8m", level=logging.WARNING)
        require_parts(experiment, options.accumulate)
        if experiment.validation is None and options.patience is not None:
            raise UserError(
                f"--patience {options.patience} with --fold {NO_FOLD}: early stopping needs "
                "validation; leave --patience out, or choose a fold to validate on"
            )
        origin = {
            "seed": options.seed,
            "processes": world_size(),
            "amp": str(amp),
            "accumulate": options.accumulate,
            "compile": options.compiled,
            "patience": options.patience,
            **experiment.origin,
            "features": experiment.features.model_dump(mode="json"),
            "config": experiment.config,
        }
        leftovers = CHECKPOINTS, HISTORY, CURVES, TENSORBOARD
        with _claimed(folder, options.restart):
            if not begin_run(folder, origin, options.restart, options.allow_other_code, leftovers):
                return
            if rank() > 0:
                torch.manual_seed(options.seed + rank())  # own dropout; the weights come from rank 0
            with RunNotifier(f"{folder}, {experiment.settings.steps} steps") as notifier:
                notifier.result = _train(folder, experiment, options, device, amp)


@contextmanager
def _claimed(folder: Path, restart: bool) -> Iterator[None]:
    """Lock the model against other trainers. Raises `UserError` if it is already locked."""
    finished = (folder / WEIGHTS_NAME).exists() and not restart  # only read
    if finished or rank() > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    occupied = f"{folder}: another process is training it; wait for it or stop it, or choose another --name"
    with locked(folder / LOCK, UserError(occupied)):
        try:
            remove_leftovers(folder)
            remove_leftovers(folder / CHECKPOINTS)
            yield
        finally:
            (folder / LOCK).unlink()


def describe_device(device: torch.device) -> str:
    """A readable description of a device: name and memory of a GPU, or number of threads of a CPU."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device}, {properties.name} with {properties.total_memory / 1e9:.1f} GB"
    return f"{device}, {torch.get_num_threads()} threads compute"


def _train(
    folder: Path, experiment: Experiment[Any], options: TrainingOptions, device: torch.device, amp: torch.dtype | None
) -> str:
    """Train and export; return a description of the outcome."""
    settings, task = experiment.settings, experiment.task
    if rank() == 0:
        get_logger("yt8m", folder / LOG, min(options.console_level, logging.INFO))
    best = None
    if experiment.validation is not None:
        best = BestCheckpoints(folder / CHECKPOINTS, task.monitor, task.mode)
    bot = _make_bot(folder, experiment, options, device, amp, best)
    try:
        if bot.resume():
            LOGGER.info("%s: resuming after step %d of %d", folder, bot.step, settings.steps)
        else:
            LOGGER.info(
                "%s: seed %d, %d steps of %d on %s in %d process%s, %d parameters",
                folder,
                options.seed,
                settings.steps,
                settings.batch_size,
                device,
                world_size(),
                "" if world_size() == 1 else "es",
                sum(value.numel() for value in experiment.model.parameters()),
            )
        bot.train(settings.steps, settings.ckpt_interval)
    except NonFiniteLossError as error:
        raise UserError(_diverged(folder, error, bot, experiment)) from None
    except TooFewExamplesError as error:
        raise UserError(f"{folder}: {error}; {examples_remedy(experiment)}") from None
    except StateError as error:
        raise UserError(f"{error}; start over with --restart") from None
    except (UserError, OSError):  # unreadable data or a full disk
        if bot.saved_step is not None:
            LOGGER.info("%s: the same command resumes from the state of step %d", folder, bot.saved_step)
        raise
    if bot.signal:
        LOGGER.info("%s: the state is saved; the same command resumes from step %d", folder, bot.step)
        sys.exit(128 + bot.signal)
    outcome = f"exported the weights of {_choose_weights(folder, experiment, bot, best)}"
    if rank() == 0:
        save_model(folder, experiment.config, experiment.model, experiment.vocabulary, experiment.features)
        try:
            plot_curves(folder / HISTORY, folder / CURVES)
        except Exception as error:  # pylint: disable=broad-exception-caught  # a picture is no reason to fail
            LOGGER.warning("%s: not drawn: %s", folder / CURVES, " ".join(str(error).split()))
        shutil.rmtree(folder / CHECKPOINTS)
    LOGGER.info("%s: %s", folder, outcome)
    return outcome


def _choose_weights(folder: Path, experiment: Experiment[Any], bot: Bot, best: BestCheckpoints | None) -> str:
    """Load the weights to export into the experiment's model, at least in process 0; return a description of them."""
    if best is None:
        n_shards = len(experiment.training.dataset.index.shards)
        return f"the last step {bot.step}, trained on {counted(n_shards, 'shard')}, none held out"
    try:
        score, step, _ = best.best
    except LookupError as error:
        raise UserError(
            f"{folder}: nothing to export: {error}; lower training.lr, now {experiment.settings.lr:g}, and "
            "start over with --restart"
        ) from None
    if rank() == 0:
        best.load_best(experiment.model)
    monitor = experiment.task.monitor
    return f"step {step}, {monitor} {bot.in_log({monitor: score})[monitor]:.6g}"


def _make_bot(
    folder: Path,
    experiment: Experiment[Any],
    options: TrainingOptions,
    device: torch.device,
    amp: torch.dtype | None,
    best: BestCheckpoints | None,
) -> Bot:
    settings, task = experiment.settings, experiment.task
    factor = partial(
        warmup_linear_decay,
        steps=settings.steps,
        warmup=settings.warmup_ratio,
        start_factor=settings.start_lr_factor,
        end_factor=settings.end_lr_factor,
    )
    callbacks = [
        LearningRateSchedule(factor),
        MovingAverage(),
        *([best] if best is not None else []),
        HistoryFile(folder / HISTORY),
        TensorBoardLog(folder / TENSORBOARD),
    ]
    log_interval = options.log_every
    if best is None:  # the history then comes from log lines alone: write at least one
        log_interval = min(log_interval, settings.steps)
    if options.patience is not None:
        callbacks.append(EarlyStopping(task.monitor, task.mode, options.patience))
    optimizer = torch.optim.AdamW(experiment.groups, lr=settings.lr, eps=settings.eps, fused=True)
    return Bot(
        experiment.model,
        optimizer,
        task.forward,
        task.criterion,
        experiment.training,
        experiment.validation,
        metrics=[task.metric(len(experiment.vocabulary), folder)],
        callbacks=callbacks,
        device=device,
        clip_grad_norm=settings.clip_grad_norm,
        logger=LOGGER,
        progress=options.console_level <= logging.INFO,
        state_file=folder / CHECKPOINTS / STATE,
        save_every=options.save_every,
        log_interval=log_interval,
        amp=amp,
        accumulate=options.accumulate,
        split_batch=lambda batch, parts: batch.split(parts, LEAST_EXAMPLES),
        compiled=options.compiled,
        identify=lambda batch: batch.examples,
        least_examples=LEAST_EXAMPLES,
    )


def examples_remedy(experiment: Experiment[Any]) -> str:
    """The remedy if damage leaves too few examples."""
    loaders = experiment.training, experiment.validation
    folders = {str(loader.dataset.index.folder): None for loader in loaders if loader is not None}
    return f"the others are damaged: `python -m yt8m.check_data {' '.join(folders)}` lists what to download again"


def _diverged(folder: Path, error: NonFiniteLossError, bot: Bot, experiment: Experiment[Any]) -> str:
    """The error message for a diverged run."""
    ids = []
    if error.batch is not None:
        index = experiment.training.dataset.index
        ids = [video.decode(errors="replace") for video in index.video_id[error.batch]]
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    state = folder / CHECKPOINTS / STATE
    last = (
        f"the last good state is {state}, of step {bot.saved_step}"
        if bot.saved_step is not None
        else "no state had been saved yet"
    )
    return (
        f"{folder}: {error}; videos of that batch: {', '.join(ids[:IDS_SHOWN])}{more}; {last}; lower training.lr "
        f"(now {experiment.settings.lr:g}) or raise training.eps, and start over with --restart"
    )
