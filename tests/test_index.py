"""The index of a folder: the same with and without its cache."""

import dataclasses
import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import yt8m.data.index
import yt8m.data.reader
from tests.interrupted import fail
from tests.shards import AUDIO, RGB, Video, index_videos, make_video, read_rows, write_videos
from yt8m.common.errors import RecordError, UserError
from yt8m.data import native_reading
from yt8m.data.index import Index, index_file, load_index, split_fold
from yt8m.data.partitions import official_name
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import Damage


@pytest.fixture(name="data")
def fixture_data(tmp_path) -> Path:
    """A data folder of four shards of two videos, not indexed yet, written in another order than their names'."""
    for number in (2, 0, 3, 1):
        write_videos(shard(tmp_path, number), shard_videos(number))
    return tmp_path


@pytest.fixture(name="scanned")
def fixture_scanned(monkeypatch) -> list[str]:
    """The names of the shards that are read for an index, in that order."""
    names: list[str] = []
    scan = yt8m.data.index._scan_shard  # pylint: disable=protected-access

    def scan_and_tell(path: Path, whole: bool):
        names.append(path.name)
        return scan(path, whole)

    monkeypatch.setattr(yt8m.data.index, "_scan_shard", scan_and_tell)
    return names


def shard(data: Path, number: int) -> Path:
    """Where shard `number` lies."""
    return data / "segment" / "train" / f"train{number:02d}.tfrecord"


def shard_videos(number: int) -> list[Video]:
    """What shard `number` holds."""
    return [
        make_video(2 * number, 4 + number, (number, 20), ((0, 20, 1.0), (5, 3, 0.0))),
        make_video(2 * number + 1, 3, (7,) * number),
    ]


def load(data: Path) -> Index:
    """The index, with the cache of the data folder."""
    return load_index(shard(data, 0).parent, data / "cache")


def load_anew(data: Path) -> Index:
    """The index as a machine without a cache would make it."""
    with tempfile.TemporaryDirectory() as temporary:
        return load_index(shard(data, 0).parent, Path(temporary))


def assert_same(index: Index, other: Index) -> None:
    """Two indexes are equal in all their arrays, types included, but for when the shards changed."""
    for item in dataclasses.fields(Index):
        mine, others = getattr(index, item.name), getattr(other, item.name)
        if item.name == "stamps":
            mine, others = mine[:, :-1], others[:, :-1]
        assert np.array_equal(mine, others), item.name
        assert getattr(mine, "dtype", None) == getattr(others, "dtype", None), item.name


def assert_holds(index: Index, shards: list[list[Video]]) -> None:
    """Every record of these shards is in the index, in their order, and nothing else."""
    videos = [video for videos in shards for video in videos]
    assert len(index) == len(videos)
    assert index.shard.tolist() == [number for number, videos in enumerate(shards) for _ in videos]
    assert index.video_id.tolist() == [video.video_id for video in videos]
    sound = any(len(video.audio) for video in videos)  # or else the rgb features are all that there is
    assert index.n_frames.tolist() == [
        min(len(video.rgb), len(video.audio)) if sound else len(video.rgb) for video in videos
    ]
    for record, video in enumerate(videos):
        ratings = list(
            zip(
                *(
                    index.of_record(record, values, index.rating_ends).tolist()
                    for values in (index.rating_start, index.rating_label, index.rating_score)
                )
            )
        )
        assert index.of_record(record, index.labels, index.label_ends).tolist() == list(video.labels)
        assert ratings == [tuple(rating) for rating in video.ratings or ()]
    assert index.owners(index.label_ends).tolist() == [
        record for record, video in enumerate(videos) for _ in video.labels
    ]


