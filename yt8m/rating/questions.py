"""Questions about films: the classes to rate each segment for."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yt8m.common.errors import UserError, counted, listed, with_suggestions
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.vocabulary import LabelRow, Vocabulary, plain_label
from yt8m.localization.spans import find_classes, suggestion
from yt8m.rating.choice import Questions
from yt8m.rating.film_list import ListedFilm
from yt8m.rating.ratings_file import RatedSegment

LOGGER = logging.getLogger(__name__)


def classes_of_films(
    films: Sequence[ListedFilm], rows: Sequence[LabelRow] | None, wanted: Sequence[str] | None, source: Path | None
) -> list[list[str]]:
    """The classes to rate each film for: its labels among the `wanted` ones, in any case, None for all labels; without
    labels all wanted ones, as first spelled.

    `rows` of labels come from the file `source`. Raises `UserError` for a wanted class without labelled films, and if
    nothing is left.
    """
    chosen: dict[str, str] = {}
    for label in map(plain_label, wanted or ()):
        chosen.setdefault(label.casefold(), label)
    for label in chosen.values():
        if not label or not label.isprintable():
            raise UserError(f"--classes: {label!r} is not a valid class name")
    if rows is None:
        return [list(chosen.values()) for _ in films]
    own: dict[str, list[str]] = {film.video_id: [] for film in films}
    known = {row.label for row in rows}
    folded = {label.casefold() for label in known}
    for key, label in chosen.items():
        if key not in folded:
            raise UserError(
                f"--classes {label}: no video of {source} has this label; {suggestion(label, sorted(known))}"
            )
    for row in rows:
        if row.video_id in own and (wanted is None or row.label.casefold() in chosen):
            own[row.video_id].append(row.label)
    strangers = list(dict.fromkeys(row.video_id for row in rows if row.video_id not in own))
    bare = [video_id for video_id, labels in own.items() if not labels]
    if len(bare) == len(own):
        raise UserError(
            f"{source}: has no label of any film; the films' ids are {listed(list(own))}, those in the table "
            f"{listed(list(dict.fromkeys(row.video_id for row in rows)))}"
        )
    _warn_of_strangers("labels", strangers, own, source)
    if bare:
        LOGGER.info("%s without a label in %s left out: %s", counted(len(bare), "film"), source, listed(bare))
    return [own[film.video_id] for film in films]


def check_other_ratings(
    keys: Collection[RatedSegment], labels: Sequence[str], films: Sequence[ListedFilm], source: Path
) -> None:
    """Warn of ratings in the file `source` that are of none of the films, or beyond the end of their film.

    Raises `UserError` if the file has a class of `labels` in another case: new ratings would be of another class.
    """
    spelled = {label.casefold(): label for label in labels}
    for other in sorted({label for _, _, label in keys}.difference(labels)):
        if other.casefold() in spelled:
            raise UserError(
                f"{source}: has ratings of {other!r}, which is now spelled {spelled[other.casefold()]!r}; spell the "
                "class as in the file, or correct the file"
            )
    seconds = {film.video_id: film.seconds for film in films}
    strangers = list(dict.fromkeys(video_id for video_id, _, _ in keys if video_id not in seconds))
    late = [f"{video_id} at {start}" for video_id, start, _ in keys if start >= seconds.get(video_id, np.inf)]
    _warn_of_strangers("ratings", strangers, seconds, source)
    if late:
        LOGGER.warning("%s: %s beyond the end of a film: %s", source, counted(len(late), "rating"), listed(late))


def _warn_of_strangers(what: str, strangers: Sequence[str], known: Collection[str], source: Path | None) -> None:
    if strangers:
        videos = counted(len(strangers), "video")
        LOGGER.warning(
            "%s: has %s of %s without a film here: %s", source, what, videos, with_suggestions(strangers, known)
        )


@dataclass(frozen=True)
class Judgement:
    """A model's `probabilities` (segments, C) by video id, for the classes of `vocabulary`."""

    probabilities: Mapping[str, np.ndarray]
    vocabulary: Vocabulary


def list_questions(
    films: Sequence[ListedFilm], classes: Sequence[Sequence[str]], judgement: Judgement | None = None
) -> tuple[Questions, list[str]]:
    """The questions about all full segments of films, each for its `classes`, and the sorted names of all classes.

    If a film's features end early, so do its questions. Raises `UserError` if there is no question, or none that the
    model can judge.
    """
    labels = sorted({label for own in classes for label in own})
    numbers = {label: number for number, label in enumerate(labels)}
    columns = [None if judgement is None else _column(label, judgement.vocabulary) for label in labels]
    rows: list[tuple[int, int, int, float]] = []
    for number, (film, own) in enumerate(zip(films, classes)):
        known = None if judgement is None else judgement.probabilities.get(film.video_id)
        n_segments = int(film.seconds // SEGMENT_SECONDS)
        for segment in range(n_segments if known is None else min(n_segments, len(known))):
            for label in own:
                column = columns[numbers[label]]
                value = np.nan if known is None or column is None else float(known[segment, column])
                rows.append((number, segment * SEGMENT_SECONDS, numbers[label], value))
    if not rows:
        raise UserError(f"no film is at least {SEGMENT_SECONDS} seconds long; there is nothing to rate")
    table = np.array(rows)
    numbered, starts, rated = table[:, :3].astype(np.int64).T
    if judgement is None:
        return Questions(numbered, starts, rated), labels
    _say_what_is_unknown(films, labels, columns, judgement)
    return Questions(numbered, starts, rated, table[:, 3]), labels


def _say_what_is_unknown(
    films: Sequence[ListedFilm], labels: Sequence[str], columns: Sequence[int | None], judgement: Judgement
) -> None:
    """Warn of films and classes that a model cannot judge. Raises `UserError` if it can judge none."""
    films_unknown = [film.video_id for film in films if film.video_id not in judgement.probabilities]
    labels_unknown = [label for label, column in zip(labels, columns) if column is None]
    for unknown, known, what in (
        (films_unknown, films, "--features: lacks these films"),
        (labels_unknown, labels, "--model: lacks these classes"),
    ):
        if len(unknown) == len(known):
            raise UserError(f"{what}: {listed(unknown)}; leave out --model, or name one that has them")
        if unknown:
            LOGGER.warning("%s: %s; their segments are chosen at random", what, listed(unknown))


def shown_names(labels: Sequence[str], vocabulary: Vocabulary | None) -> list[str]:
    """Names of classes for the page: for a label id, its name in the vocabulary, if it has one."""
    columns = [None if vocabulary is None else _column(label, vocabulary) for label in labels]
    return [
        label if vocabulary is None or column is None else vocabulary.names[column]
        for label, column in zip(labels, columns)
    ]


def _column(label: str, vocabulary: Vocabulary) -> int | None:
    """The class of a label; None if the vocabulary lacks it or has several of that name."""
    try:
        found = find_classes([label], vocabulary)
    except UserError:
        return None
    return found[0] if len(found) == 1 else None
