"""Submissions, `Class,Segments`: the label id and the segments of each class, best first.

A segment is `<video id>:<start second>`. Files whose name ends in .gz are compressed.
"""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.candidates import Candidates
from yt8m.data.threads import map_ahead
from yt8m.data.vocabulary import LARGEST_LABEL, Vocabulary

HEADER = b"Class,Segments"
WORKERS = 2
SHOWN = 60  # characters of a faulty entry
_COMPRESSION = 3  # takes a fifth of the time of zlib's default, for a tenth more bytes


def write_submission(
    path: Path,
    labels: Sequence[int],
    names: np.ndarray,
    ranked: Sequence[Callable[[], np.ndarray]],
    progress: Callable[[int], object],
) -> None:
    """Write one line per class: its label id and the names of its rows, best first.

    `names` (rows,) bytes; `ranked`: for each label a function that returns its rows, called once, by any thread.
    `progress` is called after each class.
    """
    spaced = np.char.add(names, b" ")
    compressed = path.suffix == ".gz"

    def encode(text: bytes) -> bytes:
        return gzip.compress(text, _COMPRESSION, mtime=0) if compressed else text  # a gzip file may have many members

    def line(number: int) -> bytes:
        entries = np.take(spaced, ranked[number]()).tobytes().replace(b"\0", b"")  # numpy's padding
        return encode(b"%d,%s\n" % (labels[number], entries[:-1]))

    workers = os.cpu_count() or 1
    with replacing(path) as temporary, temporary.open("wb") as output:
        output.write(encode(HEADER + b"\n"))
        for text in map_ahead(line, range(len(labels)), workers, 2 * workers):
            output.write(text)
            progress(1)


@contextmanager
def open_submission(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a submission for reading, decompressed. Raises `UserError` if it cannot be read."""
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
    """Read the label id and the segments, best first, of each line. Raises `UserError` naming a malformed line."""
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
    """The first line of a submission, without byte order mark and quotation marks."""
    fields = file.readline().removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n").split(b",")
    return b",".join(map(_unquoted, fields))


def split_line(line: bytes) -> tuple[int | None, bytes]:
    """Label id and segments of a line, either of which may be in quotation marks; the label is None if missing."""
    label, comma, segments = line.rstrip(b"\r\n").partition(b",")
    label = _unquoted(label)
    is_label = comma and label.isdigit() and len(label) <= len(str(LARGEST_LABEL))
    return int(label) if is_label else None, _unquoted(segments)


def _unquoted(text: bytes) -> bytes:
    return text[1:-1] if len(text) > 1 and text[:1] == text[-1:] == b'"' else text


@dataclass
class Findings:
    """The result of a check: the count and first example of each fault, and other counts."""

    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    n_lines: int = 0
    n_entries: int = 0
    n_short: int = 0  # lists that could be longer
    n_empty: int = 0

    def add(self, problem: str, count: int, example: str) -> None:
        """Count a fault."""
        if count:
            before, first = self.faults.get(problem, (0, example))
            self.faults[problem] = before + count, first


class SubmissionCheck:
    """A checker of submissions against candidates and vocabulary."""

    def __init__(self, candidates: Candidates, vocabulary: Vocabulary, top_k: int) -> None:
        self.vocabulary, self.top_k, self.n_rows = vocabulary, top_k, candidates.n_rows
        self._names = np.sort(candidates.row_names())
        self._video_ids = np.sort(candidates.video_ids)

    def check(self, path: Path) -> Findings:
        """Find all faults of a file. Raises `UserError` if it cannot be read."""
        findings = Findings()
        seen: dict[int, int] = {}
        with open_submission(path) as file:
            header = read_header(file)
            if header != HEADER:
                findings.add(f"the header is not {HEADER.decode()}", 1, f"line 1: {_shown(header)}")
            for number, (label, part) in enumerate(map_ahead(self._check_line, file, WORKERS, 2 * WORKERS), 2):
                findings.n_lines += 1
                where = f"line {number}"
                if label is None:
                    findings.add("lines without a class id and a comma", 1, where)
                    continue
                if label in seen:
                    findings.add("classes with a line already", 1, f"{where}: class {label}, as line {seen[label]}")
                elif self.vocabulary.classes(np.array([label]))[0] < 0:
                    findings.add("classes that are not in the vocabulary", 1, f"{where}: class {label}")
                seen.setdefault(label, number)
                findings.n_entries += part.n_entries
                findings.n_short += part.n_short
                findings.n_empty += part.n_empty
                for problem, (count, example) in part.faults.items():
                    findings.add(problem, count, f"{where}, class {label}: {example}")
        missing = [label for label in self.vocabulary.labels.tolist() if label not in seen]
        if missing:
            findings.add("classes of the vocabulary without a line", len(missing), f"class {missing[0]}")
        return findings

    def _check_line(self, line: bytes) -> tuple[int | None, Findings]:
        label, segments = split_line(line)
        findings = Findings()
        tokens = segments.split(b" ") if segments else []
        findings.n_entries = len(tokens)
        findings.n_empty = int(not tokens)
        findings.n_short = int(len(tokens) < min(self.top_k, self.n_rows))
        findings.add(f"lists of more than {self.top_k} segments", int(len(tokens) > self.top_k), f"{len(tokens)}")
        if tokens:
            self._check_entries(np.array(tokens), findings)
        return label, findings

    def _check_entries(self, entries: np.ndarray, findings: Findings) -> None:
        entries = np.sort(entries)
        again = entries[1:][entries[1:] == entries[:-1]]
        if again.size:
            findings.add("segments that are in a list more than once", again.size, _shown(again[0]))
        fitting = np.char.str_len(entries) <= self._names.itemsize
        known = np.zeros(len(entries), bool)
        known[fitting] = _is_among(self._names, entries[fitting])
        odd = entries[~known]
        if not odd.size:
            return
        ids, _, starts = np.moveaxis(np.char.rpartition(odd, b":"), -1, 0)
        malformed = ~np.char.isdigit(starts) | (ids == b"")
        strange = ~malformed & ~np.isin(ids, self._video_ids)
        for problem, which in (
            ("entries that are not <video id>:<start second>", malformed),
            ("segments of videos that are not in the test set", strange),
            ("starts that are not those of a candidate segment", ~malformed & ~strange),
        ):
            if which.any():
                findings.add(problem, int(which.sum()), _shown(odd[which][0]))


def _is_among(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of the values are among the ascending ones; neither is empty."""
    places = np.searchsorted(ascending, values.astype(ascending.dtype)).clip(max=len(ascending) - 1)
    return ascending[places] == values


def _shown(text: bytes) -> str:
    decoded = text.decode(errors="replace")
    return repr(decoded if len(decoded) <= SHOWN else decoded[:SHOWN] + "...")
