"""The interface of extractors, and their registry.

Dimensions: N seconds of a film, H and W pixels of a frame, V visual features, A audio features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE = 16_000  # of extractors' sound, in hertz
Range = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """Options of all extractors: the folder of the user's files, if any, and the device."""

    assets: Path | None = None
    device: torch.device = torch.device("cpu")


class Extractor(ABC):
    """Makes one visual and one audio vector per second of a film. Thread-safe.

    Attributes:
        name: on the command line.
        digest: of weights and settings; features of the same name and digest are comparable.
        visual, audio: V and A; A is 0 without audio features.
        visual_range, audio_range: values of the bytes 0 and 255; None to take them from quantiles of the features.
        shorter_side: size to which the shorter side of frames may be scaled beforehand; None for unscaled frames.
    """

    name: str
    digest: str
    visual: int
    audio: int
    visual_range: Range | None = None
    audio_range: Range | None = None
    shorter_side: int | None = None

    @abstractmethod
    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The features (N, V) float32 of RGB frames (H, W, 3) uint8, independent of the rest of the batch."""

    @abstractmethod
    def encode_sound(self, sound: np.ndarray) -> np.ndarray:
        """The features (N, A) float32 of N seconds of sound (N, SAMPLE_RATE) float32, -1 to 1."""

    @abstractmethod
    def without_sound(self) -> np.ndarray:
        """The features (A,) float32 of a second of a film without sound."""


Opener = Callable[[str, Options], Extractor]
EXTRACTORS: dict[str, Opener] = {}  # by the name up to its colon


def register(name: str) -> Callable[[Opener], Opener]:
    """Decorator for a function that opens an extractor, given the part of the name after the colon ("" without one) and
    `Options`.

    The function raises `UserError` for missing or wrong files.
    """

    def add(opener: Opener) -> Opener:
        EXTRACTORS[name] = opener
        return opener

    return add
