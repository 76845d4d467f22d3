"""Sample frames and sound for extractors, and opening extractors in tests."""

from typing import Any

import numpy as np
import pytest

from yt8m.common.errors import UserError
from yt8m.films.extractors.base import Extractor, Options, open_extractor

_RNG = np.random.default_rng(0)
FRAMES = [_RNG.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((40, 56), (33, 33), (64, 20))]
SOUND = _RNG.uniform(-1, 1, (3, 16_000)).astype(np.float32)


def opened(name: str, **options: Any) -> Extractor:
    """An extractor by its name on the command line."""
    return open_extractor(name, Options(**options))


def refused(name: str, **options: Any) -> str:
    """The one line with which an extractor is refused."""
    with pytest.raises(UserError) as caught:
        opened(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def each_alone(extractor: Extractor, frames: list[np.ndarray]) -> np.ndarray:
    """The features of frames that are encoded one by one."""
    return np.concatenate([extractor.encode_frames([frame]) for frame in frames])
