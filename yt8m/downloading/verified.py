"""Files whose MD5 is known to be right, remembered, so that a terabyte is not read again at each start."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from yt8m.common.files import replacing
from yt8m.data.records import stamp_of

LOGGER = logging.getLogger(__name__)
FORMAT_VERSION = 1
_CHUNK_BYTES = 1 << 20


class VerifiedFiles:
    """The files of one folder that have been verified: size, modification time and MD5 of each, in a JSON file.

    A file that has changed since, in size or time, is not held to be verified any more.
    """

    def __init__(self, folder: Path, data_dir: Path) -> None:
        """Read what is known of `folder` from the cache of `data_dir`; one that cannot be read is begun anew."""
        place, base = folder.absolute(), data_dir.absolute()
        key = str(place.relative_to(base) if place.is_relative_to(base) else place)
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        self._path = data_dir / "cache" / "downloads" / f"{folder.parent.name}-{folder.name}-{digest}.json"
        self._folder = folder
        self._files = self._read()

    def _read(self) -> dict[str, list[int | str]]:
        try:
            stored = json.loads(self._path.read_bytes())
            files = stored["files"] if stored["version"] == FORMAT_VERSION else {}
            return {str(name): [int(size), int(time), str(md5)] for name, (size, time, md5) in files.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            LOGGER.warning("%s cannot be read (%s); the files are verified anew", self._path, error)
            return {}

    def holds(self, name: str, md5: str) -> bool:
        """Whether the file of this name has been verified to have this MD5, and has not changed since."""
        try:
            stamp = stamp_of((self._folder / name).stat())
        except FileNotFoundError:
            return False
        return self._files.get(name) == [*stamp, md5]

    def add(self, name: str, md5: str) -> None:
        """The file of this name, as it is now, has this MD5."""
        self._files[name] = [*stamp_of((self._folder / name).stat()), md5]

    def save(self) -> None:
        """Write what is known to the cache."""
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps({"version": FORMAT_VERSION, "files": self._files}), encoding="utf-8")


def new_md5() -> "hashlib._Hash":
    """An MD5, which says here whether a file is whole and protects nothing."""
    return hashlib.md5(usedforsecurity=False)


def read_into(digest: "hashlib._Hash", file: BinaryIO, read: Callable[[int], None]) -> int:
    """Take the rest of an open file into a digest; the size of it in bytes. `read` is told of each piece's size."""
    size = 0
    while piece := file.read(_CHUNK_BYTES):
        digest.update(piece)
        size += len(piece)
        read(len(piece))
    return size
