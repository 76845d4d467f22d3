"""Shards for the tests: records serialized by protobuf, or assembled byte by byte where protobuf never would
write them so. `tests/test_sequence_example.py` compares messages and framing with TensorFlow's."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yt8m.data.index import Index, load_index
from yt8m.data.reader import Rows, ShardReader
from yt8m.data.records import framed
from yt8m.data.sequence_example import messages

RGB, AUDIO = 8, 3  # frame widths of the tests' own videos

Ratings = Sequence[tuple[int, int, float]]  # start second, label, score


@dataclass(frozen=True, eq=False)
class Video:
    """What a record holds: frames are (n, width) uint8; what is None is left out of the record."""

    video_id: bytes
    rgb: np.ndarray | None
    audio: np.ndarray | None
    labels: Sequence[int] | None = ()
    ratings: Ratings | None = None

    @property
    def frames(self) -> np.ndarray:
        """The seconds that have both features, rgb and audio side by side."""
        n_frames = min(len(self.rgb), len(self.audio))
        return np.concatenate([self.rgb[:n_frames], self.audio[:n_frames]], axis=1)


def make_video(
    number: int, n_frames: int, labels: Sequence[int] = (), ratings: Ratings | None = None, n_audio: int | None = None
) -> Video:
    """A video of random frames, no two of them alike: the first three bytes of rgb are video and second."""
    rng = np.random.default_rng((number, n_frames))
    rgb = rng.integers(0, 256, (n_frames, RGB), np.uint8)
    audio = rng.integers(0, 256, (n_frames if n_audio is None else n_audio, AUDIO), np.uint8)
    seconds = np.arange(n_frames)
    rgb[:, 0], rgb[:, 1], rgb[:, 2] = number, seconds // 256, seconds % 256
    return Video(b"v%03d" % number, rgb, audio, labels, ratings)


def serialize(video: Video) -> bytes:
    """A video as protobuf serializes it."""
    train = messages()
    context = {"id": train.Feature(bytes_list=train.BytesList(value=[video.video_id]))}
    if video.labels is not None:
        context["labels"] = train.Feature(int64_list=train.Int64List(value=video.labels))
    if video.ratings is not None:
        starts, labels, scores = ([rating[column] for rating in video.ratings] for column in range(3))
        context["segment_start_times"] = train.Feature(int64_list=train.Int64List(value=starts))
        context["segment_end_times"] = train.Feature(int64_list=train.Int64List(value=[start + 5 for start in starts]))
        context["segment_labels"] = train.Feature(int64_list=train.Int64List(value=labels))
        context["segment_scores"] = train.Feature(float_list=train.FloatList(value=scores))
    lists = {
        key: train.FeatureList(
            feature=[train.Feature(bytes_list=train.BytesList(value=[frame.tobytes()])) for frame in frames]
        )
        for key, frames in (("rgb", video.rgb), ("audio", video.audio))
        if frames is not None
    }
    example = train.SequenceExample(
        context=train.Features(feature=context), feature_lists=train.FeatureLists(feature_list=lists)
    )
    return example.SerializeToString(deterministic=True)


def decode(payload: bytes) -> Video:
    """A payload as protobuf understands it, features that it lacks as empty ones."""
    example = messages().SequenceExample.FromString(payload)
    context, lists = example.context.feature, example.feature_lists.feature_list
    name = "id" if "id" in context else "video_id"
    rgb, audio = (
        np.array([list(feature.bytes_list.value[0]) for feature in lists[key].feature], np.uint8)
        for key in ("rgb", "audio")
    )
    return Video(
        context[name].bytes_list.value[0],
        rgb,
        audio,
        list(context["labels"].int64_list.value),
        list(
            zip(
                context["segment_start_times"].int64_list.value,
                context["segment_labels"].int64_list.value,
                context["segment_scores"].float_list.value,
            )
        ),
    )


def write_payloads(path: Path, payloads: Iterable[bytes]) -> Path:
    """A shard of these payloads, whatever they are, with right lengths and checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(part for payload in payloads for part in framed(payload)))
    return path


def write_videos(path: Path, videos: Iterable[Video]) -> Path:
    """A shard of these videos."""
    return write_payloads(path, [serialize(video) for video in videos])


def index_videos(data_dir: Path, shards: Sequence[Sequence[Video]]) -> Index:
    """The index of a new folder of these shards."""
    folder = data_dir / "segment" / "train"
    for number, videos in enumerate(shards):
        write_videos(folder / f"train{number:02d}.tfrecord", videos)
    return load_index(folder, data_dir / "cache")


def read_rows(reader: ShardReader, *wanted: tuple[int, Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Frames of records as batches are read, end to end: of each record these seconds. And which could be read."""
    lengths = np.array([len(seconds) for _, seconds in wanted], np.int64)
    ends = np.cumsum(lengths)
    seconds = np.concatenate([np.array(seconds, np.int64) for _, seconds in wanted])
    records = np.array([record for record, _ in wanted], np.int64)
    out = np.full((len(seconds), reader.frame_dim), 99, np.uint8)
    return out, reader.read_rows(Rows(records, seconds, ends - lengths, ends, ends - lengths), out)


# --- the protobuf wire format ------------------------------------------------------------------------


def varint(value: int, padding: int = 0) -> bytes:
    """A varint of a number (negative ones as 64-bit two's complement), with so many bytes more than it needs."""
    value &= 2**64 - 1
    encoded = []
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    if padding:
        encoded[-1] |= 0x80
        encoded += [0x80] * (padding - 1) + [0]
    return bytes(encoded)


def field(number: int, *content: bytes, padding: int = 0) -> bytes:
    """A length-delimited field; `padding` makes its length longer than needed."""
    joined = b"".join(content)
    return varint(number << 3 | 2) + varint(len(joined), padding) + joined


def bytes_feature(*values: bytes) -> bytes:
    """A Feature of byte strings."""
    return field(1, *(field(1, value) for value in values))


def float_feature(*values: float) -> bytes:
    """A Feature of float32s, packed."""
    return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))


def integer_feature(*values: int) -> bytes:
    """A Feature of int64s, packed."""
    return field(3, field(1, *map(varint, values)))


def entry(key: str, value: bytes) -> bytes:
    """An entry of a map from names to messages."""
    return field(1, field(1, key.encode()), field(2, value))


def frame_fields(frames: np.ndarray) -> list[bytes]:
    """The fields of a FeatureList, one a frame."""
    return [field(1, bytes_feature(frame.tobytes())) for frame in frames]


def context_entries(video: Video, name: str = "id") -> dict[str, bytes]:
    """The Features of a video's context by key; the id is called `name`."""
    starts, labels, scores = ([rating[column] for rating in video.ratings or ()] for column in range(3))
    return {
        name: bytes_feature(video.video_id),
        "labels": integer_feature(*video.labels),
        "segment_start_times": integer_feature(*starts),
        "segment_labels": integer_feature(*labels),
        "segment_scores": float_feature(*scores),
    }


def list_entries(video: Video) -> dict[str, bytes]:
    """The FeatureLists of a video by key."""
    return {"rgb": b"".join(frame_fields(video.rgb)), "audio": b"".join(frame_fields(video.audio))}


def context_field(features: dict[str, bytes]) -> bytes:
    """The context of a SequenceExample, as its field."""
    return field(1, *(entry(*item) for item in features.items()))


def lists_field(lists: dict[str, bytes]) -> bytes:
    """The feature lists of a SequenceExample, as their field."""
    return field(2, *(entry(*item) for item in lists.items()))
