"""Predictions of segment models for whole videos.

Dimensions: S candidate segments of a video, L frames of the video, D features of a frame, C classes.
"""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from yt8m.errors import UserError
from yt8m.segment_models import ContextAgnosticModel, SegmentModel
from yt8m.segments import HEAD_SEGMENTS, SEGMENT_SECONDS, candidate_segments, context_frames


@dataclass(frozen=True)
class Member:
    """A model that predicts: in eval mode, on its device; `offset` frames on either side of a segment."""

    name: str
    model: SegmentModel
    offset: int


def expanded_segments(frames: Tensor, offset: int) -> Tensor:
    """All candidate segments of a video, frames (L, D) → (S, 5 + 2·offset, D), zeros beyond the video."""
    n_segments = int(candidate_segments(np.array(len(frames))))
    first = HEAD_SEGMENTS * SEGMENT_SECONDS - offset
    last = (HEAD_SEGMENTS + n_segments) * SEGMENT_SECONDS + offset
    window = functional.pad(frames[max(first, 0):last], (0, 0, max(-first, 0), max(last - len(frames), 0)))
    return window.unfold(0, SEGMENT_SECONDS + 2 * offset, SEGMENT_SECONDS).transpose(1, 2)


def predict(videos: Iterable[tuple[int, Tensor]], members: list[Member], batch_size: int,
            device: torch.device) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Probabilities of the candidate segments of numbered videos (L, D) uint8, read once for all models.

    Yields for groups of videos, about `batch_size` segments each, their numbers and one array (all their
    segments, C) per model, float32 in 0..1.
    """
    numbers: list[int] = []
    group: list[Tensor] = []
    waiting = 0
    for number, video in videos:
        numbers.append(number)
        group.append(video)
        waiting += int(candidate_segments(np.array(len(video))))
        if waiting >= batch_size:
            yield numbers, _predict_group(group, members, device)
            numbers, group, waiting = [], [], 0
    if group:
        yield numbers, _predict_group(group, members, device)


@torch.inference_mode()
def _predict_group(group: list[Tensor], members: list[Member], device: torch.device) -> list[np.ndarray]:
    frames = [video.to(device, non_blocking=True) for video in group]
    batches: dict[int, tuple[Tensor, Tensor]] = {}
    for member in members:
        if member.offset not in batches:
            segments = [expanded_segments(video, member.offset) for video in frames]
            owners = torch.repeat_interleave(torch.tensor([len(part) for part in segments])).to(device)
            batches[member.offset] = torch.cat(segments), owners
    results = []
    for member in members:
        segments, owners = batches[member.offset]
        if isinstance(member.model, ContextAgnosticModel):
            logits = member.model(segments)
        else:
            # One video at a time: padding to the longest would cost more than it saves.
            contexts = [member.model.encode_context(video[slice(*context_frames(len(video)))].unsqueeze(0))
                        for video in frames]
            logits = member.model.classify(segments, torch.cat(contexts)[owners])
        probabilities = logits.float().sigmoid().cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise UserError(f"{member.name}: predicts values that are not numbers; its weights are of no use")
        results.append(probabilities)
    return results
