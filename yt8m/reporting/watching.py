"""A page to watch films on: each under a player, with the spans that were found in it.

Dimensions: S segments of a film.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.localization.spans import Localization, Span
from yt8m.reporting.film_files import PICTURES_OF_A_FILM, PICTURES_OF_A_PAGE, REAL_ID, FilmLook, film_source, look_into
from yt8m.reporting.pages import fill_page, write_page


@dataclass(frozen=True)
class FilmAnswer:
    """What was found in a film.

    `answer`: its spans; `path`: the film's file, if there is one; `probabilities`: by the label of a class, those of
    all segments of the film, (S,) each, to be drawn behind the spans.
    """

    answer: Localization
    path: Path | None = None
    probabilities: Mapping[int, np.ndarray] = field(default_factory=dict)


def write_watch_page(
    path: Path, films: Sequence[FilmAnswer], *, title: str = "What is when", youtube_ids: bool = False
) -> None:
    """Write one HTML file that shows the spans of films under a player.

    A film with a path is played from its file, to which the page refers by a relative address. One without is, if
    `youtube_ids`, played by YouTube, where its id is one that YouTube may have; else there is no player. Of the most
    probable spans there are pictures in the page, at most `PICTURES_OF_A_FILM` of a film.
    """
    share = min(PICTURES_OF_A_FILM, max(1, PICTURES_OF_A_PAGE // max(1, len(films))))
    values = [_film_values(film, path, share, youtube_ids) for film in films]
    frames = any("youtube" in (own["source"] or {}) for own in values)
    write_page(path, fill_page("watch", title, {"title": title, "films": values}, frames=frames))


def _film_values(film: FilmAnswer, page: Path, n_pictures: int, youtube_ids: bool) -> dict[str, Any]:
    """A film as `viewer.js` takes it."""
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
    """The middle of a span's most probable segment."""
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
