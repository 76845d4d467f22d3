"""In-place reading of records' payloads, `tf.train.SequenceExample`s.

A payload holds a small context (id, labels, ratings) and one byte string per second and feature. In the layout of every
known writer, the frames of a feature have a constant stride, so that a numpy view reads them without parsing each one.
Protobuf decodes any other legal layout to the same arrays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from yt8m.common.errors import ForeignRecordError, RecordError
from yt8m.data.partitions import PARTITIONS
from yt8m.data.records import HEADER_BYTES, Buffer, Shard, UnusualLayout, read_payload, read_varint, wire_fields

FEATURES = ("rgb", "audio")  # lists of frames; a data set without sound has only the first

_Values = list[bytes] | np.ndarray  # of a Feature: byte strings or numbers
_Frames = list[Sequence[bytes]]  # of a FeatureList: the byte strings of each Feature, one per frame


class FrameBlock(NamedTuple):
    """Frames of one feature at a constant stride.

    `start`: offset of the first frame's wire header in the payload; `count` frames of `width` bytes.
    """

    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    width: int


@dataclass(frozen=True)
class Record:
    """A record without its features.

    `labels` (int64) are class ids of the video. Ratings are three parallel arrays: start second (int64),
    class id (int64), score (float32, 0 or 1). `rgb` and `audio` locate the frames, or are None if only
    protobuf can (`read_unusual_frames`).
    """

    offset: int
    length: int
    video_id: bytes
    labels: np.ndarray
    rating_start: np.ndarray
    rating_label: np.ndarray
    rating_score: np.ndarray
    rgb_count: int
    audio_count: int
    rgb_width: int
    audio_width: int
    rgb: FrameBlock | None
    audio: FrameBlock | None


def parse_record(buffer: Buffer, offset: int, length: int, path: Path) -> Record:
    """Parse the context and locate the frames of the record at `offset`, without reading features.

    Raises `RecordError` if the payload is not a SequenceExample with an id, and `ForeignRecordError` for another kind,
    such as video-level features.
    """
    start = offset + HEADER_BYTES
    try:
        context, blocks = _scan(buffer, start, start + length)
        return _record(offset, length, context, path, blocks)
    except (UnusualLayout, IndexError):
        example = _parse_with_protobuf(read_payload(buffer, offset, length, path), offset, path)
        context = {key: _values(feature) for key, feature in example.context.feature.items()}
        return _record(
            offset,
            length,
            context,
            path,
            {
                key: [value.bytes_list.value for value in features.feature]
                for key, features in example.feature_lists.feature_list.items()
            },
        )


def block_span(payload_start: int, block: FrameBlock, selection: slice | np.ndarray) -> tuple[int, int]:
    """The byte span in the file from the first to the last selected frame of a block, including headers."""
    first, last = (
        (selection.start, selection.stop - 1)
        if isinstance(selection, slice)
        else (int(selection[0]), int(selection[-1]))
    )
    stride = len(frame_header(block.width)) + block.width
    start = payload_start + block.start
    return start + first * stride, start + (last + 1) * stride


def read_frames(
    buffer: Buffer, payload_start: int, block: FrameBlock, selection: slice | np.ndarray, out: np.ndarray
) -> bool:
    """Copy the selected frames of a block into `out` (frames, width) uint8; reads no frame before or after them.

    Returns False if the frames do not have the constant stride; the record then needs `read_unusual_frames`.
    """
    rows, regular = _frame_rows(buffer, payload_start, block, selection)
    out[:] = rows[:, rows.shape[1] - block.width :]
    return regular


def _frame_rows(
    buffer: Buffer, payload_start: int, block: FrameBlock, selection: slice | np.ndarray
) -> tuple[np.ndarray, bool]:
    """Selected frames with headers, (frames, header + width) uint8, and whether all headers are as expected."""
    start, stop = block_span(payload_start, block, selection)
    header = frame_header(block.width)
    stride = len(header) + block.width
    found = buffer.read(start, stop) if isinstance(buffer, Shard) else buffer[start:stop]
    rows = np.frombuffer(found, np.uint8).reshape((stop - start) // stride, stride)
    if not isinstance(selection, slice):
        # take() copies whole rows; indexing rows and columns together would copy byte by byte.
        rows = rows.take(selection - selection[0], axis=0)
    return rows, rows[:, : len(header)].tobytes() == header * len(rows)


def read_unusual_frames(
    buffer: Buffer, offset: int, length: int, path: Path, video_id: bytes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All frames of a record in any legal layout, decoded by protobuf: rgb and audio, uint8 (frames, width)."""
    example = _parse_with_protobuf(read_payload(buffer, offset, length, path, video_id), offset, path)
    lists = example.feature_lists.feature_list
    rgb, audio = (
        _stack(
            [feature.bytes_list.value for feature in lists[key].feature],  # empty if there is no such list
            partial(RecordError, path, offset=offset, video_id=video_id),
            key,
        )
        for key in FEATURES
    )
    return rgb, audio


