"""VGGish, the network behind the published audio features.

Hershey et al. 2017, "CNN Architectures for Large-Scale Audio Classification": VGG's configuration A without its last
group of convolutions, on log-mel spectrograms. Names and widths of layers are those of the published checkpoint.

Dimensions: N patches, C channels.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from yt8m.films.log_mel import BANDS

WINDOWS = 96  # of a patch of 0.96 seconds, one every 10 ms
EMBEDDING = 128
_GROUPS = (("conv1",), ("conv2",), ("conv3/conv3_1", "conv3/conv3_2"), ("conv4/conv4_1", "conv4/conv4_2"))
_DENSE = ("fc1/fc1_1", "fc1/fc1_2", "fc2")


class VGGish(nn.Module):
    """The network up to its embedding, without the final ReLU."""

    def __init__(self, read: Callable[[str], np.ndarray]) -> None:
        """`read` returns the array of a name, such as "vggish/conv1/weights", in TensorFlow's layout: convolutions
        (height, width, in, out), dense layers (in, out).

        Raises `ValueError` for an array of the wrong shape or type, or with non-finite numbers.
        """
        super().__init__()

        def array(name: str, *shape: int | None) -> Tensor:
            found = read(f"vggish/{name}")
            if found.ndim != len(shape) or any(size not in (None, own) for size, own in zip(shape, found.shape)):
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(f"vggish/{name} has the shape {found.shape}, not ({wanted})")
            if found.dtype != np.float32 or not np.isfinite(found).all():
                raise ValueError(f"vggish/{name} does not consist of finite float32 numbers")
            return torch.from_numpy(found)

        layers: list[nn.Module] = []
        width = 1
        for group in _GROUPS:
            for name in group:
                kernel = array(f"{name}/weights", 3, 3, width, None)
                width = kernel.shape[3]
                convolution = nn.utils.skip_init(nn.Conv2d, kernel.shape[2], width, 3, padding=1)
                _set(convolution, kernel.permute(3, 2, 0, 1), array(f"{name}/biases", width))
                layers += [convolution, nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)
        layers = []
        width *= WINDOWS * BANDS // 4 ** len(_GROUPS)
        for name in _DENSE:
            matrix = array(f"{name}/weights", width, EMBEDDING if name == _DENSE[-1] else None)
            width = matrix.shape[1]
            dense = nn.utils.skip_init(nn.Linear, *matrix.shape)
            _set(dense, matrix.T, array(f"{name}/biases", width))
            layers += [dense, nn.ReLU()]
        self.dense = nn.Sequential(*layers[:-1])
        self.requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        """Log-mel patches (N, `WINDOWS`, `BANDS`) → embeddings (N, `EMBEDDING`)."""
        features = self.convolutions(patches[:, None])  # (N, C, 6, 4)
        return self.dense(features.permute(0, 2, 3, 1).flatten(1))  # channels last, for the dense layers


def _set(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set the weights of a layer."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        assert layer.bias is not None
        layer.bias.copy_(bias)
