"""Base of the model families: their registry, common configuration keys, and the encoder from frames to a vector.

Dimensions: B videos or segments in a batch, L frames (padded), N frames of the whole batch without padding, D features
of a frame, F features of a video or segment.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, StrictInt, model_serializer
from torch import Tensor, nn

from yt8m.common.config import Count, MaxLen, Section
from yt8m.data.packed_frames import PackedFrames
from yt8m.models.packing import Layout, Packing, end_to_end

Kind = TypeVar("Kind")
Registered = TypeVar("Registered")


class NameTakenError(Exception):
    """Two classes of a kind have the same name."""


class Entry(NamedTuple, Generic[Kind]):
    """A class and its configuration keys."""

    cls: type[Kind]
    config: type[Section]


class Registry(dict[str, Entry[Kind]]):
    """Classes of a kind by their names in configurations."""

    def register(self, name: str, config: type[Section]) -> Callable[[type[Registered]], type[Registered]]:
        """Decorator that registers a class as `name` in configurations, with the keys of `config`.

        Raises `NameTakenError` if another class has the name.
        """

        def add(cls: type[Registered]) -> type[Registered]:
            known = self.get(name)
            if known is not None and _path(known.cls) != _path(cls):  # else its module is imported again
                raise NameTakenError(f"{_path(cls)} is called {name!r}, as is {_path(known.cls)}; give it another name")
            self[name] = Entry(cls, config)  # type: ignore[arg-type]
            return cls

        return add


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_module(name: str) -> None:
    """Import a module so that it registers its classes.

    Raises `ModuleNotFoundError` for a missing module, and for an error in the module `ImportError` or the error itself,
    but never `ValueError`, which would be taken for a configuration error.
    """
    try:
        importlib.import_module(name)
    except (ValueError, AssertionError) as error:
        raise ImportError(f"module {name}: {error}") from error


Encoded = Any  # encoded frames: a tensor with a row per frame, or a tuple of such tensors
DEFAULT_HEAD = "moe"


class EncoderConfig(Section):
    """The keys of `video.model` common to all families; family and head add their own.

    `type` is the name of the family, `head` that of the head; `module` is the Python module to import first if one of
    them is registered outside this package. `max_len` is the maximum number of frames sampled from a video in training
    (-1: all); `video_dim` and `audio_dim` are the widths of the `rgb` and `audio` features, `audio_dim` 0: no audio.
    """

    max_len: MaxLen
    video_dim: Count = 1024
    audio_dim: Annotated[StrictInt, Field(ge=0)] = 128
    type: str
    head: str = DEFAULT_HEAD
    module: str | None = None

    @property
    def frame_dim(self) -> int:
        """Width of one frame: visual and audio features side by side."""
        return self.video_dim + self.audio_dim

    @model_serializer(mode="wrap")
    def _as_in_2019(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit default `head` and `module`, so that model folders stay unchanged."""
        usual = {"head": DEFAULT_HEAD, "module": None}
        return {key: value for key, value in serialize(self).items() if key not in usual or value != usual[key]}


class Encoder(nn.Module, ABC):
    """Base class of the families: maps the frames of each video or segment to one vector.

    A family defines `encode_frames`, for single frames, and `pool`, which combines them into `out_features` = F values.
    The rest follows: in training, padding is dropped before `encode_frames`, so that it affects neither speed nor batch
    statistics; in prediction, overlapping segments share encoded frames. A family overrides the other methods if it has
    a faster way to the same result.

    Names of submodules become names in the state dict, which is a file format.
    """

    out_features: int

    @classmethod
    def for_segments(cls, config: Any) -> "Encoder":
        """The segment encoder of a context-aware model, where other layers follow; by default the whole encoder."""
        return cls(config)

    @abstractmethod
    def encode_frames(self, rows: Tensor) -> Encoded:
        """Frames (N, D), floats in 0..255 → (N, ·), or a tuple of such tensors."""

    def pool(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """Encoded frames, zero-padded to (B, L, ·), and their mask (B, L) bool → (B, F).

        The frames of an example precede its padding. The result must not depend on the amount of padding.
        """
        raise TypeError(f"{type(self).__name__} has to define `pool`")

    def pool_rows(self, encoded: Encoded, layout: Layout) -> Tensor:
        """Encoded frames (N, ·) without padding → (B, F). Override for faster pooling."""
        padded = each(layout.unpack, encoded)
        return self.pool(padded, layout.mask(padded if isinstance(padded, Tensor) else padded[0]))

    def encode(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """Frames of B videos or segments, uint8 or float in 0..255 → (B, F).

        They are packed or padded, (B, L, D). `lengths` (B,): the numbers of real frames among padded ones; None: all.
        """
        rows, packing = Packing.of(frames, lengths)
        return self.pool_rows(self.encode_frames(rows), packing)

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos of these lengths, end to end → (B, F). For inference."""
        return self.pool_rows(self.encode_frames(rows), end_to_end(lengths, rows.device))

    def forward(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """See `encode`."""
        return self.encode(frames, lengths)

    def fuse(self) -> None:
        """Speed up inference until the next `train()`. Call in eval mode, with final parameters and device."""


def each(function: Callable[[Tensor], Tensor], encoded: Encoded) -> Encoded:
    """Apply a function to a tensor, or to each of a tuple."""
    return function(encoded) if isinstance(encoded, Tensor) else tuple(map(function, encoded))


def fuse(model: nn.Module) -> None:
    """Speed up inference until the next `train()`. Call in eval mode, with final parameters and device."""
    for module in model.modules():
        if isinstance(module, Encoder):
            module.fuse()


FAMILIES: Registry[Encoder] = Registry()
Family = TypeVar("Family", bound=Encoder)


def register(name: str, config: type[EncoderConfig]) -> Callable[[type[Family]], type[Family]]:
    """Decorator that registers the encoder of a family as `type: name` in configurations, with the keys of `config`.

    Raises `NameTakenError`.
    """
    return FAMILIES.register(name, config)
