"""Test metadata and prediction files: which row is which segment, and that no half-made file is taken for a whole."""
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.errors import UserError
from yt8m.index import Index
from yt8m.memmaps import (
    LOGGER, META_NAME, PredictionFile, TestMeta, load_test_meta, make_test_meta, prediction_files, quantize,
    save_test_meta)

ORIGIN = {"model": "4f", "test_meta": "not this one", "offset": 3}
NEWER = {**ORIGIN, "model": "5a"}


def _index(videos: list[tuple[str, int, int]]) -> Index:
    """An index of videos, (id, frames of rgb, frames of audio), without anything that metadata does not need."""
    none, zeros = np.empty(0, np.int64), np.zeros(len(videos), np.int64)
    return Index(
        folder=Path("data/segment/test"), shards=np.array(["test0000.tfrecord"]), stamps=np.zeros((1, 2), np.int64),
        shard=zeros, offset=1000 * np.arange(len(videos)), length=zeros,
        video_id=np.array([video_id for video_id, _, _ in videos], np.bytes_),
        rgb_start=zeros, rgb_count=np.array([rgb for _, rgb, _ in videos], np.int64), rgb_width=zeros + 1024,
        audio_start=zeros, audio_count=np.array([audio for _, _, audio in videos], np.int64),
        audio_width=zeros + 128, labels=none, label_ends=zeros, rating_start=none, rating_label=none,
        rating_score=none, rating_ends=zeros)


def _slow_rows(videos: list[tuple[str, int, int]]) -> list[tuple[int, int, bytes]]:
    """Record, segment index and name of each candidate segment, one by one."""
    rows = []
    seen = set()
    for record, (video_id, rgb, audio) in enumerate(videos):
        if video_id in seen:
            continue
        seen.add(video_id)
        segments = list(range(0, min(rgb, audio), 5))  # start seconds; a partial last segment counts
        for segment in range(6, len(segments) - 2):
            rows.append((record, segment, f"{video_id}:{segments[segment]}".encode()))
    return rows


COUNT = st.one_of(st.integers(0, 300), st.integers(35, 52))
VIDEOS = st.lists(st.tuples(st.sampled_from(["aB3d", "0012", "NaN", "x", "zZ_-"]), COUNT, COUNT),
                  min_size=1, max_size=8)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(VIDEOS)
def test_rows_are_the_candidate_segments_in_order(videos: list[tuple[str, int, int]]) -> None:
    expected = _slow_rows(videos)
    if not expected:
        with pytest.raises(UserError, match="data/segment/test: no video is long enough"):
            make_test_meta(_index(videos))
        return
    meta = make_test_meta(_index(videos))
    assert meta.n_rows == len(expected)
    records = meta.records[meta.row_videos()].tolist()
    assert list(zip(records, meta.row_segments().tolist(), meta.row_names().tolist())) == expected
    assert meta.video_ids[meta.row_videos()].tolist() == [name.split(b":")[0] for _, _, name in expected]
    assert meta.row_starts.tolist() == [
        row for row, (record, _, _) in enumerate(expected) if row == 0 or record != expected[row - 1][0]]


def test_a_repeated_video_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.addHandler(caplog.handler)  # the command's own logger does not pass its records on
    try:
        with caplog.at_level(logging.WARNING, LOGGER.name):
            meta = make_test_meta(_index([("same", 50, 50), ("else", 45, 45), ("same", 300, 300)]))
    finally:
        LOGGER.removeHandler(caplog.handler)
    assert meta.row_names().tolist() == [b"same:30", b"same:35", b"else:30"]
    assert {record.getMessage() for record in caplog.records} == {
        "data/segment/test: 1 records repeat a video id and are left out"}


def _meta() -> TestMeta:
    return make_test_meta(_index([("aaaa", 50, 50), ("shrt", 20, 20), ("bbbb", 45, 61)]))  # 2 + 0 + 1 rows


def test_digest_tells_row_orders_apart() -> None:
    videos = [("aaaa", 50, 50), ("bbbb", 45, 45)]
    digests = {make_test_meta(_index(order)).digest()
               for order in (videos, videos[::-1], videos[:1], [("aaaa", 45, 45), ("bbbb", 50, 50)])}
    assert len(digests) == 4
    assert make_test_meta(_index(videos)).digest() in digests


