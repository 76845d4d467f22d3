"""Damaged shards: reported by `check_data`, refused by a run or, with `--on-error skip`, left out and counted."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.shards import AUDIO, RGB, Video, index_videos, make_video, serialize, write_payloads, write_videos
from tests.small_models import DBOF, TRAINING, agnostic_folder, video_folder, write_config
from yt8m.common.errors import RecordError, UserError
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import RatedSegmentDataset, VideoBatch, VideoDataset
from yt8m.data.index import Index, check_folder, load_index
from yt8m.data.order import SequentialBatches
from yt8m.data.records import Damage
from yt8m.data.vocabulary import Vocabulary

Command = Callable[..., Outcome]
VOCABULARY = Vocabulary(np.array([3, 7]), ("a", "b"))
VIDEOS = [make_video(number, 50 + number, (3,), ((10, 7, 1.0), (45, 3, 0.0))) for number in range(6)]


def flip(path: Path, *positions: int) -> None:
    """Flip a bit at each of these places of a shard, and leave no trace in its size and time."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    for position in positions:
        content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def frame_position(index: Index, record: int, second: int) -> int:
    """Where the wire header of a frame of rgb lies in its shard."""
    payload = int(index.offset[record]) + 12
    stride = index.rgb_width[record] + 6  # of these narrow frames
    return payload + int(index.rgb_start[record]) + second * int(stride)


@pytest.fixture(name="index")
def fixture_index(tmp_path: Path) -> Index:
    """Two shards of three videos each."""
    return index_videos(tmp_path, [VIDEOS[:3], VIDEOS[3:]])


# --- a run -----------------------------------------------------------------------------------------------


def test_damage_is_raised_or_remembered_once(caplog: pytest.LogCaptureFixture) -> None:
    error = RecordError(Path("a.tfrecord"), "broken", 17, b"vid")
    with pytest.raises(RecordError) as caught:
        Damage().handle(error)
    assert str(caught.value) == "a.tfrecord: record at byte 17, video vid: broken"
    damage = Damage(skip=True)
    for _ in range(3):
        damage.handle(error)
    damage.handle(RecordError(Path("b.tfrecord"), "empty"))
    damage.report()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["left out"] * 2 + [
        "left out because of damage"
    ]
    assert "2 records, ends of shards or films, all named above, of 2 files" in caplog.text
    assert caplog.text.strip().endswith("Download again: a.tfrecord b.tfrecord")
    caplog.clear()
    Damage(skip=True).report()
    assert not caplog.records


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_lacks_the_videos_that_cannot_be_read_and_nothing_else(index: Index, workers: int) -> None:
    (whole,) = BatchLoader(VideoDataset(index, VOCABULARY, -1, None), SequentialBatches(6, 6), 0)
    flip(index.folder / "train00.tfrecord", frame_position(index, 1, 33))
    dataset = VideoDataset(index, VOCABULARY, -1, None)
    with pytest.raises(RecordError, match="train00.tfrecord: record at byte .*, video v001: checksum mismatch"):
        list(BatchLoader(dataset, SequentialBatches(6, 6), workers))
    damage = Damage(skip=True)
    dataset = VideoDataset(index, VOCABULARY, -1, None, damage)
    for _ in range(2):
        (batch,) = BatchLoader(dataset, SequentialBatches(6, 6), workers)
        assert batch.examples.tolist() == [0, 2, 3, 4, 5]
        rest = np.array([0, 2, 3, 4, 5])
        expected = VideoBatch(whole.labels[rest], whole.videos.select(rest), whole.examples[rest])
        torch.testing.assert_close(batch._replace(memory=None), expected, rtol=0, atol=0)
    assert [error.video_id for error in damage.left_out.values()] == [b"v001"]