def open_shards(folder: Path) -> list[int]:
    """The descriptors of the shards of a folder that this process has open."""
    found = {int(path.name): os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    return [handle for handle, path in found.items() if path.startswith(str(folder))]


def assert_reads(index: Index, shards: list[list[Video]]) -> None:
    """Every frame of these shards is read through the index."""
    reader = ShardReader(index)
    for record, video in enumerate(video for videos in shards for video in videos):
        out = np.empty((index.n_frames[record], RGB + AUDIO), np.uint8)
        assert reader.read([Frames(record, slice(0, len(out)), out)], whole=True).all()
        np.testing.assert_array_equal(out, video.frames)


def test_the_index_is_in_order_of_shard_names_and_holds_what_was_written(data):
    index = load(data)
    assert index.shards.tolist() == [f"train{number:02d}.tfrecord" for number in range(4)]
    assert_holds(index, [shard_videos(number) for number in range(4)])
    assert_reads(index, [shard_videos(number) for number in range(4)])


def test_the_cached_index_is_the_same_and_reads_no_shard(data, scanned):
    first = load(data)
    assert len(scanned) == 4
    second = load(data)
    assert len(scanned) == 4
    assert_same(first, second)


def test_only_a_changed_shard_is_read_again(data, scanned):
    load(data)
    scanned.clear()
    changed = [make_video(50, 2, (1, 2, 3)), make_video(51, 9, (), ((0, 5, 1.0),)), make_video(52, 1)]
    write_videos(shard(data, 1), changed)
    index = load(data)
    assert scanned == ["train01.tfrecord"]
    assert_same(index, load_anew(data))
    assert_holds(index, [shard_videos(0), changed, shard_videos(2), shard_videos(3)])


def test_a_shard_rewritten_at_the_same_size_is_read_again(data, scanned):
    load(data)
    scanned.clear()
    size, before = shard(data, 1).stat().st_size, shard(data, 1).stat().st_mtime_ns
    changed = [dataclasses.replace(video, video_id=b"new%d" % row) for row, video in enumerate(shard_videos(1))]
    write_videos(shard(data, 1), changed)
    os.utime(shard(data, 1), ns=(before + 1000, before + 1000))
    assert shard(data, 1).stat().st_size == size
    assert load(data).video_id.tolist()[2:4] == [b"new0", b"new1"]
    assert scanned == ["train01.tfrecord"]


@pytest.mark.parametrize("number", [4, -1])
def test_only_an_added_shard_is_read(number, data, scanned):
    load(data)
    scanned.clear()
    added = write_videos(
        shard(data, number).with_name("added.tfrecord" if number < 0 else "train04.tfrecord"), shard_videos(4)
    )
    index = load(data)
    assert scanned == [added.name]
    assert_same(index, load_anew(data))
    known = [shard_videos(row) for row in range(4)]
    shards = [shard_videos(4), *known] if number < 0 else [*known, shard_videos(4)]
    assert_holds(index, shards)
    assert_reads(index, shards)


def test_a_removed_shard_disappears_and_nothing_is_read(data, scanned):
    load(data)
    scanned.clear()
    shard(data, 0).unlink()
    shard(data, 2).unlink()
    index = load(data)
    assert not scanned
    assert_same(index, load_anew(data))
    assert_holds(index, [shard_videos(1), shard_videos(3)])


def _cut(cache: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:-100])


def _garble(cache: Path) -> None:
    content = bytearray(cache.read_bytes())
    content[200:400] = bytes(200)
    cache.write_bytes(content)


def _replace_by_text(cache: Path) -> None:
    cache.write_text("not a zip file")


def _empty(cache: Path) -> None:
    cache.write_bytes(b"")


def _lose_arrays(cache: Path) -> None:
    np.savez(cache, shards=np.array(["train00.tfrecord"]))


def _hold_pickles(cache: Path) -> None:
    with np.load(cache) as file:
        np.savez(cache, **{**file, "version": np.array([print], object)})


@pytest.mark.parametrize("damage", [_cut, _garble, _replace_by_text, _empty, _lose_arrays, _hold_pickles])
def test_a_damaged_cache_is_rebuilt_with_a_warning(damage, data, scanned, caplog):
    first = load(data)
    (cache,) = (data / "cache" / "index").iterdir()
    damage(cache)
    scanned.clear()
    assert_same(load(data), first)
    assert len(scanned) == 4
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(cache) in warning.getMessage()
    scanned.clear()
    assert_same(load(data), first)
    assert not scanned