def test_metadata_survives_saving(tmp_path: Path) -> None:
    path = save_test_meta(_meta(), tmp_path / "cache")
    loaded = load_test_meta(tmp_path / "cache")
    assert path == tmp_path / "cache" / META_NAME
    assert [entry.name for entry in path.parent.iterdir()] == [META_NAME]
    assert loaded.digest() == _meta().digest()
    assert loaded.records.tolist() == [0, 2]
    assert loaded.row_names().tolist() == [b"aaaa:30", b"aaaa:35", b"bbbb:30"]


def test_missing_metadata_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test_meta.npz: no test metadata; run `python -m yt8m.prepare_test_meta`"):
        load_test_meta(tmp_path)


def _pickled_meta(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, records=np.array([{}], object), video_ids=np.array([b"aaaa"]), row_ends=np.array([1]),
                 allow_pickle=True)


def _incomplete_meta(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, records=np.array([0]))


def _truncated_meta(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flipped_meta(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"aaaa")] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [
    _pickled_meta, _incomplete_meta, _truncated_meta, _flipped_meta, lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"<html>"), lambda path: path.write_bytes(b"\x80\x04N."),
    lambda path: np.save(path.open("wb"), np.zeros(3))])
def test_damaged_metadata_names_the_remedy(damage, tmp_path: Path) -> None:
    damage(save_test_meta(_meta(), tmp_path))
    with pytest.raises(UserError, match="test_meta.npz: cannot be read .*run `python -m yt8m.prepare_test_meta` again"):
        load_test_meta(tmp_path)


def _write(file: PredictionFile, value: int, origin: dict, shape: tuple[int, int] = (3, 2)) -> None:
    with file.writing(*shape, origin) as values:
        values[:] = value


def test_predictions_appear_only_when_complete(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "predictions" / "nextvlad-2_0.npy")
    with file.writing(3, 2, ORIGIN) as values:
        values[:2] = 17
        assert not file.path.exists()
        values[2] = 9999
    assert np.load(file.path, allow_pickle=False).tolist() == [[17, 17], [17, 17], [9999, 9999]]
    assert np.load(file.path, allow_pickle=False).dtype == np.int16
    origin_path = tmp_path / "predictions" / "nextvlad-2_0.json"
    assert json.loads(origin_path.read_text(encoding="utf-8")) == ORIGIN
    assert sorted(file.path.parent.iterdir()) == [origin_path, file.path]


def test_an_error_leaves_nothing_of_new_predictions(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    with pytest.raises(KeyboardInterrupt), file.writing(3, 2, ORIGIN) as values:
        values[:] = 1
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_earlier_predictions_alone(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 1, ORIGIN)
    with pytest.raises(RuntimeError), file.writing(3, 2, NEWER) as values:
        values[:] = 2
        raise RuntimeError
    assert np.load(file.path).tolist() == [[1, 1]] * 3
    assert file.is_current(ORIGIN)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "a.json"}


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_new_values_never_lie_beside_an_old_origin(survived: int, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 1, ORIGIN)
    replace, calls = os.replace, []

    def dying(source: Path, target: Path) -> None:
        """The process dies when it has replaced `survived` files."""
        if len(calls) == survived:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    if survived < 2:
        with pytest.raises(KeyboardInterrupt):
            _write(file, 2, NEWER)
    else:
        _write(file, 2, NEWER)
    new = np.load(file.path).tolist() == [[2, 2]] * 3
    assert new == (survived > 0)
    assert not (new and file.is_current(ORIGIN))
    assert file.is_current(NEWER) == (survived == 2)


