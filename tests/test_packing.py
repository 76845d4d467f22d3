"""Overlapping windows of rows against windows that are cut out one by one."""
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.packing import Windows


@settings(deadline=None, derandomize=True, max_examples=60)
@given(size=st.integers(1, 12), step=st.integers(1, 7), spare=st.integers(0, 30), half=st.booleans())
def test_windows_are_those_cut_out_one_by_one(size: int, step: int, spare: int, half: bool) -> None:
    torch.manual_seed(size)
    rows = torch.randn(size + spare, 3).to(torch.bfloat16 if half else torch.float32)
    starts = range(0, spare + 1, step)
    cut_out = torch.stack([rows[start:start + size] for start in starts])
    windows = Windows(size, step)
    before = rows.clone()
    assert torch.equal(windows.unpack(rows), cut_out)
    assert windows.unpack(rows).data_ptr() == rows.data_ptr()
    pooled = windows.max_and_mean(rows)
    assert torch.equal(pooled[:, :3], cut_out.amax(dim=1).float())
    torch.testing.assert_close(pooled[:, 3:], cut_out.float().mean(dim=1))
    assert torch.equal(rows, before)
