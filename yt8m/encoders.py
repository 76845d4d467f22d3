"""Layers and frame encoders: from raw frames to one vector per video or segment.

Dimensions: B videos or segments in a batch, L frames (padded), N valid frames of the whole batch,
D features of a frame, H hidden units, F output units (`fcn_dim`), K clusters, G groups, C classes,
M mixtures, P pooled features.

Frames arrive padded, (B, L, D), uint8 or float in 0..255, with `lengths` (B,) saying how many of each
row's frames are real; None means all. Padding is dropped first: layers that look at single frames
work on the N real ones as rows, so neither time nor batch statistics are spent on padding.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional

from yt8m.config import DbofConfig, NextvladConfig


class Packing:
    """Where the real frames of a padded batch are; turns (B, L, ·) into rows (N, ·) and back."""

    def __init__(self, frames: Tensor, lengths: Tensor | None) -> None:
        """`frames` (B, L, D); `lengths` (B,) in 1..L, or None when every frame is real."""
        self.batch, self.length = frames.shape[:2]
        self.lengths: Tensor | None = None
        if lengths is not None and int(lengths.min()) < self.length:
            self.lengths = lengths.to(frames.device)
            steps = torch.arange(self.length, device=frames.device)
            self.index = (steps < self.lengths[:, None]).flatten().nonzero().squeeze(1)  # (N,)

    def pack(self, frames: Tensor) -> Tensor:
        """(B, L, D) → (N, D), as float."""
        rows = frames.flatten(0, 1)
        return (rows if self.lengths is None else rows[self.index]).float()

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ·) → (B, L, ·) with zeros in the padding."""
        if self.lengths is not None:
            padded = rows.new_zeros(self.batch * self.length, *rows.shape[1:])
            rows = padded.index_copy(0, self.index, rows)
        return rows.unflatten(0, (self.batch, self.length))

    def mean(self, padded: Tensor) -> Tensor:
        """Mean over the real frames of (B, L, ·), zero in the padding → (B, ·)."""
        if self.lengths is None:
            return padded.mean(dim=1)
        return padded.sum(dim=1) / self.lengths[:, None]


class SEGating(nn.Module):
    """Squeeze-and-excitation context gating with batch norm: x · sigmoid(fc2(bn2(relu(fc1(bn1(x)))))).

    Works on rows (N, D). With `per_frame` the two maps are stored as kernel-1 convolutions, as the
    frame-level gating of 2019 checkpoints has them; the arithmetic is the same.
    """

    def __init__(self, dim: int, reduction: int, per_frame: bool = False) -> None:
        super().__init__()
        hidden = dim // reduction
        self.bn1 = nn.BatchNorm1d(dim)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc1 = nn.Conv1d(dim, hidden, 1) if per_frame else nn.Linear(dim, hidden)
        self.fc2 = nn.Conv1d(hidden, dim, 1) if per_frame else nn.Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        hidden = functional.linear(self.bn1(rows), self.fc1.weight.flatten(1), self.fc1.bias)
        hidden = self.bn2(functional.relu(hidden))
        return rows * functional.linear(hidden, self.fc2.weight.flatten(1), self.fc2.bias).sigmoid()


class AssignmentNorm(nn.Module):
    """Batch norm of assignment logits, one channel per cluster: flat index f belongs to channel f mod K."""

    def __init__(self, n_clusters: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(n_clusters)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, G·K) → (N, G·K)."""
        return self.bn(logits.reshape(-1, self.bn.num_features)).view_as(logits)


class NextvladLayer(nn.Module):
    """NeXtVLAD aggregation of frames into K clusters (Lin 2018, arXiv 1811.05014, section 3).

    `soft_assignment` says how the flat G·K assignment logits are read before the softmax over
    clusters: "2019" as (K, G), which is what the 2019 release did and its scores come from, although
    their batch norm reads them as (G, K); "paper" as (G, K) in both places.
    """

    ALPHA = 100

    def __init__(self, dim: int, n_clusters: int, groups: int, p_drop: float, add_batchnorm: bool,
                 soft_assignment: str) -> None:
        super().__init__()
        self.n_clusters, self.groups, self.p_drop = n_clusters, groups, p_drop
        self.soft_assignment = soft_assignment
        expanded = 2 * dim
        self.out_features = n_clusters * expanded // groups
        self.centroids = nn.Parameter(torch.rand(n_clusters, expanded // groups))
        self.expansion_mapper = nn.Linear(dim, expanded)
        assignment = nn.Linear(expanded, n_clusters * groups, bias=not add_batchnorm)
        with torch.no_grad():
            assignment.weight.copy_(2 * self.ALPHA * self.centroids.repeat(groups, groups))
            if assignment.bias is not None:
                assignment.bias.copy_(-self.ALPHA * self.centroids.norm(dim=1).repeat(groups))
        self.soft_assignment_mapper: nn.Module = assignment
        if add_batchnorm:
            self.soft_assignment_mapper = nn.Sequential(assignment, AssignmentNorm(n_clusters))
        self.attention_mapper = nn.Linear(expanded, groups)
        self.final_bn = nn.BatchNorm1d(self.out_features)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What depends on single frames: (N, D) → weights (N, G, K) and expanded frames (N, 2D).

        A weight is attention · assignment of a (frame, group) to a cluster.
        """
        expanded = self.expansion_mapper(functional.normalize(rows, dim=1))
        logits = self.soft_assignment_mapper(expanded)
        if self.soft_assignment == "2019":
            assignment = logits.unflatten(1, (self.n_clusters, self.groups)).softmax(dim=1).transpose(1, 2)
        else:
            assignment = logits.unflatten(1, (self.groups, self.n_clusters)).softmax(dim=2)
        return assignment * self.attention_mapper(expanded).sigmoid().unsqueeze(2), expanded

    def aggregate(self, weights: Tensor, expanded: Tensor) -> Tensor:
        """Weights (B, L, G, K), zero in the padding, and expanded frames (B, L, 2D) → (B, K·2D/G).

        Σ w·(x − c) = Σ w·x − c·Σ w: two matrix products, where the difference taken literally
        would need a (B, L, K, G, 2D/G) tensor.
        """
        weights = weights.flatten(1, 2)  # (B, L·G, K)
        parts = expanded.unflatten(2, (self.groups, -1)).flatten(1, 2)  # (B, L·G, 2D/G)
        vlad = weights.transpose(1, 2) @ parts - weights.sum(dim=1).unsqueeze(2) * self.centroids
        vlad = self.final_bn(functional.normalize(vlad, dim=2).flatten(1))
        clusters = vlad.unflatten(1, (self.n_clusters, -1))
        return functional.dropout1d(clusters, self.p_drop, self.training).flatten(1)

    def forward(self, rows: Tensor, packing: Packing) -> Tensor:
        """Rows (N, D) of a packed batch → (B, K·2D/G)."""
        weights, expanded = self.encode_frames(rows)
        return self.aggregate(packing.unpack(weights), packing.unpack(expanded))


