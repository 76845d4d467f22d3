"""A table that is made row by row, read column by column, and may be larger than the memory."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from yt8m.common.errors import UserError

BLOCK_BYTES = 64 << 20


class Columns:
    """Rows of float32, added a few at a time; iterating gives the columns in order.

    What goes beyond a block of `BLOCK_BYTES` lies in a file in `folder`, block by block, each of them transposed. The
    file has no name, so that it goes with this object, however the process ends. Reading takes two blocks of memory.
    """

    def __init__(self, n_columns: int, folder: Path) -> None:
        self.folder = folder
        self._block = np.empty((n_columns, max(1, BLOCK_BYTES // (4 * n_columns))), np.float32)
        self._filled = 0  # rows of the block
        self._written = 0  # blocks
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """How many rows there are."""
        return self._written * self._block.shape[1] + self._filled

    def add(self, rows: np.ndarray) -> None:
        """Add rows (any number, C). Raises `UserError` where the disk is full."""
        while len(rows):
            taken = rows[: self._block.shape[1] - self._filled]
            self._block[:, self._filled : self._filled + len(taken)] = taken.T
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == self._block.shape[1]:
                self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)  # pylint: disable=consider-using-with
            self._file.write(self._block.data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.folder}: no place for what an evaluation keeps, {4 * len(self._block):,} bytes a video "
                f"({error.strerror}); free space, or validate on fewer shards"
            ) from None
        self._written += 1
        self._filled = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        n_columns = len(self._block)
        at_once = max(1, BLOCK_BYTES // (4 * max(1, len(self))))
        for first in range(0, n_columns, at_once):
            yield from self._read(first, min(first + at_once, n_columns))

    def _read(self, first: int, stop: int) -> np.ndarray:
        """Some columns, (stop - first, rows)."""
        n_columns, n_rows = self._block.shape
        parts = [self._block[first:stop, : self._filled]]
        if self._file is not None:
            size = 4 * (stop - first) * n_rows
            starts = [4 * (block * n_columns + first) * n_rows for block in range(self._written)]
            read = (os.pread(self._file.fileno(), size, start) for start in starts)
            parts = [*(np.frombuffer(values, np.float32).reshape(stop - first, n_rows) for values in read), *parts]
        return np.concatenate(parts, axis=1)
