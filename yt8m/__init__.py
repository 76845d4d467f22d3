"""Temporal concept localization on YouTube-8M segments: *when* does a concept appear in a video?

    model = yt8m.load("data/cache/segment/dbof-3_0")
    model.localize(features).spans

Names are imported on first use, so that `import yt8m` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yt8m.common.errors import UserError
    from yt8m.data.datasets import read_shard
    from yt8m.localization.localizer import Localizer, Result, load
    from yt8m.localization.spans import Span

__version__ = "1.0.0"

_MODULES = {
    "Localizer": "localization.localizer",
    "Result": "localization.localizer",
    "Span": "localization.spans",
    "UserError": "common.errors",
    "load": "localization.localizer",
    "read_shard": "data.datasets",
}

__all__ = ["Localizer", "Result", "Span", "UserError", "load", "read_shard"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
