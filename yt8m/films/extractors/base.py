"""Extractors: their interface, their registry, and opening them by name.

Dimensions: N seconds of a film, H and W pixels of a frame, V visual features, A audio features.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yt8m.common.errors import UserError, did_you_mean

SAMPLE_RATE = 16_000  # of extractors' sound, in hertz
Range = tuple[float, float]
_MODULES = {  # that register these names
    "efficientnet-lite0": "efficientnet",
    "hf": "huggingface",
    "onnx": "onnx_model",
    "yt8m": "youtube8m",
}
_FORMS = {"hf": "hf:NAME_OR_FOLDER", "onnx": "onnx:MODEL.onnx"}  # of names with a colon
_TRIAL_FRAME = (96, 160, 3)


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


def open_extractor(name: str, options: Options) -> Extractor:
    """The extractor of a name, such as "yt8m" or "hf:FOLDER", tried on one frame and one second of sound.

    Raises `UserError` for an unknown name, for packages and files that are missing or wrong, and for an extractor whose
    features are not finite.
    """
    kind, _, rest = name.partition(":")
    if kind in _MODULES:
        importlib.import_module(f"yt8m.films.extractors.{_MODULES[kind]}")
    if kind not in EXTRACTORS:
        names = sorted({*_MODULES, *EXTRACTORS})
        known = ", ".join(_FORMS.get(known, known) for known in names)
        hint = did_you_mean(kind, names)
        raise UserError(f"extractor {name}: expected one of {known}" + (f" ({hint})" if hint else ""))
    extractor = EXTRACTORS[kind](rest, options)
    rng = np.random.default_rng(0)
    rgb = extractor.encode_frames([rng.integers(0, 256, _TRIAL_FRAME, np.uint8)])
    audio = extractor.encode_sound(rng.uniform(-0.1, 0.1, (1, SAMPLE_RATE)).astype(np.float32))
    require_finite(name, rgb, audio)
    return extractor


def require_finite(name: str, *features: np.ndarray) -> None:
    """Raise `UserError`, which names the extractor, for features that are not finite."""
    if not all(np.isfinite(values).all() for values in features):
        raise UserError(
            f"extractor {name}: its features are not finite; its weights are damaged, or its settings (mean, std, "
            "scale) are not those it was trained with"
        )
