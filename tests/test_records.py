"""Records decode as protobuf decodes them, in every legal layout; damage is named."""

import gzip
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import (
    AUDIO,
    RGB,
    Video,
    bytes_feature,
    context_entries,
    context_field,
    decode,
    entry,
    field,
    float_feature,
    frame_fields,
    integer_feature,
    list_entries,
    lists_field,
    make_video,
    read_rows,
    serialize,
    varint,
    write_payloads,
    write_videos,
)
from yt8m.common.errors import RecordError, UserError
from yt8m.data import sequence_example as reading
from yt8m.data.index import load_index
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import DOWNLOAD, HEADER_BYTES, masked_crc, open_shard, record_spans
from yt8m.data.sequence_example import block_span, check_record, parse_record, read_frames, read_unusual_frames

RATINGS = ((0, 7, 1.0), (5, 7, 0.0), (5, 9, 1.0))
VIDEO = make_video(1, 6, labels=(3, 7, 300, 3861), ratings=RATINGS)
CONTEXT, LISTS = context_entries(VIDEO), list_entries(VIDEO)
INT64 = st.integers(-(2**63), 2**63 - 1)


def parse_shard(path: Path) -> list:
    """All records of a shard."""
    shard = path.read_bytes()
    return [parse_record(shard, offset, length, path) for offset, length in record_spans(shard, path)]


def assert_context(record, video: Video) -> None:
    """Everything of a parsed record but its frames is what the video has."""
    ratings = video.ratings or ()
    assert record.video_id == video.video_id
    for values, kind, expected in (
        (record.labels, np.int64, video.labels or ()),
        (record.rating_start, np.int64, [rating[0] for rating in ratings]),
        (record.rating_label, np.int64, [rating[1] for rating in ratings]),
        (record.rating_score, np.float32, [rating[2] for rating in ratings]),
    ):
        assert values.dtype == kind
        np.testing.assert_array_equal(values, np.array(expected, kind))
    for count, width, frames in (
        (record.rgb_count, record.rgb_width, video.rgb),
        (record.audio_count, record.audio_width, video.audio),
    ):
        assert count == (0 if frames is None else len(frames))
        assert width == (frames.shape[1] if count else 0)


def read(reader: ShardReader, record: int, selection: slice | np.ndarray, whole: bool = False) -> np.ndarray:
    """The selected frames of a record; if it is not read as a whole, by itself and as a batch is read."""
    seconds = np.arange(reader.index.n_frames[record])[selection]
    out = np.full((len(seconds), reader.frame_dim), 99, np.uint8)
    assert reader.read([Frames(record, selection, out)], whole).all()
    if not whole:
        found, met = read_rows(reader, (record, seconds))
        assert met.all()
        np.testing.assert_array_equal(found, out)
    return out


def read_everything(folder: Path, cache: Path) -> None:
    """What a run may do with a folder of shards: index it, verify it, read every frame."""
    reader = ShardReader(load_index(folder, cache))
    for record in range(len(reader.index)):
        for whole in (True, False):
            read(reader, record, slice(0, reader.index.n_frames[record]), whole)


@st.composite
def video_lists(draw) -> list[Video]:
    """Videos whose frames have the same widths, some around those where a length takes one byte more."""
    width = st.integers(1, 140) | st.just(1024)
    widths = draw(width), draw(width)
    videos = []
    for _ in range(draw(st.integers(1, 4))):
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        rgb, audio = (
            None if n_frames is None else rng.integers(0, 256, (n_frames, size), np.uint8)
            for n_frames, size in zip(draw(st.tuples(*[st.none() | st.integers(0, 12)] * 2)), widths)
        )
        rating = st.tuples(st.integers(-(2**62), 2**62), INT64, st.floats(width=32, allow_nan=False))
        videos.append(
            Video(
                draw(st.text("abcXYZ019_-", min_size=1, max_size=11)).encode(),
                rgb,
                audio,
                draw(st.none() | st.lists(INT64 | st.integers(0, 3861), max_size=6)),
                draw(st.none() | st.lists(rating, max_size=4)),
            )
        )
    whole = rng.integers(0, 256, (2, sum(widths)), np.uint8)  # so that the folder has frames of both features
    return [*videos, Video(b"last", whole[:, : widths[0]], whole[:, widths[0] :])]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(video_lists(), st.data())
