"""Predictions of segment models and video models for whole videos.

Frame-level features are computed once per frame, not once per overlapping segment, and the context of a video once for
all models whose frozen context encoders have the same weights.

Dimensions: V videos of a group, L frames of a video, N frames of a strip, D features of a frame, S predicted segments
of the group, F features of a segment, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from helperbot.devices import BatchMover
from torch import Tensor

from yt8m.common.errors import UserError
from yt8m.data.features import require_same
from yt8m.data.frames import CANDIDATES, SEGMENT_SECONDS, Trim, context_frames, trim_of
from yt8m.data.reader import ShardReader
from yt8m.data.vocabulary import Vocabulary, named_vocabulary
from yt8m.models.base import Encoded, Encoder, each, fuse
from yt8m.models.classifiers import ContextAwareModel, SegmentModel, VideoModel
from yt8m.models.model_folders import ModelFolder, list_folders, load_segment_model, open_folder
from yt8m.models.packing import Windows, send
from yt8m.prediction.prediction_files import SCALE

_NOT_A_NUMBER = -1  # among quantized probabilities

Label = TypeVar("Label")


@dataclass(frozen=True)
class Member:
    """A model in eval mode, on its device; `offset` frames on either side of a segment; `trim` is left out of the
    video that is a segment's context."""

    name: str
    model: SegmentModel
    offset: int
    trim: Trim = CANDIDATES


@dataclass(frozen=True)
class Computation:
    """How to predict: the average over `shifts` in seconds; `amp`: a half precision or None; `trim`: the segments of a
    video to leave out."""

    device: torch.device
    amp: torch.dtype | None = None
    shifts: tuple[int, ...] = (0,)
    trim: Trim = CANDIDATES

    def autocast(self) -> AbstractContextManager[Any]:
        """The context to compute in."""
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)


