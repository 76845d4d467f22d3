"""Frames of several videos, end to end without padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class PackedFrames(NamedTuple):
    """The frames of V videos, N in all, at most L ≥ 1 of each.

    `frames` (N, D); `lengths` (V,) int64; `places` (N,) int64: the place of each frame among the V·L of the padded
    videos; `longest`: L. Whoever makes it knows all of this on the CPU, so that no model has to wait for a GPU to learn
    a length.
    """

    frames: Tensor
    lengths: Tensor
    places: Tensor
    longest: int

    @classmethod
    def of(cls, frames: Tensor, lengths: Tensor, longest: int | None = None) -> "PackedFrames":
        """Frames (N, D) of videos of these lengths (V,), both on one device; `longest` is read if not given."""
        if longest is None:
            longest = max(1, int(lengths.max())) if len(lengths) else 1
        return cls(frames, lengths, places_of(lengths, longest, len(frames)), longest)

    @classmethod
    def pack(cls, frames: Tensor, lengths: Tensor) -> "PackedFrames":
        """The same of padded frames (V, L, D). Waits for a GPU if they are on one."""
        inside = torch.arange(frames.shape[1], device=lengths.device) < lengths[:, None]
        places = inside.flatten().nonzero().squeeze(1)
        return cls(frames.flatten(0, 1)[places], lengths, places, frames.shape[1])

    @property
    def n_videos(self) -> int:
        """V."""
        return len(self.lengths)

    def padded(self) -> Tensor:
        """(V, L, D), zeros in the padding."""
        padded = self.frames.new_zeros(self.n_videos * self.longest, *self.frames.shape[1:])
        return padded.index_copy_(0, self.places, self.frames).unflatten(0, (self.n_videos, self.longest))

    def select(self, videos: Tensor) -> "PackedFrames":
        """Some of the videos, by their ascending numbers (any,). Waits for a GPU if they are on one."""
        chosen = torch.zeros(self.n_videos, dtype=torch.bool, device=self.lengths.device)
        chosen[videos] = True
        return self.of(self.frames[chosen.repeat_interleave(self.lengths)], self.lengths[videos])


def places_of(lengths: Tensor, longest: int, n_frames: int) -> Tensor:
    """The places (N,) of `n_frames` frames, end to end, of videos of these lengths (V,); see `PackedFrames`."""
    before = lengths.cumsum(0) - lengths  # frames of earlier videos
    shifts = torch.arange(len(lengths), device=lengths.device) * longest - before
    return torch.arange(n_frames, device=lengths.device) + shifts.repeat_interleave(lengths, output_size=n_frames)
