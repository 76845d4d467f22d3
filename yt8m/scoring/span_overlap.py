"""Temporal IoU of found and true spans: the time in both as a share of the time in either."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from yt8m.common.errors import Faults, UserError
from yt8m.data.tables import read_table
from yt8m.data.vocabulary import SPAN_COLUMNS, plain_label, plain_name
from yt8m.films.film_files import plain_id

FOUND_COLUMNS = ("video_id", "label", "class", "start", "end")

Spans = list[tuple[float, float]]  # start and end in seconds


@dataclass(frozen=True)
class Overlap:
    """The true and found spans of a label in a video."""

    video_id: str
    label: str
    true: Spans
    found: Spans

    @property
    def iou(self) -> float:
        """Temporal intersection over union, 0 to 1; 1 if both are empty."""
        both = _length(self.true) + _length(self.found) - _length([*self.true, *self.found])
        either = _length([*self.true, *self.found])
        return both / either if either else 1.0


def compare_spans(found: Path, true: Path) -> list[Overlap]:
    """The overlaps of all pairs of a video and a label in either file, for the videos in the truth.

    Args:
        found: CSV with the columns `FOUND_COLUMNS`, as `localize` writes it; without rows if nothing was found.
        true: CSV with the columns `SPAN_COLUMNS`; labels are names or label ids. Spans of a label may overlap.

    Raises:
        UserError: an unreadable file, invalid times, or no video in common.
    """
    truth = _read_spans(true, SPAN_COLUMNS)
    by_id = all(label.lstrip("-").isdigit() for _, label in truth)
    answers = _read_spans(found, FOUND_COLUMNS if by_id else ("video_id", "class", "start", "end"), True)
    videos = {video_id for video_id, _ in truth}
    if answers and not videos & {video_id for video_id, _ in answers}:
        raise UserError(f"{found}: none of its videos is in {true}; localize videos with true spans")
    keys = sorted(key for key in {**truth, **answers} if key[0] in videos)
    return [Overlap(*key, truth.get(key, []), answers.get(key, [])) for key in keys]


def overlap_table(overlaps: Sequence[Overlap]) -> pd.DataFrame:
    """A row for each video and label: spans and IoU."""
    return pd.DataFrame(
        [(o.video_id, o.label, _shown(o.true), _shown(o.found), o.iou) for o in overlaps],
        columns=["video", "label", "true spans", "found spans", "IoU"],
    )


def mean_iou(overlaps: Sequence[Overlap]) -> float:
    """The mean over all pairs of a video and a label; false finds count as 0."""
    return sum(overlap.iou for overlap in overlaps) / len(overlaps)


def _read_spans(path: Path, columns: Sequence[str], may_be_empty: bool = False) -> dict[tuple[str, str], Spans]:
    faults = Faults(path)
    spans: dict[tuple[str, str], Spans] = {}
    for line, (video_id, label, *_, start_text, end_text) in read_table(path, columns, may_be_empty=may_be_empty):
        start, end = _seconds(start_text), _seconds(end_text)
        if start is None or end is None or start >= end:
            faults.add(
                f"line {line}: start, end: expected seconds, the end after the start, "
                f"found {start_text!r}, {end_text!r}"
            )
            continue
        spans.setdefault((plain_id(plain_name(video_id)), plain_label(label).casefold()), []).append((start, end))
    faults.raise_any()
    return spans


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _length(spans: Spans) -> float:
    """Seconds covered by at least one of the spans."""
    length, reached = 0.0, 0.0
    for start, end in sorted(spans):
        length += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return length


def _shown(spans: Spans) -> str:
    return ", ".join(f"{start:g}–{end:g}" for start, end in sorted(spans)) or "none"