def test_random_records_decode_as_protobuf_decodes_them(videos, data):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "train"
        path = write_videos(folder / "a.tfrecord", videos)
        records = parse_shard(path)
        assert len(records) == len(videos)
        for record, video in zip(records, videos):
            assert_context(record, video)
            assert_context(record, decode(serialize(video)))
        reader = ShardReader(load_index(folder, Path(temporary)))
        for row, video in enumerate(videos):
            seen = decode(serialize(video))
            n_frames = min(len(seen.rgb), len(seen.audio))
            frames = seen.frames if n_frames else np.empty((0, reader.frame_dim), np.uint8)
            np.testing.assert_array_equal(read(reader, row, slice(0, n_frames)), frames)
            begin, end = sorted(data.draw(st.tuples(*[st.integers(0, n_frames)] * 2)))
            np.testing.assert_array_equal(read(reader, row, slice(begin, end)), frames[begin:end])
            chosen = np.array(sorted(data.draw(st.sets(st.integers(0, max(n_frames - 1, 0)), max_size=n_frames))), int)
            np.testing.assert_array_equal(read(reader, row, chosen), frames[chosen])


def refuse_protobuf(*_: object) -> None:
    """In the place of what would parse a record with protobuf."""
    raise AssertionError("this record should not need protobuf")


@settings(deadline=None, derandomize=True, max_examples=40)
@given(video_lists(), st.data())
def test_records_written_by_protobuf_are_read_without_it(videos: list[Video], data: st.DataObject) -> None:
    """Context and frames, by the bytes of the shard alone, and no byte that was not asked for."""
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        path = write_videos(Path(temporary) / "a.tfrecord", videos)
        patch.setattr(reading, "_parse_with_protobuf", refuse_protobuf)
        shard = path.read_bytes()
        for record, video in zip(parse_shard(path), videos):
            assert_context(record, video)
            if record.rgb and record.audio:
                check_record(shard, record, path)
            for block, frames in ((record.rgb, video.rgb), (record.audio, video.audio)):
                if not block:
                    assert frames is None
                    continue
                start = record.offset + HEADER_BYTES
                begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(frames))] * 2)))
                first, stop = block_span(start, block, slice(begin, end))
                assert shard[first:stop] == b"".join(frame_fields(frames[begin:end]))
                out = np.empty((end - begin, block.width), np.uint8)
                assert read_frames(shard, start, block, slice(begin, end), out)
                assert out.tobytes() == frames[begin:end].tobytes()


# --- layouts that protobuf reads but its own writer does not produce -----------------------------------


def with_frames(**rgb_fields: bytes) -> bytes:
    """The usual record, the fields of the frames of rgb replaced by number, as `f2=...`."""
    fields = frame_fields(VIDEO.rgb)
    for name, content in rgb_fields.items():
        fields[int(name[1:])] = content
    return context_field(CONTEXT) + lists_field({**LISTS, "rgb": b"".join(fields)})


