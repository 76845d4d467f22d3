"""Videos as TFRecord shards of the official schema."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helperbot.files import replacing

from yt8m.data.records import framed
from yt8m.data.segments import SEGMENT_SECONDS
from yt8m.data.sequence_example import messages


@dataclass(frozen=True)
class Rating:
    """A rated segment: start second, label id, score 0 or 1."""

    start: int
    label: int
    score: int

    @property
    def end(self) -> int:
        """The second behind the segment."""
        return self.start + SEGMENT_SECONDS


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """What a record holds: `features` by name, "rgb" and perhaps "audio", are (seconds, width) uint8; `labels` are
    label ids, None in test data; the keys of `ratings` are left out where there are none."""

    video_id: str
    features: Mapping[str, np.ndarray]
    labels: Sequence[int] | None
    ratings: Sequence[Rating] = ()


def serialize(video: VideoRecord) -> bytes:
    """A video as a SequenceExample of the official schema, the same bytes each time."""
    train = messages()

    def integers(values: Sequence[int]) -> Any:
        return train.Feature(int64_list=train.Int64List(value=values))

    def string(value: bytes) -> Any:
        return train.Feature(bytes_list=train.BytesList(value=[value]))

    context = {"id": string(video.video_id.encode())}
    if video.labels is not None:
        context["labels"] = integers(video.labels)
    if video.ratings:
        scores = train.FloatList(value=[rating.score for rating in video.ratings])
        context |= {
            "segment_start_times": integers([rating.start for rating in video.ratings]),
            "segment_end_times": integers([rating.end for rating in video.ratings]),
            "segment_labels": integers([rating.label for rating in video.ratings]),
            "segment_scores": train.Feature(float_list=scores),
        }
    lists = {
        key: train.FeatureList(feature=[string(frame.tobytes()) for frame in frames])
        for key, frames in video.features.items()
    }
    example = train.SequenceExample(
        context=train.Features(feature=context), feature_lists=train.FeatureLists(feature_list=lists)
    )
    payload: bytes = example.SerializeToString(deterministic=True)
    return payload


def write_shard(path: Path, videos: Iterable[VideoRecord]) -> None:
    """Write a shard of these videos, one after the other; it appears when it is whole."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for video in videos:
            file.writelines(framed(serialize(video)))
