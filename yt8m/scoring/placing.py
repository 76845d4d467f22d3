"""Where submissions and prediction files put rated segments. Dimensions: R ratings."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.common.errors import UserError
from yt8m.data.test_meta import TestMeta
from yt8m.data.vocabulary import Vocabulary
from yt8m.prediction.memmaps import SCALE
from yt8m.ranking.fusion import Fusion, Scores
from yt8m.ranking.submission import read_submission
from yt8m.ranking.top_k import top_rows
from yt8m.scoring.evaluation import Kind, Subject
from yt8m.scoring.ratings import Ratings
from yt8m.scoring.scores import NOT_LISTED

LOGGER = logging.getLogger(__name__)
BLOCK_ROWS = 4096


def subject_of_submission(path: Path, ratings: Ratings, top_k: int) -> Subject:
    """A submission, of whose lists the first `top_k` entries count.

    Raises `UserError` where it cannot be read, and where it lists segments, but none of a rated video.
    """
    places = np.full(len(ratings), NOT_LISTED)
    class_rows = {label: row for row, label in enumerate(ratings.labels.tolist())}
    duplicates = 0
    rated, n_listed, meets = set(map(_video_of, ratings.segment_names())), 0, False
    for label, segments in read_submission(path):
        n_listed += len(segments)
        meets = meets or not rated.isdisjoint(map(_video_of, segments))
        del segments[top_k:]
        place_of = dict(zip(reversed(segments), range(len(segments) - 1, -1, -1)))  # of several places the first
        duplicates += len(segments) - len(place_of)
        if label in class_rows:
            own = ratings.of_class(class_rows.pop(label))
            places[own] = [place_of.get(name, NOT_LISTED) for name in ratings.segment_names(own)]
    if n_listed and not meets:
        raise UserError(
            f"{path}: none of its {n_listed} entries is of one of the {len(rated)} rated videos, such as {min(rated)}; "
            "name the truth of the test set that it is for"
        )
    note = f"{len(class_rows)} rated classes are missing" if class_rows else ""
    return Subject(path.name, "submission", places, duplicates=duplicates, note=note)


def _video_of(segment: str) -> str:
    return segment.rpartition(":")[0]


class _EqualScores:
    """The same score for all rows and classes, (rows, C), without a place in memory."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Consecutive rows."""
        return np.ones((len(range(*rows.indices(self.shape[0]))), *self.shape[1:]), np.int16)


class TestRatings:
    """Ratings of test segments, and where those are in prediction files: `rows` and `classes` (R,), -1 for nowhere.

    Raises `UserError` if all are nowhere.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, ratings: Ratings, meta: TestMeta, vocabulary: Vocabulary) -> None:
        self.ratings = ratings
        names = np.char.decode(meta.row_names(), "utf-8", "replace")
        order = np.argsort(names)
        wanted = np.array(ratings.segment_names())
        found = order[np.searchsorted(names, wanted, sorter=order).clip(max=len(names) - 1)]
        self.rows = np.where(names[found] == wanted, found, -1)
        self.classes = vocabulary.classes(ratings.label)
        self._meta, self._vocabulary = meta, vocabulary
        self._shape = (meta.n_rows, len(vocabulary))
        lost = (self.rows < 0) | (self.classes < 0)
        if lost.all():
            raise UserError(
                f"none of the {len(ratings)} ratings is of a candidate segment of the test set and of a class of "
                f"{vocabulary.source}, such as {wanted[0]}, label {ratings.label[0]}; name the truth of this test set, "
                "whose ids and starts are those of its shards"
            )
        if lost.any():
            LOGGER.warning(
                "%d of %d ratings are of segments that are no candidates of the test set or of classes that "
                "are not in the vocabulary; nothing ranks them",
                lost.sum(),
                len(ratings),
            )

    def subject(self, name: str, kind: Kind, maps: Sequence[Scores], top_k: int, seed: int) -> Subject:
        """A model, or the mean of several, by their prediction files."""
        return Subject(
            name,
            kind,
            self.places(Fusion(maps), top_k, seed),
            np.mean([self._probabilities(values) for values in maps], axis=0),
        )

    def baselines(self, labels: pd.DataFrame | None, top_k: int, seed: int) -> list[Subject]:
        """What no model is needed for: all candidate segments in random order and, given a table of the labels of test
        videos (columns vid, label), those of videos that have the label before the others."""
        equal = _EqualScores(self._shape)
        subjects = [Subject("random order", "baseline", self.places(Fusion([equal]), top_k, seed))]
        if labels is not None:
            numbers = {
                video_id.decode(errors="replace"): number
                for number, video_id in enumerate(self._meta.video_ids.tolist())
            }
            classes = self._vocabulary.classes(labels["label"].to_numpy())
            known = labels["vid"].isin(numbers).to_numpy() & (classes >= 0)
            factors = np.ones((len(numbers), self._shape[1]), np.float32)
            factors[labels["vid"][known].map(numbers), classes[known]] = 2
            fusion = Fusion([equal], factors=factors, row_videos=self._meta.row_videos())
            subjects.append(Subject("video labels only", "baseline", self.places(fusion, top_k, seed)))
        return subjects

    def places(self, fusion: Fusion, top_k: int, seed: int) -> np.ndarray:
        """Where the ratings are in the lists of the `top_k` best segments of each class, (R,)."""
        places = np.full(len(self.ratings), NOT_LISTED)
        ranked = top_rows(fusion, top_k, seed)
        place_of = np.full(fusion.shape[0], NOT_LISTED)
        for row in range(len(self.ratings.labels)):
            own = self.ratings.of_class(row)
            label = self.classes[own.start]
            if label >= 0:
                best = ranked[label]()
                place_of[best] = np.arange(len(best))
                places[own] = np.where(self.rows[own] >= 0, place_of[self.rows[own]], NOT_LISTED)
                place_of[best] = NOT_LISTED
        return places

    def _probabilities(self, values: Scores) -> np.ndarray:
        """What a prediction file says of the ratings, (R,); NaN where it says nothing."""
        probabilities = np.full(len(self.ratings), np.nan)
        known = np.flatnonzero((self.rows >= 0) & (self.classes >= 0))
        known = known[np.argsort(self.rows[known], kind="stable")]
        blocks = self.rows[known] // BLOCK_ROWS
        for part in np.split(known, np.flatnonzero(np.diff(blocks)) + 1):
            if part.size:
                first, last = self.rows[part[0]], self.rows[part[-1]]
                probabilities[part] = values[first : last + 1][self.rows[part] - first, self.classes[part]] / SCALE
        return probabilities