def check_record(buffer: Buffer, record: Record, path: Path) -> None:
    """Check a whole record: its checksum and the place of every frame. Raises `RecordError`."""
    offset, length, video_id = record.offset, record.length, record.video_id
    payload = read_payload(buffer, offset, length, path, video_id)
    if all(
        block is not None and _frame_rows(payload, 0, block, slice(0, block.count))[1]
        for block in (record.rgb, record.audio)
    ):
        return
    rgb, audio = read_unusual_frames(buffer, offset, length, path, video_id)
    if (len(rgb), len(audio)) != (record.rgb_count, record.audio_count):
        raise RecordError(path, "the frames do not match the size of their lists", offset, video_id)


def _stack(frames: _Frames, error: Callable[[str], RecordError], key: str) -> np.ndarray:
    width = _common_width(frames, error, key)
    return np.frombuffer(b"".join(frame[0] for frame in frames), np.uint8).reshape(len(frames), width)


def _common_width(frames: _Frames, error: Callable[[str], RecordError], key: str) -> int:
    """Width in bytes of a list of frames, each a list of one byte string; 0 for no frames."""
    widths = {len(frame[0]) if len(frame) == 1 else -1 for frame in frames}
    if widths == {-1}:
        raise error(
            f"frames of {key} are not one byte string each, but perhaps floats; make bytes of them, see "
            "`python -m yt8m.make_records --help`"
        )
    if len(widths) > 1:
        raise error(f"frames of {key} differ in width")
    return widths.pop() if widths else 0


def _record(
    offset: int, length: int, context: dict[str, _Values], path: Path, lists: Mapping[str, FrameBlock | _Frames]
) -> Record:
    """A record from its context and feature lists (`FrameBlock`s or lists of frames)."""
    name = next((key for key in ("id", "video_id") if key in context), None)
    if name is None or len(context[name]) != 1 or not isinstance(context[name][0], bytes):
        raise RecordError(
            path,
            f"no video id: found {_found(context, lists)}; expected a context key id, one byte string, and the feature "
            "list rgb",
            offset,
        )
    video_id = context[name][0]
    if lists.keys().isdisjoint(FEATURES) and (lists or context.keys() - _CONTEXT):
        raise ForeignRecordError(path, _foreign_record(path, context, lists), offset, video_id)
    error = partial(RecordError, path, offset=offset, video_id=video_id)
    labels, starts, rated = (
        _integers(context, key, error) for key in ("labels", "segment_start_times", "segment_labels")
    )
    scores = np.asarray(context.get("segment_scores", ()))
    if scores.size and scores.dtype.kind != "f":
        raise error("segment_scores are not floats")
    scores = scores.astype(np.float32)
    if not len(starts) == len(rated) == len(scores):
        raise error(
            f"{len(starts)} segment_start_times, {len(rated)} segment_labels and {len(scores)} segment_scores; "
            "they must be parallel"
        )
    sizes: dict[str, tuple[int, int, FrameBlock | None]] = {}
    for key in FEATURES:
        frames = lists.get(key, [])
        if isinstance(frames, FrameBlock):
            sizes[key] = (frames.count, frames.width, frames)
        else:
            sizes[key] = (len(frames), _common_width(frames, error, key), None)
    return Record(
        offset,
        length,
        video_id,
        labels,
        starts,
        rated,
        scores,
        sizes["rgb"][0],
        sizes["audio"][0],
        sizes["rgb"][1],
        sizes["audio"][1],
        sizes["rgb"][2],
        sizes["audio"][2],
    )


