"""User errors, one line naming file, field and remedy, and helpers for the wording of messages."""

import difflib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

SHOWN = 5


def listed(items: Sequence[str]) -> str:
    """Items in a line; of many, the first few and the number of the others."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 evaluation", "2,000 evaluations"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(text: str, known: Iterable[str]) -> str | None:
    """A question that suggests up to three known names like the text, or containing it; None if there is none."""
    folded = {name.casefold(): name for name in known}
    text = text.strip().casefold()
    near = difflib.get_close_matches(text, folded, 3) or [name for name in folded if text in name][:3]
    if not near:
        return None
    *others, last = [folded[name] for name in near]
    return f"did you mean {', '.join(others)}{' or ' * bool(others)}{last}?"


def with_suggestions(texts: Sequence[str], known: Iterable[str]) -> str:
    """Unknown texts in a line, the first few with known ones like them."""
    known = list(known)
    questions = [did_you_mean(text, known) for text in texts[:SHOWN]]
    shown = [f"{text} ({question})" if question else text for text, question in zip(texts, questions)]
    return listed([*shown, *texts[SHOWN:]])


class UserError(ValueError):
    """Bad input: a wrong config, a missing folder, a damaged file. Commands print it and exit with status 2."""


def import_package(name: str, user: str, remedy: str) -> ModuleType:
    """Import an optional package for its `user`. Raises `UserError` if it is not installed or cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "is not installed here" if is_missing else f"cannot be imported here ({first_line(error)})"
        raise UserError(f"{user}: needs the package {name}, which {why}; {remedy}") from None


def first_line(error: Exception) -> str:
    """The first line of an error message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class RecordError(UserError):
    """An unreadable shard, record or film.

    `path` of the file; `what` is wrong, and the remedy; `offset` of the record in bytes and its `video_id`, if known.
    """

    def __init__(self, path: Path, what: str, offset: int | None = None, video_id: bytes | None = None) -> None:
        super().__init__(path, what, offset, video_id)  # for pickle to rebuild it
        self.path, self.what, self.offset, self.video_id = path, what, offset, video_id

    def __str__(self) -> str:
        record = "" if self.offset is None else f"record at byte {self.offset}"
        if record and self.video_id is not None:
            record += f", video {self.video_id.decode(errors='replace')}"
        return ": ".join(part for part in (str(self.path), record, self.what) if part)


class ForeignRecordError(RecordError):
    """An undamaged record of another kind than frame-level features; never skipped as damage."""


class Faults:
    """Faults of `source`, collected and raised as one error with a remedy."""

    def __init__(self, source: object, remedy: str = "") -> None:
        self._source, self.remedy = source, remedy
        self._shown: list[str] = []
        self._count = 0

    def add(self, what: str) -> None:
        """Add a fault; only the first few are kept."""
        self._count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(what)

    def raise_any(self) -> None:
        """Raise a `UserError` if there are faults."""
        if self._count:
            more = f"; and {self._count - SHOWN} more" if self._count > SHOWN else ""
            remedy = f"; {self.remedy}" if self.remedy else ""
            raise UserError(f"{self._source}: {'; '.join(self._shown)}{more}{remedy}")
