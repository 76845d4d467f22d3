"""Spans, the times when a video shows a class: found in probabilities of segments, written as a table, JSON, CSV or
subtitles.

Dimensions: S segments of a video, C classes.
"""

import csv
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from yt8m.common.errors import UserError, counted, did_you_mean
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS
from yt8m.data.vocabulary import Vocabulary, plain_name

LOGGER = logging.getLogger(__name__)
CSV_COLUMNS = ("video_id", "label", "class", "start", "end", "mean", "highest", "highest_at")
NO_FRAMES = "no second has both rgb and audio features"
TABLE = "table"
SUBTITLES = frozenset({"vtt", "srt"})


@dataclass(frozen=True)
class Query:
    """What to look for: these `classes` or, if None, the `top` most probable ones of each video.

    Segments of at least the probability `threshold` make a span. `step`: seconds between the starts of segments, 5 for
    segments in a row, or 1; None is 1 for films, else 5.
    """

    classes: list[int] | None
    top: int
    threshold: float
    step: int | None = None


@dataclass(frozen=True)
class Span:
    """One segment of a video or several in a row, with the probability that they show a class.

    `start` and `end` in seconds; the `mean` probability of the segments, the `highest`, and `highest_at`, the start
    second of the segment with the highest.
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
    """The answer for a video of `seconds` seconds.

    `spans`: by class, the most probable class first, then by time. `below`: the best segment of classes that never
    reach the threshold: of all such classes asked for by name, otherwise of the most probable class, and only if there
    is no span. `begins`: the second of a player's clock, by which subtitles are shown, at second 0 of the video.
    """

    video_id: str
    seconds: int
    spans: list[Span]
    below: list[Span]
    begins: float = field(default=0.0, kw_only=True)


def find_spans(
    video_id: str,
    n_frames: int,
    probabilities: np.ndarray,
    vocabulary: Vocabulary,
    query: Query,
    step: int = SEGMENT_SECONDS,
) -> Localization:
    """Find the spans in the probabilities (S, C) of all segments of a video, of which the last may be partial.

    `step`: seconds between the starts of successive rows of `probabilities`.
    """

    def span(number: int, first: int, stop: int) -> Span:
        values = probabilities[first:stop, number]
        best = int(values.argmax())
        return Span(
            video_id,
            int(vocabulary.labels[number]),
            vocabulary.names[number],
            first * step,
            min(stop * step, n_frames),
            float(values.mean()),
            float(values[best]),
            (first + best) * step,
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
    """Start and end (exclusive) of each run of True in (S,) bool, in order."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def find_classes(names: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """The classes with these names, in any case, or label ids; a name shared by several classes means all of them.

    Raises `UserError` with suggestions.
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
    """Suggest known names for `text`, or else list a few."""
    return did_you_mean(text, known) or f"{', '.join(known[:3])}{' and others' * (len(known) > 3)} are there"


def write_table(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """Write a few lines for each video."""
    for number, answer in enumerate(answers):
        lines = [""] * bool(number) + table_lines(answer, query)
        output.write("\n".join(lines) + "\n")
        output.flush()


def table_lines(answer: Localization, query: Query) -> list[str]:
    """A line that names the video, one for each span, then the classes below the threshold everywhere."""
    n_segments = int(EVERYTHING.count_left(np.array(answer.seconds)))
    title = f"video {answer.video_id}, {clock(answer.seconds)} long, {counted(n_segments, 'segment')}"
    if not n_segments:
        return [title, f"  {NO_FRAMES}"]
    shown = answer.spans + answer.below
    time_width = max(len(clock(span.end)) for span in shown)
    name_width = max(len(span.name) for span in shown)

    def line(span: Span) -> str:
        several = span.end - span.start > SEGMENT_SECONDS
        peak = f" (peak {digits(span.highest)} at {clock(span.highest_at)})" if several else ""
        return (
            f"  {clock(span.start):>{time_width}} – {clock(span.end):>{time_width}}   {span.name:{name_width}}   "
            f"{digits(span.mean)}{peak}"
        )

    heading = [f"  {_heading_below(query)}:"] * bool(answer.below)
    return [title, *map(line, answer.spans), *heading, *map(line, answer.below)]


def write_json(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """Write a list with an object for each video."""
    before = "[\n"
    for answer in answers:
        document = {
            "video_id": answer.video_id,
            "seconds": answer.seconds,
            "threshold": query.threshold,
            "spans": [span_fields(span) for span in answer.spans],
            "below_threshold": [span_fields(span) for span in answer.below],
        }
        output.write(before + json.dumps(document, indent=1, ensure_ascii=False))
        output.flush()
        before = ",\n"
    output.write("[]\n" if before == "[\n" else "\n]\n")


def write_csv(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """Write a row for each span; classes below the threshold everywhere are only logged, as they are not spans."""
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for answer in answers:
        fields = [span_fields(span) for span in answer.spans]
        writer.writerows([row[column] for column in CSV_COLUMNS] for row in fields)
        output.flush()
        _log_missing(answer, query)


def _log_missing(answer: Localization, query: Query) -> None:
    """Log classes below the threshold everywhere."""
    if answer.below:
        best = "; ".join(f"{span.name}, {digits(span.highest)} at {clock(span.start)}" for span in answer.below)
        LOGGER.info("video %s: %s: %s", answer.video_id, _heading_below(query), best)
    if not answer.seconds:
        LOGGER.info("video %s: %s", answer.video_id, NO_FRAMES)


def write_vtt(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """Write WebVTT, subtitles for browsers: a cue for each span."""
    output.write("WEBVTT\n")
    for start, end, text in _cues(answers, query):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        output.write(f"\n{_timestamp(start, '.')} --> {_timestamp(end, '.')}\n{escaped}\n")
    output.flush()


def write_srt(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """Write SubRip, subtitles for players: a cue for each span."""
    for number, (start, end, text) in enumerate(_cues(answers, query), 1):
        blank = "\n" * (number > 1)
        output.write(f"{blank}{number}\n{_timestamp(start, ',')} --> {_timestamp(end, ',')}\n{text}\n")
    output.flush()


def _cues(answers: Iterable[Localization], query: Query) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of the cues, in order and by players' clocks.

    Classes below the threshold everywhere are only logged.
    """
    for answer in answers:
        for span in sorted(answer.spans, key=lambda span: (span.start, span.end)):
            text = f"{' '.join(span.name.split())} {digits(span.mean)}"
            yield answer.begins + span.start, answer.begins + span.end, text
        _log_missing(answer, query)


def _timestamp(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}{point}{thousandths:03d}"


WRITERS = {TABLE: write_table, "json": write_json, "csv": write_csv, "vtt": write_vtt, "srt": write_srt}


def span_fields(span: Span) -> dict[str, Any]:
    """A span by column, for programs; probabilities have four digits, as predicted."""
    return {
        "video_id": span.video_id,
        "label": span.label,
        "class": span.name,
        "start": span.start,
        "end": span.end,
        "mean": round(span.mean, 4),
        "highest": round(span.highest, 4),
        "highest_at": span.highest_at,
    }


def _heading_below(query: Query) -> str:
    if query.classes is None:
        return f"no class reaches {query.threshold:g}; the most probable"
    return f"below {query.threshold:g} everywhere; most probable at"


def digits(probability: float) -> str:
    """Two decimals, truncated instead of rounded, so that 0.499 does not seem to reach 0.5."""
    return f"{math.floor(probability * 100 + 1e-9) / 100:.2f}"  # 0.57 * 100 is a bit less than 57


def clock(seconds: int) -> str:
    """Seconds as m:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
