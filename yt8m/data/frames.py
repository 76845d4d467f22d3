"""The frames a model sees: segments, which of them are ranked, and the sample of a video's frames."""

from dataclasses import dataclass

import numpy as np

from yt8m.common.config import FeatureContract

SEGMENT_SECONDS = 5
HEAD_SEGMENTS, TAIL_SEGMENTS = 6, 2  # never shown to the challenge's raters


@dataclass(frozen=True)
class Trim:
    """How many segments at the beginning (`head`) and at the end (`tail`) of a video are left out."""

    head: int
    tail: int

    def count_left(self, n_frames: np.ndarray) -> np.ndarray:
        """How many segments of each video are left; a partial last one counts."""
        n_segments = -(-n_frames // SEGMENT_SECONDS)
        return np.maximum(n_segments - self.head - self.tail, 0)


CANDIDATES = Trim(HEAD_SEGMENTS, TAIL_SEGMENTS)  # what the challenge ranks
EVERYTHING = Trim(0, 0)


def trim_of(features: FeatureContract) -> Trim:
    """What the makers of a data set leave out of its videos."""
    head, tail = features.trim
    return Trim(head // SEGMENT_SECONDS, tail // SEGMENT_SECONDS)


def context_frames(n_frames: int, trim: Trim = CANDIDATES) -> tuple[int, int]:
    """First and last-plus-one of the frames that a video model sees; all where head and tail are everything."""
    start, stop = trim.head * SEGMENT_SECONDS, n_frames - trim.tail * SEGMENT_SECONDS
    return (start, stop) if start < stop else (0, n_frames)


def sample_frames(
    n_frames: int, max_len: int, seed: tuple[int, ...] | None, trim: Trim = CANDIDATES
) -> slice | np.ndarray:
    """The frames a video model sees: at most `max_len` of them in training, without replacement, in order.

    `seed` None means evaluation: no sampling. `max_len` -1 means no limit. `trim` is left out of the video.
    """
    start, stop = context_frames(n_frames, trim)
    if seed is None or max_len < 0 or stop - start <= max_len:
        return slice(start, stop)
    chosen = np.random.default_rng(seed).permutation(stop - start)[:max_len]
    chosen.sort()
    return start + chosen
