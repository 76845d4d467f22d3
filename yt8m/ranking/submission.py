"""Submissions, `Class,Segments`: of each class its label id and its segments, best first.

A segment is `<video id>:<start second>`. Files whose name ends in .gz are compressed.
"""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.ahead import map_ahead
from yt8m.data.vocabulary import LARGEST_LABEL

HEADER = b"Class,Segments"
_COMPRESSION = 3  # a fifth of the time of zlib's default, a tenth more bytes


def write_submission(
    path: Path,
    labels: Sequence[int],
    names: np.ndarray,
    ranked: Sequence[Callable[[], np.ndarray]],
    progress: Callable[[int], object],
) -> None:
    """Write one line a class: its label id and the names of its rows, best first.

    `names` (rows,) bytes, `ranked`: for each label a function that gives its rows, each of which is called once, by
    any thread. `progress` is told of every class that is written.
    """
    spaced = np.char.add(names, b" ")
    compressed = path.suffix == ".gz"

    def encode(text: bytes) -> bytes:
        return gzip.compress(text, _COMPRESSION, mtime=0) if compressed else text  # members of a gzip file may be many

    def line(number: int) -> bytes:
        entries = np.take(spaced, ranked[number]()).tobytes().replace(b"\0", b"")  # what numpy pads short names with
        return encode(b"%d,%s\n" % (labels[number], entries[:-1]))

    workers = os.cpu_count() or 1
    with replacing(path) as temporary, temporary.open("wb") as output:
        output.write(encode(HEADER + b"\n"))
        for text in map_ahead(line, range(len(labels)), workers, 2 * workers):
            output.write(text)
            progress(1)


@contextmanager
def open_submission(path: Path) -> Iterator[io.BufferedIOBase]:
    """A submission to be read, uncompressed. Raises `UserError` where that cannot be done."""
    try:
        with path.open("rb") as plain:
            if path.suffix == ".gz":
                with gzip.open(plain) as file:
                    yield file
            else:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as a submission ({error})") from None


def read_submission(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Of each line the label id and the segments, best first. Raises `UserError` naming a line that is not as it
    should be."""
    known: set[int] = set()
    with open_submission(path) as file:  # pylint: disable=contextmanager-generator-missing-cleanup  # it has its own
        if read_header(file) != HEADER:
            raise UserError(f"{path}: line 1: expected the header {HEADER.decode()}")
        for number, line in enumerate(file, 2):
            label, segments = split_line(line)
            if label is None:
                raise UserError(f"{path}: line {number}: expected <class id>,<segments>")
            if label in known:
                raise UserError(f"{path}: line {number}: class {label} has a line already")
            known.add(label)
            try:
                entries = segments.decode().split()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: cannot be read as a submission (line {number}: {error})") from None
            yield label, entries


def read_header(file: io.BufferedIOBase) -> bytes:
    """The first line of a submission without what does not count: a byte order mark and quotation marks."""
    fields = file.readline().removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n").split(b",")
    return b",".join(map(_unquoted, fields))


def split_line(line: bytes) -> tuple[int | None, bytes]:
    """Label id and segments of a line, either of which may be in quotation marks; the label is None where the line has
    none."""
    label, comma, segments = line.rstrip(b"\r\n").partition(b",")
    label = _unquoted(label)
    is_label = comma and label.isdigit() and len(label) <= len(str(LARGEST_LABEL))
    return int(label) if is_label else None, _unquoted(segments)


def _unquoted(field: bytes) -> bytes:
    return field[1:-1] if len(field) > 1 and field[:1] == field[-1:] == b'"' else field
