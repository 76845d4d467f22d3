"""Classifiers of videos and of segments.

A video classifier is the encoder of a family with a head; a segment classifier is a video model on an expanded segment,
alone or with the context of its video. Dimensions as in `base`; S segments in a batch, V distinct videos of the
segments, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from pydantic import StrictBool
from torch import Tensor, nn

from yt8m.common.config import Count, Fraction, MaxLen, Reduction, Section
from yt8m.data.packed_frames import PackedFrames
from yt8m.models.base import FAMILIES, Encoder, EncoderConfig
from yt8m.models.heads import HEADS, Classifier, Head, MixtureConfig, MixtureHead
from yt8m.models.layers import SEGating, initialize


class VideoModel(Classifier, Encoder):  # pylint: disable=abstract-method  # `build_video_model` adds the encoder
    """A head on the encoder that is the next base class, so that the layers of both have unprefixed names."""

    def __init__(self, config: EncoderConfig, n_classes: int) -> None:
        super().__init__(config)
        self.config = config
        self.add_head(make_head(config), self.out_features, n_classes)

    def forward(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """Frames and lengths as for `Encoder.encode` → logits (B, C)."""
        return self.logits(self.encode(frames, lengths))


def make_head(config: EncoderConfig) -> Head:
    """The head that a `video.model` section describes."""
    return HEADS[config.head].cls(config)


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that a `video.model` section describes."""
    return FAMILIES[config.type].cls(config)


def build_segment_encoder(config: EncoderConfig) -> Encoder:
    """The same as a segment encoder of a context-aware model."""
    return FAMILIES[config.type].cls.for_segments(config)


def build_video_model(config: EncoderConfig, n_classes: int) -> VideoModel:
    """The video classifier that a `video.model` section describes."""
    encoder: Any = FAMILIES[config.type].cls
    return _with_head(encoder)(config, n_classes)


@cache
def _with_head(encoder: Any) -> type[VideoModel]:
    return type(f"{encoder.__name__}WithHead", (VideoModel, encoder), {})


Contexts = Callable[[Encoder], Tensor]  # a context encoder → the context vector of each segment's video, (S, F)


class SegmentModel(nn.Module, ABC):
    """A classifier of segments. `base_config`: of the context encoder, if there is one, else of the video model."""

    needs_context: ClassVar[bool]
    base_config: EncoderConfig

    @property
    @abstractmethod
    def segment_encoder(self) -> Encoder:
        """The encoder of the frames of segments to features (S, F)."""

    @abstractmethod
    def classify(self, features: Tensor, contexts: Contexts | None = None) -> Tensor:
        """Output of `segment_encoder` (S, F) → logits (S, C).

        Models that need context call `contexts`, which may cache results: several models can share a context encoder.
        """


class ContextAgnosticModel(SegmentModel):
    """The video model, unchanged, on the frames of a segment (Lee 2019, context-agnostic classifiers)."""

    needs_context = False

    def __init__(self, video_model: VideoModel) -> None:
        super().__init__()
        self._model = video_model
        self.base_config = video_model.config

    def forward(self, segments: Tensor) -> Tensor:
        """Segments (S, 5 + 2·offset, D), raw features 0..255 → logits (S, C)."""
        return self._model(segments)

    @property
    def segment_encoder(self) -> Encoder:
        """See `SegmentModel`."""
        return self._model

    def classify(self, features: Tensor, contexts: Contexts | None = None) -> Tensor:
        """See `SegmentModel`."""
        return self._model.logits(features)


class ContextModelConfig(Section):
    """The layers of a context-aware model above its two encoders."""

    fcn_dim: Count
    p_drop: Fraction
    se_reduction: Reduction
    max_len: MaxLen
    finetune_context: StrictBool
    n_mixture: Count


class ContextAwareModel(SegmentModel, Classifier):
    """A segment encoder and a context encoder of the video (Lee 2019, context-aware classifiers).

    The context encoder is frozen (eval mode, no gradient) unless `finetune_context`.
    """

    needs_context = True

    def __init__(
        self, config: ContextModelConfig, context_base: EncoderConfig, segment_base: EncoderConfig, n_classes: int
    ) -> None:
        super().__init__()
        self.config, self.base_config = config, context_base
        self.context_model = build_encoder(context_base)
        self.segment_model = build_segment_encoder(segment_base)
        joint = self.context_model.out_features + self.segment_model.out_features
        intermediate = [nn.BatchNorm1d(joint), nn.Dropout(config.p_drop), nn.Linear(joint, config.fcn_dim), nn.ReLU()]
        if config.se_reduction:
            intermediate.append(SEGating(config.fcn_dim, config.se_reduction))
        self.intermediate_fc = nn.Sequential(*intermediate)
        initialize(self.intermediate_fc)
        self.add_head(self.make_head(config), config.fcn_dim, n_classes)
        self.context_model.requires_grad_(config.finetune_context)

    @staticmethod
    def make_head(config: ContextModelConfig) -> Head:
        """The head that a `segment_w_context.model` section describes."""
        return MixtureHead(MixtureConfig(n_mixtures=config.n_mixture, p_drop=config.p_drop))

    def train(self, mode: bool = True) -> "ContextAwareModel":
        """As `nn.Module.train`; a frozen context encoder stays in eval mode."""
        super().train(mode)
        self.context_model.train(mode and self.config.finetune_context)
        return self

    def encode_context(self, videos: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """Frames of V videos and lengths as for `Encoder.encode` → context vectors (V, F)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.finetune_context):
            return self.context_model(videos, lengths)

    @property
    def segment_encoder(self) -> Encoder:
        """See `SegmentModel`."""
        return self.segment_model

    def classify(self, features: Tensor, contexts: Contexts | None = None) -> Tensor:
        """See `SegmentModel`."""
        assert contexts is not None
        joint = torch.cat([contexts(self.context_model), features], dim=1)
        return self.logits(self.intermediate_fc(joint))

    def forward(
        self, segments: Tensor, videos: Tensor | PackedFrames, lengths: Tensor | None, video_index: Tensor
    ) -> Tensor:
        """Segments (S, ·, D), frames of V videos and lengths as for `Encoder.encode`, and the number of each segment's
        video (S,) → logits (S, C)."""
        features = self.segment_model(segments)
        return self.classify(features, lambda _: self.encode_context(videos, lengths)[video_index])
