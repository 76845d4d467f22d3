"""Atomic replacement of a folder of shards, with interruptions."""

from pathlib import Path

import pytest

from yt8m.common.errors import UserError
from yt8m.making.shard_writing import NewFolder, finish_interrupted

OLD = {"a.tfrecord": "old", "notes.txt": "mine"}
NEW = {"b.tfrecord": "new", "notes.txt": "mine"}


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path) -> dict[str, str]:
    """The files of a folder."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def alone(folder: Path) -> bool:
    """Whether nothing is beside it but the lock."""
    return {path.name for path in folder.parent.iterdir()} <= {folder.name, f".{folder.name}.lock"}


def replace(folder: Path) -> None:
    """Put a new shard in the place of the old ones."""
    with NewFolder(folder) as new:
        (new.path / "b.tfrecord").write_text("new", encoding="utf-8")
        new.publish()


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    """A folder with an old shard and a file of the user's."""
    return write(tmp_path / "partition", OLD)


def test_shards_are_replaced_and_the_rest_is_kept(folder: Path) -> None:
    replace(folder)
    assert read(folder) == NEW and alone(folder)


def test_files_of_the_new_folder_are_not_replaced(folder: Path) -> None:
    with NewFolder(folder) as new:
        write(new.path, {"b.tfrecord": "new", "notes.txt": "newer"})
        new.publish()
    assert read(folder) == {"b.tfrecord": "new", "notes.txt": "newer"} and alone(folder)


def test_an_unpublished_folder_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), NewFolder(folder) as new:
        (new.path / "b.tfrecord").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert read(folder) == OLD and alone(folder)


@pytest.mark.parametrize("moment", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_loses_no_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: int, error: type[BaseException]
) -> None:
    """Of the two renames and the move of the rest, one fails."""
    rename, calls = Path.rename, iter(range(10))

    def fail_at_the_moment(path: Path, target: Path) -> Path:
        if next(calls) == moment:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_moment)
    with pytest.raises(error):
        replace(folder)
    monkeypatch.undo()
    finish_interrupted(folder)
    assert read(folder) == (NEW if moment == 2 else OLD) and alone(folder)


def test_a_process_that_was_killed_between_the_renames(folder: Path) -> None:
    folder.rename(folder.parent / ".partition.old")
    write(folder.parent / ".partition.new", {"b.tfrecord": "whole or not"})
    finish_interrupted(folder)
    assert read(folder) == OLD
    replace(folder)
    assert read(folder) == NEW and alone(folder)


def test_two_processes_do_not_write_at_once(folder: Path) -> None:
    with NewFolder(folder) as new:
        (new.path / "b.tfrecord").write_text("new", encoding="utf-8")
        with pytest.raises(UserError, match="another process"), NewFolder(folder):
            pass
        new.publish()
        assert new.published
        with pytest.raises(UserError, match="another process"):  # until all is done
            replace(folder)
    assert read(folder) == NEW and alone(folder)


def test_a_folder_that_another_process_is_replacing_is_left_alone(folder: Path) -> None:
    with NewFolder(folder):
        folder.rename(folder.parent / ".partition.old")  # the first of the renames
        with pytest.raises(UserError, match="another process"):
            finish_interrupted(folder)
    finish_interrupted(folder)
    assert read(folder) == OLD and alone(folder)


def test_a_link_to_another_disk_stays_one(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "data"
    link.symlink_to(folder)
    replace(link)
    assert link.is_symlink() and read(link) == NEW
    folder.rename(folder.parent / ".partition.old")
    finish_interrupted(link)
    assert link.is_symlink() and read(link) == NEW