FRAME = VIDEO.rgb[2].tobytes()
UNKNOWN = {
    "length-delimited": field(9, b"later"),
    "varint": varint(9 << 3) + varint(2**63),
    "fixed64": varint(9 << 3 | 1) + b"12345678",
    "fixed32": varint(9 << 3 | 5) + b"1234",
    "group": varint(9 << 3 | 3) + field(1, b"inside") + varint(9 << 3 | 4),
}
HALF = len(frame_fields(VIDEO.rgb)[0]) * 3
LAYOUTS = {
    "as protobuf writes it": serialize(VIDEO),
    "rgb before audio": context_field(CONTEXT) + lists_field(LISTS),
    "audio before rgb": context_field(CONTEXT) + lists_field({"audio": LISTS["audio"], "rgb": LISTS["rgb"]}),
    "feature lists before context": lists_field(LISTS) + context_field(CONTEXT),
    "more keys": context_field(
        {
            "title": bytes_feature(b"a", b"b"),
            "mean_rgb": float_feature(0.5, -1.0),
            **CONTEXT,
            "empty": b"",
            "empty_list": field(1),
            "dates": integer_feature(-1, 2**40),
        }
    )
    + lists_field(
        {"text": frame_fields(VIDEO.audio)[0], **LISTS, "speed": field(1, float_feature(1.0)), "nothing": b""}
    ),
    "video_id": context_field(context_entries(VIDEO, "video_id")) + lists_field(LISTS),
    "both id and video_id": context_field({"video_id": bytes_feature(b"old"), **CONTEXT}) + lists_field(LISTS),
    "labels not packed": context_field(
        {**CONTEXT, "labels": field(3, *(b"\x08" + varint(label) for label in VIDEO.labels))}
    )
    + lists_field(LISTS),
    "labels packed in two pieces": context_field(
        {**CONTEXT, "labels": field(3, field(1, varint(3), varint(7)), field(1, varint(300), varint(3861)))}
    )
    + lists_field(LISTS),
    "labels of padded varints": context_field(
        {**CONTEXT, "labels": field(3, field(1, *(varint(label, 3) for label in VIDEO.labels)))}
    )
    + lists_field(LISTS),
    **{
        f"labels of varints with bits beyond 64, {last}": context_field(
            {
                **CONTEXT,
                "labels": field(3, field(1, b"\x83" + b"\x80" * 8 + bytes([last]), *map(varint, VIDEO.labels[1:]))),
            }
        )
        + lists_field(LISTS)
        for last in (0x02, 0x40, 0x7E)
    },
    "scores not packed": context_field(
        {**CONTEXT, "segment_scores": field(2, *(b"\x0d" + struct.pack("<f", score) for *_, score in RATINGS))}
    )
    + lists_field(LISTS),
    "a frame's Feature length padded": with_frames(f2=field(1, bytes_feature(FRAME), padding=1)),
    "a frame's BytesList length padded": with_frames(f2=field(1, field(1, field(1, FRAME), padding=2))),
    "a frame's value length padded": with_frames(f2=field(1, field(1, field(1, FRAME, padding=4)))),
    "the first frame's value length padded": with_frames(
        f0=field(1, field(1, field(1, VIDEO.rgb[0].tobytes(), padding=1)))
    ),
    "every frame's value length padded": with_frames(
        **{f"f{row}": field(1, field(1, field(1, frame.tobytes(), padding=1))) for row, frame in enumerate(VIDEO.rgb)}
    ),
    "a frame merged from two Features": with_frames(f2=field(1, field(1), field(1, field(1, FRAME)))),
    **{
        f"an unknown {kind} field {place}": payload
        for kind, extra in UNKNOWN.items()
        for place, payload in {
            "at the top": context_field(CONTEXT) + extra + lists_field(LISTS),
            "in the context": field(1, *(entry(*item) for item in CONTEXT.items()), extra) + lists_field(LISTS),
            "in the feature lists": context_field(CONTEXT) + field(2, extra, *(entry(*item) for item in LISTS.items())),
            "before the frames": context_field(CONTEXT) + lists_field({**LISTS, "rgb": extra + LISTS["rgb"]}),
            "between frames": context_field(CONTEXT)
            + lists_field({**LISTS, "rgb": LISTS["rgb"][:HALF] + extra + LISTS["rgb"][HALF:]}),
            "in a frame": with_frames(f2=field(1, bytes_feature(FRAME), extra)),
            "in a list of the context": context_field({**CONTEXT, "id": field(1, field(1, VIDEO.video_id), extra)})
            + lists_field(LISTS),
            "in a context feature": context_field({**CONTEXT, "labels": CONTEXT["labels"] + extra})
            + lists_field(LISTS),
        }.items()
    },
    "a repeated context key, the last one counts": field(
        1, entry("labels", integer_feature(1, 2)), *(entry(*item) for item in CONTEXT.items())
    )
    + lists_field(LISTS),
    "a repeated feature list key, the last one counts": context_field(CONTEXT)
    + field(2, entry("rgb", frame_fields(VIDEO.rgb)[5]), *(entry(*item) for item in LISTS.items())),
    "the context in two pieces": context_field({"id": CONTEXT["id"]})
    + lists_field(LISTS)
    + context_field({key: value for key, value in CONTEXT.items() if key != "id"}),
    "the feature lists in two pieces": lists_field({"audio": LISTS["audio"]})
    + context_field(CONTEXT)
    + lists_field({"rgb": LISTS["rgb"]}),
    "an entry's value in two pieces": context_field(CONTEXT)
    + field(
        2,
        entry("audio", LISTS["audio"]),
        field(1, field(1, b"rgb"), field(2, LISTS["rgb"][:HALF]), field(2, LISTS["rgb"][HALF:])),
    ),
    "values before keys": field(
        1, *(field(1, field(2, value), field(1, key.encode())) for key, value in CONTEXT.items())
    )
    + field(2, *(field(1, field(2, value), field(1, key.encode())) for key, value in LISTS.items())),
}


