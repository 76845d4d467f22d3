"""A folder of shards that appears whole, in the place of another one or not at all."""

import shutil
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from helperbot.files import sync

from yt8m.common.locks import locked


def finish_interrupted(folder: Path) -> None:
    """If a process was killed while it put a new folder in the place of `folder`, put back what is missing.

    Raises `UserError` where another process is writing.
    """
    folder = folder.resolve()
    if _beside(folder, "old").is_dir():
        with _claimed(folder):
            _put_back(folder)


class NewFolder:
    """A folder beside `folder`, to be written to; `publish` puts it in its place, and it is `published`. A context.

    What else `folder` has in it than shards is kept. What a killed process has left is removed. Entering raises
    `UserError` where another process is writing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.path = _beside(self._folder, "new")
        self.published = False
        self._context = ExitStack()

    def __enter__(self) -> "NewFolder":
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(_claimed(self._folder))
            _put_back(self._folder)
            stack.callback(shutil.rmtree, self.path, ignore_errors=True)
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir()
            self._context = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def publish(self) -> None:
        """Put what has been written in the place of `folder`.

        Whatever comes between, Ctrl-C, too, shards are there; a process that is killed between the renames leaves the
        old ones to `finish_interrupted`. The new ones are on the disk before the old ones are gone.
        """
        for path in (*self.path.iterdir(), self.path):
            sync(path)
        if not self._folder.exists():
            self.path.rename(self._folder)
            self.published = True
            return
        old = _beside(self._folder, "old")
        self._folder.rename(old)
        try:
            self.path.rename(self._folder)
        except BaseException:
            old.rename(self._folder)
            raise
        self.published = True
        sync(self._folder.parent)
        _keep_the_rest(old, self._folder)


def _claimed(folder: Path) -> AbstractContextManager[None]:
    return locked(_beside(folder, "lock"), f"{folder}: another process is making shards for it; wait for it or stop it")


def _beside(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _put_back(folder: Path) -> None:
    old = _beside(folder, "old")
    if old.is_dir():
        if folder.exists():
            _keep_the_rest(old, folder)
        else:
            old.rename(folder)


def _keep_the_rest(old: Path, folder: Path) -> None:
    """Move what is no shard, and not there, from the old folder to the one in its place, and remove the old one."""
    for entry in old.iterdir():
        if entry.suffix != ".tfrecord" and not (folder / entry.name).exists():
            entry.rename(folder / entry.name)
    shutil.rmtree(old)
