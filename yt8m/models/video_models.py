"""Video classifiers: the encoder of a family with a head. Dimensions as in `base`; C classes."""

from functools import cache
from typing import Any

from torch import Tensor

from yt8m.models.base import FAMILIES, Encoder, EncoderConfig
from yt8m.models.heads import HEADS, Classifier, Head


class VideoModel(Classifier, Encoder):  # pylint: disable=abstract-method  # the encoder comes with `build_video_model`
    """A head on the encoder that comes next among the base classes, so that the layers of both have plain names."""

    def __init__(self, config: EncoderConfig, n_classes: int) -> None:
        super().__init__(config)
        self.config = config
        self.add_head(make_head(config), self.out_features, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, L, D), uint8 or float in 0..255, lengths (B,) → logits (B, C)."""
        return self.logits(self.encode(frames, lengths))


def make_head(config: EncoderConfig) -> Head:
    """The head that a `video.model` section describes."""
    return HEADS[config.head].cls(config)


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that a `video.model` section describes."""
    return FAMILIES[config.type].cls(config)


def build_segment_encoder(config: EncoderConfig) -> Encoder:
    """The same as the segment encoder of a context-aware model has it."""
    return FAMILIES[config.type].cls.for_segments(config)


def build_video_model(config: EncoderConfig, n_classes: int) -> VideoModel:
    """The video classifier that a `video.model` section describes."""
    encoder: Any = FAMILIES[config.type].cls
    return _with_head(encoder)(config, n_classes)


@cache
def _with_head(encoder: Any) -> type[VideoModel]:
    return type(f"{encoder.__name__}WithHead", (VideoModel, encoder), {})
