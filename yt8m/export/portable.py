"""Models as the exporter takes them: tensors in, tensors out, and no branch that depends on what goes in.

Frames go in as they are in the shards, uint8, and probabilities come out. The head and the tail of a video, which a
model of whole videos does not look at, are left out within the model, so that nobody else has to know of them.

Dimensions: S segments, W = 5 + 2·offset frames of an expanded segment, L frames of a whole video, D features of a
frame, F features of a segment or video, H and P features of a row, G groups, K clusters, C classes. S and L are free,
at least 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from yt8m.data.segments import SEGMENT_SECONDS, Trim
from yt8m.models.artifacts import ModelFolder
from yt8m.models.base import Encoder
from yt8m.models.config import required
from yt8m.models.gating import SEGating
from yt8m.models.packing import Layout, Packing
from yt8m.models.segment_models import ContextAgnosticModel, ContextAwareModel, SegmentModel
from yt8m.models.video_models import VideoModel

OUTPUT = "probabilities"

Model = TypeVar("Model", bound=VideoModel | SegmentModel)


class _SeenFrames(Layout):
    """Of all frames of one video those that a video model sees (`segments.context_frames`), the others as padding.

    All are encoded and some count for nothing, so that no shape depends on anything but L: cutting frames off would
    take a branch, which tracing does not keep.
    """

    def __init__(self, frames: Tensor, trim: Trim) -> None:
        """`frames` (L, D) uint8, of which `trim` is not seen."""
        head, tail = trim.head * SEGMENT_SECONDS, trim.tail * SEGMENT_SECONDS
        number = (frames[:, 0] >= 0).cumsum(0)  # 1 to L; an `arange` would be traced with the device that it was on
        n_frames = number[-1:]
        cut = (n_frames > head + tail).to(number.dtype)
        self._order = (number - 1 + cut * head) % n_frames  # (L,), those first that are seen
        self._seen = number <= n_frames - cut * (head + tail)  # (L,)

    def pack(self, frames: Tensor) -> Tensor:
        """(L, D) → rows (L, D), float."""
        return frames[self._order].float()

    def unpack(self, rows: Tensor) -> Tensor:
        """(L, ·) → (1, L, ·) with zeros for frames that are not seen."""
        seen = self._seen.view(-1, *[1] * (rows.dim() - 1))
        return torch.where(seen, rows, torch.zeros_like(rows))[None]

    def mask(self, padded: Tensor) -> Tensor:
        """See `Layout`."""
        return self._seen[None]


def _encode(encoder: Encoder, frames: Tensor, layout: _SeenFrames | Packing) -> Tensor:
    """What the encoder makes of frames in a layout, without the ways of its own that training has."""
    return encoder.pool_rows(encoder.encode_frames(layout.pack(frames)), layout)


def _encode_video(encoder: Encoder, frames: Tensor, trim: Trim) -> Tensor:
    """Frames (L, D) uint8 of a whole video, of which `trim` is not seen → (1, F)."""
    return _encode(encoder, frames, _SeenFrames(frames, trim))


def _encode_segments(encoder: Encoder, segments: Tensor) -> Tensor:
    """Segments (S, W, D) uint8 → (S, F)."""
    return _encode(encoder, segments, Packing(segments, None))


class Portable(nn.Module, ABC, Generic[Model]):
    """A model as the exporter takes it: tensors in, tensors out, no layer that it cannot write."""

    def __init__(self, model: Model, trim: Trim) -> None:
        """`model` in eval mode, which is changed, though not in what it computes; `trim`: of whole videos."""
        super().__init__()
        self.model: Model = model
        self.trim = trim
        model.requires_grad_(False)
        for layer in model.modules():
            if isinstance(layer, SEGating):  # takes an autograd function, which no file holds, for a bare batch norm
                layer.bn1 = nn.Sequential(layer.bn1)

    @abstractmethod
    def logits(self, *inputs: Tensor) -> Tensor:
        """The inputs of an `Interface` → logits, in the shape of its output."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The inputs of an `Interface` → probabilities."""
        return self.logits(*inputs).sigmoid()


class _PortableVideoModel(Portable[VideoModel]):
    """A video model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Frames (L, D) uint8 of one whole video → (C,)."""
        (frames,) = inputs
        return self.model.logits(_encode_video(self.model, frames, self.trim)).squeeze(0)


class _PortableAgnosticModel(Portable[ContextAgnosticModel]):
    """A context-agnostic segment model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Segments (S, W, D) uint8 → (S, C)."""
        (segments,) = inputs
        return self.model.classify(_encode_segments(self.model.segment_encoder, segments))


class _PortableAwareModel(Portable[ContextAwareModel]):
    """A context-aware segment model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Segments (S, W, D) uint8 and the frames (L, D) uint8 of the whole video that they come from → (S, C)."""
        segments, frames = inputs
        features = _encode_segments(self.model.segment_encoder, segments)
        return self.model.classify(
            features, lambda encoder: _encode_video(encoder, frames, self.trim).expand(segments.shape[0], -1)
        )


@dataclass(frozen=True)
class Interface:
    """Shapes of the inputs (uint8), in order, and of the probabilities (float32); "S" and "L" are free."""

    inputs: dict[str, tuple[str | int, ...]]
    output: tuple[str | int, ...]

    def sample(self, sizes: Mapping[str, int], seed: int) -> tuple[Tensor, ...]:
        """Random inputs of these sizes, spread as features are: on even noise, trained models give nothing but 0."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [[sizes[size] if isinstance(size, str) else size for size in shape] for shape in self.inputs.values()]
        return tuple(
            (128 + 32 * torch.randn(shape, generator=generator)).clamp(0, 255).to(torch.uint8) for shape in shapes
        )

    def __str__(self) -> str:
        inputs = ", ".join(f"{name} {_shape(shape)} uint8" for name, shape in self.inputs.items())
        return f"{inputs} -> {OUTPUT} {_shape(self.output)} float32"


def _shape(sizes: Sequence[str | int]) -> str:
    return f"({', '.join(map(str, sizes))}{',' * (len(sizes) == 1)})"


def interface_of(folder: ModelFolder, n_classes: int) -> Interface:
    """What the exported model takes and gives."""
    config, width = folder.config, SEGMENT_SECONDS + 2 * folder.offset
    if config.segment_w_context is not None:
        return Interface(
            {
                "segments": ("S", width, required(config.segment_base).model.frame_dim),
                "frames": ("L", required(config.context_base).model.frame_dim),
            },
            ("S", n_classes),
        )
    dim = required(config.video).model.frame_dim
    if folder.kind == "video":
        return Interface({"frames": ("L", dim)}, (n_classes,))
    return Interface({"segments": ("S", width, dim)}, ("S", n_classes))


def make_portable(model: VideoModel | SegmentModel, trim: Trim) -> Portable[Any]:
    """The portable form of a model in eval mode, which is changed, though not in what it computes.

    `trim`: what the model does not see of whole videos.
    """
    if isinstance(model, VideoModel):
        return _PortableVideoModel(model, trim)
    if isinstance(model, ContextAwareModel):
        return _PortableAwareModel(model, trim)
    assert isinstance(model, ContextAgnosticModel)
    return _PortableAgnosticModel(model, trim)
