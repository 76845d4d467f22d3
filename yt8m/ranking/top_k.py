"""Exact selection of the best rows of each class, in one pass over the scores and in bounded memory.

An entry of a class is one 64-bit key: its score, then a random number for its row, so that keys order entries best
first and ties at random. Each class has a buffer of keys; when full, it is cut down to the best, and from then on only
keys that beat the last of those enter.

Dimensions: R rows of a block, C classes.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from yt8m.data.threads import map_ahead
from yt8m.ranking.fusion import Fusion

BLOCK_ROWS, BLOCK_BYTES = 16384, 256 << 20
TILE_ROWS = 256  # fused at a time, to stay in the cache
READERS = 2
WORKERS = os.cpu_count() or 1
_NO_LIMIT = np.uint64(2**64 - 1)
_FACTORS = 0x85EBCA6B, 0xC2B2AE35  # odd multipliers that mix bits well


def shuffle(rows: np.ndarray, salt: int) -> np.ndarray:
    """A permutation of the integers below 2^32 that looks random; uint32 → uint32. `salt` below 2^32 chooses it."""
    mixed = rows ^ np.uint32(salt)
    for factor, shift in zip(_FACTORS, (16, 13)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def unshuffle(mixed: np.ndarray, salt: int) -> np.ndarray:
    """The inverse of `shuffle`."""
    rows = mixed ^ mixed >> np.uint32(16)
    for factor, shift in zip(reversed(_FACTORS), (13, 16)):
        rows *= np.uint32(pow(factor, -1, 2**32))
        rows ^= rows >> np.uint32(shift) ^ rows >> np.uint32(2 * shift)
    return rows ^ np.uint32(salt)


class BestRows:
    """The best rows of some classes among those seen so far."""

    def __init__(self, classes: range, n_rows: int, top_k: int, seed: int) -> None:
        """`n_rows` in all, below 2^32, of which each class keeps `top_k`."""
        self.classes, self.top_k = classes, top_k
        self._keys = np.empty((len(classes), min(n_rows, top_k + max(top_k // 2, BLOCK_ROWS))), np.uint64)
        self._counts = [0] * len(classes)
        self._least = np.zeros(len(classes), np.float32)  # lower scores cannot enter
        self._limits = [_NO_LIMIT] * len(classes)  # nor can larger keys
        self._salts = [int(np.random.default_rng((seed, label)).integers(2**32)) for label in classes]

    def add(self, start: int, scores: np.ndarray) -> None:
        """Add scores (C, R) float32 of rows from `start` on, at most `BLOCK_ROWS`; NaN is not a candidate."""
        for number, own in enumerate(scores):
            chosen = np.flatnonzero(own >= self._least[number])
            if chosen.size:
                keys = (~own[chosen].view(np.uint32)).astype(np.uint64)
                keys <<= np.uint64(32)
                keys |= shuffle((chosen + start).astype(np.uint32), self._salts[number])
                if self._limits[number] != _NO_LIMIT:
                    keys = keys[keys < self._limits[number]]
                self._append(number, keys)

    def _append(self, number: int, keys: np.ndarray) -> None:
        own, count = self._keys[number], self._counts[number]
        if count + len(keys) > len(own):
            own[:count].partition(self.top_k - 1)
            count = self.top_k
            self._limits[number] = own[count - 1]
            self._least[number] = _scores_of(own[count - 1 : count])[0]
        own[count : count + len(keys)] = keys
        self._counts[number] = count + len(keys)

    def ranked(self, label: int) -> np.ndarray:
        """The rows (at most `top_k`,) int64 of one of the classes, best first."""
        number = label - self.classes.start
        keys = self._keys[number, : self._counts[number]]
        if len(keys) > self.top_k:
            keys.partition(self.top_k - 1)
            keys = keys[: self.top_k]
        keys.sort()
        return unshuffle(keys.astype(np.uint32), self._salts[number]).astype(np.int64)


def _scores_of(keys: np.ndarray) -> np.ndarray:
    return (~(keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def top_rows(
    fusion: Fusion, top_k: int, seed: int, progress: Callable[[int], object] = lambda rows: None
) -> list[Callable[[], np.ndarray]]:
    """For each class a function, to be called once, that returns its best rows (at most `top_k`,), best first.

    Ties, including those for the last places, are in random order, drawn only from `seed`, the class and the row.
    `progress` is called after every block of rows.
    """
    n_rows, n_classes = fusion.shape
    ends = np.linspace(0, n_classes, min(WORKERS, n_classes) + 1).astype(int).tolist()
    parts = [BestRows(range(*span), n_rows, min(top_k, n_rows), seed) for span in zip(ends, ends[1:])]
    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (2 * n_classes * len(fusion.models))))
    with ThreadPoolExecutor(len(parts)) as pool:
        for start, blocks in _blocks(fusion, size):
            jobs = [pool.submit(_add, part, fusion, start, blocks) for part in parts]
            for job in jobs:
                job.result()
            progress(len(blocks[0]))
    return [partial(part.ranked, label) for part in parts for label in part.classes]


def _blocks(fusion: Fusion, size: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Read ahead blocks of `size` rows: the first row, and the scores (R, C) of each model."""

    def read(start: int) -> tuple[int, list[np.ndarray]]:
        return start, [values[start : start + size] for values in fusion.models]

    return map_ahead(read, range(0, fusion.shape[0], size), READERS, READERS)


def _add(part: BestRows, fusion: Fusion, start: int, blocks: list[np.ndarray]) -> None:
    """Fuse the scores of a part's classes and add them to it."""
    n_rows, classes = len(blocks[0]), slice(part.classes.start, part.classes.stop)
    scores = np.empty((len(part.classes), n_rows), np.float32)
    for first in range(0, n_rows, TILE_ROWS):
        rows = slice(first, min(first + TILE_ROWS, n_rows))
        scores[:, rows] = fusion.fuse(start + first, [block[rows, classes] for block in blocks], classes).T
    part.add(start, scores)
