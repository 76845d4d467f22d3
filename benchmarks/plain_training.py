"""The trainers of the 2019 release, written from their description, with the package's layers, for comparison in
`accuracy.py`.

    python benchmarks/plain_training.py train_video CONFIG --name NAME --seed 1 --data-dir DIR

takes the command lines of the package's trainers and writes the same model folders, usable by its commands.
Contrary configuration keys are ignored. These aspects, chosen by `--aspects`, are as in 2019:

- frames: if a batch, without head and tail, is longer than `max_len`, `max_len` - 10 positions are drawn, once for all
  videos, with replacement; a video uses those before its own end. Evaluation does the same, with new positions each
  time.
- padding: a batch is padded to its longest video. Batch norms see padding, and the mean over frames divides by the
  length of the batch; only maxima and NeXtVLAD's attention exclude it.
- inputs: raw bytes.
- head: the biases of a new one start at 0.
- decay: of all parameters, including biases and those of batch norms.
- order: ratings of the same video are together in a batch.

Aspects not in `--aspects` are as in the package's trainers by default. The weights of the best evaluation are exported,
by validation loss of videos or ROC AUC of ratings. Epochs follow each other without a gap, which the description leaves
open. An interrupted run starts over.
"""

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from helperbot import parameter_groups, warmup_linear_decay
from helperbot.files import replacing
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.plain_models import frame_mask
from benchmarks.watched_training import SEEN, WORST, seen_examples
from yt8m import train_pure_segment, train_segment_w_context, train_video
from yt8m.cli import model_folder
from yt8m.common.config import SegmentTraining, Training, VideoTraining
from yt8m.data.datasets import RatedSegmentDataset, SegmentBatch, ShardDataset, VideoBatch, VideoDataset
from yt8m.data.frames import context_frames
from yt8m.data.index import load_index, split_fold
from yt8m.data.order import Key, TrainingBatches
from yt8m.data.packed_frames import PackedFrames
from yt8m.data.reader import Frames
from yt8m.data.vocabulary import Vocabulary, load_vocabulary
from yt8m.models.base import Encoder
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, SegmentModel, VideoModel, build_video_model
from yt8m.models.config import BaseSection, load_config, override_steps, required
from yt8m.models.layers import begin_centered, center
from yt8m.models.model_files import WEIGHTS_NAME
from yt8m.models.model_folders import copy_encoder, exported_config, load_video_model, save_model
from yt8m.models.packing import Packing
from yt8m.training.losses import segment_loss, video_loss
from yt8m.training.metrics import SegmentMetrics

ASPECTS = frozenset({"frames", "padding", "inputs", "head", "decay", "order"})
NEGATIVE_WEIGHT = MINED_WEIGHT = 0.5
FEWER_FRAMES = 10
HISTORY = "history.csv"

Batch = TypeVar("Batch", VideoBatch, SegmentBatch)
Settings = TypeVar("Settings", bound=Training)
Model = VideoModel | SegmentModel
Forward = Callable[[Any, Any], Tensor]


class PaddedBatch(Packing):
    """A batch whose rows include padding, which counts in means."""

    def __init__(self, videos: PackedFrames) -> None:
        """Videos of which any may have no frames."""
        super().__init__(videos.n_videos, videos.longest)
        self.real = frame_mask(videos.padded(), videos.lengths)  # (B, L)

    def unpack(self, rows: Tensor) -> Tensor:
        """(B·L, ·) → (B, L, ·) with zeros in the padding."""
        padded = super().unpack(rows)
        return padded * self.real.view(*self.real.shape, *[1] * (padded.ndim - 2))


def encode_padded(encoder: Encoder, videos: PackedFrames) -> Tensor:
    """Frames of B videos → (B, F)."""
    rows, _ = Packing.of(videos.padded())
    return encoder.pool_rows(encoder.encode_frames(rows), PaddedBatch(videos))


def padded_forward(model: Any, batch: VideoBatch | SegmentBatch) -> Tensor:
    """Logits of a batch, (B, C) of videos or (S, C) of segments; these have no padding, the videos around them have."""
    if isinstance(batch, VideoBatch):
        return model.logits(encode_padded(model, batch.videos))
    if batch.videos is None:
        return model(batch.segments)
    contexts = encode_padded(model.context_model, batch.videos)
    return model.classify(model.segment_model(batch.segments), lambda _: contexts[batch.video_index])


