"""Inputs of `gpu.py`: published or small configurations; untrained models; shards of random bytes."""

import copy
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.inference import settle
from yt8m.common.config import read_yaml
from yt8m.common.devices import resolve_half, resolve_workers
from yt8m.data.features import feature_contract
from yt8m.data.frames import HEAD_SEGMENTS, SEGMENT_SECONDS, TAIL_SEGMENTS
from yt8m.data.partitions import PARTITIONS, Partition
from yt8m.data.vocabulary import CHALLENGE_FILE, VOCABULARY_FILE, challenge_vocabulary
from yt8m.making.shard_writing import Rating, VideoRecord, write_shard
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, SegmentModel, VideoModel, build_video_model
from yt8m.models.config import VideoSection, parse_config, required
from yt8m.models.model_folders import copy_encoder, exported_config, load_video_model, save_model

SCRIPTS = Path(__file__).parent.parent / "scripts"
BASES = {"dbof": "video_gated_dbof", "nextvlad": "video_nextvlad"}
CONFIGS = *BASES.values(), "pure_segment_dbof", "pure_segment_nextvlad", "segment_with_context"
# The base models of each kind of segment model in scripts/context-*.bash.
KINDS = ("dbof",), ("nextvlad",), ("dbof", "nextvlad"), ("nextvlad", "nextvlad"), ("dbof", "dbof")
PUBLISHED_DIMS = {"video_dim": 1024, "audio_dim": 128}
OFFSET, MOST_SECONDS, SHARD_VIDEOS = 3, 300, 100
SMALL = {
    "video_dim": 64,
    "audio_dim": 32,
    "hidden_dim": 64,
    "fcn_dim": 32,
    "n_clusters": 8,
    "groups": 8,
    "max_len": 40,
    "batch_size": 8,
}


@dataclass(frozen=True)
class Size:
    """Sizes: `changed` keys of the configurations, the number of `videos` of each partition, by folder, their length in
    `seconds` (from, below; cut at 300), the segments predicted at a time, and the rows of the matrix whose product
    gives the GPU's rate."""

    changed: Mapping[str, float]
    videos: Mapping[str, int]
    seconds: tuple[int, int]
    segments: int
    matrix: int

    @property
    def widths(self) -> dict[str, int]:
        """Of a frame's features."""
        dims = {key: int(self.changed.get(key, width)) for key, width in PUBLISHED_DIMS.items()}
        return {"rgb": dims["video_dim"], "audio": dims["audio_dim"]}

    def configuration(self, name: str) -> dict[str, Any]:
        """A published configuration with the changes, as far as it has those keys."""
        sections = read_yaml(SCRIPTS / f"{name}.yaml")
        for section in sections.values():
            for part in section.values():
                part |= PUBLISHED_DIMS if "type" in part else {}
                part |= {key: value for key, value in self.changed.items() if key in part}
        return sections

    def video_model(self, name: str) -> tuple[VideoSection, VideoModel]:
        """An untrained base model, and its section."""
        section = required(parse_config(self.configuration(BASES[name]), name, "video.model").video)
        torch.manual_seed(5)
        return section, build_video_model(section.model, len(challenge_vocabulary()))

    def segment_model(self, bases: Sequence[VideoModel], device: torch.device) -> SegmentModel:
        """A segment model on one base model, or a context-aware one on two, whose batch norms have seen some segments;
        on the CPU, in eval mode."""
        generator = torch.Generator().manual_seed(3)
        shape = 16, SEGMENT_SECONDS + 2 * OFFSET, sum(self.widths.values())
        segments = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        if len(bases) == 1:
            agnostic = ContextAgnosticModel(copy.deepcopy(bases[0])).to(device)
            settle(agnostic, segments)
            return agnostic.cpu()
        config = parse_config(self.configuration("segment_with_context"), "context", "segment_w_context.model")
        torch.manual_seed(4)
        aware = ContextAwareModel(
            required(config.segment_w_context).model, *(base.config for base in bases), len(challenge_vocabulary())
        )
        for encoder, base in zip((aware.context_model, aware.segment_model), bases):
            copy_encoder(encoder, base)
        settle(aware.to(device), segments, segments, None, torch.arange(len(segments), device=device))
        return aware.cpu()


