"""The file of ratings, `vid,start,label,score`: every rating is on disk before the next question."""

import csv
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.vocabulary import RATING_COLUMNS, read_ratings

LOGGER = logging.getLogger(__name__)
HEADER = ",".join(RATING_COLUMNS) + "\n"
RatedSegment = tuple[str, int, str]  # video id, start second, label


class RatingsFile:
    """Unique ratings by (video id, start second, label); `scores` has them in file order.

    Only one process and thread may write at a time.
    """

    def __init__(self, path: Path, ids: Mapping[str, str] | None = None) -> None:
        """Open or create the file; an unfinished last line, from a killed process, is removed.

        `ids`: as for `read_labels`; the file then has the ids. Raises `UserError` for a file of another format.
        """
        self.path = path
        self.scores: dict[RatedSegment, int] = {}
        content = path.read_bytes() if path.exists() else b""
        header = content.partition(b"\n")[0]
        if b"\n" in content and header.decode("utf-8-sig", "replace").strip() != HEADER.strip():
            raise UserError(
                f"{path}: expected the first line {HEADER.strip()}; name another file with --ratings, or save this one "
                "with only these columns, separated by commas"
            )
        if b"\n" not in content and not HEADER.encode().startswith(content.strip()):
            raise UserError(f"{path}: not a file of ratings; name another one with --ratings")
        whole = _whole_lines(content)
        if len(whole) < len(content):
            LOGGER.warning("%s: removed the unfinished last line: %r", path, content[len(whole) :])
            with replacing(path) as temporary:
                temporary.write_bytes(whole)
        if whole.partition(b"\n")[2].strip():
            self.scores = {(row.video_id, row.start, row.label): row.score for row in read_ratings(path, ids)}
        if whole != _table(self.scores):
            self._replace(self.scores)

    def add(self, key: RatedSegment, score: int) -> None:
        """Write a rating, 0 or 1, replacing one of the same key. A failure leaves the file unchanged."""
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

    def remove(self, key: RatedSegment) -> None:
        """Remove a rating. A failure leaves the file unchanged."""
        self._replace({other: score for other, score in self.scores.items() if other != key})

    def _replace(self, scores: dict[RatedSegment, int]) -> None:
        with replacing(self.path) as temporary:
            temporary.write_bytes(_table(scores))
        self.scores = scores


def _table(scores: dict[RatedSegment, int]) -> bytes:
    """The whole file."""
    return HEADER.encode() + _lines(scores)


def _lines(scores: dict[RatedSegment, int]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((*key, score) for key, score in scores.items())
    return text.getvalue().encode()


def _whole_lines(content: bytes) -> bytes:
    """All complete lines; the last one may lack its line break."""
    *whole, last = content.splitlines(keepends=True) or [b""]
    if last.endswith(b"\n"):
        return content
    try:
        (fields,) = csv.reader([last.decode()], strict=True)
    except (ValueError, csv.Error):
        return b"".join(whole)
    finished = len(fields) == len(RATING_COLUMNS) and fields[-1] in ("0", "1")
    return content if finished else b"".join(whole)
