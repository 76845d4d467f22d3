"""Mistakes of users, one line that names file, field and remedy, and the words of messages."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 5


def listed(items: Sequence[str]) -> str:
    """Items in a line, of many only the first few and how many more there are."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def counted(number: int, noun: str) -> str:
    """A number of things: "1 evaluation", "2,000 evaluations"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(text: str, known: Iterable[str]) -> str | None:
    """A question with at most three of the known names that are like the text, or contain it; None if none is."""
    folded = {name.casefold(): name for name in known}
    text = text.strip().casefold()
    near = difflib.get_close_matches(text, folded, 3) or [name for name in folded if text in name][:3]
    if not near:
        return None
    *others, last = [folded[name] for name in near]
    return f"did you mean {', '.join(others)}{' or ' * bool(others)}{last}?"


class UserError(ValueError):
    """Bad input: a wrong config, a missing folder, a damaged file. Commands print it and exit with 2."""


class RecordError(UserError):
    """A shard, or a record of it, that cannot be read.

    `path` of the shard; `what` is wrong and what to do; `offset` of the record in bytes and its `video_id`,
    where they are known.
    """

    def __init__(self, path: Path, what: str, offset: int | None = None, video_id: bytes | None = None) -> None:
        super().__init__(path, what, offset, video_id)  # what pickle needs to make it again
        self.path, self.what, self.offset, self.video_id = path, what, offset, video_id

    def __str__(self) -> str:
        record = "" if self.offset is None else f"record at byte {self.offset}"
        if record and self.video_id is not None:
            record += f", video {self.video_id.decode(errors='replace')}"
        return ": ".join(part for part in (str(self.path), record, self.what) if part)


class ForeignRecordError(RecordError):
    """A sound record of another kind than frame-level features: no damage, and never left out like one."""


class Faults:
    """Collects what is wrong with `source` and how to mend it, and raises it as one error."""

    def __init__(self, source: object, remedy: str = "") -> None:
        self._source, self.remedy = source, remedy
        self._shown: list[str] = []
        self._count = 0

    def add(self, what: str) -> None:
        """One thing more; of many only the first few are kept."""
        self._count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(what)

    def raise_any(self) -> None:
        """Raise a `UserError` if anything is wrong."""
        if self._count:
            more = f"; and {self._count - SHOWN} more" if self._count > SHOWN else ""
            remedy = f"; {self.remedy}" if self.remedy else ""
            raise UserError(f"{self._source}: {'; '.join(self._shown)}{more}{remedy}")
