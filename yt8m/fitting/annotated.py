"""The user's labels and ratings, and checks that they suffice for learning."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from yt8m.common.errors import Faults, UserError, counted, did_you_mean
from yt8m.data.partitions import N_FOLDS
from yt8m.data.vocabulary import LabelRow, LabelText, RatingRow, read_labels, read_ratings
from yt8m.fitting.minimum import LEAST_CLASSES, LEAST_RATED_VIDEOS, LEAST_RATINGS, LEAST_VIDEOS, minimum_text


@dataclass(frozen=True)
class Annotated:
    """Labels of videos and ratings of segments, from CSVs; `ratings_path` is None without ratings.

    The classes are the rated labels or, without ratings, all labels.
    """

    labels_path: Path
    labels: Sequence[LabelRow]
    ratings_path: Path | None
    ratings: Sequence[RatingRow]

    @cached_property
    def classes(self) -> list[str]:
        """The labels to learn, sorted."""
        return sorted({row.label for row in (self.labels if self.ratings_path is None else self.ratings)})

    @cached_property
    def videos(self) -> list[str]:
        """The sorted ids of the videos with a class as a label, or with ratings."""
        known = set(self.classes)
        labelled = {row.video_id for row in self.labels if row.label in known}
        return sorted(labelled | {row.video_id for row in self.ratings})

    @property
    def texts(self) -> list[LabelText]:
        """All labels and their sources."""
        sources = ((self.labels_path, self.labels), (self.ratings_path or self.labels_path, self.ratings))
        return [LabelText(path, row.line, row.label) for path, rows in sources for row in rows]

    def of_videos(self, video_ids: Collection[str]) -> "Annotated":
        """The labels and ratings of these videos."""
        return replace(
            self,
            labels=[row for row in self.labels if row.video_id in video_ids],
            ratings=[row for row in self.ratings if row.video_id in video_ids],
        )

    def without(self, classes: Collection[str]) -> "Annotated":
        """All but these classes."""
        return replace(
            self,
            labels=[row for row in self.labels if row.label not in classes],
            ratings=[row for row in self.ratings if row.label not in classes],
        )

    @property
    def sources(self) -> str:
        """The file names, as text."""
        return " and ".join(str(path) for path in (self.labels_path, self.ratings_path) if path is not None)


def read_annotated(labels: Path, ratings: Path | None, ids: Mapping[str, str] | None = None) -> Annotated:
    """Read the CSVs. `ids`: as for `read_labels`. Raises `UserError`, which lists the faults of a file."""
    return Annotated(labels, read_labels(labels, ids), ratings, [] if ratings is None else read_ratings(ratings, ids))


def shortages(annotated: Annotated) -> dict[str, str]:
    """Descriptions of what classes lack, by class."""
    labelled = Counter(row.label for row in annotated.labels)
    rated = Counter((row.label, row.score) for row in annotated.ratings)
    n_videos = len(annotated.videos)
    short = {}
    for name in annotated.classes:
        lacks = [
            what
            for number, least, what in (
                (labelled[name], LEAST_VIDEOS, counted(labelled[name], "labelled video")),
                (n_videos - labelled[name], LEAST_VIDEOS, f"{n_videos - labelled[name]} without the label"),
            )
            if number < least
        ]
        if annotated.ratings_path is not None:
            lacks += [
                f"{counted(rated[name, score], 'rating')} of {score}"
                for score in (1, 0)
                if rated[name, score] < LEAST_RATINGS
            ]
        if lacks:
            others = [other for other in labelled if other != name]
            hint = did_you_mean(name, others) if not labelled[name] else None
            short[name] = f"{name!r} has {', '.join(lacks)}" + (f" ({hint})" if hint else "")
    return short


def require_enough(annotated: Annotated) -> None:
    """Raise `UserError`, which lists shortages by class, if there is too little to learn from."""
    needed = f"expected {minimum_text(annotated.ratings_path is not None)}"
    if len(annotated.classes) < LEAST_CLASSES:
        left = f"the single class {annotated.classes[0]!r}" if annotated.classes else "no class left"
        raise UserError(f"{annotated.sources}: {left}; {needed}")
    short = shortages(annotated)
    skip = len(annotated.classes) - len(short) >= LEAST_CLASSES
    faults = Faults(annotated.sources, needed + "; --skip-short leaves these classes out" * skip)
    for lack in short.values():
        faults.add(lack)
    faults.raise_any()
    n_rated = len({row.video_id for row in annotated.ratings})
    if annotated.ratings_path is not None and n_rated < LEAST_RATED_VIDEOS:
        raise UserError(f"{annotated.ratings_path}: rates {counted(n_rated, 'video')}; {needed}")


def require_divided(annotated: Annotated, held_out: Collection[str]) -> None:
    """Raise `UserError` if the ratings are of too few videos to train on some and measure on the others."""
    scores = {row.score for row in annotated.ratings if row.video_id in held_out}
    rated = {row.video_id for row in annotated.ratings}
    if len(scores) < 2 or len(rated.difference(held_out)) < N_FOLDS - 1:
        raise UserError(
            f"{annotated.ratings_path}: the ratings are of too few videos to train on some and measure on the others; "
            f"of {counted(len(rated), 'rated video')} {len(rated.intersection(held_out))} would be held out, with "
            f"scores of {' and '.join(map(str, sorted(scores))) or 'none'}; rate segments of more videos"
        )
