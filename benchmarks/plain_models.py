"""Direct implementations of the models' formulas: padding kept in every layer, one operation after another.

The parameters have the names of the package's models, so that both load the same state dict. Dimensions as in
`yt8m.models.dbof`, `yt8m.models.nextvlad`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from yt8m.models.base import EncoderConfig
from yt8m.models.classifiers import ContextModelConfig
from yt8m.models.dbof import DbofConfig
from yt8m.models.nextvlad import NextvladConfig


class PlainGating(nn.Module):
    """Context gating; with `per_frame` of (B, D, L) by kernel-1 convolutions, else of (B, D)."""

    def __init__(self, dim: int, reduction: int, per_frame: bool = False) -> None:
        super().__init__()
        hidden = dim // reduction
        self.bn1, self.bn2 = nn.BatchNorm1d(dim), nn.BatchNorm1d(hidden)
        self.fc1 = nn.Conv1d(dim, hidden, 1) if per_frame else nn.Linear(dim, hidden)
        self.fc2 = nn.Conv1d(hidden, dim, 1) if per_frame else nn.Linear(hidden, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, L) or (B, D) → the same shape."""
        hidden = self.bn2(functional.relu(self.fc1(self.bn1(features))))
        return features * torch.sigmoid(self.fc2(hidden))


class PlainMixture(nn.Module):  # pylint: disable=abstract-method  # the models that have it add their forward
    """The mixture-of-experts head of all models."""

    def __init__(self, fcn_dim: int, p_drop: float, n_classes: int, n_mixtures: int) -> None:
        super().__init__()
        self.n_classes, self.n_mixtures = n_classes, n_mixtures
        self.expert_fc, self.gating_fc = (
            nn.Sequential(nn.BatchNorm1d(fcn_dim), nn.Dropout(p_drop), nn.Linear(fcn_dim, width))
            for width in (n_classes * n_mixtures, n_mixtures + 1)
        )

    def mix(self, features: Tensor) -> Tensor:
        """(B, F) → logits (B, C)."""
        experts = self.expert_fc(features).view(-1, self.n_classes, self.n_mixtures)
        gates = torch.softmax(self.gating_fc(features), dim=1)[:, None, : self.n_mixtures]
        return (experts * gates).sum(dim=2)


def frame_mask(frames: Tensor, lengths: Tensor) -> Tensor:
    """Which frames of (B, L, D) are real, (B, L)."""
    return torch.arange(frames.shape[1]) < lengths[:, None]


class Transposition(nn.Module):
    """The third layer of the encoder: channels first, for the convolutions."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, D) → (B, D, L)."""
        return features.transpose(1, 2)


class PlainVideoModel(PlainMixture):
    """An encoder of frames with a head; subclasses say which."""

    def __init__(self, config: DbofConfig | NextvladConfig, n_classes: int) -> None:
        super().__init__(config.fcn_dim, config.p_drop, n_classes, config.n_mixtures)

    features: Callable[[Tensor, Tensor], Tensor]

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → logits (B, C)."""
        return self.mix(self.features(frames, lengths))


class PlainDbof(PlainVideoModel):
    """Context-gated DBoF with masked pooling."""

    def __init__(self, config: DbofConfig, n_classes: int) -> None:
        super().__init__(config, n_classes)
        hidden = config.hidden_dim
        self.encoder = nn.Sequential(
            nn.Linear(config.frame_dim, hidden),
            nn.ReLU(),
            Transposition(),
            PlainGating(hidden, config.frame_se_reduction, per_frame=True),
        )
        self.intermediate_fc = nn.Sequential(
            nn.BatchNorm1d(2 * hidden),
            nn.Dropout(config.p_drop),
            nn.Linear(2 * hidden, config.fcn_dim, bias=False),
            nn.ReLU(),
            PlainGating(config.fcn_dim, config.video_se_reduction),
        )

    def features(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → features (B, F)."""
        hidden = self.encoder(frames.to(self.encoder[0].weight.dtype))  # (B, H, L)
        mask = frame_mask(frames, lengths)[:, None]
        maximum = hidden.masked_fill(~mask, float("-inf")).max(dim=2).values
        mean = (hidden * mask).sum(dim=2) / lengths[:, None]
        return self.intermediate_fc(torch.cat([maximum, mean], dim=1))


