"""From model folders to the models that predict together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from yt8m.common.errors import UserError
from yt8m.data.features import require_same
from yt8m.data.reader import ShardReader
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.artifacts import ModelFolder, list_folders, load_segment_model, open_folder
from yt8m.prediction.inference import Member


def chosen_folders(
    directory: Path, names: Sequence[str] | None, vocabulary: Vocabulary | None = None
) -> list[ModelFolder]:
    """The model folders of a directory, all of them or those named; `vocabulary` is for those that hold none.

    Raises `UserError`, also for one named twice.
    """
    paths = [directory / name for name in names] if names else list_folders(directory)
    folders = [open_folder(path, vocabulary) for path in paths]
    for folder in folders:
        if sum(folder.name == other.name for other in folders) > 1:
            raise UserError(f"--model-names: {folder.name} is named more than once")
    return folders


def load_members(
    folders: Sequence[ModelFolder], offset: int | None, vocabulary: Vocabulary, device: torch.device
) -> list[Member]:
    """The models, on the device, their outputs in the order of the vocabulary; `offset` None is what each was trained
    with.

    Raises `UserError` for a model of other classes.
    """
    models = [load_segment_model(folder, vocabulary).eval() for folder in folders]
    return [
        Member(folder.name, model.to(device), folder.offset if offset is None else offset)
        for folder, model in zip(folders, models)
    ]


def require_features(folders: Sequence[ModelFolder], reader: ShardReader) -> None:
    """Raise `UserError` for a model of other features than those that `reader` reads."""
    for folder in folders:
        require_same(reader.features, reader.index.folder, folder.features, folder.path)
