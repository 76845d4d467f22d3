"""The material of a fit: checked arrays and annotations, and the partitions written from them."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.common.config import FeatureContract
from yt8m.common.errors import counted
from yt8m.data.index import fold_rows
from yt8m.data.partitions import N_FOLDS, NAMES_FILE
from yt8m.data.vocabulary import VOCABULARY_COLUMNS, LabelIds, RatingRow, resolve_labels, save_vocabulary
from yt8m.fitting.annotated import Annotated
from yt8m.fitting.settings import Sizes
from yt8m.making.array_records import (
    ArraySources,
    Feature,
    RecordWriter,
    annotate,
    check_ratings,
    contract_of,
    count_frames,
    divide,
    has_shards,
    open_features,
    warn_of_names,
    warn_of_ratings,
    warn_of_transposed_arrays,
    write_partition,
)
from yt8m.making.feature_arrays import require_arrays
from yt8m.making.shard_writing import SHARD_VIDEOS, finish_interrupted

LOGGER = logging.getLogger(__name__)
FOLD = 0  # validates on the held-out videos
UNTRIMMED = (0, 0)  # seconds to leave out at either end of a video
TRAIN, VALID, RATED = "video/train", "video/valid", "segment/train"
_SHUFFLING = 29  # key that separates this use of the seed from others


@dataclass(frozen=True)
class Material:
    """The checked training material; `n_frames` are the seconds of each video."""

    annotated: Annotated
    ids: LabelIds
    features: Sequence[Feature]
    contract: FeatureContract
    n_frames: dict[str, int]

    def sizes(self, videos: Collection[str], n_ratings: int) -> Sizes:
        """The sizes that settings depend on, for training on these videos and `n_ratings`."""
        seconds = [self.n_frames[video] for video in videos]
        n_classes = len(self.annotated.classes)
        return Sizes(len(videos), round(float(np.median(seconds))), n_ratings, n_classes, *self.contract.widths)

    def writer(self, videos: Collection[str], ratings: Sequence[RatingRow] = ()) -> RecordWriter:
        """A writer of these videos, with their ratings."""
        n_frames = {video: self.n_frames[video] for video in videos}
        annotations = annotate(self.ids.ids, self.annotated.labels, ratings, self.annotated.ratings_path)
        return RecordWriter(self.features, n_frames, annotations)


def find_arrays(features: Path, audio: Path | None) -> ArraySources:
    """The arrays of a folder, or of its subfolders rgb and audio, as `extract_features --format npy` makes them."""
    if audio is None and (features / "rgb").is_dir():
        sound = features / "audio"
        return ArraySources(features / "rgb", sound if sound.is_dir() else None, usual_scales=True)
    return ArraySources(features, audio, usual_scales=True)


def open_material(annotated: Annotated, sources: ArraySources, data_dir: Path) -> Material:
    """Check arrays and annotations against each other. Raises `UserError`, which lists the faults."""
    ids = resolve_labels(annotated.texts, data_dir / NAMES_FILE)
    videos = annotated.videos
    n_left_out = require_arrays(videos, annotated.sources, [sources.rgb, sources.audio])
    if n_left_out:
        LOGGER.info("%s: %s without a label or rating that counts left out", sources.rgb, counted(n_left_out, "video"))
    features = open_features(sources, videos)
    for feature in features:
        if feature.scale is not None:
            LOGGER.info(
                "%s: values from %.6g to %.6g become bytes 0 to 255, what lies beyond is clipped",
                feature.arrays.folder,
                feature.scale.low,
                feature.scale.high,
            )
    contract = contract_of(features, UNTRIMMED)
    n_frames = count_frames(features, videos)
    check_ratings(annotate(ids.ids, None, annotated.ratings, annotated.ratings_path), n_frames)
    warn_of_transposed_arrays(features)
    warn_of_names(ids.new_names, [*annotated.labels, *annotated.ratings], data_dir / NAMES_FILE)
    warn_of_ratings(annotated.labels, annotated.ratings, videos, annotated.labels_path)
    return Material(annotated, ids, features, contract, n_frames)


def write_videos(data_dir: Path, material: Material, held_out: Collection[str], seed: int) -> None:
    """Write the partitions for pre-training, unless they exist, and the vocabularies."""
    labelled = {row.video_id for row in material.annotated.labels}
    for partition, is_held_out in ((TRAIN, False), (VALID, True)):
        videos = [video for video in material.n_frames if video in labelled and (video in held_out) == is_held_out]
        names = material.ids.new_names if partition == TRAIN else ()
        _write(
            data_dir, partition, material.writer(videos), material.contract, divide(videos, SHARD_VIDEOS, seed), names
        )
    ratings = pd.DataFrame([(row.label, row.score) for row in material.annotated.ratings], columns=["name", "score"])
    counts = ratings.groupby("name")["score"].agg(["sum", "size"])
    rows = []
    for name in sorted(material.annotated.classes, key=lambda name: material.ids.ids[name]):
        positive, total = counts.loc[name] if name in counts.index else (0, 0)
        shown = "" if name == str(material.ids.ids[name]) else name
        rows.append((material.ids.ids[name], "", shown, positive, total))
    save_vocabulary(pd.DataFrame(rows, columns=list(VOCABULARY_COLUMNS)), data_dir)


def write_ratings(
    data_dir: Path, material: Material, ratings: Sequence[RatingRow], held_out: Collection[str], seed: int
) -> None:
    """Write rated videos, unless they exist.

    `FOLD` validates on the held-out ones; if there are none, all are for training.
    """
    rated = sorted({row.video_id for row in ratings})
    order = np.random.default_rng((seed, _SHUFFLING)).permutation(len(rated))
    training = [rated[row] for row in order if rated[row] not in held_out]
    shards = [training]
    if len(training) < len(rated):
        (place,) = fold_rows(N_FOLDS, FOLD)[1].tolist()
        shards = [training[number :: N_FOLDS - 1] for number in range(N_FOLDS - 1)]
        shards.insert(place, [video for video in rated if video in held_out])
    _write(data_dir, RATED, material.writer(rated, ratings), material.contract, shards)


def _write(
    data_dir: Path,
    partition: str,
    writer: RecordWriter,
    contract: FeatureContract,
    shards: Sequence[Sequence[str]],
    new_names: Sequence[str] = (),
) -> None:
    finish_interrupted(data_dir / partition)
    if not has_shards(data_dir / partition):
        write_partition(data_dir, partition, writer, contract, shards, new_names)
