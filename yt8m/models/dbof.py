"""Context-gated deep bag of frames (Lee 2019). Dimensions as in `base`; H hidden units."""

from torch import Tensor, nn

from yt8m.common.config import Count, Fraction, Reduction
from yt8m.data.packed_frames import PackedFrames
from yt8m.models.base import Encoder, EncoderConfig, register
from yt8m.models.layers import RAW_FRAMES, CenteredLinear, SEGating, initialize
from yt8m.models.packing import Layout, Packing


class DbofConfig(EncoderConfig):
    """Context-gated deep bag of frames."""

    fcn_dim: Count
    p_drop: Fraction
    hidden_dim: Count
    frame_se_reduction: Reduction
    video_se_reduction: Reduction


@register("dbof", DbofConfig)
class DbofEncoder(Encoder):
    """Context-gated deep bag of frames, up to and including `intermediate_fc`."""

    def __init__(self, config: DbofConfig) -> None:
        super().__init__()
        self.out_features = config.fcn_dim
        hidden = config.hidden_dim
        # The third layer was a transposition in 2019; checkpoints number the gating as the fourth.
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

    def encode_frames(self, rows: Tensor) -> Tensor:
        """Frames (N, D) → gated hidden units (N, H), non-negative."""
        return self.encoder(rows)

    def pool_rows(self, encoded: Tensor, layout: Layout) -> Tensor:
        """Gated hidden units (N, H) → (B, F)."""
        return self.intermediate_fc(layout.max_and_mean(encoded))

    def encode(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """See `Encoder.encode`; on a CPU, without storing gated hidden units."""
        rows, packing = Packing.of(frames, lengths)
        rows = self.encoder[:3](rows)  # (N, H), non-negative
        gating = self.encoder[3] if len(self.encoder) > 3 else None
        pooled = gating.pool(rows, packing) if isinstance(gating, SEGating) else packing.max_and_mean(rows)
        return self.intermediate_fc(pooled)
