"""Atomic writes and advisory locks."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = logging.getLogger(__name__)
_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends without an error.

    What is written is on the disk before the old file is gone, and so is the new name when the block
    has ended. Links are followed, and what is no regular file, such as a pipe or `/dev/null`, is
    written to as it is. Missing folders are made. An `OSError` that does not say which file it is
    about, such as that the disk is full, gets the name of `path`. Threads may do this at the same time.

    `aside`: where the old file goes, in place of what is there, once the new one is on the disk; the same
    file system. A process that is killed in between leaves the old file there, and none at `path`.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with _named(path, None):
            yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_temporary(path)
    try:
        with _named(path, str(temporary)):
            yield temporary
            sync(temporary)
            if aside is not None and path.exists():
                os.replace(path, aside)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_temporary(path: Path) -> Path:
    """Make an empty file beside `path`, with the permissions that the umask gives to new files."""
    while True:
        # Not by tempfile: its files are for their owner alone, and reading the umask sets it, for all threads.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        return temporary


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes have left of files of this name, a pattern, that they were writing.

    Only for where no other process is writing.
    """
    for path in folder.glob(f".{name}.*{_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, occupied: Exception) -> Iterator[None]:
    """Hold the lock that is the file `path`, which is made, and stays unless the holder removes it.

    Raises `occupied` if another process holds it. Warns where a file system has no locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise occupied
        except (BlockingIOError, FileNotFoundError):  # at work, or just done and the file gone
            raise occupied from None
        except OSError as error:
            LOGGER.warning("%s: no locks here (%s); have no other process write there", path.parent, error.strerror)
        yield


def sync(path: Path) -> None:
    """Have the disk hold what a file has, or which names a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path, temporary: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, temporary):
            error.filename = str(path)
        raise
