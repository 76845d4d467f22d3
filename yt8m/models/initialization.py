"""How weights begin."""

from torch import nn


def initialize(module: nn.Module) -> None:
    """2019's initialization: Kaiming-normal weights of linear layers, biases 0, batch-norm scale U(0, 1) and shift 0.

    Convolutions, which the frame-level gating of DBoF has, keep what PyTorch gives them.
    """
    if next(module.parameters()).is_meta:  # nothing to fill, and torch would import its compiler to do so
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
