"""Layers of families and heads: initialization, centered inputs, squeeze-and-excitation gating (Lee 2019).

Features are bytes, 0 to 255, around the middle. Raw, they look nearly the same for every frame, so that all weights
of a layer first move in the same direction and units may die. Training therefore uses an equivalent
parametrization for centered inputs, whose units distinguish frames. Exported parameters are always those for raw
inputs, so that model folders keep their format of 2019.

An (N, H) tensor of a training batch takes tens to hundreds of megabytes, so on a CPU the frame-level gating has its own
autograd functions, which keep fewer of them for backward.

Dimensions: B examples, N rows, D and J features of a row, H hidden units.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from yt8m.models.packing import Packing


def initialize(module: nn.Module) -> None:
    """2019's initialization: Kaiming-normal weights of linear layers, biases 0, batch-norm scale U(0, 1) and shift 0.

    Convolutions, as in the frame-level gating of DBoF, keep PyTorch's default initialization.
    """
    if next(module.parameters()).is_meta:  # nothing to initialize, and torch would import its compiler
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


RAW_FRAMES = 127.5, 64.0  # mean and scale of bytes


class CenteredLinear(nn.Linear):
    """A linear map of inputs within a few `scale` of `mean`: (N, D) → (N, J).

    W x + b = (s W) (x − m) / s + (b + W m). The parameters are W and b or, if `centered`, s W and b + W m, for the same
    map. New layers are not centered.
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
        """Switch to the parameters for centered inputs, unless already done."""
        if not self.centered:
            self.bias.add_(self.weight.sum(dim=1), alpha=self.mean)
            self.weight.mul_(self.scale)
            self.centered = True

    @torch.no_grad()
    def uncenter(self) -> None:
        """Switch back to the parameters for raw inputs."""
        if self.centered:
            self.weight.div_(self.scale)
            self.bias.sub_(self.weight.sum(dim=1), alpha=self.mean)
            self.centered = False


def center(model: nn.Module) -> None:
    """Switch a model to parameters for centered inputs; its outputs stay the same."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.center()


def begin_centered(model: nn.Module) -> None:
    """Declare the initial weights of a new model to be those for centered inputs."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.centered = True


def uncenter(model: nn.Module) -> None:
    """Switch a model to parameters for raw inputs, as in model folders; its outputs stay the same."""
    for layer in model.modules():
        if isinstance(layer, CenteredLinear):
            layer.uncenter()


