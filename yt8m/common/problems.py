"""What is wrong with a user's files, a handful of it in one message."""

from yt8m.common.errors import UserError

SHOWN = 5


class Problems:
    """Collects what is wrong with `source` and how to mend it, and raises it as one error."""

    def __init__(self, source: object, remedy: str = "") -> None:
        self._source, self._remedy = source, remedy
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
            remedy = f"; {self._remedy}" if self._remedy else ""
            raise UserError(f"{self._source}: {'; '.join(self._shown)}{more}{remedy}")