@pytest.mark.parametrize("payload", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_legal_layout_decodes_to_the_same_record(payload, tmp_path):
    seen = decode(payload)
    np.testing.assert_array_equal(seen.frames, VIDEO.frames)  # the payload is what its name says
    neighbour = make_video(2, 4, labels=(5,))
    path = write_payloads(tmp_path / "train" / "a.tfrecord", [serialize(neighbour), payload, serialize(neighbour)])
    before, record, after = parse_shard(path)
    assert_context(before, neighbour)
    assert_context(record, VIDEO)
    assert_context(record, seen)
    assert_context(after, neighbour)
    reader = ShardReader(load_index(path.parent, tmp_path))
    for selection in (slice(0, 6), slice(2, 3), slice(0, 2), slice(3, 6), np.array([0, 2, 5]), np.array([1, 4])):
        np.testing.assert_array_equal(read(reader, 1, selection), VIDEO.frames[selection])
    np.testing.assert_array_equal(read(reader, 2, slice(0, 4)), neighbour.frames)


@pytest.mark.parametrize(
    "name",
    [
        "as protobuf writes it",
        "rgb before audio",
        "audio before rgb",
        "feature lists before context",
        "video_id",
        "both id and video_id",
        "labels of padded varints",
        "a repeated context key, the last one counts",
        "a repeated feature list key, the last one counts",
        "the context in two pieces",
        "the feature lists in two pieces",
    ],
)
def test_these_layouts_are_read_without_protobuf(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_parse_with_protobuf", refuse_protobuf)
    path = write_payloads(tmp_path / "a.tfrecord", [LAYOUTS[name]])
    (record,) = parse_shard(path)
    assert_context(record, VIDEO)
    check_record(path.read_bytes(), record, path)


@pytest.mark.parametrize(
    "feature_lists",
    [
        {},
        {"rgb": LISTS["rgb"]},
        {"audio": LISTS["audio"]},
        {"rgb": b"", "audio": LISTS["audio"]},
        {"rgb": b"", "audio": LISTS["audio"] + UNKNOWN["varint"]},
    ],
)
def test_a_video_without_frames_of_a_feature_reads_as_no_frames(feature_lists, tmp_path):
    path = write_payloads(
        tmp_path / "train" / "a.tfrecord", [context_field(CONTEXT) + lists_field(feature_lists), serialize(VIDEO)]
    )
    reader = ShardReader(load_index(path.parent, tmp_path))
    assert reader.index.n_frames.tolist() == [0, 6]
    assert read(reader, 0, slice(0, 0)).shape == (0, RGB + AUDIO)


@pytest.mark.parametrize(
    "labels",
    [
        b"",
        field(3),
        field(3, field(1)),
        field(3, field(2, varint(3), varint(7))),
        field(4, field(1, varint(3), varint(7))),
        field(1, field(2, b"3")),
        field(2, field(2, struct.pack("<f", 3))),
    ],
)
def test_fields_that_no_feature_has_hold_no_values(labels: bytes, tmp_path: Path) -> None:
    payload = context_field({**CONTEXT, "labels": labels}) + lists_field(LISTS)
    assert decode(payload).labels == []
    (record,) = parse_shard(write_payloads(tmp_path / "a.tfrecord", [payload]))
    assert record.labels.dtype == np.int64 and record.labels.size == 0


# --- damage --------------------------------------------------------------------------------------------


SMALL = [serialize(make_video(number, 2, labels=(number,))) for number in (1, 2)]


def test_a_shard_cut_anywhere_is_an_error_naming_the_file(tmp_path):
    path = write_payloads(tmp_path / "train" / "a.tfrecord", SMALL)
    shard = path.read_bytes()
    boundary = HEADER_BYTES + len(SMALL[0]) + 4
    for size in range(len(shard)):
        path.write_bytes(shard[:size])
        if size == boundary:
            assert len(load_index(path.parent, tmp_path)) == 1
            continue
        with pytest.raises(RecordError) as caught:
            load_index(path.parent, tmp_path)
        assert str(path) in str(caught.value)
        start = boundary if size > boundary else 0
        missing = (len(shard) if start else boundary) - size
        if size == 0:
            said = "empty file"
        elif size - start < HEADER_BYTES:
            said = f"record at byte {start}: truncated"
        else:
            said = f"record at byte {start}: truncated, {missing} bytes are missing"
        assert str(caught.value) == f"{path}: {said}; {DOWNLOAD}"
    path.write_bytes(shard)
    assert len(load_index(path.parent, tmp_path)) == 2


def test_a_flipped_bit_in_a_length_or_its_checksum_names_file_and_offset(tmp_path):
    path = write_payloads(tmp_path / "train" / "a.tfrecord", SMALL)
    shard = path.read_bytes()
    for start in (0, HEADER_BYTES + len(SMALL[0]) + 4):
        for bit in range(8 * HEADER_BYTES):
            damaged = bytearray(shard)
            damaged[start + bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(RecordError) as caught:
                load_index(path.parent, tmp_path)
            said = "damaged record length" if start else "damaged record length, or not a TFRecord shard"
            assert str(caught.value) == f"{path}: record at byte {start}: {said}; {DOWNLOAD}"


def test_a_flipped_bit_in_a_payload_or_its_checksum_is_noticed_when_the_whole_record_is_read(tmp_path):
    path = write_payloads(tmp_path / "train" / "a.tfrecord", SMALL)
    shard = path.read_bytes()
    index, stamp = load_index(path.parent, tmp_path), path.stat().st_mtime_ns
    start = int(index.offset[1])
    for position in range(start + HEADER_BYTES, len(shard)):
        damaged = bytearray(shard)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        os.utime(path, ns=(stamp, stamp))
        reader = ShardReader(index)
        read(reader, 0, slice(0, 2), whole=True)
        with pytest.raises(RecordError) as caught:
            read(reader, 1, slice(0, 2), whole=True)
        assert f"{path}: record at byte {start}, video v002: checksum mismatch" in str(caught.value)
    path.write_bytes(shard)
    os.utime(path, ns=(stamp, stamp))
    read(ShardReader(index), 1, slice(0, 2), whole=True)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", ": empty file"),
        (gzip.compress(b"".join(SMALL), mtime=0), ": a gzip file, not a TFRecord shard"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", ": an HTML or XML page, not a TFRecord shard"),
        (b"\n <?xml version='1.0'?><Error/>", ": an HTML or XML page, not a TFRecord shard"),
        (b"these are no records at all", ": damaged record length, or not a TFRecord shard"),
        (b"short", ": truncated"),
    ],
)
def test_files_that_are_not_shards_are_recognized(content, said, tmp_path):
    path = tmp_path / "train" / "a.tfrecord"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        load_index(path.parent, tmp_path)
    assert str(path) in str(caught.value) and f"{said}; {DOWNLOAD}" in str(caught.value)
    with pytest.raises(RecordError) as again:  # of bytes that are no file
        list(record_spans(content, path))
    assert str(again.value) == str(caught.value)


def test_a_shard_that_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "gone.tfrecord", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RecordError) as caught:
            open_shard(path)
        assert str(caught.value) == f"{path}: cannot be read ({said})"


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**32, 1000])
def test_a_length_beyond_the_file_with_a_right_checksum_is_an_error(length, tmp_path):
    header = struct.pack("<Q", length)
    path = write_payloads(tmp_path / "train" / "a.tfrecord", SMALL)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + header + struct.pack("<I", masked_crc(header)) + b"payload")
    with pytest.raises(RecordError, match=f"record at byte {size}: truncated"):
        load_index(path.parent, tmp_path)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.binary(min_size=1, max_size=200))
