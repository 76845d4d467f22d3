"""Files not made by this project: see `tests/real_files/README.md`."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import Outcome
from tests.shards import (
    bytes_feature,
    context_entries,
    context_field,
    field,
    float_feature,
    lists_field,
    make_video,
    serialize,
    write_payloads,
    write_videos,
)
from tests.small_models import DBOF, TRAINING, agnostic_folder, write_config
from tests.test_commands import assert_refused
from yt8m.data.index import index_file, load_index
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.vocabulary import CHALLENGE_FILE, challenge_vocabulary, derive_vocabulary, load_vocabulary

Command = Callable[..., Outcome]
FILES = Path(__file__).parent / "real_files"
ROOT = Path(__file__).parent.parent
TABLE = FILES / "segment_vocabulary.csv"
EXTRACTED = FILES / "frame_level_extractor.tfrecord"
VIDEO_LEVEL = [FILES / "video_level_v2_validate2L_first3.tfrecord", FILES / "video_level_v1_validatea0_first3.tfrecord"]
AUDIOSET = FILES / "audioset_first.tfrecord"


def test_every_file_is_described() -> None:
    described = (FILES / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FILES.iterdir()} == {
        "README.md",
        *(line.split("`")[1] for line in described.splitlines() if line.startswith("| `")),
    }


# --- the vocabulary --------------------------------------------------------------------------------------


def test_the_challenges_table_is_taken_as_it_is(tmp_path: Path) -> None:
    shutil.copy(TABLE, tmp_path / "segment_vocabulary.csv")
    vocabulary = load_vocabulary(tmp_path)
    table = pd.read_csv(TABLE, keep_default_na=False)
    assert vocabulary.labels.tolist() == table["Index"].tolist()
    assert (np.sort(vocabulary.labels) != vocabulary.labels).sum() == 835
    assert vocabulary.classes(vocabulary.labels).tolist() == list(range(1000))
    blank = table.index[table["Name"] == ""]
    assert len(blank) == 12
    assert [vocabulary.names[row] for row in blank] == [f"label {label}" for label in table["Index"][blank]]


def test_the_table_comes_with_the_clone_and_with_the_package() -> None:
    assert (ROOT / "data" / "segment_vocabulary.csv").read_bytes() == TABLE.read_bytes() == CHALLENGE_FILE.read_bytes()
    assert "CC BY 4.0" in (ROOT / "data" / "README.md").read_text(encoding="utf-8")


def test_the_organizers_list_of_label_ids_is_a_vocabulary_without_names(tmp_path: Path) -> None:
    shutil.copy(FILES / "segment_label_ids.csv", tmp_path / "segment_vocabulary.csv")
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.digest == challenge_vocabulary().digest
    assert vocabulary.names[12:14] == ("label 31", "label 30")


def rated_for_the_challenge(folder: Path, leave_out: int = 0) -> None:
    """Rated shards in which each of the challenge's labels is rated, but for the last few."""
    labels = np.sort(challenge_vocabulary().labels)[: 1000 - leave_out].tolist()
    videos = [
        make_video(number, 60, (labels[first],), [(30, label, 1.0) for label in labels[first : first + 100]])
        for number, first in enumerate(range(0, len(labels), 100))
    ]
    write_videos(folder / "segment" / "train" / "validate0000.tfrecord", videos)


def test_labels_of_the_challenge_are_derived_in_its_order(tmp_path: Path, command: Command) -> None:
    rated_for_the_challenge(tmp_path)
    outcome = command("prepare_vocabulary", "--data-dir", tmp_path)
    assert outcome.status == 0 and "1000 classes" in outcome.out, outcome
    derived, published = (pd.read_csv(path, keep_default_na=False) for path in (tmp_path / TABLE.name, TABLE))
    assert derived[["Index", "KnowledgeGraphId"]].equals(published[["Index", "KnowledgeGraphId"]])
    assert load_vocabulary(tmp_path).names == challenge_vocabulary().names
    index = load_index(tmp_path / "segment" / "train", tmp_path / "cache")
    assert derive_vocabulary(index, None)["TotalSegmentCount"].eq(1).all()
    outcome = command("prepare_vocabulary", "--data-dir", tmp_path)  # the table that is there already
    assert outcome.status == 0 and "the same 1000 classes; left as it is" in outcome.out


def test_the_table_is_not_written_over_by_fewer_classes(tmp_path: Path, command: Command) -> None:
    rated_for_the_challenge(tmp_path, leave_out=1)
    shutil.copy(TABLE, tmp_path / "segment_vocabulary.csv")
    last = int(challenge_vocabulary().labels.max())
    outcome = command("prepare_vocabulary", "--data-dir", tmp_path)
    assert_refused(outcome, "segment_vocabulary.csv", f"has {last} (", "use it as it is", "--overwrite")
    assert (tmp_path / "segment_vocabulary.csv").read_bytes() == TABLE.read_bytes()
    (tmp_path / "segment_vocabulary.csv").unlink()
    assert command("prepare_vocabulary", "--data-dir", tmp_path).status == 0
    assert (np.diff(load_vocabulary(tmp_path).labels) > 0).all()  # not the challenge's


