"""From model folders to the models that predict together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from yt8m.common.errors import UserError
from yt8m.data.reader import ShardReader
from yt8m.models.artifacts import ModelFolder, list_folders, load_segment_model, open_folder
from yt8m.prediction.inference import Member


def chosen_folders(directory: Path, names: Sequence[str] | None) -> list[ModelFolder]:
    """The model folders of a directory, all of them or those named. Raises `UserError`, also for one named twice."""
    paths = [directory / name for name in names] if names else list_folders(directory)
    folders = [open_folder(path) for path in paths]
    for folder in folders:
        if sum(folder.name == other.name for other in folders) > 1:
            raise UserError(f"--model-names: {folder.name} is named more than once")
    return folders


def load_members(
    folders: Sequence[ModelFolder], offset: int | None, n_classes: int, reader: ShardReader, device: torch.device
) -> list[Member]:
    """The models, on the device; `offset` None is what each was trained with.

    Raises `UserError` for a model that does not fit the vocabulary or the features that `reader` reads.
    """
    models = [load_segment_model(folder, n_classes).eval() for folder in folders]
    for base in (base for model in models for base in model.base_configs):
        reader.require_widths(base.video_dim, base.audio_dim)
    return [
        Member(folder.name, model.to(device), folder.offset if offset is None else offset)
        for folder, model in zip(folders, models)
    ]
