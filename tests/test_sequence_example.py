"""Serialized messages and framing equal TensorFlow's, byte by byte."""

import importlib
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import field, make_video, serialize
from yt8m.data.records import framed
from yt8m.data.sequence_example import messages
from yt8m.making.shard_writing import Rating, VideoRecord, write_shard

pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
VIDEO = make_video(1, 6, labels=(3, 7, 300, 3861), ratings=((0, 7, 1.0), (5, 7, 0.0)))


@pytest.fixture(scope="module", name="tf")
def tensorflow() -> ModuleType:
    """TensorFlow without its notices, after triton: torch's first optimizer imports triton, which crashes the process
    where TensorFlow came first (triton 3.7.1, TensorFlow 2.21.0)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with suppress(ImportError):
        importlib.import_module("triton")
    return importlib.import_module("tensorflow")


def understood(message_class: Any, payload: bytes) -> bytes | None:
    """What a class of messages makes of a payload, serialized; None where it refuses it."""
    try:
        serialized: bytes = message_class.FromString(payload).SerializeToString(deterministic=True)
    except DecodeError:
        return None
    return serialized


@pytest.mark.parametrize("name", sorted(vars(messages())))
def test_each_message_has_the_fields_of_tensorflow(name: str, tf: ModuleType) -> None:
    def described(message_class: Any) -> list[tuple[Any, ...]]:
        return [
            (
                field.name,
                field.number,
                field.type,
                field.is_repeated,
                field.is_packed,
                field.message_type and field.message_type.full_name,
                field.containing_oneof and field.containing_oneof.name,
            )
            for field in message_class.DESCRIPTOR.fields
        ]

    assert described(getattr(messages(), name)) == described(getattr(tf.train, name))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_damaged_payloads_are_understood_alike(tf: ModuleType, data: st.DataObject) -> None:
    payload = bytearray(serialize(VIDEO))
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload += data.draw(st.sampled_from([b"", field(9, b"unknown"), b"\x0a"]))
    assert understood(messages().SequenceExample, bytes(payload)) == understood(
        tf.train.SequenceExample, bytes(payload)
    )


def test_tensorflow_reads_the_shards_that_are_written(tf: ModuleType, tmp_path: Path) -> None:
    """Its own C++ decoders, of the file and of the messages."""
    rng = np.random.default_rng(5)
    videos = [
        VideoRecord(
            f"video-{number}",
            {
                "rgb": rng.integers(0, 256, (seconds, 8), np.uint8),
                "audio": rng.integers(0, 256, (seconds, 3), np.uint8),
            },
            [number, 3861],
            [Rating(5, 7, 1), Rating(10, 2**40, 0)],
        )
        for number, seconds in enumerate((1, 12, 300))
    ]
    path = tmp_path / "a.tfrecord"
    write_shard(path, videos)
    payloads = [payload.numpy() for payload in tf.data.TFRecordDataset(str(path))]
    assert len(payloads) == len(videos)
    for payload, video in zip(payloads, videos):
        context, lists = tf.io.parse_single_sequence_example(
            payload,
            {
                "id": tf.io.FixedLenFeature([], tf.string),
                "labels": tf.io.VarLenFeature(tf.int64),
                "segment_start_times": tf.io.VarLenFeature(tf.int64),
                "segment_end_times": tf.io.VarLenFeature(tf.int64),
                "segment_labels": tf.io.VarLenFeature(tf.int64),
                "segment_scores": tf.io.VarLenFeature(tf.float32),
            },
            {key: tf.io.FixedLenSequenceFeature([], tf.string) for key in video.features},
        )
        assert context["id"].numpy().decode() == video.video_id
        assert context["labels"].values.numpy().tolist() == list(video.labels or ())
        found = zip(
            *(context[f"segment_{key}"].values.numpy() for key in ("start_times", "end_times", "labels", "scores"))
        )
        assert list(found) == [(rating.start, rating.end, rating.label, rating.score) for rating in video.ratings]
        for key, frames in video.features.items():
            assert lists[key].numpy().tolist() == [frame.tobytes() for frame in frames]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_records_are_framed_as_tensorflow_frames_them(
    tf: ModuleType, tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "framed.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert path.read_bytes() == b"".join(part for payload in payloads for part in framed(payload))