# --- the sample submission -------------------------------------------------------------------------------


def test_the_sample_submission_is_taken(tmp_path: Path, command: Command) -> None:
    sample = FILES / "sample_submission.csv"
    shutil.copy(TABLE, tmp_path / "segment_vocabulary.csv")
    write_videos(tmp_path / "segment" / "test" / "test0000.tfrecord", [replace(make_video(0, 80), video_id=b"002G")])
    assert command("prepare_test_meta", "--data-dir", tmp_path).status == 0
    outcome = command("check_submission", sample, "--data-dir", tmp_path)
    assert outcome.status == 0 and "1,000 classes of 1,000" in outcome.out, outcome
    first = int(pd.read_csv(sample)["Class"][0])
    truth = tmp_path / "truth.csv"
    truth.write_text(f"vid,start,label,score\n002G,35,{first},1\n002G,40,{first},0\n", encoding="utf-8")
    outcome = command("evaluate", "--truth", truth, "--submission", sample, "--data-dir", tmp_path)
    assert outcome.status == 0 and "1.0000" in outcome.out, outcome


# --- what the organizers' feature extractor writes -------------------------------------------------------


def test_an_extracted_film_can_be_read_and_localized(tmp_path: Path, command: Command) -> None:
    index = index_file(EXTRACTED)
    assert (len(index), index.video_id[0], index.n_frames.tolist()) == (1, b"D:/videos/v1.mp4", [141])
    reader = ShardReader(index)
    assert reader.widths == (1024, 128)
    frames = np.empty((141, 1152), np.uint8)
    assert reader.read([Frames(0, slice(0, 141), frames)], whole=True).all()
    assert 0 < frames.std() < 128
    agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
    outcome = command("localize", EXTRACTED, "--data-dir", tmp_path, "--threshold", 0, "--top", 1, "--format", "json")
    assert outcome.status == 0, outcome.err
    (answer,) = json.loads(outcome.out)
    assert (answer["video_id"], answer["seconds"]) == ("D:/videos/v1.mp4", 141)


def test_an_id_that_no_submission_can_hold_is_named_early(tmp_path: Path, command: Command) -> None:
    (tmp_path / "segment" / "test").mkdir(parents=True)
    shutil.copy(EXTRACTED, tmp_path / "segment" / "test" / "test0000.tfrecord")
    outcome = command("check_data", "--data-dir", tmp_path)
    assert outcome.status == 1 and "D:/videos/v1.mp4" in outcome.out, outcome
    assert_refused(command("prepare_test_meta", "--data-dir", tmp_path), "segment/test", "'D:/videos/v1.mp4'")


# --- features of another kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", VIDEO_LEVEL, ids=["v2", "v1"])
def test_video_level_features_are_told_apart(path: Path, tmp_path: Path, command: Command) -> None:
    where = ("--data-dir", tmp_path)
    for folder, name in (("video/train", "trainaa"), ("video/valid", "validate2L"), ("segment/test", "test0000")):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(path, tmp_path / folder / f"{name}.tfrecord")
    shutil.copy(TABLE, tmp_path / TABLE.name)
    outcome = command("check_data", *where)
    assert outcome.status == 1 and "no damage" not in outcome.out and "download again" not in outcome.out, outcome
    said = [line for line in outcome.out.splitlines() if "video-level features" in line]
    for line, plan in zip(said, ("2/frame/train", "2/frame/validate", "3/frame/test"), strict=True):
        assert "mean_audio, mean_rgb" in line and "expected the feature list rgb" in line
        assert line.endswith(f"`python -m yt8m.download --plan {plan}`")
    config = write_config(tmp_path / "v.yaml", video={"model": DBOF, "training": TRAINING})
    for call, plan in (
        (("train_video", config, "--name", "x", *where), "2/frame/train"),
        (("train_video", config, "--name", "x", *where, "--on-error", "skip"), "2/frame/train"),
        (("prepare_test_meta", *where), "3/frame/test"),
        (("localize", path, *where), "2/frame/train"),
    ):
        agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
        outcome = command(*call)
        assert outcome.status == 2, outcome
        line = outcome.err.splitlines()[-1]
        assert "record at byte 0" in line and "video-level features" in line and f"--plan {plan}" in line, line


def test_audioset_is_told_apart(tmp_path: Path, command: Command) -> None:
    (tmp_path / "video" / "train").mkdir(parents=True)
    shutil.copy(AUDIOSET, tmp_path / "video" / "train")
    outcome = command("check_data", "--data-dir", tmp_path)
    expected = (
        "AudioSet",
        "feature lists audio_embedding",
        "video_id",
        "expected the feature list rgb",
        "make_records",
    )
    (line,) = [line for line in outcome.out.splitlines() if "AudioSet" in line]
    assert outcome.status == 1 and all(part in line for part in expected)
    agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
    assert_refused(command("localize", AUDIOSET, "--data-dir", tmp_path), "--cB2ZVjpnA", *expected)


