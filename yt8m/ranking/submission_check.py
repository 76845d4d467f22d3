"""What is wrong with a submission: classes, counts and entries against the vocabulary and the test metadata."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yt8m.data.ahead import map_ahead
from yt8m.data.test_meta import TestMeta
from yt8m.data.vocabulary import Vocabulary
from yt8m.ranking.submission import HEADER, open_submission, read_header, split_line

WORKERS = 2
SHOWN = 60  # characters of what is odd


@dataclass
class Findings:
    """What was found: how often each problem, with its first example; and what is worth knowing but no problem."""

    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    n_lines: int = 0
    n_entries: int = 0
    n_short: int = 0  # lists that could be longer
    n_empty: int = 0

    def add(self, problem: str, count: int, example: str) -> None:
        """Count a problem."""
        if count:
            before, first = self.problems.get(problem, (0, example))
            self.problems[problem] = before + count, first


class SubmissionCheck:
    """Checks the lines of a submission."""

    def __init__(self, meta: TestMeta, vocabulary: Vocabulary, top_k: int) -> None:
        self.vocabulary, self.top_k, self.n_rows = vocabulary, top_k, meta.n_rows
        self._names = np.sort(meta.row_names())
        self._video_ids = np.sort(meta.video_ids)

    def check(self, path: Path) -> Findings:
        """All that is wrong with a file. Raises `UserError` where it cannot be read."""
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
                for problem, (count, example) in part.problems.items():
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
    """Which of the values are among the ascending ones, neither empty."""
    places = np.searchsorted(ascending, values.astype(ascending.dtype)).clip(max=len(ascending) - 1)
    return ascending[places] == values


def _shown(text: bytes) -> str:
    decoded = text.decode(errors="replace")
    return repr(decoded if len(decoded) <= SHOWN else decoded[:SHOWN] + "...")
