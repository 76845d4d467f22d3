"""Choosing the held-out videos, which are never trained on and measure the model.

Dimensions: V videos, K quantities to divide evenly.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, diags

from yt8m.fitting.annotated import Annotated

SHARE = 0.2
_DRAWING = 23  # key that separates this use of the seed from others
_MOST_EXCHANGES = 2000  # tried; large sets are even by chance


def hold_out(annotated: Annotated, seed: int, share: float = SHARE) -> list[str]:
    """The sorted ids of the videos to hold out: a `share` of all and, as nearly as possible, of each class's.

    That is of its labelled videos, its ratings of 1 and its ratings of 0.
    """
    videos = annotated.videos
    chosen = even_share(_kinds(annotated, videos), share, seed)
    return [video for video, held in zip(videos, chosen) if held]


def _kinds(annotated: Annotated, videos: Sequence[str]) -> csr_matrix:
    """Quantities of each video, (V, K): 1, and each class's labels, ratings of 0 and ratings of 1."""
    rows = {video: row for row, video in enumerate(videos)}
    columns = {name: 3 * number + 1 for number, name in enumerate(annotated.classes)}
    entries = [(row, 0) for row in range(len(videos))]
    entries += [(rows[row.video_id], columns[row.label]) for row in annotated.labels if row.label in columns]
    entries += [(rows[row.video_id], columns[row.label] + 1 + row.score) for row in annotated.ratings]
    places = np.array(entries).T
    return csr_matrix((np.ones(len(entries)), places), (len(videos), 3 * len(columns) + 1))


def even_share(kinds: csr_matrix, share: float, seed: int) -> np.ndarray:
    """A share of V videos, (V,) bool, at least one, with nearly the same share of each of the K quantities.

    Starts with a random share and exchanges videos while that makes it more even; rare quantities count as much as
    frequent ones.
    """
    rng = np.random.default_rng((seed, _DRAWING))
    n_videos = kinds.shape[0]
    totals = np.asarray(kinds.sum(axis=0)).ravel()
    scaled = csr_matrix(kinds @ diags(1 / np.sqrt(np.maximum(totals, 1))))
    squares = np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel()
    target = share * np.asarray(scaled.sum(axis=0)).ravel()
    chosen = np.zeros(n_videos, bool)
    chosen[rng.permutation(n_videos)[: max(round(share * n_videos), 1)]] = True
    excess = np.asarray(scaled[chosen].sum(axis=0)).ravel() - target
    tried: set[int] = set()  # since the last exchange, without finding a better one
    for _ in range(_MOST_EXCHANGES):
        held = np.flatnonzero(chosen)
        leaving = int(rng.choice(held))
        without = excess - scaled[leaving].toarray().ravel()
        costs = 2 * (scaled @ without) + squares  # up to a constant
        costs[chosen] = np.inf
        costs[leaving] = 2 * (scaled[leaving] @ without)[0] + squares[leaving]
        entering = int(np.argmin(costs))
        if entering == leaving:
            tried.add(leaving)
            if len(tried) == len(held):
                break
            continue
        tried.clear()
        chosen[leaving], chosen[entering] = False, True
        excess = without + scaled[entering].toarray().ravel()
    return chosen
