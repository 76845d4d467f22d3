"""NeXtVLAD (Lin 2018, arXiv 1811.05014, section 3): aggregation of frames over clusters.

Dimensions as in `base`; K clusters, G groups.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, ValidationInfo
from torch import Tensor, nn
from torch.nn import functional

from yt8m.common.config import Count, Fraction, Reduction
from yt8m.models.base import Encoder, EncoderConfig, register
from yt8m.models.layers import CenteredLinear, SEGating, initialize
from yt8m.models.packing import Layout, end_to_end


def _divides(groups: int, info: ValidationInfo) -> int:
    """Check that `groups` divides the width of expanded frames, twice that of the features."""
    for name in ("video_dim", "audio_dim"):
        if 2 * info.data.get(name, 0) % groups:
            raise ValueError(f"expected a divisor of 2 * {name}, which is {2 * info.data[name]}")
    return groups


class NextvladConfig(EncoderConfig):
    """NeXtVLAD; `soft_assignment`: the layout of assignment logits, of the 2019 release or the paper."""

    fcn_dim: Count
    p_drop: Fraction
    n_clusters: Annotated[StrictInt, Field(ge=2)]  # half as many in the audio encoder, if any
    groups: Annotated[Count, AfterValidator(_divides)]
    se_reduction: Reduction
    add_batchnorm: StrictBool
    soft_assignment: Annotated[Literal["2019", "paper"], BeforeValidator(str)] = "2019"


class AssignmentNorm(nn.Module):
    """Batch norm of assignment logits, one channel per cluster: flat index f belongs to channel f mod K."""

    def __init__(self, n_clusters: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(n_clusters)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, G·K) → (N, G·K)."""
        return self.bn(logits.reshape(-1, self.bn.num_features)).view_as(logits)


class NextvladLayer(nn.Module):  # pylint: disable=abstract-method  # its two stages are called separately
    """NeXtVLAD aggregation of frames into K clusters (Lin 2018, arXiv 1811.05014, section 3).

    `soft_assignment`: how the flat G·K assignment logits are read before the softmax over clusters:
    "2019" as (K, G), which produced the scores of the 2019 release, although their batch norm reads
    them as (G, K); "paper" as (G, K) in both places.
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
        # Mean: the entries of a normalized frame of equal bytes; scale: half of that.
        self.expansion_mapper = CenteredLinear(dim, expanded, dim**-0.5, dim**-0.5 / 2)
        assignment = nn.Linear(expanded, n_clusters * groups, bias=not add_batchnorm)
        if not self.centroids.is_meta:
            self._initialize(assignment)
        self.soft_assignment_mapper: nn.Module = assignment
        if add_batchnorm:
            self.soft_assignment_mapper = nn.Sequential(assignment, AssignmentNorm(n_clusters))
        self.attention_mapper = nn.Linear(expanded, groups)
        for mapper in (self.expansion_mapper, self.attention_mapper):
            initialize(mapper)
        self._fused: tuple[Tensor, Tensor] | None = None
        self.final_bn = nn.BatchNorm1d(self.out_features)

    @torch.no_grad()
    def _initialize(self, assignment: nn.Linear) -> None:
        """Assign as NetVLAD does, by distance from the centroids."""
        assignment.weight.copy_(2 * self.ALPHA * self.centroids.repeat(self.groups, self.groups))
        if assignment.bias is not None:
            assignment.bias.copy_(-self.ALPHA * self.centroids.norm(dim=1).repeat(self.groups))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fuse the linear maps from normalized frames to weights into one, until the next `train()`.

        Call in eval mode, with final parameters and device, and with parameters for raw inputs.
        """
        assert not self.expansion_mapper.centered
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
        self._fused = ((weight @ expansion.weight.double()).float(), (weight @ expansion.bias.double() + bias).float())

    def train(self, mode: bool = True) -> "NextvladLayer":
        """As `nn.Module.train`; discards the fused map in training mode."""
        if mode:
            self._fused = None
        return super().train(mode)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The part that works on single frames: (N, D) → weights (N, G, K) and expanded frames (N, 2D).

        If fused, expanded frames lack the bias, which is added to their sums.
        """
        rows = functional.normalize(rows, dim=1)
        expanded = self.expansion_mapper(rows) if self._fused is None else rows @ self.expansion_mapper.weight.T
        return self._weights(rows, expanded), expanded

    def _weights(self, rows: Tensor, expanded: Tensor | None) -> Tensor:
        """Attention · assignment of each (frame, group) to a cluster, (N, G, K).

        From normalized frames (N, D) if fused, else from expanded ones (N, 2D).
        """
        if self._fused is not None:
            logits, attention = functional.linear(rows, *self._fused).tensor_split([-self.groups], dim=1)
        else:
            logits, attention = self.soft_assignment_mapper(expanded), self.attention_mapper(expanded)
        if self.soft_assignment == "2019":
            assignment = logits.unflatten(1, (self.n_clusters, self.groups)).softmax(dim=1).transpose(1, 2)
        else:
            assignment = logits.unflatten(1, (self.groups, self.n_clusters)).softmax(dim=2)
        return (assignment * attention.sigmoid().unsqueeze(2)).contiguous()  # read frame by frame

    def aggregate(self, weights: Tensor, expanded: Tensor, layout: Layout) -> Tensor:
        """Weights (N, G, K) and expanded frames (N, 2D) → (B, K·2D/G).

        Σ w·(x − c) = Σ w·x − c·Σ w takes two matrix products instead of a (B, L, K, G, 2D/G) tensor of
        differences.
        """
        sums, totals = layout.weighted_sums(weights, expanded.unflatten(1, (self.groups, -1)))
        return self._finish(sums, totals)

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos, end to end → (B, K·2D/G), in the cheaper way. For inference, fused.

        The expansion is linear: if videos have many more frames than there are clusters, it is cheaper to sum frames
        first and expand the sums, Σ_f w·(E x + e) = E Σ_f w·x + e·Σ_f w for each group.
        """
        dim = rows.shape[1]
        if 2 * len(lengths) * self.n_clusters * dim + len(rows) * self.n_clusters * self.groups > 2 * len(rows) * dim:
            return self.aggregate(*self.encode_frames(rows), end_to_end(lengths, rows.device))
        rows = functional.normalize(rows, dim=1)
        weights = self._weights(rows, None).transpose(1, 2).flatten(1)  # (N, K·G)
        sums, totals = end_to_end(lengths, rows.device).weighted_sums(weights.unsqueeze(1), rows.unsqueeze(1))
        expansion = self.expansion_mapper.weight.unflatten(0, (self.groups, -1))  # (G, 2D/G, D)
        sums = sums.unflatten(1, (self.n_clusters, -1)).flatten(2) @ expansion.transpose(1, 2).flatten(0, 1)
        return self._finish(sums, totals.unflatten(2, (self.n_clusters, -1)).squeeze(1).transpose(1, 2))

    def _finish(self, sums: Tensor, totals: Tensor) -> Tensor:
        """Σ w·x (B, K, 2D/G), without the expansion's bias if fused, and Σ w (B, G, K) → (B, K·2D/G)."""
        if self._fused is not None:
            sums = sums + totals.transpose(1, 2) @ self.expansion_mapper.bias.unflatten(0, (self.groups, -1))
        vlad = sums - totals.sum(dim=1).unsqueeze(2) * self.centroids
        vlad = self.final_bn(functional.normalize(vlad, dim=2).flatten(1))
        clusters = vlad.unflatten(1, (self.n_clusters, -1))
        return functional.dropout1d(clusters, self.p_drop, self.training).flatten(1)