def test_random_files_are_an_error(content):
    with pytest.raises(RecordError, match="noise.tfrecord"):
        for _ in record_spans(content, Path("noise.tfrecord")):
            pass


def read_payload_or_refuse(payload: bytes) -> None:
    """Put a payload into an otherwise sound shard and do all that a run may do with it."""
    with tempfile.TemporaryDirectory() as temporary:
        path = write_payloads(Path(temporary) / "train" / "a.tfrecord", [payload, serialize(VIDEO)])
        try:
            read_everything(path.parent, Path(temporary))
        except UserError as error:
            assert str(path) in str(error)


def test_damage_in_a_record_that_protobuf_reads_is_named(tmp_path: Path) -> None:
    """Wherever it is found: in parsing, in reading frames and in checking, with the video where it is known."""
    payload = LAYOUTS["every frame's value length padded"]
    path = write_payloads(tmp_path / "a.tfrecord", [payload, payload])
    shard = bytearray(path.read_bytes())
    sound, record = parse_shard(path)
    check_record(shard, sound, path)
    check_record(shard, record, path)
    shard[-100] ^= 1  # in a frame
    where = f"{path}: record at byte {record.offset}"
    with pytest.raises(RecordError) as caught:
        parse_record(shard, record.offset, record.length, path)
    assert str(caught.value).startswith(f"{where}: checksum mismatch")
    for video_id, named in ((b"v001", ", video v001"), (None, "")):
        with pytest.raises(RecordError) as caught:
            read_unusual_frames(shard, record.offset, record.length, path, video_id)
        assert str(caught.value).startswith(f"{where}{named}: checksum mismatch")
    with pytest.raises(RecordError) as caught:
        check_record(shard, record, path)
    assert str(caught.value).startswith(f"{where}, video v001: checksum mismatch")
    check_record(shard, sound, path)


