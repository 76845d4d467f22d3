"""Files appear whole or not at all."""

import os
import stat

import pytest

from yt8m.common.files import replacing


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
