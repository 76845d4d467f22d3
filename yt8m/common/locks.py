"""Advisory locks for what is written over a while."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yt8m.common.errors import UserError

LOGGER = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, occupied: str) -> Iterator[None]:
    """Hold the lock that is the file `path`, which is made, and stays unless the holder removes it.

    Raises `UserError` that says `occupied` if another process holds it. Warns where a file system has no locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise UserError(occupied)
        except (BlockingIOError, FileNotFoundError):  # at work, or just done and the file gone
            raise UserError(occupied) from None
        except OSError as error:
            LOGGER.warning("%s: no locks here (%s); have no other process write there", path.parent, error.strerror)
        yield
