"""A folder of shards that appears whole, in the place of another one or not at all."""

import fcntl
import os
import shutil
from pathlib import Path

from yt8m.common.errors import UserError


def finish_interrupted(folder: Path) -> None:
    """If a process was killed while it put a new folder in the place of `folder`, put back what is missing."""
    old = _beside(folder.resolve(), "old")
    if not old.is_dir():
        return
    if folder.exists():
        _keep_the_rest(old, folder)
    else:
        old.rename(folder)


class NewFolder:
    """A folder beside `folder`, to be written to; `publish` puts it in its place. A context.

    What else `folder` has in it than shards is kept. What a killed process has left is removed. Raises `UserError`
    where another process is writing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self.path = _beside(self._folder, "new")
        self.path.mkdir(exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(f"{folder}: another process is making shards for it; wait for it or stop it") from None
        for entry in self.path.iterdir():
            entry.unlink()

    def __enter__(self) -> "NewFolder":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self) -> None:
        """Put what has been written in the place of `folder`; whatever comes between, shards are there."""
        if not self._folder.exists():
            self.path.rename(self._folder)
            return
        old = _beside(self._folder, "old")
        self._folder.rename(old)
        try:
            self.path.rename(self._folder)
        except BaseException:  # Ctrl-C, too
            old.rename(self._folder)
            raise
        _keep_the_rest(old, self._folder)


def _beside(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _keep_the_rest(old: Path, folder: Path) -> None:
    """Move what is no shard from the old folder to the one in its place, and remove the old one."""
    for entry in old.iterdir():
        if entry.suffix != ".tfrecord":
            entry.rename(folder / entry.name)
    shutil.rmtree(old)