def test_a_shard_that_was_cut_is_named_when_a_record_is_read(tmp_path: Path) -> None:
    path = write_payloads(tmp_path / "a.tfrecord", SMALL)
    shard = path.read_bytes()
    record = parse_shard(path)[1]
    for missing in range(1, len(shard) - record.offset):
        with pytest.raises(RecordError) as caught:
            check_record(shard[:-missing], record, path)
        assert str(caught.value).startswith(f"{path}: record at byte {record.offset}, video v002: checksum mismatch")


@pytest.mark.parametrize(
    "payload, said",
    [
        (b"\x0f", ": not a SequenceExample"),
        (lists_field({"rgb": field(1, bytes_feature(b"a")) + field(1)}), ", video v001: frames of rgb differ in width"),
        (
            lists_field({"audio": field(1, bytes_feature(b"a")) + field(1, bytes_feature(b"bc"))}),
            ", video v001: frames of audio differ in width",
        ),
    ],
)
def test_frames_that_protobuf_cannot_give_are_an_error_naming_the_record(
    payload: bytes, said: str, tmp_path: Path
) -> None:
    """Where the context was sound when it was indexed, and the frames are another matter."""
    path = write_payloads(tmp_path / "a.tfrecord", [*SMALL, payload])
    shard = path.read_bytes()
    offset, length = list(record_spans(shard, path))[-1]
    with pytest.raises(RecordError) as caught:
        read_unusual_frames(shard, offset, length, path, b"v001")
    assert str(caught.value) == f"{path}: record at byte {offset}{said}"