_VIDEO_LEVEL = {"mean_rgb", "mean_audio"}  # context keys
_CONTEXT = {
    *("id", "video_id", "labels", "segment_start_times", "segment_end_times", "segment_labels", "segment_scores")
}  # of a record of frame-level features, which has no lists if it has no frames


def _found(context: Mapping[str, Any], lists: Mapping[str, Any]) -> str:
    """A description of a record's keys."""
    return (
        f"the feature lists {', '.join(sorted(lists)) or '(none)'} and the context keys "
        f"{', '.join(sorted(context)) or '(none)'}"
    )


def _foreign_record(path: Path, context: Mapping[str, Any], lists: Mapping[str, Any]) -> str:
    """The kind of a record without frame-level visual features, and the remedy."""
    expected = "the feature list rgb and, if there is sound, audio, one frame per second"
    found = f"found {_found(context, lists)}; expected {expected}"
    if lists or not _VIDEO_LEVEL & context.keys():
        kind = "AudioSet's features of sound alone" if "audio_embedding" in lists else "features of another kind"
        return f"{kind}: {found}; visual features are needed, see `python -m yt8m.make_records --help`"
    folder = "/".join(path.absolute().parts[-3:-1])
    plans = [part.published for part in PARTITIONS if part.folder == folder] or [
        part.published for part in PARTITIONS if path.name.startswith(part.stem)
    ]
    fetch = f"python -m yt8m.download --plan {' or '.join(plans or ['2/frame/train'])}"
    return (
        f"video-level features, where frame-level ones are needed: {found}; the files of both have the same names: "
        f"fetch the frame-level ones, `{fetch}`"
    )


def _integers(context: dict[str, _Values], key: str, error: Callable[[str], RecordError]) -> np.ndarray:
    values = np.asarray(context.get(key, ()))
    if values.size and values.dtype.kind != "i":
        raise error(f"{key} are not integers")
    return values.astype(np.int64)


def _single(buffer: Buffer, start: int, end: int) -> tuple[int, int, int]:
    """Number and value span of the only field of a message."""
    found = list(wire_fields(buffer, start, end))
    if len(found) != 1:
        raise UnusualLayout
    return found[0]


