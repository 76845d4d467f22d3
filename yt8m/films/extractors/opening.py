"""Extractors by what the command line calls them."""

import importlib

from yt8m.common.errors import UserError, did_you_mean
from yt8m.films.extractors.base import EXTRACTORS, Extractor, Options

MODULES = {  # which register these names
    "efficientnet-lite0": "efficientnet",
    "hf": "huggingface",
    "onnx": "onnx_model",
    "yt8m": "youtube8m",
}
FORMS = {"hf": "hf:NAME_OR_FOLDER", "onnx": "onnx:MODEL.onnx"}  # of names that are followed by more


def open_extractor(name: str, options: Options) -> Extractor:
    """The extractor of a name, such as "yt8m" or "hf:FOLDER".

    Raises `UserError` for a name that is not known, and for what the extractor needs and has not.
    """
    kind, _, rest = name.partition(":")
    if kind in MODULES:
        importlib.import_module(f"yt8m.films.extractors.{MODULES[kind]}")
    if kind not in EXTRACTORS:
        names = sorted({*MODULES, *EXTRACTORS})
        known = ", ".join(FORMS.get(known, known) for known in names)
        hint = did_you_mean(kind, names)
        raise UserError(f"extractor {name}: expected one of {known}" + (f" ({hint})" if hint else ""))
    return EXTRACTORS[kind](rest, options)