def test_a_varint_without_an_end_at_the_end_of_a_shard_is_an_error(tmp_path):
    path = tmp_path / "a.tfrecord"
    for payload in (bytes([first, second]) for first in (0x80, 0x8A, 0xFF) for second in range(0x80, 0x100)):
        write_payloads(path, [payload])  # in some of these the checksum that follows looks like more of the varint
        with pytest.raises(RecordError, match="a.tfrecord: record at byte 0: not a SequenceExample"):
            parse_shard(path)


def overlong(number: int, content: bytes) -> bytes:
    """A field whose length says one byte more than there is."""
    return varint(number << 3 | 2) + varint(len(content) + 1) + content


@pytest.mark.parametrize(
    "payload",
    [
        overlong(2, b""),
        context_field(CONTEXT) + overlong(2, entry("rgb", LISTS["rgb"])),
        context_field({**CONTEXT, "labels": overlong(3, field(1, varint(3)))}) + lists_field(LISTS),
        context_field({**CONTEXT, "labels": field(3, overlong(1, varint(3)))}) + lists_field(LISTS),
        context_field({**CONTEXT, "labels": field(3, field(1, b"\x83"))}) + lists_field(LISTS),
        context_field({**CONTEXT, "id": overlong(1, field(1, b"v001"))}) + lists_field(LISTS),
        context_field({**CONTEXT, "id": field(1, overlong(1, b"v001"))}) + lists_field(LISTS),
        context_field({**CONTEXT, "segment_scores": field(2, field(1, b"12345678901"))}) + lists_field(LISTS),
        context_field(CONTEXT) + lists_field({**LISTS, "rgb": overlong(1, bytes_feature(b"frame"))}),
        context_field(CONTEXT) + lists_field({**LISTS, "rgb": field(1, overlong(1, field(1, b"frame")))}),
        context_field(CONTEXT) + lists_field(LISTS) + b"\x0f",
        context_field(CONTEXT) + lists_field(LISTS) + b"\x00\x00",
    ],
)
def test_payloads_that_protobuf_refuses_are_errors(payload, tmp_path):
    with pytest.raises(Exception, match="Error parsing message"):
        decode(payload)
    path = write_payloads(tmp_path / "a.tfrecord", [payload])
    with pytest.raises(RecordError, match="a.tfrecord: record at byte 0: not a SequenceExample"):
        parse_shard(path)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.binary(max_size=60) | st.builds(field, st.integers(1, 2), st.binary(max_size=60)))
def test_random_payloads_never_crash_the_parser(payload):
    read_payload_or_refuse(payload)


@settings(deadline=None, derandomize=True, max_examples=1000)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    st.sampled_from(["replace", "insert", "delete"]),
)
def test_garbled_payloads_never_crash_the_parser(changes, how):
    payload = bytearray(serialize(VIDEO))
    for place, value in changes:
        place %= len(payload)
        if how == "insert":
            payload.insert(place, value)
        elif how == "delete":
            del payload[place]
        else:
            payload[place] = value
    read_payload_or_refuse(bytes(payload))


def frames_of_widths(*widths: int) -> bytes:
    """A FeatureList of frames of these widths."""
    return b"".join(field(1, bytes_feature(bytes(width))) for width in widths)


@pytest.mark.parametrize(
    "rgb",
    [
        frames_of_widths(8, 8, 9),
        frames_of_widths(8, 7, 9),
        frames_of_widths(7, 9, 8),
        frames_of_widths(8, 0),
        field(1, bytes_feature(bytes(8), bytes(8))),
        frames_of_widths(8) + field(1),
        field(1) + frames_of_widths(8),
        field(1),
        field(1, integer_feature(1)),
    ],
)
def test_frames_of_differing_width_are_an_error_naming_the_record(rgb, tmp_path):
    path = write_payloads(
        tmp_path / "train" / "a.tfrecord",
        [serialize(VIDEO), context_field(CONTEXT) + lists_field({"rgb": rgb, "audio": frames_of_widths(3, 3, 3)})],
    )
    offset = HEADER_BYTES + len(serialize(VIDEO)) + 4
    with pytest.raises(RecordError, match=f"byte {offset}.*frames of rgb (differ in width|are not one byte)") as caught:
        read_everything(path.parent, tmp_path)
    assert str(path) in str(caught.value)


