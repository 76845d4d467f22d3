"""What is wrong with a user's files, a handful of it in one message."""

from collections.abc import Sequence

from yt8m.common.errors import UserError

SHOWN = 5


def listed(items: Sequence[str]) -> str:
    """Items in a line, of many only the first few and how many more there are."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


class Problems:
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
