"""Which videos are held out: never trained on, they say how good the model is.

Dimensions: V videos, K kinds of what is to be on both sides.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, diags

from yt8m.fitting.annotated import Annotated

SHARE = 0.2
_DRAWING = 23  # apart from other uses of the same seed
_MOST_EXCHANGES = 2000  # tried: of that many videos chance has made halves alike


def hold_out(annotated: Annotated, seed: int, share: float = SHARE) -> list[str]:
    """The ids of the videos to hold out, sorted: a `share` of all, and as nearly as can be of each class's.

    That is of its labelled videos, of its ratings of 1 and of its ratings of 0.
    """
    videos = annotated.videos
    chosen = even_share(_kinds(annotated, videos), share, seed)
    return [video for video, held in zip(videos, chosen) if held]


def _kinds(annotated: Annotated, videos: Sequence[str]) -> csr_matrix:
    """How often each video has what, (V, K): itself, each class's label, each class's ratings of 0 and of 1."""
    rows = {video: row for row, video in enumerate(videos)}
    columns = {name: 3 * number + 1 for number, name in enumerate(annotated.classes)}
    entries = [(row, 0) for row in range(len(videos))]
    entries += [(rows[row.video_id], columns[row.label]) for row in annotated.labels if row.label in columns]
    entries += [(rows[row.video_id], columns[row.label] + 1 + row.score) for row in annotated.ratings]
    places = np.array(entries).T
    return csr_matrix((np.ones(len(entries)), places), (len(videos), 3 * len(columns) + 1))


def even_share(kinds: csr_matrix, share: float, seed: int) -> np.ndarray:
    """A share of V videos, (V,) bool, at least one, that has nearly the same share of everything in (V, K).

    It begins with a random one and exchanges videos as long as that makes it more even: what is rare counts as much as
    what is frequent.
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
    idle = 0
    for _ in range(_MOST_EXCHANGES):
        held = np.flatnonzero(chosen)
        leaving = int(rng.choice(held))
        without = excess - scaled[leaving].toarray().ravel()
        costs = 2 * (scaled @ without) + squares  # beside what is the same for all
        costs[chosen] = np.inf
        costs[leaving] = 2 * (scaled[leaving] @ without)[0] + squares[leaving]
        entering = int(np.argmin(costs))
        idle = idle + 1 if entering == leaving else 0
        if idle > 4 * len(held):
            break
        chosen[leaving], chosen[entering] = False, True
        excess = without + scaled[entering].toarray().ravel()
    return chosen
