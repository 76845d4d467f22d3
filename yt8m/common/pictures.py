"""Pictures without a screen, whatever the environment says of one."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that size, in inches, to be drawn to a file.

    Notebooks name a backend of their own in MPLBACKEND, for all processes that are started from them; where that
    backend is not installed, matplotlib could not even be imported.
    """
    named = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.figure import Figure
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return Figure(figsize=(width, height))
