"""Predictions for rated shards that models were not trained on.

Dimensions: R ratings, S ratings of a batch, M models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from helperbot import move_to
from torch import Tensor

from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import RatedSegmentDataset, SegmentBatch
from yt8m.data.index import Index, split_fold
from yt8m.data.partitions import NO_FOLD
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import RAISE, Damage
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.base import Encoder, fuse
from yt8m.models.classifiers import SegmentModel
from yt8m.models.model_files import read_origin
from yt8m.models.model_folders import ModelFolder
from yt8m.prediction.inference import load_members, require_features, share_context_encoders
from yt8m.scoring.ratings import Ratings

LOGGER = logging.getLogger(__name__)
CHECKED_AT_ONCE = 64  # videos


@dataclass(frozen=True)
class TrainedOn:
    """Which rated shards a model was trained on, according to its folder.

    `held_out`: rows of `index.shards` that it has not seen, None if unknown; `text`: the same for messages.
    """

    held_out: np.ndarray | None
    text: str

    def has_not_seen(self, shards: np.ndarray) -> bool:
        """Whether it is known that the model has seen none of these shards."""
        return self.held_out is not None and bool(np.isin(shards, self.held_out).all())


def trained_on(folder: Path, index: Index) -> TrainedOn:
    """Read `run.json`; the 2019 release wrote none, and its folds depended on the order of files on disk."""
    origin = read_origin(folder)
    if origin is None or "fold" not in origin:
        return TrainedOn(None, "it is not known which shards it was trained on")
    if origin.get("segment/train") != index.digest:
        return TrainedOn(None, f"was trained when {index.folder} held other shards")
    if origin["fold"] == NO_FOLD:
        return TrainedOn(np.empty(0, np.int64), "was trained on all shards")
    text = f"was trained on all shards except fold {origin['fold']}"
    return TrainedOn(split_fold(index, origin["fold"])[1], text)


class HeldOutRatings:
    """The ratings of some shards of `index.shards`, and predictions for them.

    `shards_of_ratings` (R,) rows of `index.shards`; `labelled` (R,) bool: whether the video has the class as a label.
    If damage is skipped, ratings of videos that cannot be read completely are ignored.
    """

    def __init__(self, index: Index, vocabulary: Vocabulary, shards: np.ndarray, damage: Damage = RAISE) -> None:
        self._index, self._vocabulary = index, vocabulary
        dataset = RatedSegmentDataset(index, vocabulary, shards, 0, False, -1, None)
        self._damaged = _damaged_records(dataset, damage) if damage.skip else np.empty(0, np.int64)
        keys = np.stack([dataset.classes, dataset.records, dataset.starts])
        _, examples = np.unique(keys, axis=1, return_index=True)  # in the order of the classes
        _, number, n_records = np.unique(index.video_id, return_inverse=True, return_counts=True)
        alone = n_records[number[dataset.records[examples]]] == 1
        damaged = np.isin(dataset.records[examples], self._damaged)
        self._examples = examples[alone & ~damaged]
        self._shards_of_examples = dataset.shards
        for count, reason in (
            (len(dataset) - len(examples), "are duplicates"),
            ((~alone).sum(), "are of videos whose id several records share, one of which may be in training"),
            (damaged.sum(), "are of damaged videos"),
        ):
            if count:
                LOGGER.warning("%s: %d ratings are ignored, which %s", index.folder, count, reason)
        if not self._examples.size:
            raise UserError(f"{index.folder}: no rating is left to measure with")
        classes, of_record, starts = keys[:, self._examples]
        records, videos = np.unique(of_record, return_inverse=True)
        video_ids = [video_id.decode(errors="replace") for video_id in index.video_id[records].tolist()]
        self.ratings = Ratings(
            np.array(video_ids), videos, starts, vocabulary.labels[classes], dataset.scores[self._examples] > 0
        )
        self.shards_of_ratings = dataset.shards[self._examples]
        labels = [set(index.of_record(record, index.labels, index.label_ends).tolist()) for record in records.tolist()]
        self.labelled = np.array(
            [label in labels[video] for video, label in zip(videos.tolist(), self.ratings.label.tolist())]
        )

    def predict(
        self, folders: Sequence[ModelFolder], shards: np.ndarray, batch_size: int, workers: int, device: torch.device
    ) -> np.ndarray:
        """Probabilities (M, R) of the rated classes; NaN outside `shards`.

        Raises `UserError` for a model that does not fit the vocabulary or the data.
        """
        chosen = np.isin(self._shards_of_examples, shards)
        probabilities = np.full((len(folders), len(chosen)), np.nan)
        for offset in sorted({folder.offset for folder in folders}):
            numbers = [number for number, folder in enumerate(folders) if folder.offset == offset]
            context = any(folders[number].kind == "context-aware" for number in numbers)
            dataset = RatedSegmentDataset(self._index, self._vocabulary, shards, offset, context, -1, None)
            alike = [folders[number] for number in numbers]
            require_features(alike, dataset.reader)
            models = [member.model for member in load_members(alike, None, self._vocabulary, device)]
            share_context_encoders(models)
            for model in models:
                fuse(model)
            readable = np.flatnonzero(~np.isin(dataset.records, self._damaged))
            batches = [[(0, example) for example in part.tolist()] for part in _parts(readable, batch_size)]
            loader = BatchLoader(dataset, batches, workers, device)
            names = ", ".join(folders[number].name for number in numbers)
            parts = []
            with Progress(f"predicting with {names}", len(readable), "rating", LOGGER) as progress:
                for batch in loader:
                    parts.append(_predict(models, batch, device))
                    progress.update(len(batch.examples))
            found = torch.cat(parts, dim=1).numpy()
            for number, values in zip(numbers, found):
                if np.isnan(values).any():
                    raise UserError(
                        f"{folders[number].path}: predicts values that are not numbers; its weights are unusable"
                    )
            probabilities[np.ix_(np.array(numbers), np.flatnonzero(chosen)[readable])] = found
        return probabilities[:, self._examples]


def _parts(values: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of at most `size` values, at least one part."""
    return np.split(values, range(size, len(values), size))


def _damaged_records(dataset: RatedSegmentDataset, damage: Damage) -> np.ndarray:
    """The index rows of rated videos that cannot be read completely."""
    reader = ShardReader(dataset.index, damage)
    damaged = []
    for records in _parts(np.unique(dataset.records), CHECKED_AT_ONCE):
        requests = []
        for record in records.tolist():
            frames = np.empty((int(dataset.n_frames[record]), reader.frame_dim), np.uint8)
            requests.append(Frames(record, slice(0, len(frames)), frames))
        damaged.append(records[~reader.read(requests, whole=True)])
    return np.concatenate(damaged)


@torch.inference_mode()
def _predict(models: Sequence[SegmentModel], batch: SegmentBatch, device: torch.device) -> Tensor:
    """Probabilities (M, S) of the rated classes of a batch, on the CPU."""
    batch = move_to(batch, device)

    @cache
    def contexts(encoder: Encoder) -> Tensor:
        assert batch.videos is not None  # present if a model needs them
        return encoder.encode(batch.videos)[batch.video_index]

    results = []
    for model in models:
        logits = model.classify(model.segment_encoder.encode(batch.segments), contexts)
        rated = logits.gather(1, batch.classes.unsqueeze(1)).squeeze(1)
        results.append(rated.double().sigmoid())  # as float32, many confident ones would be equal
    return torch.stack(results).cpu()
