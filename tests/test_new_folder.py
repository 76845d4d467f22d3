"""A folder of shards is replaced as a whole, whenever it is interrupted."""

from pathlib import Path

import pytest

from yt8m.common.errors import UserError
from yt8m.making.new_folder import NewFolder, finish_interrupted

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
    assert read(folder) == NEW
    assert [path.name for path in folder.parent.iterdir()] == ["partition"]


def test_what_is_not_published_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), NewFolder(folder) as new:
        (new.path / "b.tfrecord").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert read(folder) == OLD and len(list(folder.parent.iterdir())) == 1


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
    assert read(folder) == (NEW if moment == 2 else OLD)
    assert len(list(folder.parent.iterdir())) == 1


def test_a_process_that_was_killed_between_the_renames(folder: Path) -> None:
    folder.rename(folder.parent / ".partition.old")
    write(folder.parent / ".partition.new", {"b.tfrecord": "whole or not"})
    finish_interrupted(folder)
    assert read(folder) == OLD
    replace(folder)
    assert read(folder) == NEW and len(list(folder.parent.iterdir())) == 1


def test_two_processes_do_not_write_at_once(folder: Path) -> None:
    with NewFolder(folder) as new:
        (new.path / "b.tfrecord").write_text("new", encoding="utf-8")
        with pytest.raises(UserError, match="another process"):
            NewFolder(folder)
        new.publish()
    assert read(folder) == NEW
