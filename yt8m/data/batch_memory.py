"""Arrays of a batch in one block of memory, which a single copy takes to a GPU."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ArraySpec = tuple[tuple[int, ...], type[np.generic]]  # shape and type of an array

_ALIGNMENT = 64  # bytes, as torch aligns tensors


def allocate(specs: Sequence[ArraySpec], pinned: bool) -> tuple[Tensor, list[np.ndarray]]:
    """Allocate arrays, without initializing them.

    `pinned`: in pinned memory, for fast copies to a GPU. Returns the memory, (bytes,) uint8, and the arrays in it. Runs
    one torch operation alone, since each would release the GIL and then wait for it.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in specs]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
    memory = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=pinned)
    block = memory.numpy()
    return memory, [
        block[start : start + size].view(dtype).reshape(shape)
        for start, size, (shape, dtype) in zip(starts, sizes, specs)
    ]
