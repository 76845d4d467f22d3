"""Test metadata: the segment and video of each row."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import Outcome
from tests.shards import make_video, serialize, write_payloads
from yt8m.common.errors import UserError
from yt8m.data.candidates import (
    CANDIDATES_FILE,
    LOGGER,
    Candidates,
    find_candidates,
    load_candidates,
    load_test_index,
    save_candidates,
)
from yt8m.data.features import feature_contract, save_contract
from yt8m.data.frames import Trim
from yt8m.data.index import Index, load_index
from yt8m.data.records import RAISE


def index_of(videos: list[tuple[str, int, int]]) -> Index:
    """An index of videos, (id, frames of rgb, frames of audio), without anything that metadata does not need."""
    none, zeros = np.empty(0, np.int64), np.zeros(len(videos), np.int64)
    return Index(
        folder=Path("data/segment/test"),
        shards=np.array(["test0000.tfrecord"]),
        stamps=np.zeros((1, 4), np.int64),
        shard=zeros,
        offset=1000 * np.arange(len(videos)),
        length=zeros,
        video_id=np.array([video_id for video_id, _, _ in videos], np.bytes_),
        rgb_start=zeros,
        rgb_count=np.array([rgb for _, rgb, _ in videos], np.int64),
        rgb_width=zeros + 1024,
        audio_start=zeros,
        audio_count=np.array([audio for _, _, audio in videos], np.int64),
        audio_width=zeros + 128,
        labels=none,
        label_ends=zeros,
        rating_start=none,
        rating_label=none,
        rating_score=none,
        rating_ends=zeros,
    )


def _slow_rows(videos: list[tuple[str, int, int]]) -> list[tuple[int, int, bytes]]:
    """Record, segment index and name of each candidate segment, one by one."""
    rows = []
    seen = set()
    has_audio = any(audio for _, _, audio in videos)
    for record, (video_id, rgb, audio) in enumerate(videos):
        if video_id in seen:
            continue
        seen.add(video_id)
        segments = list(
            range(0, min(rgb, audio) if has_audio else rgb, 5)
        )  # start seconds; a partial last segment counts
        for segment in range(6, len(segments) - 2):
            rows.append((record, segment, f"{video_id}:{segments[segment]}".encode()))
    return rows


COUNT = st.one_of(st.integers(0, 300), st.integers(35, 52))
VIDEOS = st.lists(
    st.tuples(st.sampled_from(["aB3d", "0012", "NaN", "x", "zZ_-"]), COUNT, COUNT), min_size=1, max_size=8
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(VIDEOS)
def test_rows_are_the_candidate_segments_in_order(videos: list[tuple[str, int, int]]) -> None:
    expected = _slow_rows(videos)
    if not expected:
        with pytest.raises(UserError, match="data/segment/test: no video is long enough"):
            find_candidates(index_of(videos))
        return
    candidates = find_candidates(index_of(videos))
    assert candidates.n_rows == len(expected)
    records = candidates.records[candidates.row_videos()].tolist()
    assert list(zip(records, candidates.row_segments().tolist(), candidates.row_names().tolist())) == expected
    assert candidates.video_ids[candidates.row_videos()].tolist() == [name.split(b":")[0] for _, _, name in expected]
    assert candidates.row_starts.tolist() == [
        row for row, (record, _, _) in enumerate(expected) if row == 0 or record != expected[row - 1][0]
    ]


def test_a_repeated_video_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.addHandler(caplog.handler)  # the command's own logger does not pass its records on
    try:
        with caplog.at_level(logging.WARNING, LOGGER.name):
            candidates = find_candidates(index_of([("same", 50, 50), ("else", 45, 45), ("same", 300, 300)]))
    finally:
        LOGGER.removeHandler(caplog.handler)
    assert candidates.row_names().tolist() == [b"same:30", b"same:35", b"else:30"]
    assert {record.getMessage() for record in caplog.records} == {
        "data/segment/test: 1 records repeat a video id and are left out"
    }


def _meta() -> Candidates:
    return find_candidates(index_of([("aaaa", 50, 50), ("shrt", 20, 20), ("bbbb", 45, 61)]))  # 2 + 0 + 1 rows


def test_digest_tells_row_orders_apart() -> None:
    videos = [("aaaa", 50, 50), ("bbbb", 45, 45)]
    digests = {
        find_candidates(index_of(order)).digest
        for order in (videos, videos[::-1], videos[:1], [("aaaa", 45, 45), ("bbbb", 50, 50)])
    }
    assert len(digests) == 4
    assert find_candidates(index_of(videos)).digest in digests


def test_metadata_survives_saving(tmp_path: Path) -> None:
    path = save_candidates(_meta(), tmp_path / "cache")
    loaded = load_candidates(tmp_path / "cache")
    assert path == tmp_path / "cache" / CANDIDATES_FILE
    assert [entry.name for entry in path.parent.iterdir()] == [CANDIDATES_FILE]
    assert loaded.digest == _meta().digest
    assert loaded.records.tolist() == [0, 2]
    assert loaded.row_names().tolist() == [b"aaaa:30", b"aaaa:35", b"bbbb:30"]


def test_shards_whose_records_have_moved_need_new_metadata(data_dir: Path) -> None:
    candidates = find_candidates(load_index(data_dir / "segment" / "test", data_dir / "cache"))
    assert len(load_test_index(data_dir, candidates, RAISE)) == len(candidates.records)
    first = sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[0]
    write_payloads(first.with_name("a.tfrecord"), [serialize(make_video(1, 9))])  # without a segment to rank
    assert find_candidates(load_index(data_dir / "segment" / "test", data_dir / "cache")).digest == candidates.digest
    with pytest.raises(UserError, match="not the shards that the test metadata was made from; run `python -m"):
        load_test_index(data_dir, candidates, RAISE)


def test_missing_metadata_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test_meta.npz: no test metadata; run `python -m yt8m.prepare_test_meta`"):
        load_candidates(tmp_path)


def test_ids_that_a_submission_cannot_hold_are_refused(tmp_path: Path) -> None:
    videos = [("D:/v1.mp4", 50, 50), ("fine", 50, 50), ("short one", 9, 9)]
    with pytest.raises(
        UserError, match="data/segment/test: .* the video ids 'D:/v1.mp4', 'short one'; an id may .*blank"
    ):
        find_candidates(index_of(videos))
    old = Candidates(np.arange(1), np.array([b"D:/v1.mp4"]), np.array([2]))
    save_candidates(old, tmp_path)
    with pytest.raises(
        UserError, match="test_meta.npz: .* 'D:/v1.mp4'; .*other ids, and run .*prepare_test_meta` again"
    ):
        load_candidates(tmp_path)


def _pickled_meta(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            records=np.array([{}], object),
            video_ids=np.array([b"aaaa"]),
            row_ends=np.array([1]),
            allow_pickle=True,
        )


def _incomplete_meta(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, records=np.array([0]))


def _truncated_meta(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flipped_meta(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"aaaa")] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _pickled_meta,
        _incomplete_meta,
        _truncated_meta,
        _flipped_meta,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>"),
        lambda path: path.write_bytes(b"\x80\x04N."),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
    ],
)
def test_damaged_metadata_names_the_remedy(damage, tmp_path: Path) -> None:
    damage(save_candidates(_meta(), tmp_path))
    with pytest.raises(UserError, match="test_meta.npz: cannot be read .*run `python -m yt8m.prepare_test_meta` again"):
        load_candidates(tmp_path)


def test_own_data_have_all_their_segments_as_candidates(data_dir: Path, command: Callable[..., Outcome]) -> None:
    """The challenge's rule is a setting of the data set, which metadata, predictions and truth follow."""
    index = load_index(data_dir / "segment" / "test", data_dir / "cache")
    save_contract(feature_contract(1024, 128).model_copy(update={"trim": (5, 0)}), data_dir / "segment" / "test")
    assert command("prepare_test_meta", "--data-dir", data_dir).status == 0
    candidates = load_candidates(data_dir / "cache")
    assert candidates.trim == Trim(1, 0)
    assert candidates.n_rows == sum(-(-index.n_frames // 5) - 1)
    assert candidates.row_names()[:2].tolist() == [candidates.video_ids[0] + b":5", candidates.video_ids[0] + b":10"]
    assert candidates.digest != find_candidates(index).digest
    assert len(load_test_index(data_dir, candidates, RAISE)) == len(index)
    (data_dir / "segment" / "test" / "features.json").unlink()
    with pytest.raises(UserError, match="not the shards that the test metadata was made from"):
        load_test_index(data_dir, candidates, RAISE)


def test_metadata_of_an_earlier_release_has_the_challenges_rule(tmp_path: Path) -> None:
    np.savez(tmp_path / "test_meta.npz", records=np.arange(1), video_ids=np.array([b"aaaa"]), row_ends=np.array([2]))
    assert load_candidates(tmp_path).row_names().tolist() == [b"aaaa:30", b"aaaa:35"]
