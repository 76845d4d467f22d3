"""The best segments of each class, exactly, in bounded memory.

Scores are integers 0..9999. A first pass over the rows counts how often each class has each score, which
gives the score of each class's last place; a second pass collects the entries above it, and as many
of those equal to it as there are places, drawn without replacement.
"""
from collections.abc import Iterable, Iterator

import numpy as np

from yt8m.memmaps import SCALE

BLOCK_BYTES = 64 << 20


def fused_blocks(maps: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """First row and scores (rows, C) of each block of the mean of several maps (all rows, C), rounded."""
    n_rows, n_classes = maps[0].shape
    size = max(1, BLOCK_BYTES // (4 * n_classes))
    for start in range(0, n_rows, size):
        total = np.zeros((min(size, n_rows - start), n_classes), np.int32)
        for values in maps:
            total += values[start:start + size]
        yield start, np.rint(total / len(maps)).astype(np.int32)


def top_rows(maps: list[np.ndarray], top_k: int, seed: int) -> Iterator[np.ndarray]:
    """For each class in turn the rows of its `top_k` best mean scores, best first.

    `maps`: scores of each model, (rows, C), integers 0..9999. Equal scores come in a random order drawn
    from `seed`, and it is random, too, which of them get the last places.
    """
    n_rows, n_classes = maps[0].shape
    top_k = min(top_k, n_rows)
    cutoff, places = _last_places(fused_blocks(maps), n_classes, top_k)
    rows, scores, ends = _collect(fused_blocks(maps), cutoff, places, n_classes, top_k, seed)
    for label in range(n_classes):
        chosen = slice(label * top_k, ends[label])
        order = np.random.default_rng((seed, label, 1)).permutation(top_k)
        order = order[np.argsort(-scores[chosen][order], kind="stable")]
        yield rows[chosen][order]


def _last_places(blocks: Iterable[tuple[int, np.ndarray]], n_classes: int,
                 top_k: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Each class's score of the last place; how many places entries of that score get, and how many they are."""
    counts = np.zeros((n_classes, SCALE + 1), np.int64)
    base = np.arange(n_classes) * (SCALE + 1)
    for _, scores in blocks:
        counts += np.bincount((scores + base).ravel(), minlength=counts.size).reshape(counts.shape)
    at_least = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # entries with this score or a better one
    cutoff = (at_least >= top_k).sum(axis=1) - 1
    classes = np.arange(n_classes)
    ties = counts[classes, cutoff]
    return cutoff, (top_k - (at_least[classes, cutoff] - ties), ties)


def _collect(blocks: Iterable[tuple[int, np.ndarray]], cutoff: np.ndarray, places: tuple[np.ndarray, np.ndarray],
             n_classes: int, top_k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and scores that make the list, `top_k` places a class, and where each class's part ends."""
    wanted, left = (values.copy() for values in places)
    rows = np.empty(n_classes * top_k, np.int32)
    scores = np.empty(n_classes * top_k, np.int16)
    ends = np.arange(n_classes) * top_k
    generators = [np.random.default_rng((seed, label, 0)) for label in range(n_classes)]
    for start, block in blocks:
        by_class = np.ascontiguousarray(block.T)
        for label, (values, limit) in enumerate(zip(by_class, cutoff)):
            chosen = np.flatnonzero(values > limit)
            ties = np.flatnonzero(values == limit)
            if len(ties):
                # Which of all tied entries get a place is uniform: this block's share is hypergeometric.
                share = generators[label].hypergeometric(wanted[label], left[label] - wanted[label], len(ties))
                wanted[label] -= share
                left[label] -= len(ties)
                chosen = np.concatenate([chosen, generators[label].choice(ties, share, replace=False)])
            place = slice(ends[label], ends[label] + len(chosen))
            rows[place], scores[place] = start + chosen, values[chosen]
            ends[label] += len(chosen)
    return rows, scores, ends
