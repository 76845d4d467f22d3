"""Mistakes of users: one line that names file, field and remedy, also of several faults at once."""

from pathlib import Path

from yt8m.common.wording import SHOWN


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
