"""Frames as arrays: upright, with square pixels, scaled.

Dimensions: H, W pixels of a frame.
"""

from fractions import Fraction
from typing import cast

import numpy as np

from yt8m.films.pyav import av

_MOST_OBLONG = 10  # sides of a pixel; more is damage, and would fill the memory
_INTERPOLATION = "BICUBIC"  # over all source pixels of a pixel


def to_picture(frame: av.VideoFrame, pixel_ratio: Fraction, shorter_side: int | None) -> np.ndarray:
    """A frame as (H, W, 3) uint8, RGB, rotated and flipped by its display matrix.

    `pixel_ratio`: width of a pixel over its height, taken for 1 where it is impossible; `shorter_side`: the smaller of
    H and W, None to keep the size.
    """
    if not Fraction(1, _MOST_OBLONG) <= pixel_ratio <= _MOST_OBLONG:
        pixel_ratio = Fraction(1)
    width, height = max(round(frame.width * pixel_ratio), 1), frame.height
    if shorter_side is not None:
        width, height = _scaled(width, height, shorter_side)
    return _upright(frame, _converted(frame, width, height))


def resize(picture: np.ndarray, shorter_side: int) -> np.ndarray:
    """A picture (H, W, 3) uint8, scaled like in `to_picture` to a shorter side."""
    height, width = picture.shape[:2]
    if min(height, width) == shorter_side:
        return picture
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return _converted(frame, *_scaled(width, height, shorter_side))


def _scaled(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    shorter = min(width, height)
    return tuple(max(round(Fraction(side * shorter_side, shorter)), 1) for side in (width, height))  # type: ignore


def _converted(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    return frame.reformat(width, height, "rgb24", interpolation=_INTERPOLATION, threads=1).to_ndarray()


def _upright(frame: av.VideoFrame, picture: np.ndarray) -> np.ndarray:
    """A picture transformed by its frame's display matrix, with angles rounded to right ones."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    # Column x and row y go to column a * x + c * y and row b * x + d * y.
    a, b, _, c, d = np.frombuffer(cast(bytes, matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
