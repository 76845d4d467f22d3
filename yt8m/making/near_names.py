"""Names that are probably the same name, mistyped."""

import os
import re
from collections.abc import Collection
from itertools import combinations

_SHORT = 2  # characters: an edit makes another name of these
_DIGITS = re.compile(r"\d+")


def near_names(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of different names that are the same but for case and at most one edit, each pair and all pairs in order.

    An edit inserts, deletes or replaces a character, or swaps two neighbours. What differs in digits, such as "label 1"
    and "label 2", is meant to, and names of one or two characters are near each other only where case is all.
    """
    sharing: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        for key in _with_one_less(name.casefold()):
            sharing.setdefault(key, []).append(name)
    return sorted({pair for group in sharing.values() for pair in combinations(group, 2) if _are_near(*pair)})


def _with_one_less(text: str) -> set[str]:
    """A text and what is left of it without one of its characters: of two texts an edit apart, both have one of these
    in common."""
    return {text, *(text[:place] + text[place + 1 :] for place in range(len(text)))}


def _are_near(name: str, other: str) -> bool:
    short, long = sorted((name.casefold(), other.casefold()), key=len)
    if short == long:
        return True
    if len(long) <= _SHORT or _DIGITS.sub("", short) == _DIGITS.sub("", long):
        return False
    start = len(os.path.commonprefix([short, long]))
    swapped = short[start : start + 2][::-1] + short[start + 2 :]
    return long[start + 1 :] in (short[start:], short[start + 1 :]) or long[start:] == swapped