def test_a_cache_of_another_version_is_rebuilt(data, scanned, monkeypatch):
    first = load(data)
    monkeypatch.setattr(yt8m.data.index, "FORMAT_VERSION", yt8m.data.index.FORMAT_VERSION + 1)
    scanned.clear()
    assert_same(load(data), first)
    assert len(scanned) == 4


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_folder_that_cannot_be_written_costs_a_warning(number, data, monkeypatch, caplog):
    expected = load_anew(data)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("helperbot.files._make_temporary", refuse)
    assert_same(load(data), expected)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert os.strerror(number) in warning.getMessage()


def test_a_file_in_place_of_the_cache_folder_costs_a_warning(data, caplog):
    (data / "cache").write_text("in the way")
    assert_same(load(data), load_anew(data))
    assert "cannot be cached" in caplog.text


def test_a_folder_is_the_same_under_servers_names_and_under_official_ones(tmp_path):
    """Folds and the order of examples depend on numbers: `validatea9` is 61, and comes before `validate00`, 3276."""
    names = ("aa", "ab", "a9", "0d", "00", "Zz", "ba", "99")
    ours = index_videos(tmp_path / "ours", [[make_video(number, 9, (number,))] for number in range(len(names))])
    numbers = {}
    for number, (name, stored) in enumerate(zip(names, ours.shards.tolist())):
        for folder, called in (
            ("server", f"validate{name}.tfrecord"),
            ("disk", official_name(f"validate{name}.tfrecord")),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / called).symlink_to(ours.folder / stored)
            numbers[called] = number
    server, disk = (load_index(tmp_path / folder, tmp_path / "cache") for folder in ("server", "disk"))
    assert disk.shards.tolist() == sorted(disk.shards.tolist()) and disk.shards[0] == "validate0000.tfrecord"
    assert [numbers[name] for name in server.shards] == [numbers[name] for name in disk.shards]
    assert server.digest == disk.digest
    for fold in range(8):
        assert np.array_equal(split_fold(server, fold)[1], split_fold(disk, fold)[1])


def test_a_shard_under_both_of_its_names_would_count_twice(tmp_path):
    folder = index_videos(tmp_path, [[make_video(0, 9)]]).folder
    (stored,) = folder.glob("*.tfrecord")
    for name in ("validate0d.tfrecord", "validate3227.tfrecord", "validate3228.tfrecord"):
        shutil.copy(stored, folder / name)
    with pytest.raises(UserError, match="validate0d.tfrecord and validate3227.tfrecord are names of the same shard"):
        load_index(folder, tmp_path / "cache")
    (folder / "validate0d.tfrecord").unlink()
    assert len(load_index(folder, tmp_path / "cache").shards) == 3


def test_hidden_files_are_not_shards(tmp_path):
    folder = index_videos(tmp_path, [[make_video(0, 9)]]).folder
    (folder / "._train0000.tfrecord").write_bytes(b"of macOS")
    assert len(load_index(folder, tmp_path / "cache").shards) == 1
    for stored in folder.glob("[!.]*.tfrecord"):
        stored.unlink()
    with pytest.raises(UserError, match="no .tfrecord files"):
        load_index(folder, tmp_path / "cache")


def test_folders_without_shards_are_named(tmp_path):
    folder = tmp_path / "segment" / "train"
    with pytest.raises(UserError, match="no such folder") as missing:
        load_index(folder, tmp_path / "cache")
    folder.mkdir(parents=True)
    (folder / "readme.txt").touch()
    with pytest.raises(UserError, match=r"no \.tfrecord files") as without:
        load_index(folder, tmp_path / "cache")
    assert str(folder) in str(missing.value) and str(folder) in str(without.value)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_shard_is_named_and_the_good_cache_stays(data, scanned):
    first = load(data)
    whole = shard(data, 2).read_bytes()
    stamp = shard(data, 2).stat().st_mtime_ns
    shard(data, 2).write_bytes(whole[:-1])
    with pytest.raises(RecordError, match="train02.tfrecord.*truncated"):
        load(data)
    shard(data, 2).write_bytes(whole)
    os.utime(shard(data, 2), ns=(stamp, stamp))
    scanned.clear()
    assert_same(load(data), first)
    assert scanned == ["train02.tfrecord"]