def test_a_fault_of_all_shards_is_reported_once(tmp_path: Path, command: Command) -> None:
    for folder, source, count in (("train", AUDIOSET, 3), ("valid", VIDEO_LEVEL[0], 1), ("other", VIDEO_LEVEL[0], 2)):
        (tmp_path / "video" / folder).mkdir(parents=True)
        for number in range(count):
            shutil.copy(source, tmp_path / "video" / folder / f"part{number}.tfrecord")
    folders = [tmp_path / "video" / folder for folder in ("train", "valid", "other")]
    outcome = command("check_data", *folders, "--data-dir", tmp_path)
    assert outcome.status == 1 and "download again" not in outcome.out
    _, said = outcome.out.split("of another kind, 6 shards:\n")
    train, more, valid, other, one_more = said.splitlines()
    for line, folder, kind in zip((train, valid, other), folders, ("AudioSet", "video-level", "video-level")):
        assert line.startswith(f"{folder / 'part0.tfrecord'}: ") and kind in line
    assert (more, one_more) == (f"{folders[0]}: and 2 more", f"{folders[2]}: and 1 more")


def test_frames_in_the_context_are_told_apart(tmp_path: Path, command: Command) -> None:
    video = make_video(0, 9, (3,))
    frames = [b"".join(frame.tobytes() for frame in part) for part in (video.rgb, video.audio)]
    context = {**context_entries(video), "rgb": bytes_feature(frames[0]), "audio": bytes_feature(frames[1])}
    path = write_payloads(tmp_path / "video" / "train" / "train0000.tfrecord", [context_field(context)])
    outcome = command("check_data", "--data-dir", tmp_path)
    keys = "audio, id, labels, rgb, segment_labels, segment_scores, segment_start_times"
    expected = ("features of another kind", "the feature lists (none)", f"context keys {keys}", "make_records --help")
    (line,) = [line for line in outcome.out.splitlines() if "another kind: " in line]
    assert outcome.status == 1 and all(part in line for part in (str(path), *expected)), line
    assert "download again" not in outcome.out and "no damage" not in outcome.out
    agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
    assert_refused(command("localize", path, "--data-dir", tmp_path), "v000", *expected)


def lfs_pointer() -> bytes:
    """What Git leaves where Git LFS has not been installed."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 280000000\n"


def npy() -> bytes:
    """An array under the wrong name."""
    return b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (3, 8), }\n" + bytes(24)


@pytest.mark.parametrize(
    "content, expected",
    [
        (gzip.compress, ("a shard compressed by gzip", "gunzip")),
        (lambda _: gzip.compress(b"<html>"), ("a gzip file, not a TFRecord shard", "download the shard again")),
        (lambda _: serialize(make_video(0, 9, (3,))), ("a bare serialized SequenceExample", "tf.io.TFRecordWriter")),
        (lambda _: lfs_pointer(), ("a Git LFS pointer", "git lfs pull")),
        (lambda _: b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", ("an HTML or XML page", "download")),
        (lambda _: npy(), ("a NumPy array", "make_records")),
    ],
    ids=["own gzip", "gzip", "bare example", "lfs", "xml", "npy"],
)
def test_files_that_are_not_shards_are_named_for_what_they_are(
    content: Callable[[bytes], bytes], expected: tuple[str, ...], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "video" / "train" / "train0000.tfrecord"
    write_videos(path, [make_video(0, 9, (3,))])
    path.write_bytes(content(path.read_bytes()))
    outcome = command("check_data", "--data-dir", tmp_path)
    assert outcome.status == 1 and "no damage" not in outcome.out
    assert all(part in outcome.out for part in (str(path), *expected)), outcome.out
    agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
    assert_refused(command("localize", path, "--data-dir", tmp_path), str(path), *expected)


def test_the_advice_for_a_compressed_shard_mends_it(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "video" / "train" / "train0000.tfrecord"
    write_videos(path, [make_video(0, 9, (3,))])
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    said = command("check_data", "--data-dir", tmp_path).out
    (advice,) = {line.partition("unpack it: ")[2] for line in said.splitlines() if "unpack it: " in line}
    assert "damage, 1 records" in said and "download again" not in said
    subprocess.run(advice, shell=True, check=True)
    assert path.read_bytes() == whole and command("check_data", "--data-dir", tmp_path).status == 0


def test_frames_of_floats_are_named(tmp_path: Path, command: Command) -> None:
    floats = b"".join(field(1, float_feature(0.5, 0.25)) for _ in range(3))
    payload = context_field(context_entries(make_video(0, 9))) + lists_field({"rgb": floats})
    path = write_payloads(tmp_path / "floats.tfrecord", [payload])
    agnostic_folder(tmp_path / "cache" / "segment" / "m_0", DBOF, 7)
    assert_refused(
        command("localize", path, "--data-dir", tmp_path),
        "floats.tfrecord",
        "rgb are not one byte string each",
        "floats",
    )
