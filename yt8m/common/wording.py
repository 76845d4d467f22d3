"""Words for people: numbers of things, lists of them, and what an unknown name may have meant."""

import difflib
from collections.abc import Iterable, Sequence

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
