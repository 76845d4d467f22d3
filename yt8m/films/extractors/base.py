"""What an extractor is, and how the command line's name of one leads to it.

Dimensions: N seconds of a film, H and W pixels of a frame, V visual features, A audio features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE = 16_000  # of the sound that extractors get, in hertz
Range = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """What an extractor is opened with: the files that it needs, where the user has some, and what computes."""

    assets: Path | None = None
    device: torch.device = torch.device("cpu")


class Extractor(ABC):
    """One visual and one audio vector for each second of a film. Several threads may call it at once.

    Attributes:
        name: as the command line has it.
        digest: of its weights and settings: features of the same name and digest mean the same.
        visual, audio: V and A; A is 0 where there are no audio features.
        visual_range, audio_range: the values that the bytes 0 and 255 stand for; None where the features themselves
            say it, by their quantiles.
        shorter_side: what the shorter side of frames may be scaled to before it gets them; None: frames as they are in
            the film.
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
        """The features (N, V) float32 of RGB frames, each (H, W, 3) uint8; the same whatever else is in the batch."""

    @abstractmethod
    def encode_sound(self, sound: np.ndarray) -> np.ndarray:
        """The features (N, A) float32 of the sound (N, SAMPLE_RATE) float32, -1 to 1, of as many seconds."""

    @abstractmethod
    def without_sound(self) -> np.ndarray:
        """The features (A,) float32 of a second of a film that has no sound."""


Opener = Callable[[str, Options], Extractor]
EXTRACTORS: dict[str, Opener] = {}  # by the name, or by what is before its colon


def register(name: str) -> Callable[[Opener], Opener]:
    """Decorates what opens an extractor: a function of what follows the name's colon ("" without one) and `Options`.

    It raises `UserError` for files that are missing or not what they should be.
    """

    def add(opener: Opener) -> Opener:
        EXTRACTORS[name] = opener
        return opener

    return add
