"""Layouts of rows, against pooling example by example."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.data.packed_frames import PackedFrames
from yt8m.models.packing import EndToEnd, Packing, Windows


@settings(deadline=None, derandomize=True, max_examples=60)
@given(size=st.integers(1, 12), step=st.integers(1, 7), spare=st.integers(0, 30), half=st.booleans())
def test_windows_are_those_cut_out_one_by_one(size: int, step: int, spare: int, half: bool) -> None:
    torch.manual_seed(size)
    rows = torch.randn(size + spare, 3).to(torch.bfloat16 if half else torch.float32)
    starts = range(0, spare + 1, step)
    cut_out = torch.stack([rows[start : start + size] for start in starts])
    windows = Windows(size, step)
    before = rows.clone()
    assert torch.equal(windows.unpack(rows), cut_out)
    assert windows.unpack(rows).data_ptr() == rows.data_ptr()
    pooled = windows.max_and_mean(rows)
    assert torch.equal(pooled[:, :3], cut_out.amax(dim=1).float())
    torch.testing.assert_close(pooled[:, 3:], cut_out.float().mean(dim=1))
    assert torch.equal(rows, before)


def literal_sums(weights: torch.Tensor, parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one example, frame by frame and group by group: (L, G, K), (L, G, P) → (K, P), (G, K)."""
    pairs = [(weight, part) for frame in zip(weights, parts) for weight, part in zip(*frame)]
    return sum(weight[:, None] * part for weight, part in pairs), sum(weights)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), groups=st.integers(1, 3), padding=st.integers(0, 2))
def test_weighted_sums_and_pooling_of_examples(lengths: list[int], groups: int, padding: int) -> None:
    torch.manual_seed(len(lengths))
    weights, parts = (torch.rand(sum(lengths), groups, width, dtype=torch.float64) for width in (2, 3))
    rows = torch.rand(sum(lengths), 4)
    _, padded = Packing.of(torch.empty(len(lengths), max(lengths) + padding, 1), torch.tensor(lengths))
    literal = [torch.stack(found) for found in zip(*map(literal_sums, weights.split(lengths), parts.split(lengths)))]
    pooled = torch.stack([torch.cat([own.amax(dim=0), own.mean(dim=0)]) for own in rows.split(lengths)])
    for packing in (padded, EndToEnd(lengths)):
        for found, expected in zip(packing.weighted_sums(weights, parts), literal, strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(packing.max_and_mean(rows), pooled)
    for found, expected in zip(Windows(sum(lengths), 1).weighted_sums(weights, parts), literal_sums(weights, parts)):
        torch.testing.assert_close(found[0], expected)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(lengths=st.lists(st.integers(0, 6), max_size=6), chosen=st.sets(st.integers(0, 5)))
def test_packed_frames_of_either_kind_and_parts_of_them(lengths: list[int], chosen: set[int]) -> None:
    torch.manual_seed(len(lengths))
    frames, longest = torch.randn(sum(lengths), 2), max(lengths + [1])
    packed = PackedFrames.of(frames, np.array(lengths, np.int64))
    padded = packed.padded()
    assert padded.shape == (len(lengths), longest, 2)
    for video, own, length in zip(padded, frames.split(lengths), lengths):
        assert torch.equal(video[:length], own) and not video[length:].any()
    again = PackedFrames.pack(padded, packed.lengths)
    assert torch.equal(again.frames, frames) and torch.equal(again.places, packed.places)
    numbers = sorted(chosen & set(range(len(lengths))))
    part = packed.select(np.array(numbers, np.int64))
    expected = padded[numbers][:, : part.longest]
    assert part.lengths.tolist() == [lengths[number] for number in numbers] and torch.equal(part.padded(), expected)
