"""The file of ratings, `vid,start,label,score`: every rating is on the disk before the next question is asked."""

import csv
import io
import logging
import os
from pathlib import Path

from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.vocabulary import RATING_COLUMNS, read_ratings

LOGGER = logging.getLogger(__name__)
HEADER = ",".join(RATING_COLUMNS) + "\n"
Key = tuple[str, int, str]  # video id, start second, label


class RatingsFile:
    """Ratings by (video id, start second, label), each in the file once; `scores` has them in the order of the file.

    One process at a time may write, and one thread.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file; a last line that a killed process has left unfinished goes.

        Raises `UserError` for a file of another form.
        """
        self.path = path
        self.scores: dict[Key, int] = {}
        content = path.read_bytes() if path.exists() else b""
        header = content.partition(b"\n")[0]
        if b"\n" in content and header.decode("utf-8-sig", "replace").strip() != HEADER.strip():
            raise UserError(
                f"{path}: expected the first line to be {HEADER.strip()}; name another file with --ratings, or save "
                "this one with these columns alone, separated by commas"
            )
        if b"\n" not in content and not HEADER.encode().startswith(content.strip()):
            raise UserError(f"{path}: is no file of ratings; name another one with --ratings")
        whole = _whole_lines(content)
        if len(whole) < len(content):
            LOGGER.warning("%s: the last line was not finished, and goes: %r", path, content[len(whole) :])
            with replacing(path) as temporary:
                temporary.write_bytes(whole)
        if whole.partition(b"\n")[2].strip():
            self.scores = {(row.video_id, row.start, row.label): row.score for row in read_ratings(path)}
        if whole != _table(self.scores):
            self._replace(self.scores)

    def add(self, key: Key, score: int) -> None:
        """Write a rating, 0 or 1; one of the same key is replaced. What fails leaves the file as it was."""
        if key in self.scores:
            self.remove(key)
        line = _lines({key: score})
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        self.scores[key] = score

    def remove(self, key: Key) -> None:
        """Take a rating back. What fails leaves the file as it was."""
        self._replace({other: score for other, score in self.scores.items() if other != key})

    def _replace(self, scores: dict[Key, int]) -> None:
        with replacing(self.path) as temporary:
            temporary.write_bytes(_table(scores))
        self.scores = scores


def _table(scores: dict[Key, int]) -> bytes:
    """The whole file."""
    return HEADER.encode() + _lines(scores)


def _lines(scores: dict[Key, int]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((*key, score) for key, score in scores.items())
    return text.getvalue().encode()


def _whole_lines(content: bytes) -> bytes:
    """All lines, the last one only if it lacks nothing but its end."""
    *whole, last = content.splitlines(keepends=True) or [b""]
    if last.endswith(b"\n"):
        return content
    try:
        (fields,) = csv.reader([last.decode()], strict=True)
    except (ValueError, csv.Error):
        return b"".join(whole)
    finished = len(fields) == len(RATING_COLUMNS) and fields[-1] in ("0", "1")
    return content if finished else b"".join(whole)