def packed_forward(model: Any, batch: VideoBatch | SegmentBatch) -> Tensor:
    """The same without padding."""
    if isinstance(batch, VideoBatch):
        return model(batch.videos)
    if batch.videos is None:
        return model(batch.segments)
    return model(batch.segments, batch.videos, None, batch.video_index)


def criterion(logits: Tensor, batch: VideoBatch | SegmentBatch) -> Tensor:
    """The loss of the logits of a batch, ()."""
    if isinstance(batch, VideoBatch):
        return video_loss(logits, batch.labels)
    return segment_loss(logits, batch.classes, batch.scores, batch.negatives, NEGATIVE_WEIGHT, MINED_WEIGHT)


class PaddedVideos(ShardDataset[Batch]):  # pylint: disable=abstract-method  # what comes behind it has the batches
    """Reads videos with frames of one choice for the whole batch."""

    def read_videos(self, records: np.ndarray, epochs: np.ndarray) -> tuple[PackedFrames, np.ndarray]:
        """See `ShardDataset`; the choice depends on seed, first epoch, first record and longest video."""
        n_frames = self.n_frames[records]
        start, stop = context_frames(int(n_frames.max()))
        positions = np.arange(start, stop)
        if 0 <= self.max_len < len(positions):
            rng = np.random.default_rng((self.seed, epochs[0], records[0]))
            positions = np.sort(rng.integers(start, stop, self.max_len - FEWER_FRAMES))
        lengths = np.searchsorted(positions, n_frames)  # number before the end
        ends = np.cumsum(lengths)
        frames = np.empty((ends[-1], self.reader.frame_dim), np.uint8)
        met = self.reader.read(
            [
                Frames(record, positions[:length], frames[end - length : end])
                for record, length, end in zip(records.tolist(), lengths.tolist(), ends.tolist())
            ]
        )
        return PackedFrames.of(torch.from_numpy(frames), lengths, len(positions)), met


class PaddedVideoDataset(PaddedVideos[VideoBatch], VideoDataset):
    """Videos with labels as seen by 2019's trainer."""


class PaddedRatedDataset(PaddedVideos[SegmentBatch], RatedSegmentDataset):
    """Rated segments as seen by 2019's trainers."""


def training_keys(dataset: ShardDataset[Any], seed: int, together: bool) -> Iterator[Key]:
    """An endless stream of examples: in each epoch the videos in another order, the examples of each together, or, if
    not, all examples in another order."""
    if not together:
        for batch in TrainingBatches(dataset.shards, len(dataset), seed):
            yield from batch
    videos = np.split(np.arange(len(dataset)), np.flatnonzero(np.diff(dataset.records)) + 1)
    for epoch in count():
        for video in np.random.default_rng((seed, epoch)).permutation(len(videos)):
            for example in videos[video].tolist():
                yield epoch, example


