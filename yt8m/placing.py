"""Where submissions and prediction files put rated segments. Dimensions: R ratings."""
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yt8m.evaluation import Kind, Subject
from yt8m.fusion import Fusion, Scores
from yt8m.memmaps import SCALE
from yt8m.ranking import top_rows
from yt8m.ratings import Ratings
from yt8m.scoring import NOT_LISTED
from yt8m.submission import read_submission
from yt8m.test_meta import TestMeta
from yt8m.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)
BLOCK_ROWS = 4096


def subject_of_submission(path: Path, ratings: Ratings, top_k: int) -> Subject:
    """A submission, of whose lists the first `top_k` entries count. Raises `UserError` where it cannot be read."""
    places = np.full(len(ratings), NOT_LISTED)
    class_rows = {label: row for row, label in enumerate(ratings.labels.tolist())}
    duplicates = 0
    for label, segments in read_submission(path):
        del segments[top_k:]
        duplicates += len(segments) - len(set(segments))
        if label in class_rows:
            own = ratings.of_class(class_rows.pop(label))
            wanted = {name: row for row, name in enumerate(ratings.segment_names(own), own.start)}
            for place, segment in enumerate(segments):
                row = wanted.pop(segment, None)  # what comes again does not count again
                if row is not None:
                    places[row] = place
    note = f"{len(class_rows)} rated classes are missing" if class_rows else ""
    return Subject(path.name, "submission", places, duplicates=duplicates, note=note)


class TestRatings:
    """Ratings of test segments, and where those are in prediction files: `rows` and `classes` (R,), -1 for nowhere."""

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, ratings: Ratings, meta: TestMeta, vocabulary: Vocabulary) -> None:
        self.ratings = ratings
        names = meta.row_names().astype(str)
        order = np.argsort(names)
        wanted = np.array(ratings.segment_names())
        found = order[np.searchsorted(names, wanted, sorter=order).clip(max=len(names) - 1)]
        self.rows = np.where(names[found] == wanted, found, -1)
        self.classes = vocabulary.classes(ratings.label)
        lost = (self.rows < 0) | (self.classes < 0)
        if lost.any():
            LOGGER.warning("%d of %d ratings are of segments that are no candidates of the test set or of classes that "
                           "are not in the vocabulary; nothing ranks them", lost.sum(), len(ratings))

    def subject(self, name: str, kind: Kind, maps: Sequence[Scores], top_k: int, seed: int) -> Subject:
        """A model, or the mean of several, by their prediction files."""
        return Subject(name, kind, self.places(Fusion(maps), top_k, seed),
                       np.mean([self._probabilities(values) for values in maps], axis=0))

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
        """What a prediction file says of the ratings, (R,); 0 where it says nothing."""
        probabilities = np.zeros(len(self.ratings))
        known = np.flatnonzero((self.rows >= 0) & (self.classes >= 0))
        known = known[np.argsort(self.rows[known], kind="stable")]
        blocks = self.rows[known] // BLOCK_ROWS
        for part in np.split(known, np.flatnonzero(np.diff(blocks)) + 1):
            if part.size:
                first, last = self.rows[part[0]], self.rows[part[-1]]
                probabilities[part] = values[first:last + 1][self.rows[part] - first, self.classes[part]] / SCALE
        return probabilities