@register("nextvlad", NextvladConfig)
class NextvladEncoder(Encoder):
    """NeXtVLAD on visual features and, unless `audio_dim` is 0, audio, up to and including the gating.

    With `gated` False it ends at the first Linear of `intermediate_fc`, like the segment encoder of a
    context-aware model.
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
            initialize(self.se_gating)

    @classmethod
    def for_segments(cls, config: NextvladConfig) -> "NextvladEncoder":
        """Without the layers after the first Linear of `intermediate_fc`."""
        return cls(config, gated=False)

    @property
    def _layers(self) -> list[NextvladLayer]:
        """One per feature, in the order of the columns of a frame."""
        return [self.video_encoder, self.audio_encoder] if len(self.widths) > 1 else [self.video_encoder]

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Frames (N, D) → weights (N, G, K) and expanded frames (N, 2D), of visual features, then of any audio."""
        parts = zip(self._layers, rows.split(self.widths, dim=1))
        return tuple(tensor for layer, part in parts for tensor in layer.encode_frames(part))

    def pool_rows(self, encoded: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """Output of `encode_frames` → (B, F)."""
        pairs = zip(encoded[::2], encoded[1::2])
        return self._join([layer.aggregate(*pair, layout) for layer, pair in zip(self._layers, pairs)])

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos of these lengths, end to end → (B, F). For inference, fused."""
        parts = rows.split(self.widths, dim=1)
        return self._join([layer.encode_whole(part, lengths) for layer, part in zip(self._layers, parts)])

    def fuse(self) -> None:
        """See `NextvladLayer.fuse`."""
        for layer in self._layers:
            layer.fuse()

    def _join(self, pooled: list[Tensor]) -> Tensor:
        return self.se_gating(self.intermediate_fc(torch.cat(pooled, dim=1)))


def _nextvlad_layer(config: NextvladConfig, dim: int, n_clusters: int) -> NextvladLayer:
    return NextvladLayer(
        dim, n_clusters, config.groups, config.p_drop / 2, config.add_batchnorm, config.soft_assignment
    )
