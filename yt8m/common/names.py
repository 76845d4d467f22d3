"""What somebody may have meant by a name that is not known."""

import difflib
from collections.abc import Iterable


def did_you_mean(text: str, known: Iterable[str]) -> str | None:
    """A question with at most three of the known names that are like the text, or contain it; None if none is."""
    folded = {name.casefold(): name for name in known}
    text = text.strip().casefold()
    near = difflib.get_close_matches(text, folded, 3) or [name for name in folded if text in name][:3]
    if not near:
        return None
    *others, last = [folded[name] for name in near]
    return f"did you mean {', '.join(others)}{' or ' * bool(others)}{last}?"
