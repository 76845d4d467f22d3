"""PyAV, which reads films, or the remedy if it is not installed."""

from yt8m.common.errors import UserError

try:
    import av
except ModuleNotFoundError:
    raise UserError("reading films needs the package av, which is not installed; pip install 'yt8m[films]'") from None

__all__ = ["av"]
