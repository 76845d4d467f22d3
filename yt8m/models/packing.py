"""Layouts of rows by example: padded batches without their padding, videos end to end, overlapping windows.

Layers on single frames work on rows, (N, ·); pooling works on examples. A layout knows the rows of each example, pads
them, and pools them in the ways of the families of 2019.

Dimensions: B examples in a batch, L frames of each (padded), N rows, D and H features of a row, G groups, K clusters,
P features of a group.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from yt8m.data.packed_frames import PackedFrames, places_of


class Layout(ABC):
    """The assignment of N rows to B examples."""

    @abstractmethod
    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ·) → (B, L, ·), the rows of each example first, then zeros."""

    @abstractmethod
    def mask(self, padded: Tensor) -> Tensor:
        """Where the output of `unpack` has rows: (B, L, ·) → (B, L) bool."""

    def max_and_mean(self, rows: Tensor) -> Tensor:
        """Maximum and mean over the rows of each example: (N, H), non-negative → (B, 2H)."""
        padded = self.unpack(rows)
        total = padded.sum(dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))  # halves would overflow
        return torch.cat([padded.amax(dim=1), total / self.mask(padded).sum(dim=1, keepdim=True)], dim=1)

    def weighted_sums(self, weights: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Σ weights · parts over rows and groups, (N, G, K) and (N, G, P) → (B, K, P), and Σ weights over rows,
        (B, G, K)."""
        weights, parts = self.unpack(weights), self.unpack(parts)
        return weights.flatten(1, 2).transpose(1, 2) @ parts.flatten(1, 2), weights.sum(dim=1)


class Packing(Layout):
    """Videos or segments end to end, padded only for pooling. Nothing but packing in `of` synchronizes with a GPU.

    `n_videos` of at most `longest` frames; `lengths` (B,) and `places` (N,) as in `PackedFrames`, or None if all have
    `longest`.
    """

    def __init__(
        self, n_videos: int, longest: int, lengths: Tensor | None = None, places: Tensor | None = None
    ) -> None:
        self.n_videos, self.longest, self.lengths, self.places = n_videos, longest, lengths, places

    @classmethod
    def of(cls, frames: Tensor | PackedFrames, lengths: Tensor | None = None) -> "tuple[Tensor, Packing]":
        """Frames, packed or padded, (B, L, D) with lengths (B,) in 1..L or None → rows (N, D), floats, and layout.

        Packing padded frames with lengths synchronizes with a GPU.
        """
        if isinstance(frames, PackedFrames):
            rows, packing = frames.frames, cls(frames.n_videos, frames.longest, frames.lengths, frames.places)
        elif lengths is None:
            rows, packing = frames.flatten(0, 1), cls(*frames.shape[:2])
        else:
            return cls.of(PackedFrames.pack(frames, lengths.to(frames.device)))
        return rows.to(torch.promote_types(rows.dtype, torch.float32)), packing

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ·) → (B, L, ·) with zeros in the padding."""
        if self.places is not None:
            padded = rows.new_zeros(self.n_videos * self.longest, *rows.shape[1:])
            rows = padded.index_copy_(0, self.places, rows)
        return rows.unflatten(0, (self.n_videos, self.longest))

    def mask(self, padded: Tensor) -> Tensor:
        """See `Layout`."""
        return _everything(padded) if self.lengths is None else _inside(self.lengths, self.longest)

    def split(self, n_parts: int) -> "Iterator[tuple[slice, slice, Packing]]":
        """At most `n_parts` parts of a batch on the CPU: the videos, rows and packing of each.

        A batch without videos is a single part.
        """
        size = max(1, -(-self.n_videos // n_parts))
        lengths = [self.longest] * self.n_videos if self.lengths is None else self.lengths.tolist()
        row = 0
        for video in range(0, max(1, self.n_videos), size):
            part = Packing(min(size, self.n_videos - video), self.longest)
            n_rows = sum(lengths[video : video + size])
            if self.lengths is not None and self.places is not None:
                part.lengths = self.lengths[video : video + size]
                part.places = self.places[row : row + n_rows] - video * self.longest
            yield slice(video, video + size), slice(row, row + n_rows), part
            row += n_rows


class Windows(Layout):
    """Windows of `size` rows, one every `step` rows, with shared overlaps; (N - size) // step + 1 of N rows.

    For inference.
    """

    def __init__(self, size: int, step: int) -> None:
        self.size, self.step = size, step

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ·) → (B, size, ·), a view."""
        return rows.unfold(0, self.size, self.step).movedim(-1, 1)

    def mask(self, padded: Tensor) -> Tensor:
        """See `Layout`."""
        return _everything(padded)

    def max_and_mean(self, rows: Tensor) -> Tensor:
        """Maximum and mean over the rows of each window: (N, H) → (B, 2H)."""
        windows = self.unpack(rows)
        maximum = windows[:, 0].clone()
        total = windows[:, 0].to(torch.promote_types(rows.dtype, torch.float32), copy=True)  # halves would overflow
        for place in range(1, self.size):  # reducing the view would read memory out of order
            torch.maximum(maximum, windows[:, place], out=maximum)
            total += windows[:, place]
        return torch.cat([maximum, total.div_(self.size)], dim=1)


def end_to_end(lengths: list[int], device: torch.device) -> Layout:
    """The layout of at least one example of these lengths, end to end on a device. For inference.

    On a CPU nothing is padded; on a GPU a few large kernels are faster than several per example.
    """
    if device.type == "cpu":
        return EndToEnd(lengths)
    longest, numbers = max(lengths), np.array(lengths)
    places = places_of(numbers, longest)
    return Packing(len(lengths), longest, *(send(torch.from_numpy(array), device) for array in (numbers, places)))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device without synchronizing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class EndToEnd(Layout):
    """Examples of different lengths end to end on a CPU, without padding. For inference."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ·) → (B, L, ·) with zeros in the padding."""
        return pad_sequence(rows.split(self.lengths), batch_first=True)

    def mask(self, padded: Tensor) -> Tensor:
        """See `Layout`."""
        return _inside(torch.tensor(self.lengths), padded.shape[1])

    def max_and_mean(self, rows: Tensor) -> Tensor:
        """Maximum and mean over the rows of each example: (N, H) → (B, 2H)."""
        dtype = torch.promote_types(rows.dtype, torch.float32)  # a sum of halves would overflow
        return torch.stack(
            [torch.cat([own.amax(dim=0).to(dtype), own.mean(dim=0, dtype=dtype)]) for own in rows.split(self.lengths)]
        )

    def weighted_sums(self, weights: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layout`."""
        pairs = list(zip(weights.split(self.lengths), parts.split(self.lengths)))
        return (
            torch.stack([own.flatten(0, 1).T @ part.flatten(0, 1) for own, part in pairs]),
            torch.stack([own.sum(dim=0) for own, _ in pairs]),
        )


def _inside(lengths: Tensor, length: int) -> Tensor:
    """The mask of real places among L = `length`: lengths (B,) → (B, L) bool."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


def _everything(padded: Tensor) -> Tensor:
    """(B, L, ·) → (B, L), all True."""
    return padded.new_ones(padded.shape[:2], dtype=torch.bool)
