"""Trained segment models as one object that says when their classes appear in videos.

Dimensions: L seconds of a video, D features of a second, S segments of a video, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yt8m.common.config import FeatureMeaning
from yt8m.common.devices import keep_freed_memory, resolve_device, resolve_half
from yt8m.common.errors import UserError
from yt8m.data.features import Scale, require_same
from yt8m.data.segments import EVERYTHING
from yt8m.data.vocabulary import named_vocabulary
from yt8m.localization.results import Result
from yt8m.localization.spans import Query, find_classes, find_spans
from yt8m.models.artifacts import ModelFolder, list_folders, open_folder
from yt8m.models.model_files import CONFIG_NAME, WEIGHTS_NAME
from yt8m.prediction.inference import Computation, Predictor, load_members, mean_probabilities

MOST_CLIPPED = 0.05  # of float features outside of the model's range: another film has some, other features have many
FolderPath = str | Path


class Localizer:
    """Segment models that localize together: the mean of their probabilities counts.

    `vocabulary`: their classes, in the order of all columns of probabilities; `features`: what they take; `predictor`:
    the models themselves.
    """

    def __init__(self, folders: Sequence[ModelFolder], computation: Computation, offset: int | None = None) -> None:
        """Load the models. `offset` frames on either side of a segment; None is what each was trained with.

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
        """Probabilities (S, C) of the segments of each of the videos (L, D) uint8, the last of which may be partial.

        Raises `UserError` naming a model that predicts what is not a number.
        """
        return mean_probabilities(self.predictor, videos, len(self.vocabulary))

    def localize(
        self,
        features: Any,
        classes: Sequence[str] | None = None,
        *,
        top: int = 5,
        threshold: float = 0.5,
        video_id: str = "video",
    ) -> Result:
        """When a video shows which classes.

        Args:
            features: (L, D), a row a second: rgb, then audio if the models take it. uint8 as in shards, or floats in
                the range that those bytes stand for; anything that numpy makes such an array of.
            classes: names of the vocabulary, in capitals or not, or label ids; by default the `top` most probable.
            top: how many classes count where none are named.
            threshold: segments of at least this probability make a span, 0 to 1.
            video_id: what to call the video.

        Raises:
            UserError: features of another shape, type or range, a class that the models do not know, or a number out of
                its range.
        """
        if top < 1:
            raise UserError(f"top: {top}, expected at least 1")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold: {threshold}, expected a probability, 0 to 1")
        if isinstance(classes, str):
            classes = [classes]
        query = Query(None if classes is None else find_classes(classes, self.vocabulary), top, threshold)
        frames = self._quantized(np.asarray(features))
        (probabilities,) = self.probabilities([torch.from_numpy(frames)])
        answer = find_spans(video_id, len(frames), probabilities, self.vocabulary, query)
        return Result(**vars(answer), probabilities=probabilities, vocabulary=self.vocabulary, threshold=threshold)

    def _quantized(self, values: np.ndarray) -> np.ndarray:
        """Features as the bytes (L, D) that the models take."""
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
    """Bytes of a float feature. Raises `UserError` for values of plainly another range than the models'."""
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
    """Trained segment models, ready to localize.

    Args:
        models: the folder of a model, several of them, or a folder that holds model folders.
        device: "cpu", "cuda" or "cuda:1"; "auto" is a GPU where there is one.
        amp: half precision: "off", "auto", "bf16" or "fp16".
        shifts: average the predictions for segments so many seconds later, such as (-1, 0, 1).
        offset: frames on either side of a segment; by default what each model was trained with.
        vocabulary: CSV file of the classes of models that do not say which they have, as those of 2019.

    Raises:
        UserError: no such folder, a model that is not finished, or models of different classes or features.
    """
    given = [Path(path) for path in ([models] if isinstance(models, FolderPath) else models)]
    if not given:
        raise UserError("models: no folder is named")
    paths = [path for folder in given for path in ([folder] if _is_model(folder) else list_folders(folder))]
    named = named_vocabulary(None if vocabulary is None else Path(vocabulary))
    where = resolve_device(device)
    computation = Computation(where, resolve_half(amp, where), tuple(sorted(shifts)), EVERYTHING)
    return Localizer([open_folder(path, named) for path in paths], computation, offset)


def _is_model(folder: Path) -> bool:
    """Whether this is a model's folder rather than one that holds some."""
    return (folder / CONFIG_NAME).exists() or (folder / WEIGHTS_NAME).exists()
