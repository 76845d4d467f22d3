"""A page to watch films on, with a player and a timeline of spans.

Dimensions: S segments of a film.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.localization.spans import Localization, Span
from yt8m.reporting.film_previews import (
    PICTURES_OF_A_FILM,
    PICTURES_OF_A_PAGE,
    REAL_ID,
    FilmLook,
    film_source,
    look_into,
)
from yt8m.reporting.pages import fill_page, write_page


@dataclass(frozen=True)
class FilmAnswer:
    """The spans in a film.

    `answer`: the spans; `path`: the film's file, if any; `probabilities`: of all segments of the film, (S,), by class
    label, to draw behind the spans.
    """

    answer: Localization
    path: Path | None = None
    probabilities: Mapping[int, np.ndarray] = field(default_factory=dict)


def write_watch_page(
    path: Path, films: Sequence[FilmAnswer], *, title: str = "What is when", youtube_ids: bool = False
) -> None:
    """Write an HTML page with players and the spans of films.

    Films with a path are played from their files, by relative addresses. Others are, with `youtube_ids`, played by
    YouTube if their ids look like YouTube's; else there is no player. The page contains pictures of the most probable
    spans, at most `PICTURES_OF_A_FILM` per film.
    """
    share = min(PICTURES_OF_A_FILM, max(1, PICTURES_OF_A_PAGE // max(1, len(films))))
    values = [_film_values(film, path, share, youtube_ids) for film in films]
    frames = any("youtube" in (own["source"] or {}) for own in values)
    write_page(path, fill_page("watch", title, {"title": title, "films": values}, frames=frames))


def _film_values(film: FilmAnswer, page: Path, n_pictures: int, youtube_ids: bool) -> dict[str, Any]:
    """A film's values for `viewer.js`."""
    answer = film.answer
    spans = [*answer.spans, *answer.below]
    best = sorted(answer.spans, key=lambda span: -span.highest)[:n_pictures]
    look, source = FilmLook(), None
    if film.path is not None:
        look = look_into(film.path, [best_second(span) for span in best])
        source = film_source(film.path, page, look)
    elif youtube_ids and REAL_ID.fullmatch(answer.video_id):
        source = {"youtube": answer.video_id, "embed": True}
    rows = []
    for label, name in {span.label: span.name for span in spans}.items():
        own = film.probabilities.get(label)
        rows.append(
            {
                "name": name,
                "start": 0,
                "values": None if own is None else [round(float(value), 3) for value in own],
                "spans": [
                    _span_values(span, span in answer.below, look.address(best_second(span)))
                    for span in spans
                    if span.label == label
                ],
                "marks": [],
            }
        )
    return {"name": answer.video_id, "seconds": answer.seconds, "source": source, "rows": rows}


def best_second(span: Span) -> float:
    """The middle of a span's most probable segment, in seconds."""
    return (span.highest_at + min(span.end, span.highest_at + SEGMENT_SECONDS)) / 2


def _span_values(span: Span, is_below: bool, picture: str | None) -> dict[str, Any]:
    return {
        "start": span.start,
        "end": span.end,
        "mean": round(span.mean, 4),
        "highest": round(span.highest, 4),
        "at": span.highest_at,
        "below": is_below,
        "picture": picture,
    }
