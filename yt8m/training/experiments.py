"""The differences between the three trainers: data, model, parameter groups, task.

An `Experiment` holds everything for a run; building one reads indexes and base models and checks all input, but writes
nothing except the index cache.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from helperbot import parameter_groups
from helperbot.distributed import rank, rank_zero_first, world_size
from torch import nn

from yt8m.common.config import FeatureContract, Training
from yt8m.common.errors import SHOWN, UserError
from yt8m.data.dataloader import BatchLoader, TrainingLoader
from yt8m.data.datasets import RatedSegmentDataset, SegmentBatch, ShardDataset, VideoBatch, VideoDataset
from yt8m.data.features import require_same
from yt8m.data.index import Index, load_index, split_fold
from yt8m.data.order import SequentialBatches, TrainingBatches
from yt8m.data.partitions import NO_FOLD, Fold
from yt8m.data.records import Damage
from yt8m.data.vocabulary import Vocabulary, load_vocabulary, named_vocabulary
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, SegmentModel, VideoModel, build_video_model
from yt8m.models.config import BaseSection, load_config, override_steps, required
from yt8m.models.layers import begin_centered, center
from yt8m.models.model_files import folder_digest
from yt8m.models.model_folders import ModelFolder, copy_encoder, exported_config, load_video_model, open_folder
from yt8m.training.losses import SegmentTask, Task, VideoTask

LOGGER = logging.getLogger(__name__)
LEAST_EXAMPLES = 2  # that batch norms can train on

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Experiment(Generic[Batch]):
    """A model, its data and its task.

    `groups` of parameters for the optimizer; `validation`: None if all data is for training; `config`: the sections of
    the exported model's `config.yaml`, as plain values, without its `vocabulary` and `features`; `origin`: digests and
    settings of everything else that determines the result, by name.
    """

    model: VideoModel | SegmentModel
    groups: list[dict[str, Any]]
    task: Task[Batch]
    settings: Training
    training: TrainingLoader[Batch]
    validation: BatchLoader[Batch] | None
    config: dict[str, Any]
    vocabulary: Vocabulary
    features: FeatureContract
    origin: dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """The source of the data and how to read it."""

    data_dir: Path
    seed: int
    workers: int
    device: torch.device
    damage: Damage

    def index(self, part: str) -> Index:
        """The index of a partition, such as "video/train"."""
        with rank_zero_first():
            return load_index(self.data_dir / part, self.data_dir / "cache", self.damage)

    def loaders(
        self,
        train_set: ShardDataset[Batch],
        valid_set: ShardDataset[Batch] | None,
        batch_size: int,
        window: int | None = None,
    ) -> tuple[TrainingLoader[Batch], BatchLoader[Batch] | None]:
        """This rank's share of training and validation batches. Raises `UserError`."""
        n_ranks = world_size()
        training = TrainingBatches(train_set.shards, batch_size, self.seed, window, rank(), n_ranks)
        train_loader = TrainingLoader(train_set, training, self.workers, self.device)
        if valid_set is None:
            return train_loader, None
        if len(valid_set) < n_ranks:
            raise UserError(
                f"{valid_set.index.folder}: {len(valid_set)} validation examples cannot be shared by "
                f"{n_ranks} processes"
            )
        valid_size = min(batch_size, len(valid_set) // n_ranks)  # at least one batch for every rank
        validation = SequentialBatches(len(valid_set), valid_size, rank(), n_ranks)
        return train_loader, BatchLoader(valid_set, validation, self.workers, self.device)


def require_parts(experiment: Experiment[Any], accumulate: int) -> None:
    """Raise `UserError` if a batch in `accumulate` parts could have a part too small for batch norms to train on."""
    batch_size = experiment.settings.batch_size
    size = batch_size // accumulate * world_size()  # the smallest
    in_parts = f"training.batch_size {batch_size}" + (f" in --accumulate {accumulate} parts" if accumulate > 1 else "")
    remedy = "set a greater batch_size" + (", or a lower --accumulate" if accumulate > 1 else "")
    if size < LEAST_EXAMPLES:
        raise UserError(f"{in_parts}: batch norms cannot train on a single example; {remedy}")
    model = experiment.model
    if isinstance(model, ContextAwareModel) and model.config.finetune_context:
        _, counts = np.unique(experiment.training.dataset.records, return_counts=True)
        if size <= counts.max():
            raise UserError(
                f"{in_parts}: with finetune_context batch norms cannot train on a single video, and one has "
                f"{counts.max()} ratings, which may be all of a part; {remedy}"
            )


Builder = Callable[[Sources], Experiment[Any]]  # one of the functions below with all other arguments bound


def video_experiment(
    sources: Sources, config: Path, *, steps: int | None = None, window: int | None = None
) -> Experiment[VideoBatch]:
    """Pre-training on video-level labels.

    `config`: a YAML file; `steps`: overrides the configuration's; `window`: the number of shards whose videos are
    shuffled together, None for all. Raises `UserError`.
    """
    section = override_steps(required(load_config(config, "video.model", "video.training").video), steps)
    architecture, settings = section.model, required(section.training)
    vocabulary = load_vocabulary(sources.data_dir)
    parts = "video/train", "video/valid"
    indexes = [sources.index(part) for part in parts]
    train_set, valid_set = (
        VideoDataset(index, vocabulary, architecture.max_len, seed, sources.damage)
        for index, seed in zip(indexes, (sources.seed, None))
    )
    for dataset in (train_set, valid_set):
        dataset.reader.require_widths(architecture.video_dim, architecture.audio_dim)
    require_same(valid_set.reader.features, indexes[1].folder, train_set.reader.features, indexes[0].folder)
    _warn_of_shared_videos(*indexes)
    model = build_video_model(architecture, len(vocabulary))
    if settings.center_inputs:
        begin_centered(model)
    if settings.prior_bias:
        model.begin_with_shares(train_set.class_shares())
    return Experiment(
        model,
        parameter_groups(model, settings.lr, settings.weight_decay),
        VideoTask(),
        settings,
        *sources.loaders(train_set, valid_set, settings.batch_size, window),
        exported_config(video=section),
        vocabulary,
        train_set.reader.features,
        {
            "vocabulary": vocabulary.digest,
            "window": window,
            **{part: index.digest for part, index in zip(parts, indexes)},
        },
    )


def _warn_of_shared_videos(training: Index, validation: Index) -> None:
    """Warn of validation videos that are also trained on."""
    shared = np.intersect1d(training.video_id, validation.video_id)
    if shared.size:
        LOGGER.warning(
            "%s: %d of its videos are also in %s, such as %s: the validation is not reliable",
            validation.folder,
            len(shared),
            training.folder,
            ", ".join(video_id.decode(errors="replace") for video_id in shared[:SHOWN].tolist()),
        )


def agnostic_experiment(
    sources: Sources,
    config: Path,
    base_model: Path,
    *,
    fold: Fold,
    steps: int | None = None,
    vocabulary_file: Path | None = None,
) -> Experiment[SegmentBatch]:
    """Context-agnostic fine-tuning of the video model in the folder `base_model` on rated segments.

    `fold`: the fold to validate on, or "none"; `steps`: overrides the configuration's; `vocabulary_file`: the classes
    of a base model whose folder lacks them. Raises `UserError`.
    """
    section = override_steps(required(load_config(config, "pure_segment.training").pure_segment), steps)
    settings = required(section.training)
    vocabulary = load_vocabulary(sources.data_dir)
    base = open_folder(base_model, named_vocabulary(vocabulary_file))
    video_model = load_video_model(base, vocabulary)
    train_set, valid_set = _rated_sets(sources, fold, vocabulary, (base,), settings.offset, None)
    if settings.center_inputs:
        center(video_model)
    model = ContextAgnosticModel(video_model)
    return Experiment(
        model,
        parameter_groups(model, settings.lr, settings.weight_decay),
        SegmentTask(settings.negative_weight, settings.mined_weight),
        settings,
        *sources.loaders(train_set, valid_set, settings.batch_size),
        exported_config(video=BaseSection(model=video_model.config), pure_segment=section),
        vocabulary,
        train_set.reader.features,
        {
            "vocabulary": vocabulary.digest,
            "fold": fold,
            "segment/train": train_set.index.digest,
            "base model": folder_digest(base_model),
        },
    )


def aware_experiment(
    sources: Sources,
    config: Path,
    context_model: Path,
    segment_model: Path,
    *,
    fold: Fold,
    steps: int | None = None,
    vocabulary_file: Path | None = None,
) -> Experiment[SegmentBatch]:
    """Context-aware fine-tuning of the encoders of two video models, for segments and for their videos.

    Both models are folders; other arguments as for `agnostic_experiment`. Raises `UserError`.
    """
    sections = load_config(config, "segment_w_context.model", "segment_w_context.training")
    section = override_steps(required(sections.segment_w_context), steps)
    architecture, settings = section.model, required(section.training)
    vocabulary = load_vocabulary(sources.data_dir)
    named = named_vocabulary(vocabulary_file)
    bases = [open_folder(path, named) for path in (context_model, segment_model)]
    context_base, segment_base = (load_video_model(base, vocabulary) for base in bases)
    train_set, valid_set = _rated_sets(sources, fold, vocabulary, bases, settings.offset, architecture.max_len)
    model = ContextAwareModel(architecture, context_base.config, segment_base.config, len(vocabulary))
    copy_encoder(model.context_model, context_base)
    copy_encoder(model.segment_model, segment_base)
    if settings.center_inputs:
        center(model.segment_model)
        if architecture.finetune_context:
            center(model.context_model)
    head = nn.ModuleList([model.intermediate_fc, *model.head_layers.values()])
    groups = [
        group
        for module, lr in (
            (head, settings.lr),
            (model.segment_model, settings.lr * settings.segment_encoder_lr_factor),
            (model.context_model, settings.lr * settings.context_encoder_lr_factor),
        )
        for group in parameter_groups(module, lr, settings.weight_decay)
    ]  # a frozen encoder has none
    return Experiment(
        model,
        groups,
        SegmentTask(settings.negative_weight, settings.mined_weight),
        settings,
        *sources.loaders(train_set, valid_set, settings.batch_size),
        exported_config(
            context_base=BaseSection(model=context_base.config),
            segment_base=BaseSection(model=segment_base.config),
            segment_w_context=section,
        ),
        vocabulary,
        train_set.reader.features,
        {
            "vocabulary": vocabulary.digest,
            "fold": fold,
            "segment/train": train_set.index.digest,
            "context model": folder_digest(context_model),
            "segment model": folder_digest(segment_model),
        },
    )


def _rated_sets(
    sources: Sources,
    fold: Fold,
    vocabulary: Vocabulary,
    bases: Sequence[ModelFolder],
    offset: int,
    context_max_len: int | None,
) -> tuple[RatedSegmentDataset, RatedSegmentDataset | None]:
    """Training and validation part of the rated set in a fold; all of it and None for the fold "none".

    `context_max_len`: the maximum number of frames of a video's context in training; None: no context.
    """
    index = sources.index("segment/train")

    def rated_set(shards: np.ndarray, seed: int | None) -> RatedSegmentDataset:
        return RatedSegmentDataset(
            index, vocabulary, shards, offset, context_max_len is not None, context_max_len or -1, seed, sources.damage
        )

    train_shards, valid_shards = (np.arange(len(index.shards)), None) if fold == NO_FOLD else split_fold(index, fold)
    train_set = rated_set(train_shards, sources.seed)
    for base in bases:
        require_same(train_set.reader.features, index.folder, base.features, base.path)
    if valid_shards is None:
        return train_set, None
    valid_set = rated_set(valid_shards, None)
    if len(set(valid_set.scores > 0)) < 2:
        raise UserError(
            f"{index.folder}: all {len(valid_set)} ratings of fold {fold}'s validation shards agree, "
            "so that ROC AUC is not defined; choose another --fold or add rated shards"
        )
    return train_set, valid_set
