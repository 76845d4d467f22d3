"""Trained segment models as one object that localizes their classes in videos, and its results.

Dimensions: L seconds of a video, D features of a second, S segments of a video, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yt8m.common.config import FeatureMeaning
from yt8m.common.devices import keep_freed_memory, resolve_device, resolve_half
from yt8m.common.errors import UserError, counted, first_line
from yt8m.data.features import Scale, require_same
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS
from yt8m.data.vocabulary import Vocabulary, named_vocabulary
from yt8m.localization.spans import (
    CSV_COLUMNS,
    NO_FRAMES,
    Localization,
    Query,
    Span,
    clock,
    digits,
    find_classes,
    find_spans,
    span_fields,
)
from yt8m.models.model_files import CONFIG_NAME, WEIGHTS_NAME
from yt8m.models.model_folders import ModelFolder, list_folders, open_folder
from yt8m.prediction.inference import Computation, Predictor, load_members, mean_probabilities

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


MOST_CLIPPED = 0.05  # share of float features beyond the model's range: other films have some, other features many
FolderPath = str | Path


@dataclass(frozen=True, eq=False, repr=False)
class Result(Localization):
    """A video's spans, and the `probabilities` (S, C) of its segments, float64, that they were found in.

    S segments of 5 seconds, the first from second 0 on; C classes as in `vocabulary`; `threshold`: the least
    probability of a segment in a span.
    """

    probabilities: np.ndarray
    vocabulary: Vocabulary
    threshold: float

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C columns of `probabilities`."""
        return self.vocabulary.names

    def __repr__(self) -> str:
        return f"<Result: {self.video_id}, {clock(self.seconds)}; {counted(len(self.spans), 'span')}>"

    def to_frame(self) -> "pd.DataFrame":
        """A row for each span, with the columns of `localize --format csv`; times in seconds."""
        import pandas as pd

        return pd.DataFrame([span_fields(span) for span in self.spans], columns=list(CSV_COLUMNS))

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Plot the probabilities of the classes that have spans, or come nearest to one, and the spans as bars.

        Uses these matplotlib axes or, by default, those of a new figure.
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
        """An HTML table with a bar for each class, in the colours of the notebook."""
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
        """The spans of each shown class, the most probable class first."""
        shown: dict[int, list[Span]] = {}
        for span in self.spans + self.below:
            shown.setdefault(span.label, []).append(span)
        return list(shown.values())


def _words(span: Span) -> str:
    return f"{clock(span.start)} – {clock(span.end)}, {digits(span.mean)}"