def test_a_batch_of_segments_lacks_those_whose_segment_or_video_cannot_be_read(index: Index) -> None:
    flip(index.folder / "train00.tfrecord", frame_position(index, 1, 33))  # in the context, in no segment
    flip(index.folder / "train01.tfrecord", frame_position(index, 5, 12))  # in the first segment, not in the context
    expected = {False: [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5], True: [0, 0, 2, 2, 3, 3, 4, 4, 5]}
    for context, records in expected.items():
        dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(2), 3, context, -1, None, Damage(skip=True))
        (batch,) = BatchLoader(dataset, SequentialBatches(12, 12), 0)
        assert batch.examples.tolist() == records
        for part in (batch.segments, batch.classes, batch.negatives, batch.video_index):
            assert len(part) == len(records)
        if context:
            assert batch.videos.n_videos == 5
            for row, record in enumerate(records):
                first = batch.videos.padded()[batch.video_index[row], 0]
                np.testing.assert_array_equal(first, VIDEOS[record].frames[30])


@pytest.mark.parametrize("kind", ["videos", "segments", "context"])
def test_a_batch_of_damaged_videos_alone_is_empty_and_as_wide_as_others(index: Index, kind: str) -> None:
    os.remove(index.folder / "train01.tfrecord")
    damage = Damage(skip=True)
    if kind == "videos":
        dataset = VideoDataset(index, VOCABULARY, -1, None, damage)
    else:
        dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(2), 3, kind == "context", -1, None, damage)
    full, empty = BatchLoader(dataset, SequentialBatches(len(dataset), len(dataset) // 2), 0)
    assert set(full.examples.tolist()) == {0, 1, 2}
    for name, whole, nothing in zip(full._fields, full, empty):
        if whole is None:
            assert nothing is None
        if whole is None or name == "memory":
            continue
        if name == "videos":
            assert nothing.n_videos == 0 and nothing.padded().shape == (0, 1, whole.frames.shape[1])
            assert nothing.frames.dtype == whole.frames.dtype
            continue
        assert nothing.dtype == whole.dtype and nothing.ndim == whole.ndim
        if name == "totals":
            assert nothing.tolist() == [0, 0]
        else:
            assert len(nothing) == 0
            assert nothing.shape[2:] == whole.shape[2:]
    for part in (empty, *empty.split(3)):
        assert part.examples.shape == (0,)


def test_the_index_holds_what_comes_before_the_damage(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    sound = [serialize(video) for video in VIDEOS[:3]]
    write_payloads(folder / "a.tfrecord", [sound[0], b"no record", sound[1]])
    cut = write_payloads(folder / "b.tfrecord", [sound[2], sound[1]])
    cut.write_bytes(cut.read_bytes()[:-9])
    (folder / "c.tfrecord").write_bytes(b"")
    for _ in range(2):  # the second time from the cache as far as that goes
        damage = Damage(skip=True)
        index = load_index(folder, tmp_path / "cache", damage)
        assert index.video_id.tolist() == [b"v000", b"v001", b"v002"]
        assert index.shards.tolist() == ["a.tfrecord", "b.tfrecord", "c.tfrecord"]  # folds stay as they are
        assert sorted(error.path.name for error in damage.left_out.values()) == [
            "a.tfrecord",
            "b.tfrecord",
            "c.tfrecord",
        ]
        with pytest.raises(RecordError, match="a.tfrecord.*3 shards are damaged"):
            load_index(folder, tmp_path / "cache")
    (folder / "a.tfrecord").unlink()
    (folder / "b.tfrecord").unlink()
    with pytest.raises(UserError, match="no readable record in 1 shards"):
        load_index(folder, tmp_path / "cache", Damage(skip=True))


def test_frames_of_another_width_than_most_are_damage(tmp_path: Path) -> None:
    wide = Video(b"wide", np.zeros((50, RGB + 1), np.uint8), np.zeros((50, AUDIO), np.uint8), (3,))
    index = index_videos(tmp_path, [[wide], VIDEOS[:2]])
    with pytest.raises(RecordError, match="video wide: frames are 9 .rgb. and 3 .audio. wide, those of .*8 and 3"):
        VideoDataset(index, VOCABULARY, -1, None)
    dataset = VideoDataset(index, VOCABULARY, -1, None, Damage(skip=True))
    (batch,) = BatchLoader(dataset, SequentialBatches(3, 3), 0)
    assert batch.examples.tolist() == [1, 2] and batch.videos.frames.shape[1] == RGB + AUDIO


def test_training_leaves_damage_out_and_says_so_at_the_end(command: Command, data_dir: Path, tmp_path: Path) -> None:
    cut, lost = sorted((data_dir / "video" / "train").glob("*.tfrecord"))[1:3]
    cut.write_bytes(cut.read_bytes()[:-100])
    lost.write_bytes(b"<html>404 Not Found</html>")
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    arguments = ("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu")
    refused = command(*arguments)
    assert refused.status == 2 and f"{cut}: record at byte" in refused.err and "2 shards are damaged" in refused.err
    assert not (data_dir / "cache" / "video").exists()
    outcome = command(*arguments, "--on-error", "skip")
    assert outcome.status == 0, outcome.err
    assert (data_dir / "cache" / "video" / "x" / "model.pth").is_file()
    last = outcome.err.strip().splitlines()[-1]
    assert "left out because of damage: 2 records" in last and last.endswith(f"Download again: {cut} {lost}")
    wrong = command(*arguments, "--on-error", "ignore")
    assert wrong.status == 2 and "--on-error" in wrong.err


def test_predictions_of_damaged_videos_are_0_until_they_are_mended(command: Command, data_dir: Path) -> None:
    agnostic_folder(data_dir / "cache" / "segment" / "m_0", DBOF, data_dir)
    where = ("--data-dir", data_dir, "--on-error", "skip")
    assert command("prepare_test_meta", *where).status == 0
    predictions = data_dir / "cache" / "predictions" / "m_0.npy"
    assert command("inference_memmap", *where, "--device", "cpu").status == 0
    whole = np.load(predictions)
    origin = json.loads(predictions.with_suffix(".json").read_text(encoding="utf-8"))
    predictions.unlink()
    index = load_index(data_dir / "segment" / "test", data_dir / "cache")
    shard = index.path(0)
    middle = int(index.offset[1] + index.length[1] // 2)
    flip(shard, middle)
    outcome = command("inference_memmap", *where, "--device", "cpu", "--workers", 2)
    assert outcome.status == 0 and "Download again" in outcome.err and str(shard) in outcome.err
    candidates = np.load(data_dir / "cache" / "test_meta.npz")
    first, last = candidates["row_ends"][:2]
    damaged = np.load(predictions)
    assert not damaged[first:last].any() and whole[first:last].any()
    np.testing.assert_array_equal(
        np.delete(damaged, np.s_[first:last], axis=0), np.delete(whole, np.s_[first:last], axis=0)
    )
    lacking = json.loads(predictions.with_suffix(".json").read_text(encoding="utf-8"))
    assert {**lacking, "time": None} == {**origin, "time": None, "left_out": [1]}  # the second video
    submit = ("create_submission_from_memmaps", "--data-dir", data_dir, "--output", data_dir / "sub.csv")
    assert command(*submit).status == 0
    flip(shard, middle)
    outcome = command("inference_memmap", "--data-dir", data_dir, "--device", "cpu")
    assert outcome.status == 0 and "up to date" not in outcome.err
    np.testing.assert_array_equal(np.load(predictions), whole)
    assert "up to date" in command("inference_memmap", "--data-dir", data_dir, "--device", "cpu").err


# --- check_data ------------------------------------------------------------------------------------------


def cells(out: str) -> dict[str, list[str]]:
    """The rows of the tables that `check_data` prints, by name."""
    lines = (line.partition("  ") for line in out.splitlines())
    return {name: values.split() for name, gap, values in lines if name and gap}


def test_check_data_of_whole_folders(command: Command, tiny_data: Path) -> None:
    outcome = command("check_data", "--data-dir", tiny_data)
    assert outcome.status == 0, outcome
    rows = cells(outcome.out)
    assert rows["shards"] == ["10", "4", "8", "2"]
    assert rows["videos"] == ["40", "16", "32", "6"]
    assert rows["width of rgb / audio"] == ["1024", "/", "128"] * 4
    index = load_index(tiny_data / "segment" / "train", tiny_data / "cache")
    assert rows["frames"][2] == f"{index.n_frames.sum():,}" and rows["ratings"][2] == f"{len(index.rating_label):,}"
    assert " ".join(rows["classes of the vocabulary with ratings"]) == (
        "0 of 5 (0.0 %) 0 of 5 (0.0 %) 5 of 5 (100.0 %) 0 of 5 (0.0 %)"
    )
    assert "oddities: none" in outcome.out and "no damage: all checksums are right" in outcome.out


def test_check_data_names_every_damaged_record_and_the_shards_to_download(command: Command, data_dir: Path) -> None:
    folder = data_dir / "segment" / "train"
    index = load_index(folder, data_dir / "cache")
    paths = sorted(folder.glob("*.tfrecord"))
    records = np.flatnonzero(index.shard == 0)
    flip(paths[0], *(int(index.offset[record]) + 3000 for record in records[[0, 2]]))
    last = int(index.offset[np.flatnonzero(index.shard == 1)[-1]])
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    flip(paths[2], 3)
    paths[3].write_bytes(b"\x1f\x8b" + bytes(30))
    outcome = command("check_data", folder, "--data-dir", data_dir)
    assert outcome.status == 1 and not outcome.err
    for record in records[[0, 2]]:
        assert (
            f"{paths[0]}: record at byte {index.offset[record]}, video {index.video_id[record].decode()}: "
            "checksum mismatch"
        ) in outcome.out
    assert f"{paths[1]}: record at byte {last}: truncated, 1 bytes are missing" in outcome.out
    assert f"{paths[2]}: record at byte 0: damaged record length" in outcome.out
    assert f"{paths[3]}: record at byte 0: a gzip file" in outcome.out
    assert outcome.out.endswith("download again, 4 shards:\n" + "".join(f"{path}\n" for path in paths[:4]))
    assert cells(outcome.out)["videos"] == ["21"]  # 32 less 2, 1, and two whole shards of 4
    assert command("check_data", data_dir / "video" / "train", "--data-dir", data_dir).status == 0


def test_check_data_counts_oddities(command: Command, tmp_path: Path) -> None:
    odd = [
        make_video(0, 0, (3,)),
        make_video(1, 3, (4000, -1)),
        make_video(2, 301, (3,)),
        make_video(3, 20, (), ((20, 7, 1.0), (-5, 3, 0.0), (3, 3, 1.0), (5, 3, 0.5), (10, 3, 0.0), (10, 3, 1.0))),
        make_video(4, 9, n_audio=8),
        dataclasses.replace(make_video(5, 9), video_id=b"v004"),
        Video(b"wide", np.zeros((6, RGB + 1), np.uint8), np.zeros((6, AUDIO), np.uint8)),
    ]
    path = write_videos(tmp_path / "one" / "a.tfrecord", odd)
    shutil.copytree(path.parent, tmp_path / "two")
    outcome = command("check_data", tmp_path / "one", tmp_path / "two", "--data-dir", tmp_path)
    assert outcome.status == 0
    rows = cells(outcome.out)
    assert rows["width of rgb / audio"] == ["8,", "9", "/", "3"] * 2
    assert rows["shortest / median / longest video"] == ["0", "/", "8", "/", "301"] * 2
    assert {
        name: [int(value) for value in values]
        for name, values in rows.items()
        if name.startswith(("videos ", "labels ", "ratings ", "rated ", "positive "))
        and len(values) == 2
        and values[0].isdecimal()
    } == {
        "videos without frames": [1, 1],
        "videos of 1 to 4 frames": [1, 1],
        "videos of more than 300 frames": [1, 1],
        "videos with different numbers of rgb and audio frames": [1, 1],
        "videos with frames of another width than most": [1, 1],
        "videos that repeat an id": [1, 1],
        "videos whose id is in an earlier folder": [0, 6],
        "labels outside 0 to 3861": [2, 2],
        "ratings beyond the end of their video": [2, 2],
        "ratings that do not start at a multiple of 5 s": [1, 1],
        "ratings with another score than 0 and 1": [1, 1],
        "ratings that repeat a segment and label": [1, 1],
        "rated labels that no video is labelled with": [1, 1],
        "positive ratings of labels that their video lacks": [4, 4],
    }
    again = "'v000', 'v001', 'v002', 'v003', 'v004' and 1 more"
    for line in (
        f"{tmp_path}/one: videos without frames: 'v000'",
        f"{tmp_path}/two: videos without frames: 'v000'",
        f"{tmp_path}/one: videos with different numbers of rgb and audio frames: 'v004' (9 and 8)",
        f"{tmp_path}/two: videos with different numbers of rgb and audio frames: 'v004' (9 and 8)",
        f"{tmp_path}/two: videos whose id is in an earlier folder: {again}",
    ):
        assert line in outcome.out.splitlines()


def test_check_data_names_ids_that_a_submission_cannot_hold(command: Command, tmp_path: Path) -> None:
    names = ["D:/v1.mp4", "b c", "it's/ü", "", 'x"', "x,y", "x\ny", "v"]
    videos = [dataclasses.replace(make_video(number, 9), video_id=name.encode()) for number, name in enumerate(names)]
    trained = write_videos(tmp_path / "video" / "train" / "a.tfrecord", videos).parent
    outcome = command("check_data", trained, "--data-dir", tmp_path)
    assert outcome.status == 0 and cells(outcome.out)["videos whose id a submission cannot hold"] == ["6"]
    said = "videos whose id a submission cannot hold: 'D:/v1.mp4', 'b c', '', 'x\"', 'x,y', "  # all of them
    assert f"{trained}: {said}" in outcome.out and "an id may have no blank" in outcome.out
    tested = shutil.copytree(trained, tmp_path / "segment" / "test")
    outcome = command("check_data", "--data-dir", tmp_path)
    assert outcome.status == 1 and f"{tested}: {said}" in outcome.out and "no damage" in outcome.out
    outcome = command("prepare_test_meta", "--data-dir", tmp_path)
    assert outcome.status == 2 and len(outcome.err.splitlines()) == 1
    for part in (f"{tested}: a submission cannot hold the video ids ''", "'D:/v1.mp4'", "and 1 more", "other ids"):
        assert part in outcome.err


def test_check_data_of_videos_without_labels_says_nothing_of_ratings_without(command: Command, tmp_path: Path) -> None:
    path = write_videos(tmp_path / "a" / "a.tfrecord", [make_video(0, 9, (), ((5, 3, 1.0),))])
    outcome = command("check_data", path.parent, "--data-dir", tmp_path)
    assert outcome.status == 0 and "oddities: none" in outcome.out


def test_check_data_names_videos_without_lists(command: Command, tmp_path: Path) -> None:
    bare = [Video(b"bare%d" % number, None, None, (3,), ((0, 3, 1.0),)) for number in range(7)]
    path = write_videos(tmp_path / "a" / "a.tfrecord", [*bare, VIDEOS[0]])
    outcome = command("check_data", path.parent, "--data-dir", tmp_path)
    assert outcome.status == 0 and "no damage" in outcome.out
    assert cells(outcome.out)["videos without frames"] == ["7"]
    said = "videos without frames: 'bare0', 'bare1', 'bare2', 'bare3', 'bare4' and 2 more"
    assert f"{path.parent}: {said}" in outcome.out.splitlines()


def test_check_data_names_files_that_only_look_like_shards(command: Command, tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "a" / "train0000.tfrecord", VIDEOS).parent
    assert "not checked" not in command("check_data", folder, "--data-dir", tmp_path).out
    names = ["train0001.tfrecord.gz", "train0002.tfrecord.partial", "train0005.TFRECORD"]
    for name in (*names, ".train0003.tfrecord", "._train0000.tfrecord", "features.json", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "train0004.tfrecord").mkdir()
    outcome = command("check_data", folder, "--data-dir", tmp_path)
    assert outcome.status == 0 and cells(outcome.out)["shards"] == ["1"]
    listed = ", ".join(sorted([*names, "train0004.tfrecord"]))
    assert f"{folder}: not checked: {listed}" in outcome.out.splitlines()


def test_videos_without_audio_among_others_are_named(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "segment" / "test"
    silent = [Video(b"silent%d" % number, make_video(number, 60).rgb, None) for number in range(2)]
    write_videos(folder / "test0000.tfrecord", silent)
    call = ("prepare_test_meta", "--data-dir", tmp_path)
    assert command(*call).status == 0 and "no audio" not in caplog.text  # a data set without audio
    bare = Video(b"bare", None, None)  # has no frames either
    write_videos(folder / "test0001.tfrecord", [*VIDEOS[:3], bare])
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert command(*call).status == 0
        (warning,) = [line for line in caplog.text.splitlines() if "no audio" in line]
        assert f"{folder}: 2 of 6 videos have frames but no audio, while others have both" in warning
        assert warning.endswith("'silent0', 'silent1'")


def test_ratings_outside_the_vocabulary_are_warned_of(command: Command, data_dir: Path, tmp_path: Path) -> None:
    table = data_dir / "segment_vocabulary.csv"
    *kept, last = table.read_text(encoding="utf-8").splitlines()
    config = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    counts = []
    for lines in ([*kept, last], kept):
        table.write_text("\n".join([*lines, ""]), encoding="utf-8")
        base = video_folder(tmp_path / f"base{len(lines)}", DBOF, data_dir)
        arguments = (config, base, "--fold", "none", "--name", f"n{len(lines)}", "--data-dir", data_dir)
        outcome = command("train_pure_segment", *arguments, "--device", "cpu")
        assert outcome.status == 0, outcome
        counts.append([line for line in outcome.err.splitlines() if "ratings are of labels outside" in line])
    assert not counts[0] and len(counts[1]) == 1
    index = load_index(data_dir / "segment" / "train", data_dir / "cache")
    label = int(last.split(",")[0])
    n_outside = int((index.rating_label == label).sum())
    assert (
        n_outside
        and (
            f"{index.folder}: {n_outside} of {len(index.rating_label)} ratings are of labels outside {table}, such as "
            f"{label}, and do not count; is it the table of this data?"
        )
        in counts[1][0]
    )


def test_check_data_reads_unusual_layouts(command: Command, tmp_path: Path) -> None:
    usual = serialize(VIDEOS[0])
    unknown = b"\x48\x01"  # field 9, which a reader has to pass over
    write_payloads(tmp_path / "one" / "a.tfrecord", [usual, usual + unknown])
    outcome = command("check_data", tmp_path / "one", "--data-dir", tmp_path)
    assert outcome.status == 0, outcome.out
    assert cells(outcome.out)["videos laid out unusually (read through protobuf, slowly)"] == ["1"]


def test_check_data_of_what_is_not_there(command: Command, tmp_path: Path) -> None:
    for arguments, said in (
        ((), "none of video/train"),
        ((tmp_path / "nowhere",), "no such folder"),
        ((tmp_path,), "no .tfrecord files"),
    ):
        outcome = command("check_data", *arguments, "--data-dir", tmp_path)
        assert outcome.status == 2 and said in outcome.err and len(outcome.err.splitlines()) == 1
        assert not outcome.out


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.data())
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bits")
    path = write_videos(folder / "a.tfrecord", [make_video(1, 2, (3,), ((0, 3, 1.0),)), make_video(2, 1)])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    index, errors = check_folder(folder)
    assert len(errors) == 1 and errors[0].path == path
    assert len(index) < 2