def _map_entries(buffer: Buffer, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Key and value span of each entry of a map<string, message>, which is field 1 of its message."""
    for number, entry, stop in wire_fields(buffer, start, end):
        parts = list(wire_fields(buffer, entry, stop))
        if number != 1 or [part[0] for part in parts] != [1, 2]:
            raise UnusualLayout
        (_, key, key_stop), (_, value, value_stop) = parts
        yield bytes(buffer[key:key_stop]).decode(errors="replace"), value, value_stop


def _scan(buffer: Buffer, start: int, end: int) -> tuple[dict[str, _Values], dict[str, FrameBlock | _Frames]]:
    """Context values and `FrameBlock`s of a payload in the usual layout; other lists empty. Raises `UnusualLayout`."""
    context: dict[str, _Values] = {}
    blocks: dict[str, FrameBlock | _Frames] = {}
    for number, message, stop in wire_fields(buffer, start, end):
        if number not in (1, 2):
            raise UnusualLayout
        for key, value, value_stop in _map_entries(buffer, message, stop):
            if number == 1:
                context[key] = _feature_values(bytes(buffer[value:value_stop]))
            else:
                blocks[key] = _frame_block(buffer, start, value, value_stop) if key in FEATURES else []
    return context, blocks


def _feature_values(feature: bytes) -> _Values:
    """Values of a Feature: byte strings, float32s or int64s."""
    if not feature:
        return []
    kind, start, end = _single(feature, 0, len(feature))
    if kind == 1:
        strings = list(wire_fields(feature, start, end))
        if any(number != 1 for number, _, _ in strings):
            raise UnusualLayout
        return [feature[first:stop] for _, first, stop in strings]
    if start == end:
        return []
    number, start, end = _single(feature, start, end)  # packed values
    if number != 1 or kind not in (2, 3):
        raise UnusualLayout
    if kind == 2:
        if (end - start) % 4:
            raise UnusualLayout
        return np.frombuffer(feature[start:end], "<f4")
    integers = []
    while start < end:
        value, start = read_varint(feature, start)
        integers.append(value)
    if start != end:
        raise UnusualLayout
    return np.array(integers, np.uint64).astype(np.int64)


@cache
def frame_header(width: int) -> bytes:
    """The bytes before each frame: Feature in FeatureList, BytesList in Feature, value in BytesList."""
    header = b""
    for _ in range(3):
        header = b"\x0a" + _encode_varint(width + len(header)) + header
    return header


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _frame_block(buffer: Buffer, payload: int, start: int, end: int) -> FrameBlock:
    """The frames of a FeatureList, located by its first header and total length.

    `read_frames` checks the header of every frame that it reads.
    """
    if start == end:
        return FrameBlock(start - payload, 0, 0)
    value = (start, end)
    for _ in range(3):  # Feature in FeatureList, BytesList in Feature, value in BytesList
        field = next(wire_fields(buffer, *value), None)
        if field is None or field[0] != 1:
            raise UnusualLayout
        value = field[1:]
    width = value[1] - value[0]
    header = frame_header(width)
    stride = len(header) + width
    if bytes(buffer[start : start + len(header)]) != header or (end - start) % stride:
        raise UnusualLayout
    return FrameBlock(start - payload, (end - start) // stride, width)


def _parse_with_protobuf(payload: memoryview, offset: int, path: Path) -> Any:
    """Parse a payload in any legal layout as `tf.train.SequenceExample`, slowly."""
    from google.protobuf.message import DecodeError

    try:
        return messages().SequenceExample.FromString(bytes(payload))
    except DecodeError:
        raise RecordError(path, "not a SequenceExample", offset) from None


def _values(feature: Any) -> _Values:
    """Values of a protobuf Feature, as `_feature_values` returns them."""
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return list(feature.bytes_list.value)
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    return np.array(feature.int64_list.value, np.int64)  # empty if no kind is set


_PACKAGE = "tensorflow"


@cache
def messages() -> SimpleNamespace:
    """The message classes of `tf.train`: `SequenceExample`, `Features`, `Feature`, `BytesList` and so on.

    They have their own descriptor pool, so that TensorFlow can be imported too.
    """
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

    kinds = {
        "bytes": FieldDescriptorProto.TYPE_BYTES,
        "float": FieldDescriptorProto.TYPE_FLOAT,
        "int64": FieldDescriptorProto.TYPE_INT64,
        "string": FieldDescriptorProto.TYPE_STRING,
    }

    def field(name: str, number: int, of: str, repeated: bool = False, **options: Any) -> FieldDescriptorProto:
        """A field of one of `kinds`, or of the message `of`."""
        result = FieldDescriptorProto(name=name, number=number, **options)
        result.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if of in kinds:
            result.type = kinds[of]
        else:
            result.type, result.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{of}"
        return result

    def named(name: str, key: str, of: str) -> DescriptorProto:
        """A message with one map from names to messages `of`."""
        entry = DescriptorProto(name=f"{key.title().replace('_', '')}Entry")  # this name is required
        entry.field.extend([field("key", 1, "string"), field("value", 2, of)])
        entry.options.map_entry = True
        return DescriptorProto(name=name, field=[field(key, 1, f"{name}.{entry.name}", True)], nested_type=[entry])

    feature = DescriptorProto(
        name="Feature",
        field=[
            field("bytes_list", 1, "BytesList", oneof_index=0),
            field("float_list", 2, "FloatList", oneof_index=0),
            field("int64_list", 3, "Int64List", oneof_index=0),
        ],
    )
    feature.oneof_decl.add(name="kind")
    file = FileDescriptorProto(
        name="sequence_example.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            DescriptorProto(name="BytesList", field=[field("value", 1, "bytes", True)]),
            DescriptorProto(name="FloatList", field=[field("value", 1, "float", True)]),
            DescriptorProto(name="Int64List", field=[field("value", 1, "int64", True)]),
            feature,
            named("Features", "feature", "Feature"),
            DescriptorProto(name="FeatureList", field=[field("feature", 1, "Feature", True)]),
            named("FeatureLists", "feature_list", "FeatureList"),
            DescriptorProto(
                name="SequenceExample",
                field=[field("context", 1, "Features"), field("feature_lists", 2, "FeatureLists")],
            ),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptors = pool.FindFileByName(file.name).message_types_by_name
    return SimpleNamespace(**{name: message_factory.GetMessageClass(found) for name, found in descriptors.items()})
