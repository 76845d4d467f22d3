"""Which ids of videos a submission can hold: its lines are `<class>,<video id>:<start> <video id>:<start> ...`."""

import re
from collections.abc import Iterable

RULE = "an id may have no blank, comma, colon, double quote or unprintable character, and is UTF-8"
_PLAIN = re.compile(rb"[!#-+\--9;-~]+")  # ASCII, as all ids of the published data set are
_SEPARATORS = frozenset(' ,:"')


def unfit_ids(video_ids: Iterable[bytes]) -> list[bytes]:
    """Those of some ids that a submission cannot hold, in their order."""
    return [video_id for video_id in video_ids if not _PLAIN.fullmatch(video_id) and not _is_fit(video_id)]


def shown_id(video_id: bytes) -> str:
    """An id within quotation marks, whatever its bytes are."""
    try:
        return repr(video_id.decode())
    except UnicodeDecodeError:
        return repr(video_id)


def _is_fit(video_id: bytes) -> bool:
    try:
        text = video_id.decode()
    except UnicodeDecodeError:
        return False
    # Of all white space, only the blank counts as printable.
    return bool(text) and text.isprintable() and _SEPARATORS.isdisjoint(text)
