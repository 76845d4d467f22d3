"""Layers and frame encoders: from raw frames to one vector per video or segment.

Dimensions: B videos or segments in a batch, L frames (padded), N valid frames of the whole batch,
D features of a frame, H hidden units, F output units (`fcn_dim`), K clusters, G groups, C classes,
M mixtures, P pooled features.

Frames arrive padded, (B, L, D), uint8 or float in 0..255, with `lengths` (B,) saying how many of each
row's frames are real; None means all. Padding is dropped first: layers that look at single frames
work on the N real ones as rows, so neither time nor batch statistics are spent on padding.

An encoder is two halves: `encode_frames` looks at single frames, `pool` makes vectors of what they gave. `forward`
is both; inference calls them one by one, so that overlapping segments share the first, and `encode_whole` for whole
videos, after `fold`.

An (N, H) tensor of a training batch has tens to hundreds of megabytes, so the frame-level gating has
autograd functions of its own, which keep fewer of them for backward.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from yt8m.common.config import DbofConfig, NextvladConfig
from yt8m.models.packing import EndToEnd, Packing


class AnyPacking(Protocol):
    """What pools rows: knows which of them each of B examples has (`packing`)."""

    def max_and_mean(self, rows: Tensor) -> Tensor:
        """Maximum and mean over the rows of each example: (N, H) → (B, 2H)."""

    def weighted_sums(self, weights: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Σ weights · parts over rows and groups, (N, G, K) and (N, G, P) → (B, K, P), and Σ weights over rows,
        (B, G, K)."""


