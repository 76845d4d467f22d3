"""The answer for one video, as users of the library get it: a table, a picture, a cell of a notebook."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from yt8m.data.segments import SEGMENT_SECONDS
from yt8m.data.vocabulary import Vocabulary
from yt8m.localization.span_formats import CSV_COLUMNS, NO_FRAMES, clock, digits, span_fields
from yt8m.localization.spans import Localization, Span

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Result(Localization):
    """A video's spans, and the `probabilities` (S, C) of its segments, float64, that they were found in.

    S segments of 5 seconds, the first from second 0 on; C classes as in `vocabulary`; `threshold`: the probability
    from which on a segment is part of a span.
    """

    probabilities: np.ndarray
    vocabulary: Vocabulary
    threshold: float

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C columns of `probabilities`."""
        return self.vocabulary.names

    def to_frame(self) -> "pd.DataFrame":
        """A row for each span, with the columns of `localize --format csv`; times in seconds."""
        import pandas as pd

        return pd.DataFrame([span_fields(span) for span in self.spans], columns=list(CSV_COLUMNS))

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the probabilities of the classes that have spans, or come nearest to one, and the spans as bars.

        On these matplotlib axes or, by default, on those of a new figure.
        """
        shown = self._by_class()
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(shown)), layout="constrained")[1]
        edges = np.append(np.arange(len(self.probabilities)) * SEGMENT_SECONDS, self.seconds)
        for row, spans in enumerate(shown):
            values = self.probabilities[:, self.vocabulary.classes(np.array(spans[0].label))]
            axes.stairs(row + 0.4 - 0.8 * values, edges, baseline=row + 0.4, fill=True, color="tab:blue", alpha=0.35)
            bars = [(span.start, span.end - span.start) for span in spans if span.highest >= self.threshold]
            axes.broken_barh(bars, (row + 0.4, 0.08), color="tab:blue")
        axes.set(xlim=(0, max(self.seconds, 1)), ylim=(max(len(shown), 1) - 0.4, -0.5), xlabel="second")
        axes.set_title(self.video_id)
        axes.set_yticks(range(len(shown)), [spans[0].name for spans in shown])
        return axes

    def _repr_html_(self) -> str:
        """A table with a bar for each class, in the colours of the notebook."""
        title = f"{escape(self.video_id)}, {clock(self.seconds)}"
        if not self.seconds:
            return f"<p>{title}: {NO_FRAMES}</p>"
        rows = "".join(self._html_row(spans) for spans in self._by_class())
        return (
            f"<table><caption>{title}; spans of at least {self.threshold:g}</caption><thead><tr><th>class</th>"
            f'<th style="width:30em">0:00 to {clock(self.seconds)}</th><th>from, to, mean probability</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )

    def _html_row(self, spans: list[Span]) -> str:
        found = [span for span in spans if span.highest >= self.threshold]
        bars = "".join(
            f'<rect x="{span.start}" y="0" width="{span.end - span.start}" height="1" fill="currentColor" '
            f'fill-opacity="{max(span.mean, 0.2):.2f}"><title>{_words(span)}</title></rect>'
            for span in found
        )
        words = "<br/>".join(map(_words, found)) or f"none; most probable {_words(spans[0])}"
        return (
            f'<tr><th>{escape(spans[0].name)}</th><td><svg viewBox="0 0 {self.seconds} 1" preserveAspectRatio="none" '
            f'role="img" style="width:100%;height:1em;background:#8883">{bars}</svg></td>'
            f'<td style="text-align:left">{words}</td></tr>'
        )

    def _by_class(self) -> list[list[Span]]:
        """The spans of each class that is shown, the most probable class first."""
        shown: dict[int, list[Span]] = {}
        for span in self.spans + self.below:
            shown.setdefault(span.label, []).append(span)
        return list(shown.values())


def _words(span: Span) -> str:
    return f"{clock(span.start)} – {clock(span.end)}, {digits(span.mean)}"
