"""The first layer on frames, whose inputs are all positive, in a form that trains well.

Features are bytes, 0 to 255, and lie about the middle. A layer on them as they are has nearly the same input for every
frame, so that its weights all go the same way at first, and units may end where no frame moves them any more. Training
therefore takes the same layer in another parametrization, that of centered inputs, whose units tell frames apart.
Exported are always the parameters for inputs as they are, so that model folders stay what they were in 2019.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

RAW_FRAMES = 127.5, 64.0  # mean and scale of bytes


class CenteredLinear(nn.Linear):
    """A linear map of inputs that lie about `mean`, a few times `scale` around it: (N, D) → (N, J).

    W x + b = (s W) (x − m) / s + (b + W m). The parameters are W and b or, once `centered`, s W and b + W m; it is the
    same map. Newly made layers are not centered.
    """

    def __init__(self, in_features: int, out_features: int, mean: float, scale: float) -> None:
        super().__init__(in_features, out_features)
        self.mean, self.scale = mean, scale
        self.centered = False

    def forward(self, rows: Tensor) -> Tensor:  # pylint: disable=arguments-renamed
        """(N, D) → (N, J)."""
        if self.centered:
            rows = (rows - self.mean) / self.scale
        return functional.linear(rows, self.weight, self.bias)

    @torch.no_grad()
    def center(self) -> None:
        """Go over to the parameters for centered inputs, if they are not those already."""
        if not self.centered:
            self.bias.add_(self.weight.sum(dim=1), alpha=self.mean)
            self.weight.mul_(self.scale)
            self.centered = True

    @torch.no_grad()
    def uncenter(self) -> None:
        """Go back to the parameters for inputs as they are."""
        if self.centered:
            self.weight.div_(self.scale)
            self.bias.sub_(self.weight.sum(dim=1), alpha=self.mean)
            self.centered = False


def center(model: nn.Module) -> None:
    """Have a model train with centered inputs; it computes the same as before."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.center()


def begin_centered(model: nn.Module) -> None:
    """Have a new model train with centered inputs, its initial weights being those for centered inputs."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.centered = True


def uncenter(model: nn.Module) -> None:
    """Give a model the parameters for inputs as they are, as model folders hold them; it computes the same."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.uncenter()
