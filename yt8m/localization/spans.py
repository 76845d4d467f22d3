"""From probabilities of segments to spans: when a video shows which classes.

Dimensions: S segments of a video, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yt8m.common.errors import UserError
from yt8m.common.wording import did_you_mean
from yt8m.data.segments import SEGMENT_SECONDS
from yt8m.data.vocabulary import Vocabulary, plain_name


@dataclass(frozen=True)
class Query:
    """What to look for: these `classes`, or where they are None the `top` most probable ones of each video.

    Segments of at least the probability `threshold` make a span.
    """

    classes: list[int] | None
    top: int
    threshold: float


@dataclass(frozen=True)
class Span:
    """One segment of a video or several in a row, and how probably they show a class.

    `start` and `end` in seconds; the `mean` probability of the segments, the `highest`, and `highest_at`, the second
    at which the segment with the highest begins.
    """

    video_id: str
    label: int
    name: str
    start: int
    end: int
    mean: float
    highest: float
    highest_at: int


@dataclass(frozen=True)
class Localization:
    """The answer for a video of so many seconds.

    `spans`: those of the most probable class first, those of a class in order. `below`: the best segment of classes
    that reach the threshold nowhere. That is all of those that were asked for by name; otherwise it is the most
    probable class, and only if there is no span.
    """

    video_id: str
    seconds: int
    spans: list[Span]
    below: list[Span]


def find_spans(
    video_id: str, n_frames: int, probabilities: np.ndarray, vocabulary: Vocabulary, query: Query
) -> Localization:
    """The answer for a video from the probabilities (S, C) of all its segments, of which the last may be partial."""

    def span(number: int, first: int, stop: int) -> Span:
        values = probabilities[first:stop, number]
        best = int(values.argmax())
        return Span(
            video_id,
            int(vocabulary.labels[number]),
            vocabulary.names[number],
            first * SEGMENT_SECONDS,
            min(stop * SEGMENT_SECONDS, n_frames),
            float(values.mean()),
            float(values[best]),
            (first + best) * SEGMENT_SECONDS,
        )

    if not n_frames:
        return Localization(video_id, 0, [], [])
    highest = probabilities.max(axis=0)
    order = np.argsort(-highest, kind="stable").tolist()
    order = order[: query.top] if query.classes is None else [number for number in order if number in query.classes]
    spans = [span(number, *run) for number in order for run in runs(probabilities[:, number] >= query.threshold)]
    below = [number for number in order if highest[number] < query.threshold]
    if query.classes is None:
        below = [] if spans else order[:1]
    best = probabilities.argmax(axis=0).tolist()
    return Localization(video_id, n_frames, spans, [span(number, best[number], best[number] + 1) for number in below])


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last-plus-one place of each unbroken run of True in (S,) bool, in order."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def find_classes(names: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """The classes with these names, capitals or not, or label ids; a name that several classes have means all of them.

    Raises `UserError` that suggests what may have been meant.
    """
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(vocabulary.names):
        by_name.setdefault(name.casefold(), []).append(number)
    by_label = {str(label): [number] for number, label in enumerate(vocabulary.labels.tolist())}
    found: list[int] = []
    for name in names:
        numbers = by_name.get(plain_name(name).casefold()) or by_label.get(name.strip())
        if numbers is None:
            raise UserError(
                f"class {name}: no class of {vocabulary.source} has this name or label id; "
                f"{suggestion(name, vocabulary.names)}"
            )
        found += numbers
    return list(dict.fromkeys(found))


def suggestion(text: str, known: Sequence[str]) -> str:
    """What a user may have meant who wrote `text`, or at least what there is."""
    return did_you_mean(text, known) or f"{', '.join(known[:3])}{' and others' * (len(known) > 3)} are there"
