"""Atomic writes and advisory locks."""

import os
import stat
import threading
from pathlib import Path

import pytest
from helperbot import files
from helperbot.files import replacing


def test_the_target_has_the_new_content_after_the_block_and_the_old_one_within(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # the same file system: the replacement is one step
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_an_error_leaves_the_target_untouched_and_no_temporary(error, existing, tmp_path):
    path = tmp_path / "table.csv"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(error):
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"] * existing


@pytest.mark.parametrize("umask, expected", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_permissions_follow_the_umask(umask, expected, tmp_path):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "model.pth") as temporary:
            temporary.write_bytes(b"weights")
        assert os.umask(umask) == umask  # it is still in force
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.pth").stat().st_mode) == expected


def test_missing_parents_are_made(tmp_path):
    path = tmp_path / "cache" / "index" / "train.npz"
    with replacing(path) as temporary:
        temporary.write_bytes(b"arrays")
    assert path.read_bytes() == b"arrays"


def test_nested_replacements_of_one_file_do_not_share_a_temporary(tmp_path):
    path = tmp_path / "log"
    with replacing(path) as outer, replacing(path) as inner:
        assert outer != inner
        outer.write_bytes(b"outer")
        inner.write_bytes(b"inner")
    assert path.read_bytes() == b"outer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_what_it_names_is_replaced(tmp_path):
    target, link, dangling = tmp_path / "disk" / "sub.csv", tmp_path / "sub.csv", tmp_path / "other.csv"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to("disk/other.csv")
    for path in (link, dangling):
        with replacing(path) as temporary:
            assert temporary.parent == target.parent
            temporary.write_bytes(b"new")
        assert path.is_symlink() and path.read_bytes() == b"new"
    assert sorted(path.name for path in target.parent.iterdir()) == ["other.csv", "sub.csv"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    with replacing(pipe) as path:
        path.write_bytes(b"spans")
    reader.join()
    assert found == [b"spans"] and pipe.is_fifo()


def test_a_device_is_written_to_and_stays_one():
    with replacing(Path(os.devnull)) as path:
        path.write_bytes(b"spans")
    assert Path(os.devnull).is_char_device()


def test_the_disk_has_the_new_file_before_the_old_one_is_gone_and_then_its_name(tmp_path, monkeypatch):
    path, done = tmp_path / "model.pth", []
    path.write_bytes(b"old")

    def tell(name, function):
        def told(*arguments):
            what = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else str(arguments[1])
            done.append((name, what))
            return function(*arguments)

        return told

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, tell(name, getattr(os, name)))
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert done == [("fsync", str(temporary)), ("replace", str(path)), ("fsync", str(tmp_path))]


def test_a_full_disk_is_named_after_the_file_that_was_wanted(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(OSError) as caught, replacing(path):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())
