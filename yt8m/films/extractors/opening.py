"""Opening extractors by their names on the command line."""

import importlib

import numpy as np

from yt8m.common.errors import UserError, did_you_mean
from yt8m.films.extractors.base import EXTRACTORS, SAMPLE_RATE, Extractor, Options
from yt8m.films.extractors.shared import require_finite

MODULES = {  # that register these names
    "efficientnet-lite0": "efficientnet",
    "hf": "huggingface",
    "onnx": "onnx_model",
    "yt8m": "youtube8m",
}
_TRIAL_FRAME = (96, 160, 3)
FORMS = {"hf": "hf:NAME_OR_FOLDER", "onnx": "onnx:MODEL.onnx"}  # of names with a colon


def open_extractor(name: str, options: Options) -> Extractor:
    """The extractor of a name, such as "yt8m" or "hf:FOLDER", tried on one frame and one second of sound.

    Raises `UserError` for an unknown name, for packages and files that are missing or wrong, and for an extractor whose
    features are not finite.
    """
    kind, _, rest = name.partition(":")
    if kind in MODULES:
        importlib.import_module(f"yt8m.films.extractors.{MODULES[kind]}")
    if kind not in EXTRACTORS:
        names = sorted({*MODULES, *EXTRACTORS})
        known = ", ".join(FORMS.get(known, known) for known in names)
        hint = did_you_mean(kind, names)
        raise UserError(f"extractor {name}: expected one of {known}" + (f" ({hint})" if hint else ""))
    extractor = EXTRACTORS[kind](rest, options)
    rng = np.random.default_rng(0)
    rgb = extractor.encode_frames([rng.integers(0, 256, _TRIAL_FRAME, np.uint8)])
    audio = extractor.encode_sound(rng.uniform(-0.1, 0.1, (1, SAMPLE_RATE)).astype(np.float32))
    require_finite(name, rgb, audio)
    return extractor