def initialize(module: nn.Module) -> None:
    """The published initialization: Kaiming-normal weights, biases 0, batch-norm scale U(0, 1) and shift 0."""
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
        encoder = [nn.Linear(config.frame_dim, hidden), nn.ReLU(), nn.Identity()]
        if config.frame_se_reduction:
            encoder.append(SEGating(hidden, config.frame_se_reduction, per_frame=True))
        self.encoder = nn.Sequential(*encoder)
        intermediate = [nn.BatchNorm1d(2 * hidden), nn.Dropout(config.p_drop),
                        nn.Linear(2 * hidden, config.fcn_dim, bias=False), nn.ReLU()]
        if config.video_se_reduction:
            intermediate.append(SEGating(config.fcn_dim, config.video_se_reduction))
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → (B, F)."""
        packing = Packing(frames, lengths)
        hidden = packing.unpack(self.encoder(packing.pack(frames)))  # (B, L, H), nowhere negative
        return self.intermediate_fc(torch.cat([hidden.amax(dim=1), packing.mean(hidden)], dim=1))


class NextvladEncoder(nn.Module):
    """NeXtVLAD on visual and audio features, up to and with the gating.

    With `gated` False it ends at the first Linear of `intermediate_fc`, as the segment encoder of a
    context-aware model does.
    """

    def __init__(self, config: NextvladConfig, gated: bool = True) -> None:
        super().__init__()
        self.out_features = config.fcn_dim
        self.widths = [config.video_dim, config.audio_dim]
        self.video_encoder, self.audio_encoder = (
            NextvladLayer(dim, n_clusters, config.groups, config.p_drop / 2, config.add_batchnorm,
                          config.soft_assignment)
            for dim, n_clusters in ((config.video_dim, config.n_clusters),
                                    (config.audio_dim, config.n_clusters // 2)))
        pooled = self.video_encoder.out_features + self.audio_encoder.out_features
        intermediate: list[nn.Module] = [nn.Linear(pooled, config.fcn_dim)]
        if gated:
            intermediate.append(nn.ReLU())
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self.intermediate_fc)
        self.se_gating: nn.Module = nn.Identity()
        if gated and config.se_reduction:
            self.se_gating = SEGating(config.fcn_dim, config.se_reduction)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D) and lengths (B,) → (B, F)."""
        packing = Packing(frames, lengths)
        visual, audio = packing.pack(frames).split(self.widths, dim=1)
        pooled = torch.cat([self.video_encoder(visual, packing), self.audio_encoder(audio, packing)], dim=1)
        return self.se_gating(self.intermediate_fc(pooled))


def mixture_layers(in_features: int, n_classes: int, n_mixtures: int, per_class: bool,
                   p_drop: float) -> tuple[nn.Sequential, nn.Sequential]:
    """The `expert_fc` and `gating_fc` of a mixture-of-experts head.

    There is one gate more than experts: the last is a dummy that contributes nothing.
    """
    n_gates = (n_mixtures + 1) * (n_classes if per_class else 1)
    experts, gates = (
        nn.Sequential(nn.BatchNorm1d(in_features), nn.Dropout(p_drop), nn.Linear(in_features, out))
        for out in (n_classes * n_mixtures, n_gates))
    initialize(experts)
    initialize(gates)
    return experts, gates


def mix_experts(experts: Tensor, gates: Tensor, n_mixtures: int) -> Tensor:
    """Expert outputs (B, C·M) and gate logits (B, M+1) or (B, C·(M+1)) → logits (B, C).

    The mix is of logits, not of probabilities.
    """
    experts = experts.unflatten(1, (-1, n_mixtures))  # (B, C, M)
    shares = gates.unflatten(1, (-1, n_mixtures + 1)).softmax(dim=2)[:, :, :n_mixtures]  # (B, 1 or C, M)
    return (experts * shares).sum(dim=2)
