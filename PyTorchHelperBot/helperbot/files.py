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

    The new content is synced to disk before the old file is replaced, and the new name before the block ends. Links are
    followed, and anything but a regular file, such as a pipe or `/dev/null`, is written to directly. Missing folders
    are created. An `OSError` without a file name, such as that of a full disk, gets that of `path`. Thread-safe.

    `aside`: where to move the old file, replacing any file there, once the new one is on disk; on the same file system.
    A process killed in between leaves the old file there, and none at `path`.
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
    """Create an empty file beside `path`, with the permissions of new files under the umask."""
    while True:
        # Not by tempfile, whose files only their owner may read; and the umask cannot be read without setting it.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        return temporary


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes left beside files of this name, a pattern.

    Call only where no other process is writing.
    """
    for path in folder.glob(f".{name}.*{_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, occupied: Exception) -> Iterator[None]:
    """Hold an advisory lock on the file `path`, which is created, and stays unless the holder removes it.

    Raises `occupied` if another process holds the lock. Logs a warning on file systems without locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise occupied
        except (BlockingIOError, FileNotFoundError):  # held, or just released and removed
            raise occupied from None
        except OSError as error:
            LOGGER.warning("%s: no locks here (%s); let no other process write there", path.parent, error.strerror)
        yield


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
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
