"""Segment classifiers: a video model on an expanded segment, alone or beside the context of its video.

Dimensions as in `encoders`; S segments in a batch, V distinct videos they come from.
"""

import torch
from torch import Tensor, nn

from yt8m.common.config import ContextModelConfig, VideoModelConfig
from yt8m.models.encoders import Encoder, build_encoder
from yt8m.models.gating import SEGating
from yt8m.models.initialization import initialize
from yt8m.models.mixture import mix_experts, mixture_layers
from yt8m.models.video_models import VideoModel


class ContextAgnosticModel(nn.Module):
    """The video model, unchanged, on the frames of a segment (Lee 2019, context-agnostic classifiers)."""

    needs_context = False

    def __init__(self, video_model: VideoModel) -> None:
        super().__init__()
        self._model = video_model
        self.base_config = video_model.config
        self.base_configs: tuple[VideoModelConfig, ...] = (video_model.config,)

    def forward(self, segments: Tensor) -> Tensor:
        """Segments (S, 5 + 2·offset, D), raw features 0..255 → logits (S, C)."""
        return self._model(segments)

    @property
    def segment_encoder(self) -> Encoder:
        """What sees the frames of a segment; gives features (S, F)."""
        return self._model

    def classify(self, features: Tensor) -> Tensor:
        """What `segment_encoder` gives (S, F) → logits (S, C)."""
        return self._model.classify(features)


class ContextAwareModel(nn.Module):
    """A segment encoder beside a context encoder that sees the video (Lee 2019, context-aware classifiers).

    The context encoder is frozen, in eval mode and without gradient, unless `finetune_context`.
    """

    needs_context = True

    def __init__(
        self, config: ContextModelConfig, context_base: VideoModelConfig, segment_base: VideoModelConfig, n_classes: int
    ) -> None:
        super().__init__()
        self.config, self.base_config = config, context_base
        self.base_configs: tuple[VideoModelConfig, ...] = (context_base, segment_base)
        self.context_model = build_encoder(context_base)
        self.segment_model = build_encoder(segment_base, gated=False)
        joint = self.context_model.out_features + self.segment_model.out_features
        intermediate = [nn.BatchNorm1d(joint), nn.Dropout(config.p_drop), nn.Linear(joint, config.fcn_dim), nn.ReLU()]
        if config.se_reduction:
            intermediate.append(SEGating(config.fcn_dim, config.se_reduction))
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self.intermediate_fc)
        self.expert_fc, self.gating_fc = mixture_layers(
            config.fcn_dim, n_classes, config.n_mixture, False, config.p_drop
        )
        self.context_model.requires_grad_(config.finetune_context)

    def train(self, mode: bool = True) -> "ContextAwareModel":
        """As `nn.Module.train`; a frozen context encoder stays in eval mode."""
        super().train(mode)
        self.context_model.train(mode and self.config.finetune_context)
        return self

    def encode_context(self, videos: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Videos (V, L, D), lengths (V,) → context vectors (V, F)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.finetune_context):
            return self.context_model(videos, lengths)

    @property
    def segment_encoder(self) -> Encoder:
        """What sees the frames of a segment; gives features (S, F)."""
        return self.segment_model

    def classify(self, features: Tensor, contexts: Tensor) -> Tensor:
        """What `segment_encoder` gives (S, F) and the context vector of each one's video (S, F) → logits (S, C)."""
        joint = torch.cat([contexts, features], dim=1)
        features = self.intermediate_fc(joint)
        return mix_experts(self.expert_fc(features), self.gating_fc(features), self.config.n_mixture)

    def forward(self, segments: Tensor, videos: Tensor, lengths: Tensor | None, video_index: Tensor) -> Tensor:
        """Segments (S, ·, D), videos (V, L, D) with lengths (V,), and the row of `videos` that each
        segment belongs to, (S,) → logits (S, C)."""
        return self.classify(self.segment_model(segments), self.encode_context(videos, lengths)[video_index])


SegmentModel = ContextAgnosticModel | ContextAwareModel