def test_is_current_needs_values_and_the_same_origin(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    assert not file.is_current(ORIGIN)
    _write(file, 1, ORIGIN)
    assert file.is_current(ORIGIN)
    assert not file.is_current({**ORIGIN, "offset": 2})
    assert not file.is_current({"model": "4f"})
    origin_path = tmp_path / "a.json"
    text = origin_path.read_text(encoding="utf-8")
    for damaged in (b"", b"{", b"\xff", b"[]"):
        origin_path.write_bytes(damaged)
        assert not file.is_current(ORIGIN)
    origin_path.unlink()
    assert not file.is_current(ORIGIN)
    origin_path.write_text(text, encoding="utf-8")
    assert file.is_current(ORIGIN)
    file.path.unlink()
    assert not file.is_current(ORIGIN)


def test_read_gives_the_values_of_this_metadata(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, {"test_meta": _meta().digest()})
    values = file.read(_meta(), 2)
    assert isinstance(values, np.memmap)
    assert values.tolist() == [[5, 5]] * 3
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


REMEDY = "run `python -m yt8m.inference_memmap` again"


@pytest.mark.parametrize("origin", [ORIGIN, {}, {"test_meta": None}, []])
def test_read_refuses_values_of_other_metadata(origin: dict, tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, origin)
    with pytest.raises(UserError, match=f"a.npy: made for other test metadata; {REMEDY}"):
        file.read(_meta(), 2)


@pytest.mark.parametrize("array, found", [
    (np.zeros((4, 2), np.int16), r"int16 \(4, 2\)"), (np.zeros((3, 3), np.int16), r"int16 \(3, 3\)"),
    (np.zeros(3, np.int16), r"int16 \(3,\)"), (np.zeros((3, 2), np.float32), r"float32 \(3, 2\)"),
    (np.zeros((3, 2), np.uint16), r"uint16 \(3, 2\)")])
def test_read_names_a_wrong_shape_or_type(array: np.ndarray, found: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=rf"a.npy: {found}, but .* ask for int16 \(3, 2\); {REMEDY}"):
        PredictionFile(tmp_path / "a.npy").read(_meta(), 2)


def test_read_takes_predictions_made_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [2, 3], [4, 9999]], np.int16))
    assert PredictionFile(tmp_path / "a.npy").read(_meta(), 2).tolist() == [[0, 1], [2, 3], [4, 9999]]


@pytest.mark.parametrize("value", [-1, 10_000])
def test_read_refuses_values_beyond_the_scale(value: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [2, value], [4, 5]], np.int16))
    with pytest.raises(UserError, match=f"a.npy: expected values of 0 to 9999, found .*{value}.*; {REMEDY}"):
        PredictionFile(tmp_path / "a.npy").read(_meta(), 2)


def _zip(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros((3, 2), np.int16))


@pytest.mark.parametrize("damage", [
    lambda path: np.save(path, np.array([[{}, 1]] * 3, object), allow_pickle=True), _zip,
    lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(path.read_bytes()[:20]),
    lambda path: path.write_bytes(path.read_bytes().replace(b"(3, 2)", b"(3, (")),
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"PK\x03\x04"),
    lambda path: path.write_bytes(b"<html>" * 40)])
def test_read_names_a_damaged_file(damage, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2), np.int16))
    damage(path)
    with pytest.raises(UserError, match=rf"a.npy: cannot be read as a memory map \(.*\); {REMEDY}"):
        PredictionFile(path).read(_meta(), 2)


def test_read_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a.npy: no such predictions; {REMEDY}"):
        PredictionFile(tmp_path / "a.npy").read(_meta(), 2)


def test_prediction_files_are_all_or_those_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predictions: no predictions; run `python -m yt8m.inference_memmap`"):
        prediction_files(tmp_path, None)
    directory = tmp_path / "predictions"
    for name in ("nextvlad-2_1", "dbof-3_0", "v1.5_2"):
        _write(PredictionFile(directory / f"{name}.npy"), 1, ORIGIN)
    (directory / ".half.npy").write_bytes(b"")
    assert [file.path.stem for file in prediction_files(tmp_path, None)] == ["dbof-3_0", "nextvlad-2_1", "v1.5_2"]
    assert [file.path for file in prediction_files(tmp_path, ["v1.5_2", "dbof-3_0"])] == [
        directory / "v1.5_2.npy", directory / "dbof-3_0.npy"]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_quantize_rounds_to_0_to_9999(probabilities: list[float]) -> None:
    for dtype in (np.float32, np.float64):
        values = quantize(np.array(probabilities, dtype))
        assert values.dtype == np.int16
        assert values.min() >= 0
        assert values.max() <= 9999
        assert np.abs(values - np.array(probabilities) * 9999).max() <= 0.5 + 1e-3  # float32 has 7 digits
        assert (np.diff(values[np.argsort(probabilities)]) >= 0).all()
    assert quantize(np.array([0, 0.5 / 9999, 0.6 / 9999, 1])).tolist() == [0, 0, 1, 9999]
