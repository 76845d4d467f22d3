"""`hf:NAME_OR_FOLDER`: the image tower of a transformers model, such as CLIP, SigLIP, DINOv2 or ViT.

Frames are prepared by the model's own preprocessing. The features are

- the image embedding (`get_image_features`) of models with an image and a text tower (CLIP, SigLIP);
- `pooler_output` of others (DINOv2, ViT);
- the class token of the last layer if the pooler's weights are missing, as in ViTs for classification.

The model is in a folder, or is downloaded once from the Hugging Face hub. Weights are read only from safetensors, and
code that comes with a model is not run.

Dimensions: H and W pixels, V visual features.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from yt8m.common.errors import UserError, first_line
from yt8m.films.extractors.base import Extractor, Options, register
from yt8m.films.extractors.shared import LogMelExtractor, digest_of, exactly, one_by_one, required_package

_KIND = "hf"
_REMEDY = "pip install transformers pillow"
_WEIGHTS = "model*.safetensors"
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_POOLER = "pooler."


class HuggingFaceModel(LogMelExtractor):
    """A model of transformers for frames, log-mel statistics for sound."""

    def __init__(self, source: str, device: torch.device) -> None:
        """Raises `UserError` for models that cannot be found or read, or have no image tower."""
        self.name = f"{_KIND}:{source}"
        transformers = required_package("transformers", self.name, _REMEDY)
        with _quiet():
            folder = _folder(source, self.name)
            files = [path for name in _SETTINGS if (path := folder / name).is_file()]
            files += sorted(folder.glob(_WEIGHTS))
            self.digest = digest_of({"extractor": _KIND, "version": 1}, {path.name: path for path in files})
            self._processor, self._model, missing = _load(transformers, folder, self.name)
        self._model.eval().requires_grad_(False).to(device)
        self._device = device
        self._has_text = hasattr(self._model, "get_image_features")
        self._class_token = bool(missing) and not self._has_text and all(key.startswith(_POOLER) for key in missing)
        if missing and not self._class_token:
            raise UserError(f"{self.name}: its files lack weights, such as {missing[0]}")
        try:
            shape = self._features(np.zeros((64, 64, 3), np.uint8)).shape
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{self.name}: cannot encode a frame ({first_line(error)})") from None
        if len(shape) != 1:
            raise UserError(f"{self.name}: its output for a frame has the shape {shape}; expected a vector")
        (self.visual,) = shape

    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Extractor`."""
        return one_by_one(frames, self.visual, self._features, self.name)

    def _features(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 → (V,) float32."""
        inputs = self._processor(images=Image.fromarray(frame), return_tensors="pt").to(self._device)
        with torch.inference_mode(), exactly():
            output = self._model.get_image_features(**inputs) if self._has_text else self._model(**inputs)
        features = output.last_hidden_state[:, 0] if self._class_token else output.pooler_output
        if features is None:
            raise ValueError("the model has no pooled output")
        return np.asarray(features[0].float().cpu().numpy())


@register(_KIND)
def open_huggingface(rest: str, options: Options) -> Extractor:
    """The extractor `hf:NAME_OR_FOLDER`."""
    if not rest:
        raise UserError(
            f"extractor {_KIND}: expected a folder, or a name, such as {_KIND}:openai/clip-vit-base-patch32"
        )
    return HuggingFaceModel(rest, options.device)


def _folder(source: str, name: str) -> Path:
    """The folder of a model's files, downloaded if necessary."""
    if (folder := Path(source)).is_dir():
        return folder
    hub = required_package("huggingface_hub", name, _REMEDY)
    try:
        return Path(hub.snapshot_download(source, allow_patterns=[*_SETTINGS, _WEIGHTS, f"{_WEIGHTS}.index.json"]))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: is not a folder, and cannot be downloaded by this name ({first_line(error)}); "
            "give a folder with config.json, preprocessor_config.json and model.safetensors"
        ) from None


def _load(transformers: Any, folder: Path, name: str) -> tuple[Any, Any, list[str]]:
    """The preprocessing, with Pillow, the model in float32, and the names of weights missing from its files."""
    from safetensors import SafetensorError

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
        model, found = transformers.AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"{name}: cannot be read ({first_line(error)})") from None
    return processor, model, sorted(found["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' progress output; errors are raised anyway."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), hub.level
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        if before[1]:
            transformers_logging.enable_progress_bar()
        hub.setLevel(before[2])
