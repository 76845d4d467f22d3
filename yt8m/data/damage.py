"""What a run does about a damaged shard or record: end, or leave it out, count it and say so at the end."""

import logging
import threading

from yt8m.common.errors import RecordError

LOGGER = logging.getLogger(__name__)


class Damage:
    """Meets the errors of reading: raises them, or with `skip` remembers each of them once.

    May be shared by threads.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.left_out: dict[str, RecordError] = {}
        self._lock = threading.Lock()

    def meet(self, error: RecordError) -> None:
        """Raise the error, or remember that what it names is left out."""
        if not self.skip:
            raise error
        with self._lock:
            known = str(error) in self.left_out
            self.left_out[str(error)] = error
        if not known:
            LOGGER.warning("left out: %s", error)

    def report(self) -> None:
        """Say what has been left out, if anything has."""
        if self.left_out:
            names = sorted({str(error.path) for error in self.left_out.values()})
            LOGGER.warning(
                "left out because of damage: %d records or rests of shards, all named above, of %d shards. "
                "Download again: %s",
                len(self.left_out),
                len(names),
                " ".join(names),
            )


RAISE = Damage()
