"""Atomic writes and advisory locks."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = logging.getLogger(__name__)
_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends without an error.

    What is written is on the disk before the old file is gone, and so is the new name when the block
    has ended. Links are followed, and what is no regular file, such as a pipe or `/dev/null`, is
    written to as it is. Missing folders are made. An `OSError` that does not say which file it is
    about, such as that the disk is full, gets the name of `path`.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with _named(path, None):
            yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        with _named(path, name):
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
