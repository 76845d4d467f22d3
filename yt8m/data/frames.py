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
    records: np.ndarray,
    n_frames: np.ndarray,
    max_len: int,
    seed: int | None,
    epochs: np.ndarray,
    trim: Trim = CANDIDATES,
) -> tuple[np.ndarray, np.ndarray]:
    """The frames a video model sees of V videos: at most `max_len` of each in training, without replacement, in order.

    `records` are their numbers in the index, `n_frames` how long they are and `epochs` in which epoch they are seen,
    each (V,). `seed` None means evaluation: no sampling. `max_len` -1 means no limit. `trim` is left out of the videos.
    Returns how many frames of each are seen, (V,), and these, end to end, (N,), all int64. Every choice of as many
    frames of a video is equally likely. It is a pure function of seed, epoch, record and length of the video.
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
