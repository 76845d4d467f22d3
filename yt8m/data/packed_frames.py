"""Frames of several videos, end to end without padding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yt8m.data.batch_memory import ArraySpec


class PackedFrames(NamedTuple):
    """The frames of V videos, N in all, at most L ≥ 1 of each.

    `frames` (N, D); `lengths` (V,) int64; `places` (N,) int64: the index of each frame among the V·L padded ones;
    `longest`: L. All are computed on the CPU, so that models need not wait for a GPU to learn lengths.
    """

    frames: Tensor
    lengths: Tensor
    places: Tensor
    longest: int

    @classmethod
    def of(cls, frames: Tensor, lengths: np.ndarray, longest: int | None = None) -> "PackedFrames":
        """From frames (N, D) on the CPU and the lengths (V,) int64 of the videos; `longest` defaults to the maximum."""
        if longest is None:
            longest = int(lengths.max(initial=1))
        return cls(frames, torch.from_numpy(lengths), torch.from_numpy(places_of(lengths, longest)), longest)

    @staticmethod
    def specs(lengths: np.ndarray, width: int) -> list[ArraySpec]:
        """Of the arrays of `inside`, for videos of these lengths (V,) and frames of a `width`."""
        n_frames = int(lengths.sum())
        return [((n_frames, width), np.uint8), (lengths.shape, np.int64), ((n_frames,), np.int64)]

    @classmethod
    def inside(cls, arrays: Sequence[np.ndarray], lengths: np.ndarray) -> "PackedFrames":
        """In arrays of these `specs`, the first of which is for the frames; runs no torch operation."""
        longest = int(lengths.max(initial=1))
        frames, kept, places = arrays
        kept[:] = lengths
        places_of(lengths, longest, places)
        return cls(torch.from_numpy(frames), torch.from_numpy(kept), torch.from_numpy(places), longest)

    @classmethod
    def pack(cls, frames: Tensor, lengths: Tensor) -> "PackedFrames":
        """From padded frames (V, L, D) and lengths (V,). Synchronizes with a GPU if they are on one."""
        inside = torch.arange(frames.shape[1], device=lengths.device) < lengths[:, None]
        places = inside.flatten().nonzero().squeeze(1)
        return cls(frames.flatten(0, 1)[places], lengths, places, frames.shape[1])

    @property
    def n_videos(self) -> int:
        """V."""
        return len(self.lengths)

    def padded(self) -> Tensor:
        """The frames padded with zeros, (V, L, D)."""
        padded = self.frames.new_zeros(self.n_videos * self.longest, *self.frames.shape[1:])
        return padded.index_copy_(0, self.places, self.frames).unflatten(0, (self.n_videos, self.longest))

    def select(self, videos: np.ndarray) -> "PackedFrames":
        """Some videos of a batch on the CPU, by ascending numbers (any,)."""
        lengths = self.lengths.numpy()
        chosen = np.zeros(len(lengths), bool)
        chosen[videos] = True
        return self.of(self.frames[torch.from_numpy(np.repeat(chosen, lengths))], lengths[videos])


def places_of(lengths: np.ndarray, longest: int, out: np.ndarray | None = None) -> np.ndarray:
    """`places` (N,) int64 for videos of these lengths (V,) int64, see `PackedFrames`; `out`: where to write them."""
    from yt8m.data import native_reading

    places = np.empty(lengths.sum(), np.int64) if out is None else out
    native_reading.place_frames(lengths, longest, places)
    return places
