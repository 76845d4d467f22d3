"""A shard as an open file, whose bytes are read when they are asked for."""

import errno
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from yt8m.common.errors import RecordError, UserError

_PAGE = 4096


class Shard:
    """A shard that is open to be read: slices of it are its bytes.

    It is not mapped into memory: touching a page of a mapped file that has been cut off, or whose disk or server
    fails, kills the process. Reading is a `RecordError` then. Of what is read in small pieces the last page is kept,
    so that parsing costs few reads. The file is closed when the shard is no longer used. May be used by several
    threads at once.
    """

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path, self._file, self._size, self._handle = path, file, size, file.fileno()
        self._page = 0, b""  # where it begins, and its bytes; replaced as one
        self._advise(0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(self._size)
        if stop - start > _PAGE:
            return self.read(start, stop)
        first, page = self._page
        if not first <= start <= stop <= first + len(page):
            first = start - start % _PAGE
            page = self.read(first, min(-(-stop // _PAGE) * _PAGE, self._size))
            self._page = first, page
        return page[start - first : stop - first]

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, and nothing else. Raises `RecordError` where they are not to be had."""
        try:
            found = os.pread(self._handle, stop - start, start)
            while len(found) < stop - start:
                more = os.pread(self._handle, stop - start - len(found), start + len(found))
                if not more:
                    what = f"has been cut off before byte {stop} since it was opened; run the command again"
                    raise RecordError(self.path, what)
                found += more
        except OSError as error:
            raise RecordError(
                self.path, f"byte {start} and those behind it cannot be read ({error.strerror})"
            ) from None
        return found

    def will_need(self, start: int, stop: int) -> None:
        """Have the system read these bytes, all at once, while we go on."""
        self._advise(start, stop - start, os.POSIX_FADV_WILLNEED)

    def _advise(self, start: int, length: int, advice: int) -> None:
        try:
            os.posix_fadvise(self._handle, start, length, advice)
        except OSError:  # reading will tell what is wrong
            pass


def stamp_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a changed shard: size in bytes, modification time in ns, inode, and time of change in ns.

    Archives and copies set the modification time back, but nothing sets the last of these.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def open_shard(path: Path, stamp: Sequence[int] | None = None) -> Shard:
    """Open a shard to read just what is asked for.

    Raises `RecordError` for a file that cannot be read, or is not that of `stamp`. Of this the time of change does not
    count: another hard link to the file would end a run. Raises `UserError` where no more files may be open.
    """
    try:
        file = path.open("rb", buffering=0)
        stat = os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # is not the shard's fault
            raise UserError(f"{path}: cannot be opened ({error.strerror}); raise the limit, see `ulimit -Hn`") from None
        raise RecordError(path, f"cannot be read ({error.strerror})") from None
    if stamp is not None and stamp_of(stat)[:-1] != tuple(stamp[:-1]):
        file.close()
        raise RecordError(path, "has changed since it was indexed; run the command again")
    return Shard(path, file, stat.st_size)