class Strip:
    """The frames around the segments of some videos, end to end, and the position of each segment's window.

    `reach`: frames on either side of a video's predicted segments, zeros beyond the video. Each video takes a multiple
    of 5 frames, so that all windows begin at a multiple of 5.
    """

    def __init__(self, videos: Sequence[Tensor], reach: int, trim: Trim = CANDIDATES) -> None:
        """`videos` (L, D) uint8, all on one device."""
        self.reach = reach
        head = trim.head * SEGMENT_SECONDS
        n_segments = [int(trim.count_left(np.array(len(video)))) for video in videos]
        spare = -(-2 * reach // SEGMENT_SECONDS)  # windows that begin in a video's last frames
        places = np.cumsum([0] + [count + spare for count in n_segments])
        frames = videos[0].new_zeros(int(places[-1]) * SEGMENT_SECONDS, videos[0].shape[1])
        for video, count, place in zip(videos, n_segments, places.tolist()):
            first, last = head - reach, head + count * SEGMENT_SECONDS + reach
            inside = video[max(first, 0) : last]
            start = place * SEGMENT_SECONDS + max(-first, 0)
            frames[start : start + len(inside)] = inside
        self.frames = frames.float()  # (N, D)
        counts = torch.tensor(n_segments)
        owners = torch.repeat_interleave(torch.arange(len(videos)), counts)
        self.owners = send(owners, frames.device)  # (S,), the video of each segment
        windows = torch.arange(len(owners)) + spare * owners
        self.segments = send(windows, frames.device)  # (S,), its window

    def pool(self, encoder: Encoder, encoded: Encoded, offset: int, shift: int) -> Tensor:
        """Features (S, F) of the segments, `shift` seconds later and with `offset` frames on either side.

        `encoded`: the encoder's output for `frames`.
        """
        first = self.reach - offset + shift
        windows = Windows(SEGMENT_SECONDS + 2 * offset, SEGMENT_SECONDS)
        return encoder.pool_rows(each(lambda rows: rows[first:], encoded), windows)[self.segments]


class Predictor:
    """Several models that predict the same videos, all on the device."""

    def __init__(self, members: Sequence[Member], computation: Computation) -> None:
        self.members, self.computation = members, computation
        share_context_encoders([member.model for member in members])
        self._move = BatchMover(computation.device)
        for member in members:
            fuse(member.model)

    def shifted(self, seconds: int) -> "Predictor":
        """The same models, for segments that begin `seconds` later."""
        other = copy(self)
        shifts = tuple(shift + seconds for shift in self.computation.shifts)
        other.computation = replace(self.computation, shifts=shifts)
        return other

    @torch.inference_mode()
    def __call__(self, videos: Sequence[Tensor], chosen: Sequence[int]) -> list[Tensor]:
        """Predictions (S, C) of the chosen members for the segments, without `trim`, of videos (L, D) uint8, in order.

        No video may be empty. Returns int16 round(p * 9999), on the device, and -1 for NaN.
        """
        shifts, trim = self.computation.shifts, self.computation.trim
        members = [self.members[number] for number in chosen]
        frames = self._move(list(videos))
        strip = Strip(frames, max(member.offset for member in members) + max(map(abs, shifts)), trim)
        encode = cache(lambda encoder, seen: _encode_videos(encoder, frames, seen)[strip.owners])
        results = []
        with self.computation.autocast():
            for model, offset, seen in ((member.model, member.offset, member.trim) for member in members):
                contexts = partial(encode, seen=seen)
                encoder = model.segment_encoder
                encoded = encoder.encode_frames(strip.frames)
                features = (strip.pool(encoder, encoded, offset, shift) for shift in shifts)
                total = reduce(add, (model.classify(shifted, contexts).float().sigmoid() for shifted in features))
                results.append((total * (SCALE / len(shifts))).round().nan_to_num(_NOT_A_NUMBER).to(torch.int16))
        return results

    def checked(self, results: Sequence[np.ndarray], chosen: Sequence[int]) -> Sequence[np.ndarray]:
        """The predictions, if none is NaN; otherwise raises `UserError` naming the model."""
        for number, values in zip(chosen, results):
            if values.size and values.min() < 0:
                raise UserError(
                    f"{self.members[number].name}: predicts values that are not numbers; its weights are "
                    "unusable" + ("" if self.computation.amp is None else ", or need --amp off")
                )
        return results


def mean_probabilities(predictor: Predictor, videos: Sequence[Tensor], n_classes: int) -> list[np.ndarray]:
    """The mean of all models' probabilities, (S, C) for each of the videos (L, D) uint8, which may be empty.

    Raises `UserError` naming a model that predicts NaN.
    """
    counts = predictor.computation.trim.count_left(np.array([len(video) for video in videos], np.int64))
    mean = np.empty((0, n_classes))
    if counts.any():
        members = range(len(predictor.members))
        results = predictor([video for video in videos if len(video)], members)
        mean = np.mean(predictor.checked([values.cpu().numpy() for values in results], members), axis=0) / SCALE
    ends = np.cumsum(counts)
    return [mean[end - count : end] for end, count in zip(ends, counts)]


def video_groups(row_ends: np.ndarray, batch_size: int) -> list[slice]:
    """All videos in order, in groups of the fewest videos with at least `batch_size` segments.

    `row_ends` (videos,): cumulative numbers of segments.
    """
    groups = []
    start = rows = 0
    while start < len(row_ends):
        stop = min(int(np.searchsorted(row_ends, rows + batch_size)) + 1, len(row_ends))
        groups.append(slice(start, stop))
        start, rows = stop, int(row_ends[stop - 1])
    return groups


def _encode_videos(encoder: Encoder, videos: Sequence[Tensor], trim: Trim) -> Tensor:
    """Features (V, F) of whole videos (L, D) uint8, without head and tail."""
    seen = [video[slice(*context_frames(len(video), trim))] for video in videos]
    return encoder.encode_whole(torch.cat(seen).float(), [len(video) for video in seen])


def share_context_encoders(models: Sequence[SegmentModel]) -> None:
    """Let context-aware models whose context encoders have the same weights share one encoder."""
    known: list[ContextAwareModel] = []
    for model in models:
        if isinstance(model, ContextAwareModel):
            twin = next((other for other in known if _same_context(model, other)), None)
            if twin is None:
                known.append(model)
            else:
                model.context_model = twin.context_model


def _same_context(first: ContextAwareModel, second: ContextAwareModel) -> bool:
    if first.base_config != second.base_config:
        return False
    states = [model.context_model.state_dict() for model in (first, second)]
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


class Arrival:
    """Tensors being copied to the CPU; a GPU keeps computing meanwhile."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        if device.type != "cuda":
            self._tensors, self._event = list(tensors), None
            return
        self._tensors = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for target, tensor in zip(self._tensors, tensors):
            target.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> list[np.ndarray]:
        """Wait for the tensors, and return them."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


def one_behind(items: Iterable[tuple[Label, Arrival]]) -> Iterator[tuple[Label, list[np.ndarray]]]:
    """Yield what arrives, waiting for each item only after the next has been started."""
    before: tuple[Label, Arrival] | None = None
    for item in items:
        if before is not None:
            yield before[0], before[1].wait()
        before = item
    if before is not None:
        yield before[0], before[1].wait()


@torch.inference_mode()
def predict_videos(model: VideoModel, videos: Sequence[Tensor], computation: Computation, trim: Trim) -> Tensor:
    """Probabilities (V, C) float32 of a fused video model, on its device, for videos (L, D) uint8 without `trim`."""
    frames = [video.to(computation.device, non_blocking=True) for video in videos]
    with computation.autocast():
        return model.logits(_encode_videos(model, frames, trim)).float().sigmoid()


@dataclass(frozen=True)
class ModelChoice:
    """Model folders of a `directory`, those with these `names` or, without any, all of them.

    `vocabulary`: the file with the classes of models whose folders do not list theirs.
    """

    directory: Path
    names: Sequence[str] | None = None
    vocabulary: Path | None = None

    def open(self, name: str) -> ModelFolder:
        """The folder of this name. Raises `UserError`."""
        return open_folder(self.directory / name, named_vocabulary(self.vocabulary))

    def open_all(self) -> list[ModelFolder]:
        """The folders. Raises `UserError`, also for a duplicate name."""
        names = self.names or [path.name for path in list_folders(self.directory)]
        folders = [self.open(name) for name in names]
        for folder in folders:
            if sum(folder.name == other.name for other in folders) > 1:
                raise UserError(f"--model-names: {folder.name} is named more than once")
        return folders


def load_members(
    folders: Sequence[ModelFolder], offset: int | None, vocabulary: Vocabulary, device: torch.device
) -> list[Member]:
    """Load the models to the device, with outputs in the order of the vocabulary; `offset` None: as each was trained.

    Raises `UserError` for a model of other classes.
    """
    models = [load_segment_model(folder, vocabulary).eval() for folder in folders]
    return [
        Member(folder.name, model.to(device), folder.offset if offset is None else offset, trim_of(folder.features))
        for folder, model in zip(folders, models)
    ]


def require_features(folders: Sequence[ModelFolder], reader: ShardReader) -> None:
    """Raise `UserError` for a model of other features than `reader` reads."""
    for folder in folders:
        require_same(reader.features, reader.index.folder, folder.features, folder.path)
