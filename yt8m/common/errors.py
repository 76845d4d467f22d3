"""Exceptions for mistakes a user can mend: they name file, field and remedy in one line."""

from pathlib import Path


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
