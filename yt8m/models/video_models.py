"""Video classifiers: an encoder and a mixture-of-experts head. Dimensions as in `encoders`."""

from torch import Tensor, nn

from yt8m.common.config import DbofConfig, VideoModelConfig
from yt8m.models.encoders import DbofEncoder, NextvladEncoder
from yt8m.models.mixture import mix_experts, mixture_layers


class _Classifier(nn.Module):
    """A mixture-of-experts head on the encoder that comes next among the base classes."""

    def __init__(self, config: VideoModelConfig, n_classes: int) -> None:
        super().__init__(config)
        self.config = config
        self.expert_fc, self.gating_fc = mixture_layers(
            config.fcn_dim, n_classes, config.n_mixtures, config.per_class, config.p_drop
        )

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D), uint8 or float in 0..255, lengths (B,) → logits (B, C)."""
        return self.classify(super().forward(frames, lengths))

    def classify(self, features: Tensor) -> Tensor:
        """What the encoder gives (B, F) → logits (B, C)."""
        return mix_experts(self.expert_fc(features), self.gating_fc(features), self.config.n_mixtures)


class DbofModel(_Classifier, DbofEncoder):
    """Context-gated DBoF video classifier."""


class NextvladModel(_Classifier, NextvladEncoder):
    """NeXtVLAD video classifier."""


VideoModel = DbofModel | NextvladModel


def build_video_model(config: VideoModelConfig, n_classes: int) -> VideoModel:
    """The video classifier that a `video.model` section describes."""
    if isinstance(config, DbofConfig):
        return DbofModel(config, n_classes)
    return NextvladModel(config, n_classes)