SIZES = {
    "published": Size(
        {},
        {"video/train": 2000, "video/valid": 8, "segment/train": 800, "segment/test": 800},
        (120, 361),  # 232 on average
        512,
        8192,
    ),
    "tiny": Size(
        SMALL, {"video/train": 16, "video/valid": 8, "segment/train": 16, "segment/test": 12}, (60, 90), 16, 256
    ),
}


@dataclass(frozen=True)
class Place:
    """The setting: a folder with the output of `make_data`, a device, the `seconds` of each measurement, and whether
    trainings are `compiled`."""

    folder: Path
    size: Size
    device: torch.device
    seconds: float
    compiled: bool = False

    @cached_property
    def amp(self) -> torch.dtype | None:
        """The half precision that the trainers choose, or None."""
        return resolve_half("auto", self.device)

    @cached_property
    def workers(self) -> int:
        """The commands' default number of reading threads."""
        return resolve_workers(None, self.device)

    def base_folder(self, name: str) -> Path:
        """The folder of a base model."""
        return self.folder / "cache" / "video" / name

    @cached_property
    def segment_models(self) -> list[SegmentModel]:
        """One of each of `KINDS`, on the CPU."""
        bases = {name: load_video_model(self.base_folder(name)) for name in BASES}
        return [self.size.segment_model([bases[name] for name in kind], self.device) for kind in KINDS]


def progress(text: str) -> None:
    """Report progress."""
    print(f"{text} ...", file=sys.stderr, flush=True)


def make_data(place: Place) -> None:
    """Make shards, configurations, untrained base models and the vocabulary, unless they exist."""
    folder, size = place.folder, place.size
    if (folder / VOCABULARY_FILE).is_file():  # written last
        return
    if folder.exists():
        shutil.rmtree(folder)
    rng = np.random.default_rng(6)
    first = 0
    for partition in PARTITIONS:
        last = first + size.videos[partition.folder]
        progress(f"making {last - first} videos of {partition.folder}")
        (folder / partition.folder).mkdir(parents=True)
        for shard, start in enumerate(range(first, last, SHARD_VIDEOS)):
            numbers = range(start, min(start + SHARD_VIDEOS, last))
            path = folder / partition.folder / f"{partition.stem}{shard:04d}.tfrecord"
            write_shard(path, random_videos(rng, numbers, partition, size))
        first = last
    for name in CONFIGS:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(size.configuration(name)), encoding="utf-8")
    for name in BASES:
        section, model = size.video_model(name)
        features = feature_contract(*size.widths.values())
        save_model(place.base_folder(name), exported_config(video=section), model, challenge_vocabulary(), features)
    shutil.copy(CHALLENGE_FILE, folder / VOCABULARY_FILE)


def random_videos(
    rng: np.random.Generator, numbers: Iterable[int], partition: Partition, size: Size
) -> Iterator[VideoRecord]:
    """Videos of random bytes, with 3 labels if the partition is labelled, and 5 ratings if it is rated."""
    labels = challenge_vocabulary().labels
    for number in numbers:
        n_seconds = min(int(rng.integers(*size.seconds)), MOST_SECONDS)
        features = {name: rng.integers(0, 256, (n_seconds, width), np.uint8) for name, width in size.widths.items()}
        own = rng.choice(labels, 3, replace=False).tolist()
        starts = rng.integers(HEAD_SEGMENTS, n_seconds // SEGMENT_SECONDS - TAIL_SEGMENTS, 5) * SEGMENT_SECONDS
        columns = starts, rng.choice(labels, 5), rng.integers(0, 2, 5)
        ratings = [Rating(*values) for values in zip(*(column.tolist() for column in columns))]
        rated = partition.folder == "segment/train"
        yield VideoRecord(f"{number:04d}", features, own if partition.labelled else None, ratings if rated else ())