class ClusterNorm(nn.Module):
    """Batch norm of assignment logits, whose channels are the clusters."""

    def __init__(self, n_clusters: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(n_clusters)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, L, G·K), of which the channel is the index mod K → the same shape."""
        return self.bn(logits.reshape(-1, self.bn.num_features)).view(logits.shape)


class PlainNextvladLayer(nn.Module):
    """NeXtVLAD with the weighted residuals of all frames, clusters and groups, (B, L, K, G, 2D/G)."""

    def __init__(self, dim: int, n_clusters: int, groups: int, p_drop: float) -> None:
        super().__init__()
        self.n_clusters, self.groups = n_clusters, groups
        self.centroids = nn.Parameter(torch.rand(n_clusters, 2 * dim // groups))
        self.expansion_mapper = nn.Linear(dim, 2 * dim)
        self.soft_assignment_mapper = nn.Sequential(
            nn.Linear(2 * dim, n_clusters * groups, bias=False), ClusterNorm(n_clusters)
        )
        self.attention_mapper = nn.Linear(2 * dim, groups)
        self.final_bn = nn.BatchNorm1d(self.centroids.numel())
        self.dropout = nn.Dropout1d(p_drop)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames (B, L, D) and mask (B, L) → (B, K·2D/G)."""
        n_videos, length, _ = frames.shape
        expanded = self.expansion_mapper(functional.normalize(frames, dim=2))
        attention = torch.sigmoid(self.attention_mapper(expanded)) * mask[:, :, None]  # (B, L, G)
        logits = self.soft_assignment_mapper(expanded).view(n_videos, length, self.n_clusters, self.groups)
        weights = torch.softmax(logits, dim=2) * attention[:, :, None]  # (B, L, K, G)
        parts = expanded.view(n_videos, length, 1, self.groups, -1)
        residuals = parts - self.centroids[:, None]  # (B, L, K, G, 2D/G)
        vlad = (weights[..., None] * residuals).sum(dim=(1, 3))  # (B, K, 2D/G)
        vlad = self.final_bn(functional.normalize(vlad, dim=2).flatten(1))
        return self.dropout(vlad.view(n_videos, self.n_clusters, -1)).flatten(1)


class PlainNextvlad(PlainVideoModel):
    """NeXtVLAD on visual and audio features."""

    def __init__(self, config: NextvladConfig, n_classes: int) -> None:
        super().__init__(config, n_classes)
        assert config.add_batchnorm and config.soft_assignment == "2019"  # the only case implemented here
        self.widths = [config.video_dim, config.audio_dim]
        self.video_encoder = PlainNextvladLayer(config.video_dim, config.n_clusters, config.groups, config.p_drop / 2)
        self.audio_encoder = PlainNextvladLayer(
            config.audio_dim, config.n_clusters // 2, config.groups, config.p_drop / 2
        )
        pooled = self.video_encoder.final_bn.num_features + self.audio_encoder.final_bn.num_features
        self.intermediate_fc = nn.Sequential(nn.Linear(pooled, config.fcn_dim), nn.ReLU())
        self.se_gating = PlainGating(config.fcn_dim, config.se_reduction)

    def features(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → features (B, F)."""
        return self.se_gating(functional.relu(self.before_relu(frames, lengths)))

    def before_relu(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Features of the segment encoder of a context-aware model, (B, F)."""
        mask = frame_mask(frames, lengths)
        video, audio = frames.to(self.intermediate_fc[0].weight.dtype).split(self.widths, dim=2)
        pooled = torch.cat([self.video_encoder(video, mask), self.audio_encoder(audio, mask)], dim=1)
        return self.intermediate_fc[0](pooled)


def build_plain_model(config: EncoderConfig, n_classes: int) -> PlainDbof | PlainNextvlad:
    """The plain model for a configuration, to load a state dict into."""
    return PlainDbof(config, n_classes) if isinstance(config, DbofConfig) else PlainNextvlad(config, n_classes)


class PlainContextAware(PlainMixture):
    """A segment encoder beside a context encoder; every segment comes with its whole video."""

    def __init__(
        self, config: ContextModelConfig, context: EncoderConfig, segment: EncoderConfig, n_classes: int
    ) -> None:
        super().__init__(config.fcn_dim, config.p_drop, n_classes, config.n_mixture)
        self.context_model, self.segment_model = build_plain_model(context, 1), build_plain_model(segment, 1)
        joint = context.fcn_dim + segment.fcn_dim
        self.intermediate_fc = nn.Sequential(
            nn.BatchNorm1d(joint),
            nn.Dropout(config.p_drop),
            nn.Linear(joint, config.fcn_dim),
            nn.ReLU(),
            PlainGating(config.fcn_dim, config.se_reduction),
        )

    def forward(self, segments: Tensor, videos: Tensor, lengths: Tensor) -> Tensor:
        """Segments (S, L', D), and the video of each, (S, L, D) with lengths (S,) → logits (S, C)."""
        whole = torch.full((len(segments),), segments.shape[1])
        encode = getattr(self.segment_model, "before_relu", self.segment_model.features)
        joint = torch.cat([self.context_model.features(videos, lengths), encode(segments, whole)], dim=1)
        return self.mix(self.intermediate_fc(joint))