# pylint: disable=abstract-method,arguments-differ  # methods declared for autograd functions are optional
class NormedLinear(torch.autograd.Function):
    """A linear map of batch-normed rows, (N, D) → (N, J), that saves its input but not the normed rows.

    As the normed rows are rows · scale + shift, gradᵀ·rows (J, D) gives backward the sums over rows that batch norm
    needs, without another pass.
    """

    @staticmethod
    def forward(
        ctx: Any, norm: nn.BatchNorm1d, rows: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """`gamma` and `beta` (D,) are the parameters of `norm`, `weight` (J, D) and `bias` (J,) the map's."""
        ctx.training = norm.training
        assert norm.num_batches_tracked is not None and norm.momentum is not None  # as for all batch norms here
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.training:
            norm.num_batches_tracked.add_(1)
            normed, mean, inverse_std = torch.native_batch_norm(
                rows, gamma, beta, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
            )
            result = functional.linear(normed, weight, bias)
        else:  # fuse two successive linear maps
            mean, inverse_std = norm.running_mean.clone(), (norm.running_var + norm.eps).rsqrt()
            scale = gamma * inverse_std
            result = functional.linear(rows, weight * scale, bias + weight @ (beta - mean * scale))
        ctx.save_for_backward(rows, gamma, beta, weight, mean, inverse_std)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (N, J) → gradients of all tensors."""
        rows, gamma, beta, weight, mean, inverse_std = ctx.saved_tensors
        scale = gamma * inverse_std
        shift = beta - mean * scale
        rows = rows.to(grad.dtype)  # they differ under autocast
        products, grad_bias = grad.T @ rows, grad.sum(dim=0)
        grad_beta = grad_bias @ weight.to(grad.dtype)
        grad_gamma = ((products * weight).sum(dim=0) - mean * grad_beta) * inverse_std
        grad_weight = products.to(weight.dtype).mul_(scale).addr_(grad_bias, shift)
        grad_rows = grad @ (weight * scale).to(grad.dtype)
        if ctx.training:  # mean and variance depend on the rows
            slope = -scale * inverse_std * grad_gamma / len(rows)
            level = -scale * grad_beta / len(rows) - slope * mean
            grad_rows.addcmul_(rows, slope.to(grad.dtype)).add_(level)
        return None, grad_rows, grad_gamma, grad_beta, grad_weight, grad_bias


class GatedPooling(torch.autograd.Function):
    """Maximum and mean over frames of rows · sigmoid(linear(hidden)), rows ≥ 0: (N, H), (N, D) → (B, 2H).

    For CPUs. Saves only inputs and gate logits. The rest is computed for a few videos at a time, and again in backward,
    which takes little memory and stays in the cache.
    """

    N_PARTS = 8

    @staticmethod
    def pool(packing: Packing, rows: Tensor, logits: Tensor) -> Tensor:
        """Rows and gate logits (N, H) → (B, 2H)."""
        return packing.max_and_mean(rows * logits.sigmoid())

    @staticmethod
    def forward(ctx: Any, packing: Packing, rows: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Rows (N, H), the gating's hidden units (N, D), its second map's `weight` (H, D) and `bias` (H,)."""
        logits = functional.linear(hidden, weight, bias)
        ctx.save_for_backward(rows, hidden, weight, logits)
        ctx.parts = list(packing.split(GatedPooling.N_PARTS))
        return torch.cat([GatedPooling.pool(part, rows[where], logits[where]) for _, where, part in ctx.parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, 2H) → gradients of all tensors."""
        rows, hidden, weight, logits = ctx.saved_tensors
        grad_rows, grad_hidden = torch.empty_like(rows), torch.empty_like(hidden)
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        for videos, where, part in ctx.parts:
            leaves = [tensor[where].detach().requires_grad_() for tensor in (rows, logits)]
            with torch.enable_grad():
                pooled = GatedPooling.pool(part, *leaves)
            grad_rows[where], grad_logits = torch.autograd.grad(pooled, leaves, grad[videos].to(pooled.dtype))
            grad_hidden[where] = grad_logits @ weight.to(logits.dtype)
            grad_weight += grad_logits.T @ hidden[where].to(logits.dtype)
            grad_bias += grad_logits.sum(dim=0)
        return None, grad_rows, grad_hidden, grad_weight, grad_bias


# pylint: enable=abstract-method,arguments-differ


def _computes_on_cpu(rows: Tensor) -> bool:
    """Whether layers use their CPU implementations, which the compiler cannot trace."""
    return rows.device.type == "cpu" and not torch.compiler.is_compiling()


class SEGating(nn.Module):
    """Squeeze-and-excitation context gating with batch norm: x · sigmoid(fc2(bn2(relu(fc1(bn1(x)))))).

    Works on rows (N, D). With `per_frame` the two maps are stored as kernel-1 convolutions, as in the
    frame-level gating of 2019 checkpoints; the arithmetic is the same.
    """

    def __init__(self, dim: int, reduction: int, per_frame: bool = False) -> None:
        super().__init__()
        hidden = dim // reduction
        self.bn1: nn.Module = nn.BatchNorm1d(dim)  # replaced for several processes or export
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc1 = nn.Conv1d(dim, hidden, 1) if per_frame else nn.Linear(dim, hidden)
        self.fc2 = nn.Conv1d(hidden, dim, 1) if per_frame else nn.Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return rows * functional.linear(self.squeeze(rows), self.fc2.weight.flatten(1), self.fc2.bias).sigmoid()

    def squeeze(self, rows: Tensor) -> Tensor:
        """(N, D) → hidden units (N, D/r)."""
        weight, bias = self.fc1.weight.flatten(1), self.fc1.bias
        # Not in half precision, where raw rows overflow, or with batch norm synchronized across processes.
        own_norm = self.bn1.__class__ is nn.BatchNorm1d
        if _computes_on_cpu(rows) and own_norm and not torch.is_autocast_enabled("cpu"):
            hidden = NormedLinear.apply(self.bn1, rows, self.bn1.weight, self.bn1.bias, weight, bias)
        else:
            hidden = functional.linear(self.bn1(rows), weight, bias)
        return self.bn2(functional.relu(hidden))

    def pool(self, rows: Tensor, packing: Packing) -> Tensor:
        """Maximum and mean over frames of the output of `forward` for non-negative rows → (B, 2D)."""
        if not _computes_on_cpu(rows):  # few large kernels are faster there
            return packing.max_and_mean(self(rows))
        return GatedPooling.apply(packing, rows, self.squeeze(rows), self.fc2.weight.flatten(1), self.fc2.bias)