class Localizer:
    """Segment models that localize by the mean of their probabilities.

    `vocabulary`: their classes, in the order of all columns of probabilities; `features`: their input; `predictor`: the
    models themselves.
    """

    def __init__(self, folders: Sequence[ModelFolder], computation: Computation, offset: int | None = None) -> None:
        """Load the models. `offset` frames on either side of a segment; None: as each was trained.

        Raises `UserError` for models of other classes or features than the first.
        """
        self.folders = list(folders)
        self.vocabulary = folders[0].vocabulary()  # the others' outputs are mapped to it
        self.features = folders[0].features
        for folder in folders[1:]:
            require_same(folder.features, folder.path, self.features, folders[0].path)
        if computation.device.type == "cpu":
            keep_freed_memory()
        self.predictor = Predictor(load_members(folders, offset, self.vocabulary, computation.device), computation)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes, in the order of the columns of probabilities."""
        return self.vocabulary.names

    def __repr__(self) -> str:
        names = ", ".join(folder.name for folder in self.folders)
        return f"<Localizer: {names}; {len(self.vocabulary)} classes; {self.predictor.computation.device}>"

    def probabilities(self, videos: Sequence[Tensor]) -> list[np.ndarray]:
        """Probabilities (S, C) of the segments, the last of which may be partial, of each of the videos (L, D) uint8.

        Raises `UserError` naming a model that predicts NaN.
        """
        return mean_probabilities(self.predictor, videos, len(self.vocabulary))

    def probabilities_by_second(self, video: Tensor) -> np.ndarray:
        """Probabilities (L, C) of the seconds of a video (L, D) uint8.

        A second's probability is the mean over the up to five 5-second segments, one starting at each second, that
        contain it. If segments are positive that show a class for at least three seconds, then from the first to the
        last second that shows it at least half of them are. Raises `UserError` as `probabilities` does.
        """
        starts = np.empty((-(-len(video) // SEGMENT_SECONDS) * SEGMENT_SECONDS, len(self.vocabulary)))
        for later in range(SEGMENT_SECONDS):
            (values,) = mean_probabilities(self.predictor.shifted(later), [video], len(self.vocabulary))
            starts[later::SEGMENT_SECONDS] = values
        ends = np.cumsum(starts[: len(video)], axis=0)
        sums = ends.copy()
        sums[SEGMENT_SECONDS:] -= ends[:-SEGMENT_SECONDS]
        return sums / np.minimum(np.arange(1, len(video) + 1), SEGMENT_SECONDS)[:, None]

    def localize(
        self,
        features: Any,
        classes: str | Sequence[str | int] | None = None,
        *,
        top: int = 5,
        threshold: float = 0.5,
        video_id: str = "video",
    ) -> Result:
        """Find when classes appear in a video.

        Args:
            features: (L, D), one row per second: rgb, then audio if the models take it. uint8 as in shards, or floats
                in the range that those bytes stand for; anything that numpy converts to such an array.
            classes: one or several names in the vocabulary, in any case, or label ids; by default the `top` most
                probable.
            top: how many classes count if none are named.
            threshold: segments of at least this probability make a span, 0 to 1.
            video_id: the video's id in the result.

        Raises:
            UserError: features of another shape, type or range, an unknown class, or a number out of range.
        """
        if top < 1:
            raise UserError(f"top: {top}, expected at least 1")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold: {threshold}, expected a probability, 0 to 1")
        if isinstance(classes, str):
            classes = [classes]
        wanted = None if classes is None else find_classes(list(map(str, classes)), self.vocabulary)
        try:
            values = np.asarray(features)
        except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a tensor on a GPU or with a gradient
            raise UserError(f"features: cannot be converted to an array: {first_line(error)}") from None
        query = Query(wanted, top, threshold)
        frames = self.quantized(values)
        (probabilities,) = self.probabilities([torch.from_numpy(frames)])
        answer = find_spans(video_id, len(frames), probabilities, self.vocabulary, query)
        return Result(**vars(answer), probabilities=probabilities, vocabulary=self.vocabulary, threshold=threshold)

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """Convert features (L, D), see `localize`, to the bytes that the models take. Raises `UserError`."""
        rgb, audio = self.features.widths
        if values.ndim != 2 or values.shape[1] != rgb + audio:
            parts = f", {rgb} of rgb and {audio} of audio" if audio else ""
            remedy = "; give its transpose" if values.ndim == 2 and values.shape[0] == rgb + audio else ""
            raise UserError(f"features: shape is {values.shape}, expected (seconds, {rgb + audio}){parts}{remedy}")
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if values.dtype.kind != "f":
            raise UserError(f"features: values are {values.dtype}, expected uint8 or floats")
        quantized = [_quantize("rgb", values[:, :rgb], self.features.rgb)]
        if self.features.audio is not None:
            quantized.append(_quantize("audio", values[:, rgb:], self.features.audio))
        return np.concatenate(quantized, axis=1)


def _quantize(name: str, values: np.ndarray, meaning: FeatureMeaning) -> np.ndarray:
    """Convert a float feature to bytes. Raises `UserError` for values clearly of another range than the models'."""
    if not np.isfinite(values).all():
        raise UserError(f"features: {name} has values that are not finite numbers")
    low, high = meaning.range
    quantized, n_clipped = Scale(low, high).quantize(values)
    if n_clipped > MOST_CLIPPED * values.size:
        raise UserError(
            f"features: {name} goes from {values.min():.6g} to {values.max():.6g}, expected {low:.6g} to {high:.6g}; "
            "use features of the extractor that the models were trained with"
        )
    return quantized


def load(
    models: FolderPath | Sequence[FolderPath],
    *,
    device: str = "auto",
    amp: str = "off",
    shifts: Sequence[int] = (0,),
    offset: int | None = None,
    vocabulary: FolderPath | None = None,
) -> Localizer:
    """Load trained segment models, ready to localize.

    Args:
        models: the folder of a model, several of them, or a folder of model folders.
        device: "cpu", "cuda" or "cuda:1"; "auto" is a GPU if there is one.
        amp: half precision: "off", "auto", "bf16" or "fp16".
        shifts: average the predictions for segments shifted by these seconds, such as (-1, 0, 1).
        offset: frames on either side of a segment; by default as each model was trained.
        vocabulary: CSV file of the classes of models that do not list theirs, such as those of 2019.

    Raises:
        UserError: a missing folder, an unfinished model, or models of different classes or features.
    """
    given = [Path(path) for path in ([models] if isinstance(models, FolderPath) else models)]
    if not given:
        raise UserError("models: no folder given")
    for folder in given:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected that of a model, or one that contains such folders")
    if not shifts:
        raise UserError("shifts: none given; 0 is no shift")
    if offset is not None and offset < 0:
        raise UserError(f"offset: {offset}, expected at least 0")
    paths = [path for folder in given for path in ([folder] if _is_model(folder) else list_folders(folder))]
    named = named_vocabulary(None if vocabulary is None else Path(vocabulary))
    try:
        where = resolve_device(device)
        half = resolve_half(amp, where)
    except UserError as error:  # it names an option
        raise UserError(str(error).removeprefix("--")) from None
    computation = Computation(where, half, tuple(sorted(shifts)), EVERYTHING)
    return Localizer([open_folder(path, named) for path in paths], computation, offset)


def _is_model(folder: Path) -> bool:
    """Whether this is a model's folder rather than a folder of them."""
    return (folder / CONFIG_NAME).exists() or (folder / WEIGHTS_NAME).exists()
