"""Frame encoders: from raw frames to one vector per video or segment.

Dimensions: B videos or segments in a batch, L frames (padded), N valid frames of the whole batch,
D features of a frame, H hidden units, F output units (`fcn_dim`), K clusters, G groups.

Frames arrive padded, (B, L, D), uint8 or float in 0..255, with `lengths` (B,) saying how many of each
row's frames are real; None means all. Padding is dropped first: layers that look at single frames
work on the N real ones as rows, so neither time nor batch statistics are spent on padding.

An encoder is two halves: `encode_frames` looks at single frames, `pool` makes vectors of what they gave. `forward`
is both; inference calls them one by one, so that overlapping segments share the first, and `encode_whole` for whole
videos, after `fold`.
"""

import torch
from torch import Tensor, nn

from yt8m.common.config import DbofConfig, NextvladConfig, VideoModelConfig
from yt8m.models.centering import RAW_FRAMES, CenteredLinear
from yt8m.models.gating import SEGating
from yt8m.models.initialization import initialize
from yt8m.models.nextvlad import NextvladLayer
from yt8m.models.packing import AnyPacking, EndToEnd, Packing


class DbofEncoder(nn.Module):
    """Context-gated deep bag of frames, up to and with `intermediate_fc`."""

    def __init__(self, config: DbofConfig) -> None:
        super().__init__()
        self.out_features = config.fcn_dim
        hidden = config.hidden_dim
        # The third place was a transposition in 2019; checkpoints number the gating as the fourth.
        encoder = [CenteredLinear(config.frame_dim, hidden, *RAW_FRAMES), nn.ReLU(inplace=True), nn.Identity()]
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
            initialize(self.se_gating)

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


Encoder = DbofEncoder | NextvladEncoder


def build_encoder(config: VideoModelConfig, gated: bool = True) -> Encoder:
    """The encoder of a video model. `gated` False: as the segment encoder of a context-aware model has it."""
    if isinstance(config, DbofConfig):
        return DbofEncoder(config)
    return NextvladEncoder(config, gated)
