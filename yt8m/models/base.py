"""What the families of models share: their registry, keys of configurations, and the way from frames to a vector.

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
    """Two classes of a kind under the same name."""


class Entry(NamedTuple, Generic[Kind]):
    """A class, and the keys that it has in configurations."""

    cls: type[Kind]
    config: type[Section]


class Registry(dict[str, Entry[Kind]]):
    """Classes of a kind by their names in configurations."""

    def register(self, name: str, config: type[Section]) -> Callable[[type[Registered]], type[Registered]]:
        """Decorates a class that a configuration is to call `name`, its keys being those of `config`.

        Raises `NameTakenError` for a name that another class has.
        """

        def add(cls: type[Registered]) -> type[Registered]:
            known = self.get(name)
            if known is not None and _path(known.cls) != _path(cls):  # else its module is imported anew
                raise NameTakenError(f"{_path(cls)} is called {name!r}, as is {_path(known.cls)}; give it another name")
            self[name] = Entry(cls, config)  # type: ignore[arg-type]
            return cls

        return add


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_module(name: str) -> None:
    """Have a module register what it has.

    Raises `ModuleNotFoundError` where there is none of this name, and for a mistake in it `ImportError` or what it
    raises itself, but never a `ValueError`, which would pass for one of the configuration.
    """
    try:
        importlib.import_module(name)
    except (ValueError, AssertionError) as error:
        raise ImportError(f"module {name}: {error}") from error


Encoded = Any  # what an encoder makes of single frames: a tensor with a row for each, or a tuple of such tensors
DEFAULT_HEAD = "moe"


class EncoderConfig(Section):
    """What all families have in `video.model`; a family adds keys of its own, and so does the head.

    `type` is the name of the family, `head` that of the head; `module` is the Python module to import first, where one
    of them is registered outside of this package. `max_len` is the most frames sampled from a video in training (-1:
    all); `video_dim` and `audio_dim` are the widths of the `rgb` and `audio` features, `audio_dim` 0 where there is no
    audio.
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
        """Without `head` and `module` where these say nothing, so that model folders are what they were."""
        usual = {"head": DEFAULT_HEAD, "module": None}
        return {key: value for key, value in serialize(self).items() if key not in usual or value != usual[key]}


class Encoder(nn.Module, ABC):
    """Base class of the families: frames into one vector for each video or segment.

    A family defines `encode_frames`, which looks at single frames, and `pool`, which joins them; `out_features` is the
    F of what `pool` gives. All else follows from these: in training padding is dropped before `encode_frames`, so that
    neither time nor batch statistics are spent on it; in prediction segments that overlap share what `encode_frames`
    gives. The other methods are there to be overridden where a family knows a quicker way to the same numbers.

    Names of submodules become names in the state dict, which is a file format.
    """

    out_features: int

    @classmethod
    def for_segments(cls, config: Any) -> "Encoder":
        """The encoder of segments in a context-aware model, where other layers follow: by default all of it."""
        return cls(config)

    @abstractmethod
    def encode_frames(self, rows: Tensor) -> Encoded:
        """Frames (N, D), floats in 0..255 → (N, ·), or a tuple of such tensors."""

    def pool(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """What `encode_frames` gave, padded with zeros to (B, L, ·), and where frames are (B, L) bool → (B, F).

        The frames of an example come first, its padding last. The result must not depend on how much there is.
        """
        raise TypeError(f"{type(self).__name__} has to define `pool`")

    def pool_rows(self, encoded: Encoded, layout: Layout) -> Tensor:
        """What `encode_frames` gave (N, ·), without padding → (B, F). Quicker ways of pooling override this."""
        padded = each(layout.unpack, encoded)
        return self.pool(padded, layout.mask(padded if isinstance(padded, Tensor) else padded[0]))

    def encode(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """Frames of B videos or segments, uint8 or float in 0..255 → (B, F).

        They are packed or padded, (B, L, D). Of padded frames `lengths` (B,) says how many of each are real; None means
        all.
        """
        rows, packing = Packing.of(frames, lengths)
        return self.pool_rows(self.encode_frames(rows), packing)

    def encode_whole(self, rows: Tensor, lengths: list[int]) -> Tensor:
        """Frames (N, D) of videos of these lengths, end to end → (B, F). For inference."""
        return self.pool_rows(self.encode_frames(rows), end_to_end(lengths, rows.device))

    def forward(self, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> Tensor:
        """As `encode`."""
        return self.encode(frames, lengths)

    def fuse(self) -> None:
        """Make inference less work until the next `train()`; in eval mode, with parameters and device settled."""


def each(function: Callable[[Tensor], Tensor], encoded: Encoded) -> Encoded:
    """Apply a function to a tensor, or to each of a tuple."""
    return function(encoded) if isinstance(encoded, Tensor) else tuple(map(function, encoded))


def fuse(model: nn.Module) -> None:
    """Make a model in eval mode, with parameters and device settled, do less work, until the next `train()`."""
    for module in model.modules():
        if isinstance(module, Encoder):
            module.fuse()


FAMILIES: Registry[Encoder] = Registry()
Family = TypeVar("Family", bound=Encoder)


def register(name: str, config: type[EncoderConfig]) -> Callable[[type[Family]], type[Family]]:
    """Decorates the encoder of a family: `type: name` in a configuration means it, with the keys of `config`.

    Raises `NameTakenError`.
    """
    return FAMILIES.register(name, config)
