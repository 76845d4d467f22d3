"""PyAV, which films are read with; importing this module says what to do where it is missing."""

from yt8m.common.errors import UserError

try:
    import av
except ModuleNotFoundError:
    raise UserError("films need the package av, which is not installed here; pip install 'yt8m[films]'") from None

__all__ = ["av"]
