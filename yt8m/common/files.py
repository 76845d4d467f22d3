"""Files that appear whole or not at all, and locks for what is written over a while."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yt8m.common.errors import UserError

LOGGER = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends without an error.

    An `OSError` that does not say which file it is about, such as that the disk is full, gets the name of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, name):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, occupied: str) -> Iterator[None]:
    """Hold the lock that is the file `path`, which is made and stays.

    Raises `UserError` that says `occupied` if another process holds it. Warns where a file system has no locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(occupied) from None
        except OSError as error:
            LOGGER.warning("%s: no locks here (%s); have no other process write there", path.parent, error.strerror)
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
