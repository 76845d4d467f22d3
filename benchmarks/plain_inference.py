"""The plain way from test shards to a submission, written from the description of the 2019 release.

Metadata: every record is decoded. Predictions: segment by segment, encoding each frame once per overlapping segment,
and each video once per segment. Submission: entry by entry, in Python.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.plain_loading import PlainRecords, expanded, pad_videos
from benchmarks.plain_models import PlainContextAware, build_plain_model
from yt8m.data.frames import CANDIDATES, HEAD_SEGMENTS, SEGMENT_SECONDS, context_frames
from yt8m.models.model_files import WEIGHTS_NAME
from yt8m.models.model_folders import ModelFolder

BATCH_SIZE = 128


def plain_metadata(folder: Path) -> list[tuple[int, int]]:
    """Video and segment number of every row, from the decoded records."""
    return [
        (video, HEAD_SEGMENTS + row)
        for video, record in enumerate(PlainRecords(folder))
        for row in range(int(CANDIDATES.count_left(np.array(len(record["frames"])))))
    ]


def plain_model(folder: ModelFolder, n_classes: int) -> nn.Module:
    """The segment model of a folder in its plain form."""
    state = torch.load(folder.path / WEIGHTS_NAME, weights_only=True)
    config = folder.config
    model: nn.Module
    if config.segment_w_context is None:
        assert config.video is not None
        model = build_plain_model(config.video.model, n_classes)
        model.load_state_dict({key.removeprefix("_model."): value for key, value in state.items()})
    else:
        assert config.context_base is not None and config.segment_base is not None
        model = PlainContextAware(
            config.segment_w_context.model, config.context_base.model, config.segment_base.model, n_classes
        )
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all(
            ".expert_fc." in key or ".gating_fc." in key or ".se_gating." in key for key in missing
        )  # heads, which encoders lack
    return model.eval()


@torch.no_grad()
def plain_predictions(model: nn.Module, videos: list[Tensor], offset: int) -> np.ndarray:
    """int16 predictions (S, C) for the candidate segments of videos (L, D) uint8, in batches of segments."""
    items = [
        (video, (HEAD_SEGMENTS + row) * SEGMENT_SECONDS)
        for video in videos
        for row in range(int(CANDIDATES.count_left(np.array(len(video)))))
    ]
    results = []
    for first in range(0, len(items), BATCH_SIZE):
        batch = items[first : first + BATCH_SIZE]
        segments = torch.stack([expanded(video.float(), start, offset) for video, start in batch])
        if isinstance(model, PlainContextAware):
            seen = [video[slice(*context_frames(len(video)))].float() for video, _ in batch]
            logits = model(segments, pad_videos(seen), torch.tensor([len(video) for video in seen]))
        else:
            logits = model(segments, torch.full((len(batch),), segments.shape[1]))
        results.append((logits.sigmoid() * 9999).round().to(torch.int16).numpy())
    return np.concatenate(results)


def plain_submission(maps: list[np.ndarray], names: list[str], labels: list[int], top_k: int, path: Path) -> None:
    """Average the maps and write the best segments of each class, entry by entry."""
    with path.open("w", encoding="utf-8") as file:
        file.write("Class,Segments\n")
        for column, label in enumerate(labels):
            entries = []
            for row, name in enumerate(names):
                entries.append((sum(int(values[row, column]) for values in maps) / len(maps), name))
            entries.sort(key=lambda entry: -entry[0])
            file.write(f"{label}," + " ".join(name for _, name in entries[:top_k]) + "\n")