# pylint: disable=abstract-method,arguments-differ  # what torch declares for autograd functions is optional
class NormedLinear(torch.autograd.Function):
    """A linear map of batch-normed rows, (N, D) → (N, J), that keeps its input but not the normed rows.

    With P = gradᵀ·rows, which is (J, D), backward has the sums over rows that batch norm needs without
    another pass, since the normed rows are rows · scale + shift.
    """

    @staticmethod
    def forward(
        ctx: Any, norm: nn.BatchNorm1d, rows: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """`gamma` and `beta` (D,) are the parameters of `norm`, `weight` (J, D) and `bias` (J,) the map's."""
        ctx.training = norm.training
        assert norm.num_batches_tracked is not None and norm.momentum is not None  # as batch norms here are made
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.training:
            norm.num_batches_tracked.add_(1)
            normed, mean, inverse_std = torch.native_batch_norm(
                rows, gamma, beta, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
            )
            result = functional.linear(normed, weight, bias)
        else:  # two linear maps in a row are one
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
        if ctx.training:  # rows change their own mean and variance
            slope = -scale * inverse_std * grad_gamma / len(rows)
            level = -scale * grad_beta / len(rows) - slope * mean
            grad_rows.addcmul_(rows, slope.to(grad.dtype)).add_(level)
        return None, grad_rows, grad_gamma, grad_beta, grad_weight, grad_bias


class GatedPooling(torch.autograd.Function):
    """Maximum and mean over frames of rows · sigmoid(linear(hidden)), rows ≥ 0: (N, H), (N, D) → (B, 2H).

    Keeps the gates' logits and its inputs. All else is done a few videos at a time, in backward once
    more, so that it takes little memory and stays in the cache.
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


class SEGating(nn.Module):
    """Squeeze-and-excitation context gating with batch norm: x · sigmoid(fc2(bn2(relu(fc1(bn1(x)))))).

    Works on rows (N, D). With `per_frame` the two maps are stored as kernel-1 convolutions, as the
    frame-level gating of 2019 checkpoints has them; the arithmetic is the same.
    """

    def __init__(self, dim: int, reduction: int, per_frame: bool = False) -> None:
        super().__init__()
        hidden = dim // reduction
        self.bn1: nn.Module = nn.BatchNorm1d(dim)  # or what several processes or an exporter put in its place
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc1 = nn.Conv1d(dim, hidden, 1) if per_frame else nn.Linear(dim, hidden)
        self.fc2 = nn.Conv1d(hidden, dim, 1) if per_frame else nn.Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return rows * functional.linear(self.squeeze(rows), self.fc2.weight.flatten(1), self.fc2.bias).sigmoid()

    def squeeze(self, rows: Tensor) -> Tensor:
        """(N, D) → hidden units (N, D/r)."""
        weight, bias = self.fc1.weight.flatten(1), self.fc1.bias
        # Rows that are not normed would overflow in half precision; several processes norm theirs together.
        if torch.is_autocast_enabled(rows.device.type) or self.bn1.__class__ is not nn.BatchNorm1d:
            hidden = functional.linear(self.bn1(rows), weight, bias)
        else:
            hidden = NormedLinear.apply(self.bn1, rows, self.bn1.weight, self.bn1.bias, weight, bias)
        return self.bn2(functional.relu(hidden))

    def pool(self, rows: Tensor, packing: Packing) -> Tensor:
        """Maximum and mean over frames of what `forward` gives for rows that are nowhere negative → (B, 2D)."""
        return GatedPooling.apply(packing, rows, self.squeeze(rows), self.fc2.weight.flatten(1), self.fc2.bias)


class AssignmentNorm(nn.Module):
    """Batch norm of assignment logits, one channel per cluster: flat index f belongs to channel f mod K."""

    def __init__(self, n_clusters: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(n_clusters)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, G·K) → (N, G·K)."""
        return self.bn(logits.reshape(-1, self.bn.num_features)).view_as(logits)


class NextvladLayer(nn.Module):  # pylint: disable=abstract-method  # its two halves are called one by one
    """NeXtVLAD aggregation of frames into K clusters (Lin 2018, arXiv 1811.05014, section 3).

    `soft_assignment` says how the flat G·K assignment logits are read before the softmax over
    clusters: "2019" as (K, G), which is what the 2019 release did and its scores come from, although
    their batch norm reads them as (G, K); "paper" as (G, K) in both places.
    """

    ALPHA = 100

    def __init__(
        self, dim: int, n_clusters: int, groups: int, p_drop: float, add_batchnorm: bool, soft_assignment: str
    ) -> None:
        super().__init__()
        self.n_clusters, self.groups, self.p_drop = n_clusters, groups, p_drop
        self.soft_assignment = soft_assignment
        expanded = 2 * dim
        self.out_features = n_clusters * expanded // groups
        self.centroids = nn.Parameter(torch.rand(n_clusters, expanded // groups))
        self.expansion_mapper = nn.Linear(dim, expanded)
        assignment = nn.Linear(expanded, n_clusters * groups, bias=not add_batchnorm)
        if not self.centroids.is_meta:
            self._initialize(assignment)
        self.soft_assignment_mapper: nn.Module = assignment
        if add_batchnorm:
            self.soft_assignment_mapper = nn.Sequential(assignment, AssignmentNorm(n_clusters))
        self.attention_mapper = nn.Linear(expanded, groups)
        self._folded: tuple[Tensor, Tensor] | None = None
        self.final_bn = nn.BatchNorm1d(self.out_features)

    @torch.no_grad()
    def _initialize(self, assignment: nn.Linear) -> None:
        """Assign as NetVLAD does, by distance from the centroids."""
        assignment.weight.copy_(2 * self.ALPHA * self.centroids.repeat(self.groups, self.groups))
        if assignment.bias is not None:
            assignment.bias.copy_(-self.ALPHA * self.centroids.norm(dim=1).repeat(self.groups))

    @torch.no_grad()
    def fold(self) -> None:
        """Make one map of those between a normalized frame and its weights, until the next `train()`.

        To be called in eval mode, when parameters and device are settled.
        """
        assignment: nn.Module = self.soft_assignment_mapper
        norm: nn.BatchNorm1d | None = None
        if isinstance(assignment, nn.Sequential):
            assignment, normed = assignment
            assert isinstance(normed, AssignmentNorm)
            norm = normed.bn
        assert isinstance(assignment, nn.Linear)
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for linear in (assignment, self.attention_mapper):
            weights.append(linear.weight.double())
            biases.append(linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias)
        if norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            weights[0] = weights[0] * scale.repeat(self.groups)[:, None]
            biases[0] = shift.repeat(self.groups)
        weight, bias = torch.cat(weights), torch.cat(biases).double()
        expansion = self.expansion_mapper
        self._folded = ((weight @ expansion.weight.double()).float(), (weight @ expansion.bias.double() + bias).float())

    def train(self, mode: bool = True) -> "NextvladLayer":
        """As `nn.Module.train`; what has been folded is forgotten."""
        if mode:
            self._folded = None
        return super().train(mode)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What depends on single frames: (N, D) → weights (N, G, K) and expanded frames (N, 2D).

        If folded, expanded frames lack the bias, which is added to their sums.
        """
        rows = functional.normalize(rows, dim=1)
        expanded = self.expansion_mapper(rows) if self._folded is None else rows @ self.expansion_mapper.weight.T
        return self._weights(rows, expanded), expanded

    def _weights(self, rows: Tensor, expanded: Tensor | None) -> Tensor:
        """Attention · assignment of each (frame, group) to a cluster, (N, G, K).

        From normalized frames (N, D) if folded, else from expanded ones (N, 2D).
        """
        if self._folded is not None:
            logits, attention = functional.linear(rows, *self._folded).tensor_split([-self.groups], dim=1)
        else:
            logits, attention = self.soft_assignment_mapper(expanded), self.attention_mapper(expanded)
        if self.soft_assignment == "2019":
            assignment = logits.unflatten(1, (self.n_clusters, self.groups)).softmax(dim=1).transpose(1, 2)
        else:
            assignment = logits.unflatten(1, (self.groups, self.n_clusters)).softmax(dim=2)
        return (assignment * attention.sigmoid().unsqueeze(2)).contiguous()  # they are read a frame after the other

    def aggregate(self, weights: Tensor, expanded: Tensor, packing: AnyPacking) -> Tensor:
        """Weights (N, G, K) and expanded frames (N, 2D) → (B, K·2D/G).

        Σ w·(x − c) = Σ w·x − c·Σ w: two matrix products, where the difference taken literally
        would need a (B, L, K, G, 2D/G) tensor.
        """
        sums, totals = packing.weighted_sums(weights, expanded.unflatten(1, (self.groups, -1)))
        return self._finish(sums, totals)

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos that lie end to end → (B, K·2D/G), the cheaper way. For inference, folded.

        The expansion is linear: where a video has many more frames than there are clusters, it is less work to sum
        frames first and to expand the sums, Σ_f w·(E x + e) = E Σ_f w·x + e·Σ_f w for each group.
        """
        dim = rows.shape[1]
        if 2 * len(lengths) * self.n_clusters * dim + len(rows) * self.n_clusters * self.groups > 2 * len(rows) * dim:
            return self.aggregate(*self.encode_frames(rows), EndToEnd(lengths))
        rows = functional.normalize(rows, dim=1)
        weights = self._weights(rows, None).transpose(1, 2).flatten(1)  # (N, K·G)
        sums, totals = EndToEnd(lengths).weighted_sums(weights.unsqueeze(1), rows.unsqueeze(1))
        expansion = self.expansion_mapper.weight.unflatten(0, (self.groups, -1))  # (G, 2D/G, D)
        sums = sums.unflatten(1, (self.n_clusters, -1)).flatten(2) @ expansion.transpose(1, 2).flatten(0, 1)
        return self._finish(sums, totals.unflatten(2, (self.n_clusters, -1)).squeeze(1).transpose(1, 2))

    def _finish(self, sums: Tensor, totals: Tensor) -> Tensor:
        """Σ w·x (B, K, 2D/G), without the expansion's bias if folded, and Σ w (B, G, K) → (B, K·2D/G)."""
        if self._folded is not None:
            sums = sums + totals.transpose(1, 2) @ self.expansion_mapper.bias.unflatten(0, (self.groups, -1))
        vlad = sums - totals.sum(dim=1).unsqueeze(2) * self.centroids
        vlad = self.final_bn(functional.normalize(vlad, dim=2).flatten(1))
        clusters = vlad.unflatten(1, (self.n_clusters, -1))
        return functional.dropout1d(clusters, self.p_drop, self.training).flatten(1)


def initialize(module: nn.Module) -> None:
    """The published initialization: Kaiming-normal weights, biases 0, batch-norm scale U(0, 1) and shift 0."""
    if next(module.parameters()).is_meta:  # nothing to fill, and torch would import its compiler to do so
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class DbofEncoder(nn.Module):
    """Context-gated deep bag of frames, up to and with `intermediate_fc`."""

    def __init__(self, config: DbofConfig) -> None:
        super().__init__()
        self.out_features = config.fcn_dim
        hidden = config.hidden_dim
        # The third place was a transposition in 2019; checkpoints number the gating as the fourth.
        encoder = [nn.Linear(config.frame_dim, hidden), nn.ReLU(inplace=True), nn.Identity()]
        if config.frame_se_reduction:
            encoder.append(SEGating(hidden, config.frame_se_reduction, per_frame=True))
        self.encoder = nn.Sequential(*encoder)
        intermediate = [
            nn.BatchNorm1d(2 * hidden),
            nn.Dropout(config.p_drop),
            nn.Linear(2 * hidden, config.fcn_dim, bias=False),
            nn.ReLU(),
        ]
        if config.video_se_reduction:
            intermediate.append(SEGating(config.fcn_dim, config.video_se_reduction))
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → (B, F)."""
        packing = Packing(frames, lengths)
        rows = self.encoder[:3](packing.pack(frames))  # (N, H), nowhere negative
        gating = self.encoder[3] if len(self.encoder) > 3 else None
        pooled = gating.pool(rows, packing) if isinstance(gating, SEGating) else packing.max_and_mean(rows)
        return self.intermediate_fc(pooled)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Frames (N, D) → gated hidden units (N, H)."""
        return (self.encoder(rows),)

    def pool(self, encoded: tuple[Tensor, ...], packing: AnyPacking) -> Tensor:
        """What `encode_frames` gave → (B, F)."""
        return self.intermediate_fc(packing.max_and_mean(encoded[0]))

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos of these lengths, end to end → (B, F). For inference."""
        return self.pool(self.encode_frames(rows), EndToEnd(lengths))


class NextvladEncoder(nn.Module):
    """NeXtVLAD on visual features and, unless `audio_dim` is 0, audio, up to and with the gating.

    With `gated` False it ends at the first Linear of `intermediate_fc`, as the segment encoder of a
    context-aware model does.
    """

    def __init__(self, config: NextvladConfig, gated: bool = True) -> None:
        super().__init__()
        self.out_features = config.fcn_dim
        self.video_encoder = _nextvlad_layer(config, config.video_dim, config.n_clusters)
        self.widths, pooled = [config.video_dim], self.video_encoder.out_features
        if config.audio_dim:
            self.audio_encoder = _nextvlad_layer(config, config.audio_dim, config.n_clusters // 2)
            self.widths.append(config.audio_dim)
            pooled += self.audio_encoder.out_features
        intermediate: list[nn.Module] = [nn.Linear(pooled, config.fcn_dim)]
        if gated:
            intermediate.append(nn.ReLU())
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self.intermediate_fc)
        self.se_gating: nn.Module = nn.Identity()
        if gated and config.se_reduction:
            self.se_gating = SEGating(config.fcn_dim, config.se_reduction)

    @property
    def _layers(self) -> list[NextvladLayer]:
        """One a feature, in the order of the columns of a frame."""
        return [self.video_encoder, self.audio_encoder] if len(self.widths) > 1 else [self.video_encoder]

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → (B, F)."""
        packing = Packing(frames, lengths)
        return self.pool(self.encode_frames(packing.pack(frames)), packing)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Frames (N, D) → weights (N, G, K) and expanded frames (N, 2D), of the visual features and then of the
        audio, if there is any."""
        parts = zip(self._layers, rows.split(self.widths, dim=1))
        return tuple(tensor for layer, part in parts for tensor in layer.encode_frames(part))

    def pool(self, encoded: tuple[Tensor, ...], packing: AnyPacking) -> Tensor:
        """What `encode_frames` gave → (B, F)."""
        pairs = zip(encoded[::2], encoded[1::2])
        return self._join([layer.aggregate(*pair, packing) for layer, pair in zip(self._layers, pairs)])

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos of these lengths, end to end → (B, F). For inference, folded."""
        parts = rows.split(self.widths, dim=1)
        return self._join([layer.encode_whole(part, lengths) for layer, part in zip(self._layers, parts)])

    def _join(self, pooled: list[Tensor]) -> Tensor:
        return self.se_gating(self.intermediate_fc(torch.cat(pooled, dim=1)))


def _nextvlad_layer(config: NextvladConfig, dim: int, n_clusters: int) -> NextvladLayer:
    return NextvladLayer(
        dim, n_clusters, config.groups, config.p_drop / 2, config.add_batchnorm, config.soft_assignment
    )


def fold(model: nn.Module) -> None:
    """Make a model in eval mode, with parameters and device settled, do less work, until the next `train()`."""
    for layer in model.modules():
        if isinstance(layer, NextvladLayer):
            layer.fold()


def mixture_layers(
    in_features: int, n_classes: int, n_mixtures: int, per_class: bool, p_drop: float
) -> tuple[nn.Sequential, nn.Sequential]:
    """The `expert_fc` and `gating_fc` of a mixture-of-experts head.

    There is one gate more than experts: the last is a dummy that contributes nothing.
    """
    n_gates = (n_mixtures + 1) * (n_classes if per_class else 1)
    experts, gates = (
        nn.Sequential(nn.BatchNorm1d(in_features), nn.Dropout(p_drop), nn.Linear(in_features, out))
        for out in (n_classes * n_mixtures, n_gates)
    )
    initialize(experts)
    initialize(gates)
    return experts, gates


def mix_experts(experts: Tensor, gates: Tensor, n_mixtures: int) -> Tensor:
    """Expert outputs (B, C·M) and gate logits (B, M+1) or (B, C·(M+1)) → logits (B, C).

    The mix is of logits, not of probabilities.
    """
    experts = experts.unflatten(1, (-1, n_mixtures))  # (B, C, M)
    shares = gates.unflatten(1, (-1, n_mixtures + 1)).softmax(dim=2)[:, :, :n_mixtures]  # (B, 1 or C, M)
    logits = experts[:, :, 0] * shares[:, :, 0]
    for mixture in range(1, n_mixtures):  # few, so that a sum over the innermost dimension would be slow
        logits = logits.addcmul(experts[:, :, mixture], shares[:, :, mixture])
    return logits