@pytest.mark.parametrize("in_place", [True, False], ids=["written over", "replaced"])
def test_a_shard_of_the_same_size_and_modification_time_is_read_again(data, scanned, in_place):
    """Archives give what they unpack the times that it had; here the ratings are others."""
    load(data)
    stat = shard(data, 2).stat()
    first, second = shard_videos(2)
    assert first.ratings
    flipped = tuple((start, label, 1 - score) for start, label, score in first.ratings)
    videos = [dataclasses.replace(first, ratings=flipped), second]
    if in_place:
        shard(data, 2).write_bytes(write_videos(data / "other.tfrecord", videos).read_bytes())
    else:
        write_videos(shard(data, 2).with_name("other"), videos).replace(shard(data, 2))
    os.utime(shard(data, 2), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (shard(data, 2).stat().st_size, shard(data, 2).stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    scanned.clear()
    assert_holds(load(data), [videos if number == 2 else shard_videos(number) for number in range(4)])
    assert scanned == ["train02.tfrecord"]


def test_killed_it_goes_on_where_it_was(data, scanned, monkeypatch):
    monkeypatch.setattr(yt8m.data.index, "_SECONDS_BETWEEN_SAVES", 0.0)
    scan = yt8m.data.index._scan_shard  # pylint: disable=protected-access

    def die(path: Path, whole: bool):
        if path == shard(data, 2):
            raise KeyboardInterrupt
        return scan(path, whole)

    with monkeypatch.context() as killed:
        killed.setattr(yt8m.data.index, "_scan_shard", die)
        with pytest.raises(KeyboardInterrupt):
            load(data)
    assert scanned == ["train00.tfrecord", "train01.tfrecord"]
    scanned.clear()
    assert_holds(load(data), [shard_videos(number) for number in range(4)])
    assert scanned == ["train02.tfrecord", "train03.tfrecord"]


def test_every_damaged_shard_is_looked_at_and_what_the_others_hold_is_kept(data, scanned):
    for number in (1, 3):
        shard(data, number).write_bytes(shard(data, number).read_bytes()[:-1])
    with pytest.raises(RecordError, match="01.tfrecord.*truncated.*2 shards are damaged, .*check_data .*/train` lists"):
        load(data)
    assert len(scanned) == 4
    write_videos(shard(data, 1), shard_videos(1))
    shard(data, 3).unlink()
    scanned.clear()
    assert_holds(load(data), [shard_videos(number) for number in range(3)])
    assert scanned == ["train01.tfrecord"]


def test_two_processes_indexing_at_once_leave_a_whole_cache(data):
    code = (
        "import sys; from pathlib import Path; from yt8m.data.index import load_index; "
        "folder = Path(sys.argv[1]); sys.stdin.readline(); "
        "print(*[load_index(folder / 'segment' / 'train', folder / 'cache').digest for _ in range(20) "
        "if [path.unlink(missing_ok=True) for path in (folder / 'cache').glob('index/*')] is not None])"
    )
    command = [sys.executable, "-c", code, str(data)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        for process in (first, second):  # both have been told to go before either can have ended
            process.stdin.write("go\n")
            process.stdin.flush()
        digests = [process.communicate(timeout=120)[0].split() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    expected = load_anew(data).digest
    assert digests == [[expected] * 20] * 2
    assert load(data).digest == expected
    assert not list((data / "cache" / "index").glob(".*"))


def test_the_digest_is_of_the_records_not_of_where_and_when_they_lie(data, tmp_path_factory):
    index = load(data)
    copy = Path(shutil.copytree(data / "segment", tmp_path_factory.mktemp("copy") / "segment"))
    os.utime(copy / "train" / "train00.tfrecord", ns=(0, 0))
    assert load_index(copy / "train", copy).digest == index.digest
    write_videos(shard(data, 1), [make_video(2, 5, (1, 21), ((0, 20, 1.0), (5, 3, 0.0))), shard_videos(1)[1]])
    assert load(data).digest != index.digest  # one label differs


def test_lists_of_different_length_give_the_seconds_that_have_both(tmp_path):
    shards = [
        [
            make_video(0, 5, n_audio=3),
            make_video(1, 2, n_audio=6),
            make_video(2, 0),
            make_video(3, 4, n_audio=0),
            make_video(4, 0, n_audio=2),
        ]
    ]
    index = index_videos(tmp_path, shards)
    assert index.n_frames.tolist() == [3, 2, 0, 0, 0]
    assert_reads(index, shards)


def test_a_folder_without_any_frame_is_an_error(tmp_path):
    index = index_videos(tmp_path, [[make_video(0, 0, (1,))], [make_video(1, 0, (2,), n_audio=3)]])
    assert index.labels.tolist() == [1, 2]
    with pytest.raises(UserError, match="no record has any frame of rgb") as caught:
        ShardReader(index)
    assert str(index.folder) in str(caught.value)


def test_a_model_for_other_widths_is_refused(data):
    reader = ShardReader(load(data))
    reader.require_widths(RGB, AUDIO)
    for widths in ((RGB, AUDIO + 1), (RGB - 1, AUDIO), (AUDIO, RGB)):
        with pytest.raises(UserError, match=f"8 .rgb. and 3 .audio. wide.*made for {widths[0]} and {widths[1]}"):
            reader.require_widths(*widths)


WAYS = "alone", "whole", "batch"


def read(reader: ShardReader, way: str, record: int, n_frames: int) -> bool:
    """Read the first frames of a record; returns whether they could be read."""
    if way == "batch":
        return read_rows(reader, (record, range(n_frames)))[1].item()
    return reader.read([Frames(record, slice(0, n_frames), empty(n_frames))], whole=way == "whole").item()


def empty(n_frames: int) -> np.ndarray:
    """Where frames can be read to."""
    return np.empty((n_frames, RGB + AUDIO), np.uint8)


def assert_refuses(index: Index, record: int, path: Path) -> None:
    """Neither the checksum nor the frames of a record can be read, and the message names the file."""
    n_frames = int(index.n_frames[record])
    for way in WAYS:
        with pytest.raises(RecordError) as caught:
            read(ShardReader(index), way, record, n_frames)
        assert str(path) in str(caught.value)


def test_a_shard_that_is_gone_or_shorter_when_read_is_named(data):
    index = load(data)
    content = shard(data, 1).read_bytes()
    for size in (0, 1, int(index.offset[3]), int(index.offset[3]) + 30, len(content) - 1):
        shard(data, 1).write_bytes(content[:size])
        assert_refuses(index, 3, shard(data, 1))
    shard(data, 1).write_bytes(content)
    os.utime(shard(data, 1), ns=(0, index.stamps[1, 1]))
    assert_reads(index, [shard_videos(number) for number in range(4)])
    shard(data, 1).unlink()
    assert_refuses(index, 3, shard(data, 1))


def test_a_shard_replaced_by_one_of_the_same_size_is_refused_before_a_wrong_byte_is_read(data):
    index = load(data)
    others = [dataclasses.replace(video, rgb=255 - video.rgb) for video in shard_videos(1)]
    write_videos(shard(data, 1).with_name("new"), others).replace(shard(data, 1))
    assert shard(data, 1).stat().st_size == index.stamps[1, 0]
    for way in WAYS:
        with pytest.raises(RecordError, match="train01.tfrecord: has changed since it was indexed"):
            read(ShardReader(index), way, 2, 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_shard_cut_while_it_is_open_is_an_error_not_a_crash(way, data):
    index = load(data)
    reader = ShardReader(index)
    assert read(reader, "batch", 2, 1)
    os.truncate(shard(data, 1), 15)
    with pytest.raises(RecordError, match="train01.tfrecord: has been cut off before byte"):
        read(reader, way, 2, 1)


def test_a_shard_cut_while_it_is_indexed_is_damaged(data, monkeypatch):
    sound = load_anew(data)
    parse = yt8m.data.index.parse_record

    def cut_and_parse(buffer, offset: int, length: int, path: Path):
        if path == shard(data, 1):
            os.truncate(path, offset + 20)  # of what has been read a page is kept
            buffer._page = 0, b""  # pylint: disable=protected-access
        return parse(buffer, offset, length, path)

    monkeypatch.setattr(yt8m.data.index, "parse_record", cut_and_parse)
    with pytest.raises(RecordError, match="train01.tfrecord: has been cut off before byte"):
        load(data)
    monkeypatch.undo()
    damage = Damage(skip=True)
    assert len(load_index(shard(data, 0).parent, data / "cache", damage)) == len(sound) - 2
    assert len(damage.left_out) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_fails_is_named_with_the_shard(way, data):
    index = load(data)
    damage = Damage(skip=True)
    for reader in (ShardReader(index), ShardReader(index, damage)):
        assert read(reader, "batch", 2, 1)
        fail(*open_shards(index.folder))
        if not reader.damage.skip:
            with pytest.raises(
                RecordError, match=r"train01.tfrecord: byte \d+ and .* cannot be read .Input/output error"
            ):
                read(reader, way, 2, 1)
        else:
            assert not read(reader, way, 2, 1)
    assert len(damage.left_out) == 1


def test_short_reads_are_completed(data, monkeypatch):
    """As from a file system on the network that is interrupted."""
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda handle, size, place: pread(handle, min(size, 7), place))
    assert_reads(load(data), [shard_videos(number) for number in range(4)])


def test_the_limit_of_open_files_is_not_damage(data, monkeypatch):
    index = load(data)

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "open", refuse)
    for way in WAYS:
        with pytest.raises(
            UserError, match="train01.tfrecord: cannot be opened .Too many open files.; raise the limit"
        ):
            read(ShardReader(index, Damage(skip=True)), way, 2, 1)


def test_a_shard_removed_or_replaced_while_it_is_open_is_read_on_as_it_was(data):
    index = load(data)
    reader = ShardReader(index)
    assert read(reader, "batch", 2, 1)
    shard(data, 1).unlink()
    out = empty(index.n_frames[2])
    assert reader.read([Frames(2, slice(0, len(out)), out)], whole=True).all()
    np.testing.assert_array_equal(out, shard_videos(1)[0].frames)
    found, met = read_rows(reader, (2, range(len(out))))
    assert met.all()
    np.testing.assert_array_equal(found, out)


def test_a_shard_that_holds_other_bytes_when_read_is_named(data):
    index = load(data)
    shard(data, 1).write_bytes(bytes(shard(data, 1).stat().st_size))
    assert_refuses(index, 2, shard(data, 1))


def test_more_shards_than_may_be_open_are_read_with_a_bounded_number_open(data, monkeypatch):
    monkeypatch.setattr(ShardReader, "MAX_OPEN", 2)
    index = load(data)
    reader = ShardReader(index)
    videos = [video for number in range(4) for video in shard_videos(number)]
    most = 0
    for record in [0, 2, 4, 6, 1, 3, 5, 7, 7, 0, 6, 2, 5, 5, 1]:
        out = np.empty((index.n_frames[record], RGB + AUDIO), np.uint8)
        reader.read([Frames(record, slice(0, len(out)), out)])
        np.testing.assert_array_equal(out, videos[record].frames)
        most = max(most, len(open_shards(index.folder)))
    assert most == 2
    out = np.empty((8, 1, RGB + AUDIO), np.uint8)
    most = 0
    copy = yt8m.data.reader.read_frames

    def copy_and_count(*arguments) -> bool:
        nonlocal most
        most = max(most, len(open_shards(index.folder)))
        return copy(*arguments)

    monkeypatch.setattr(yt8m.data.reader, "read_frames", copy_and_count)
    assert reader.read([Frames(record, slice(1, 2), out[record]) for record in range(8)]).all()  # of all shards at once
    np.testing.assert_array_equal(out[:, 0], [video.frames[1] for video in videos])
    assert most <= 3  # one is in use, though it is no longer among those that stay open
    most = 0
    read_native = native_reading.read_frames

    def read_and_count(*arguments) -> None:
        nonlocal most
        most = max(most, len(open_shards(index.folder)))
        read_native(*arguments)

    monkeypatch.setattr(native_reading, "read_frames", read_and_count)
    found, met = read_rows(reader, *((record, [1]) for record in range(8)))
    assert met.all() and 0 < most <= 3
    np.testing.assert_array_equal(found, out[:, 0])


@st.composite
def shard_lists(draw) -> list[list[Video]]:
    """A few shards of a few videos, with frames or without."""
    label = st.integers(0, 3861)
    rating = st.tuples(st.integers(0, 300), label, st.sampled_from([0.0, 1.0]))
    video = st.builds(
        make_video,
        st.integers(0, 255),
        st.integers(0, 4),
        st.lists(label, max_size=3),
        st.none() | st.lists(rating, max_size=3),
        st.none() | st.integers(0, 4),
    )
    return draw(st.lists(st.lists(video, min_size=1, max_size=4), min_size=1, max_size=4))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(shard_lists(), st.data())
def test_the_index_is_the_indexes_of_the_shards_one_after_the_other(shards, choice):
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        known = choice.draw(st.sets(st.integers(0, len(shards) - 1), min_size=1))
        for number in known:  # these come from the cache afterwards
            write_videos(shard(data, number), shards[number])
        load(data)
        for number in set(range(len(shards))) - known:
            write_videos(shard(data, number), shards[number])
        index = load(data)
        assert_same(index, load_anew(data))
        assert_same(index, load(data))
        assert_holds(index, shards)


def test_many_shards_are_indexed_by_processes_to_the_same_index(data, monkeypatch):
    alone = load_anew(data)
    monkeypatch.setattr(yt8m.data.index, "_SHARDS_WORTH_A_PROCESS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert_same(load_anew(data), alone)
    shard(data, 3).write_bytes(shard(data, 3).read_bytes()[:-1])
    with pytest.raises(RecordError, match="train03.tfrecord.*truncated"):
        load_anew(data)


def test_the_index_of_a_file_holds_its_records_and_leaves_nothing_beside_it(tmp_path):
    alone = write_videos(tmp_path / "some.name", shard_videos(1))
    index = index_file(alone)
    assert_holds(index, [shard_videos(1)])
    assert_reads(index, [shard_videos(1)])
    assert index.path(0) == alone
    assert [path.name for path in alone.parent.iterdir()] == ["some.name"]


def test_missing_and_incomplete_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.tfrecord: no such file"):
        index_file(tmp_path / "none.tfrecord")
    path = write_videos(tmp_path / "one.tfrecord", shard_videos(1))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(RecordError, match="one.tfrecord: record at byte .*truncated"):
        index_file(path)
    damage = Damage(skip=True)
    assert_holds(index_file(path, damage), [shard_videos(1)[:1]])
    assert len(damage.left_out) == 1
    path.write_bytes(content[:20])
    with pytest.raises(UserError, match="one.tfrecord: no readable record"):
        index_file(path, Damage(skip=True))


def test_the_limit_of_open_files_is_raised_as_far_as_allowed(data):
    """The usual limit of 1,024 is too low for the 3,844 shards of a partition."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        assert_reads(load(data), [shard_videos(number) for number in range(4)])
        wanted = 4 * ShardReader.MAX_OPEN
        most = wanted if before[1] == resource.RLIM_INFINITY else min(wanted, before[1])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@given(st.lists(st.text(st.sampled_from("ae\u0301\u030aéÅ한ü"), min_size=1, max_size=4), min_size=1, max_size=4))
def test_ids_are_composed_whoever_wrote_the_shard(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ids = [name.encode() for name in names] + [b"\xff"]  # the last is not UTF-8
        videos = [dataclasses.replace(make_video(number, 3), video_id=own) for number, own in enumerate(ids)]
        index = index_videos(Path(folder), [videos])
        again = load_index(index.folder, Path(folder) / "cache")
        for found in (index, again, index_file(index.path(0))):
            expected = [unicodedata.normalize("NFC", name).encode() for name in names]
            assert found.video_id.tolist() == [*expected, b"\xff"]
