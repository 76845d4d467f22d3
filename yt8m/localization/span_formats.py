"""How spans are written: a table for people, JSON or CSV for programs. Each video as soon as it is known."""

import csv
import json
import logging
import math
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np

from yt8m.common.wording import counted
from yt8m.data.segments import EVERYTHING, SEGMENT_SECONDS
from yt8m.localization.spans import Localization, Query, Span

LOGGER = logging.getLogger(__name__)
CSV_COLUMNS = ("video_id", "label", "class", "start", "end", "mean", "highest", "highest_at")
NO_FRAMES = "no second has both rgb and audio features"


def write_table(answers: Iterable[Localization], query: Query, output: TextIO) -> None:
    """A few lines for each video."""
    for number, answer in enumerate(answers):
        lines = [""] * bool(number) + table_lines(answer, query)
        output.write("\n".join(lines) + "\n")
        output.flush()


def table_lines(answer: Localization, query: Query) -> list[str]:
    """A line that names the video, then one for each span, then what reaches the threshold nowhere."""
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
    """A list of an object for each video."""
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
    """A row for each span; what reaches the threshold nowhere is only logged, lest it be taken for a span."""
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for answer in answers:
        fields = [span_fields(span) for span in answer.spans]
        writer.writerows([row[column] for column in CSV_COLUMNS] for row in fields)
        output.flush()
        if answer.below:
            best = "; ".join(f"{span.name}, {digits(span.highest)} at {clock(span.start)}" for span in answer.below)
            LOGGER.info("video %s: %s: %s", answer.video_id, _heading_below(query), best)
        if not answer.seconds:
            LOGGER.info("video %s: %s", answer.video_id, NO_FRAMES)


TABLE = "table"
WRITERS = {TABLE: write_table, "json": write_json, "csv": write_csv}


def span_fields(span: Span) -> dict[str, Any]:
    """A span for programs, by column; probabilities are predicted to four digits."""
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
    """Two decimals, cut off instead of rounded, so that 0.499 does not look as if it reached 0.5."""
    return f"{math.floor(probability * 100 + 1e-9) / 100:.2f}"  # 0.57 * 100 is a bit less than 57


def clock(seconds: int) -> str:
    """Seconds as m:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