def batches_of(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    """Batches of `size` keys; in an endless stream all are full."""
    stream = iter(keys)
    return iter(lambda: list(islice(stream, size)), [])


@torch.no_grad()
def evaluate(model: Model, dataset: ShardDataset[Any], keys: list[Key], size: int, ways: Forward) -> dict[str, float]:
    """The mean loss of these examples (`valid_loss`), the largest share of one in it (`worst_share`) and, for ratings,
    ROC AUC in percent (`auc`), in evaluation mode.

    `ways` computes the logits of model and batch; `size`: of the batches.
    """
    model.eval()
    total, losses, metrics = 0.0, [], SegmentMetrics()
    rated = isinstance(dataset, RatedSegmentDataset)
    for chosen in batches_of(keys, size):
        batch = dataset.__getitems__(chosen)
        logits = ways(model, batch)
        total += len(chosen) * criterion(logits, batch).item()
        losses += [criterion(*row).item() for row in zip(logits.split(1), batch.split(len(logits)))]
        if rated:
            metrics.update(logits, batch)
    return {"valid_loss": total / len(keys), WORST: max(losses) / sum(losses)} | (
        {"auc": metrics.compute()["auc"]} if rated else {}
    )


@dataclass(frozen=True)
class Trainer:
    """A run. `groups`: parameters with their learning rates; `datasets`: for training, for validation, and the training
    set read as for validation; `config`: to export; `aspects`: those as in 2019."""

    folder: Path
    model: Model
    groups: list[dict[str, Any]]
    settings: Training
    datasets: Sequence[ShardDataset[Any]]
    vocabulary: Vocabulary
    config: dict[str, Any]
    aspects: frozenset[str]

    @property
    def forward(self) -> Forward:
        """Logits of model and batch."""
        return padded_forward if "padding" in self.aspects else packed_forward

    def steps(self, seed: int) -> Iterator[tuple[int, float]]:
        """Take all steps; yields the number, from 1, and the loss of each."""
        settings, train_set = self.settings, self.datasets[0]
        parameters = [parameter for group in self.groups for parameter in group["params"]]
        optimizer = torch.optim.AdamW(self.groups, eps=settings.eps, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        batches = batches_of(training_keys(train_set, seed, "order" in self.aspects), settings.batch_size)
        for step, keys in zip(range(1, settings.steps + 1), batches):
            self.model.train()
            batch = train_set.__getitems__(keys)
            loss = criterion(self.forward(self.model, batch), batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm or math.inf, error_if_nonfinite=True)
            optimizer.step()
            schedule.step()
            yield step, loss.item()

    def evaluate(self, model: Model, step: int = 0) -> dict[str, float]:
        """The model's measures on the validation set, see `evaluate`."""
        valid_set = self.datasets[1]
        keys = [(step, example) for example in range(len(valid_set))]
        return evaluate(model, valid_set, keys, self.settings.batch_size, self.forward)

    def run(self, seed: int) -> None:
        """Train, and export the best weights and the history."""
        settings, (train_set, valid_set, seen_set) = self.settings, self.datasets
        monitor, sign = ("auc", -1) if isinstance(valid_set, RatedSegmentDataset) else ("valid_loss", 1)
        seen_keys = seen_examples(seen_set, len(valid_set))
        history: list[dict[str, float]] = []
        losses: list[float] = []
        best, weights = math.inf, {}
        for step, loss in self.steps(seed):
            losses.append(loss)
            if step % settings.ckpt_interval and step < settings.steps:
                continue
            results = self.evaluate(self.model, step)
            seen = evaluate(self.model, seen_set, seen_keys, settings.batch_size, self.forward)
            row = {"step": step, "train_loss": float(np.mean(losses)), **results, SEEN: seen["valid_loss"]}
            history.append(row)
            print(f"{self.folder.name}: {row}", flush=True)
            losses.clear()
            if sign * results[monitor] < best:
                best = sign * results[monitor]
                weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(weights)
        write_history(self.folder / HISTORY, history)
        save_model(self.folder, self.config, self.model, self.vocabulary, train_set.reader.features)

    def _factor(self, step: int) -> float:
        settings = self.settings
        factors = settings.start_lr_factor, settings.end_lr_factor
        return warmup_linear_decay(step, settings.steps, settings.warmup_ratio, *factors)


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write a row for each evaluation, with columns as in the package's `history.csv`."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def groups_of(module: nn.Module, lr: float, settings: Training, aspects: frozenset[str]) -> list[dict[str, Any]]:
    """The parameters that are not frozen, as groups for the optimizer."""
    if "decay" not in aspects:
        return parameter_groups(module, lr, settings.weight_decay)
    return [{"params": [parameter for parameter in module.parameters() if parameter.requires_grad], "lr": lr}]


def as_in_2019(settings: Settings, aspects: frozenset[str]) -> Settings:
    """The settings, adapted to what is done here as far as a configuration can express it."""
    known = {"center_inputs": "inputs" not in aspects}
    if isinstance(settings, VideoTraining):
        known["prior_bias"] = "head" not in aspects
    return settings.model_copy(update=known)


def video_training(args: argparse.Namespace, folder: Path, aspects: frozenset[str]) -> Trainer:
    """Pre-training."""
    section = override_steps(required(load_config(args.config, "video.model", "video.training").video), args.steps)
    settings = as_in_2019(required(section.training), aspects)
    vocabulary = load_vocabulary(args.data_dir)
    train, valid = (
        load_index(args.data_dir / part, args.data_dir / "cache") for part in ("video/train", "video/valid")
    )
    drawn = "frames" in aspects
    kind, evaluation_seed = (PaddedVideoDataset, args.seed) if drawn else (VideoDataset, None)
    datasets = [
        kind(index, vocabulary, section.model.max_len, seed)
        for index, seed in ((train, args.seed), (valid, evaluation_seed), (train, evaluation_seed))
    ]
    model = build_video_model(section.model, len(vocabulary))
    if settings.center_inputs:
        begin_centered(model)
    if settings.prior_bias:
        model.begin_with_shares(datasets[0].class_shares())
    groups = groups_of(model, settings.lr, settings, aspects)
    config = exported_config(video=section.model_copy(update={"training": settings}))
    return Trainer(folder, model, groups, settings, datasets, vocabulary, config, aspects)


def agnostic_training(args: argparse.Namespace, folder: Path, aspects: frozenset[str]) -> Trainer:
    """Context-agnostic fine-tuning."""
    section = override_steps(required(load_config(args.config, "pure_segment.training").pure_segment), args.steps)
    settings = as_in_2019(required(section.training), aspects)
    vocabulary = load_vocabulary(args.data_dir)
    base = load_video_model(args.base_model, vocabulary)
    if settings.center_inputs:
        center(base)
    model = ContextAgnosticModel(base)
    groups = groups_of(model, settings.lr, settings, aspects)
    config = exported_config(
        video=BaseSection(model=base.config), pure_segment=section.model_copy(update={"training": settings})
    )
    datasets = rated_sets(args, vocabulary, settings, None, aspects)
    return Trainer(folder, model, groups, settings, datasets, vocabulary, config, aspects)


def aware_training(args: argparse.Namespace, folder: Path, aspects: frozenset[str]) -> Trainer:
    """Context-aware fine-tuning, with a frozen context encoder."""
    config = load_config(args.config, "segment_w_context.model", "segment_w_context.training")
    section = override_steps(required(config.segment_w_context), args.steps)
    settings = as_in_2019(required(section.training), aspects)
    assert not section.model.finetune_context  # else its batch norms would have to see a video once per segment
    vocabulary = load_vocabulary(args.data_dir)
    context_base, segment_base = (
        load_video_model(path, vocabulary) for path in (args.context_model, args.segment_model)
    )
    model = ContextAwareModel(section.model, context_base.config, segment_base.config, len(vocabulary))
    copy_encoder(model.context_model, context_base)
    copy_encoder(model.segment_model, segment_base)
    if settings.center_inputs:
        center(model.segment_model)
    head = nn.ModuleList([model.intermediate_fc, *model.head_layers.values()])
    groups = [
        *groups_of(head, settings.lr, settings, aspects),
        *groups_of(model.segment_model, settings.lr * settings.segment_encoder_lr_factor, settings, aspects),
    ]
    exported = exported_config(
        context_base=BaseSection(model=context_base.config),
        segment_base=BaseSection(model=segment_base.config),
        segment_w_context=section.model_copy(update={"training": settings}),
    )
    datasets = rated_sets(args, vocabulary, settings, section.model.max_len, aspects)
    return Trainer(folder, model, groups, settings, datasets, vocabulary, exported, aspects)


def rated_sets(
    args: argparse.Namespace,
    vocabulary: Vocabulary,
    settings: SegmentTraining,
    context_max_len: int | None,
    aspects: frozenset[str],
) -> list[RatedSegmentDataset]:
    """The training part of a fold, its validation part, and the training part read as for validation.

    `context_max_len`: as in the package's trainers.
    """
    index = load_index(args.data_dir / "segment" / "train", args.data_dir / "cache")
    context = context_max_len is not None
    drawn = "frames" in aspects
    kind, evaluation_seed = (PaddedRatedDataset, args.seed) if drawn else (RatedSegmentDataset, None)
    train, valid = split_fold(index, args.fold)
    return [
        kind(index, vocabulary, shards, settings.offset, context, context_max_len or -1, seed)
        for shards, seed in ((train, args.seed), (valid, evaluation_seed), (train, evaluation_seed))
    ]


COMMANDS = {
    "train_video": (train_video, video_training),
    "train_pure_segment": (train_pure_segment, agnostic_training),
    "train_segment_w_context": (train_segment_w_context, aware_training),
}


def parse_aspects(text: str) -> frozenset[str]:
    """Parse comma-separated names."""
    aspects = frozenset(filter(None, text.split(",")))
    if not aspects <= ASPECTS:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(sorted(ASPECTS))}")
    return aspects


def main() -> None:
    """Train and export, unless that is already done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--aspects",
        type=parse_aspects,
        default=ASPECTS,
        metavar="A,B",
        help=f"aspects to be as in 2019 (default: {','.join(sorted(ASPECTS))})",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments, with a --seed")
    outer = parser.parse_args()
    command, build = COMMANDS[outer.command]
    args = command.build_parser().parse_args(outer.arguments)
    if args.seed is None:
        parser.error("a --seed is needed")
    folder = model_folder(args)
    if not (folder / WEIGHTS_NAME).exists():
        torch.manual_seed(args.seed)
        build(args, folder, outer.aspects).run(args.seed)


if __name__ == "__main__":
    main()