def test_widths_that_differ_behind_the_first_frame_are_found_by_a_check(tmp_path: Path) -> None:
    """The size of the list is that of frames as wide as the first; only reading all of them shows that they are not."""
    lists = lists_field({"rgb": frames_of_widths(8, 7, 9), "audio": frames_of_widths(3, 3, 3)})
    path = write_payloads(tmp_path / "a.tfrecord", [serialize(VIDEO), context_field(CONTEXT) + lists])
    record = parse_shard(path)[1]
    assert record.rgb_count == 3
    with pytest.raises(RecordError) as caught:
        check_record(path.read_bytes(), record, path)
    said = f"{path}: record at byte {record.offset}, video v001: frames of rgb differ in width"
    assert str(caught.value) == said


def test_widths_that_differ_between_records_are_an_error_naming_both(tmp_path):
    wide = Video(b"wide", np.zeros((2, RGB + 1), np.uint8), np.zeros((2, AUDIO), np.uint8))
    path = write_videos(tmp_path / "train" / "a.tfrecord", [VIDEO, wide])
    said = "video wide: frames are 9 .rgb. and 3 .audio. wide, those of .*byte 0, 8 and 3"
    with pytest.raises(RecordError, match=said) as caught:
        ShardReader(load_index(path.parent, tmp_path))
    assert str(path) in str(caught.value)


def test_padding_that_hides_a_frame_is_an_error(tmp_path):
    """Lengths padded by as many bytes as a frame takes: the size of the list then says one frame too many."""
    frame = field(1, bytes_feature(b"abc"))  # 9 bytes
    padded = [field(1, field(1, field(1, b"abc", padding=3), padding=3), padding=3)]
    path = write_payloads(
        tmp_path / "train" / "a.tfrecord",
        [context_field(CONTEXT) + lists_field({"rgb": b"".join([frame, *padded, frame]), "audio": frame * 4})],
    )
    with pytest.raises(RecordError, match="record at byte 0, video v001"):
        read_everything(path.parent, tmp_path)
    (record,) = parse_shard(path)
    with pytest.raises(RecordError) as caught:
        check_record(path.read_bytes(), record, path)
    said = "the frames do not match the size of their lists"
    assert str(caught.value) == f"{path}: record at byte 0, video v001: {said}"


@pytest.mark.parametrize(
    "key, feature, said",
    [
        ("segment_labels", integer_feature(1, 2), "3 segment_start_times, 2 segment_labels and 3 segment_scores"),
        ("segment_start_times", b"", "0 segment_start_times, 3 segment_labels and 3 segment_scores"),
        ("segment_scores", float_feature(1.0), "must be parallel"),
        ("segment_scores", integer_feature(1, 0, 1), "segment_scores are not floats"),
        ("labels", float_feature(1.0, 2.0), "labels are not integers"),
        ("labels", bytes_feature(b"3"), "labels are not integers"),
        ("segment_start_times", float_feature(0.0, 5.0, 5.0), "segment_start_times are not integers"),
    ],
)
def test_a_malformed_context_is_an_error_naming_the_video(key, feature, said, tmp_path):
    for rest in (LISTS, {**LISTS, "rgb": LISTS["rgb"] + UNKNOWN["varint"]}):  # parsed here, and by protobuf
        path = write_payloads(tmp_path / "a.tfrecord", [context_field({**CONTEXT, key: feature}) + lists_field(rest)])
        with pytest.raises(RecordError) as caught:
            parse_shard(path)
        assert f"{path}: record at byte 0, video v001: " in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    "context",
    [{}, {"id": integer_feature(5)}, {"id": b""}, {"id": bytes_feature(b"a", b"b")}, {"name": bytes_feature(b"a")}],
)
def test_a_record_without_an_id_is_an_error(context, tmp_path):
    path = write_payloads(tmp_path / "a.tfrecord", [context_field(context) + lists_field(LISTS)])
    with pytest.raises(
        RecordError, match="no video id: found the feature lists audio, rgb and the context keys .*; expected"
    ) as caught:
        parse_shard(path)
    assert f"{path}: record at byte 0: " in str(caught.value)
