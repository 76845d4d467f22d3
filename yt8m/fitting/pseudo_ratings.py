"""Pseudo ratings of the segments that a video model is surest of.

Dimensions: S segments of a video, C classes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.vocabulary import RatingRow
from yt8m.fitting.measuring import SeenVideo

POSITIVE_SHARE, NEGATIVE_SHARE = 0.1, 0.2  # of a video's segments
MOST_PER_RATING = 5  # pseudo ratings for each real one: measured with 4.5
_CHOOSING = 31  # key that separates this use of the seed from others


def rate_surest(videos: Iterable[SeenVideo], names: list[str]) -> list[RatingRow]:
    """For each label of each video, rate its likeliest segments positive and its least likely ones negative.

    `names` (C,) of the classes. A video's only segment is positive.
    """
    rows = []
    for video in videos:
        n_segments = len(video.probabilities)
        n_positive = max(round(POSITIVE_SHARE * n_segments), 1)
        n_negative = min(max(round(NEGATIVE_SHARE * n_segments), 1), n_segments - n_positive)
        for number in np.flatnonzero(video.labels).tolist():
            order = np.argsort(-video.probabilities[:, number], kind="stable").tolist()
            chosen = [(place, 1) for place in order[:n_positive]]
            chosen += [(place, 0) for place in order[n_segments - n_negative :]]
            rows += [
                RatingRow(0, video.video_id, place * SEGMENT_SECONDS, names[number], score)
                for place, score in sorted(chosen)
            ]
    return rows


def limit(rows: Sequence[RatingRow], most: int, seed: int) -> list[RatingRow]:
    """All ratings of as many videos, drawn at random, as have at most `most` in all."""
    by_video: dict[str, list[RatingRow]] = {}
    for row in rows:
        by_video.setdefault(row.video_id, []).append(row)
    kept: list[RatingRow] = []
    for video_id in np.random.default_rng((seed, _CHOOSING)).permutation(sorted(by_video)).tolist():
        if len(kept) + len(by_video[video_id]) <= most:
            kept += by_video[video_id]
    return kept
