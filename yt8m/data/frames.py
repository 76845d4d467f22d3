"""The frames a model sees: segments, the trim of head and tail, and sampling of a video's frames."""

from dataclasses import dataclass

import numpy as np

from yt8m.common.config import FeatureContract

SEGMENT_SECONDS = 5
HEAD_SEGMENTS, TAIL_SEGMENTS = 6, 2  # never shown to the challenge's raters


@dataclass(frozen=True)
class Trim:
    """The number of segments left out at the beginning (`head`) and end (`tail`) of a video."""

    head: int
    tail: int

    def count_left(self, n_frames: np.ndarray) -> np.ndarray:
        """The number of remaining segments of each video, including a partial last one."""
        n_segments = -(-n_frames // SEGMENT_SECONDS)
        return np.maximum(n_segments - self.head - self.tail, 0)


CANDIDATES = Trim(HEAD_SEGMENTS, TAIL_SEGMENTS)  # what the challenge ranks
EVERYTHING = Trim(0, 0)


def trim_of(features: FeatureContract) -> Trim:
    """The trim that a feature contract specifies."""
    head, tail = features.trim
    return Trim(head // SEGMENT_SECONDS, tail // SEGMENT_SECONDS)


def context_frames(n_frames: int, trim: Trim = CANDIDATES) -> tuple[int, int]:
    """The range [start, stop) of frames that a video model sees; all frames if the trim would leave none."""
    start, stop = trim.head * SEGMENT_SECONDS, n_frames - trim.tail * SEGMENT_SECONDS
    return (start, stop) if start < stop else (0, n_frames)


def sample_frames(
    records: np.ndarray,
    n_frames: np.ndarray,
    max_len: int,
    seed: int | None,
    epochs: np.ndarray,
    trim: Trim = CANDIDATES,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the frames of V videos for a video model: in training at most `max_len` each, without replacement, sorted.

    `records`, `n_frames` and `epochs`, each (V,): rows of the index, lengths, and epochs of the videos. `seed` None
    means evaluation without sampling; `max_len` -1 means no limit; `trim` is left out. Returns the number of frames of
    each video, (V,), and these frames end to end, (N,), both int64. All choices of the same size are equally likely;
    each depends only on seed, epoch, record and length of the video.
    """
    from yt8m.data import native_reading

    n_frames = n_frames.astype(np.int64)
    head, tail = trim.head * SEGMENT_SECONDS, n_frames - trim.tail * SEGMENT_SECONDS
    starts, stops = np.where(head < tail, head, 0), np.where(head < tail, tail, n_frames)
    lengths = stops - starts
    if seed is not None and max_len >= 0:
        lengths = np.minimum(lengths, max_len)
    ends = np.cumsum(lengths)
    seconds = np.empty(ends[-1] if ends.size else 0, np.int64)
    native_reading.choose_frames(np.uint64((seed or 0) % 2**64), epochs, records, starts, stops, ends, seconds)
    return lengths, seconds
