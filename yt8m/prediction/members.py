"""From model folders to the models that predict together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m.common.errors import UserError
from yt8m.data.features import require_same
from yt8m.data.reader import ShardReader
from yt8m.data.vocabulary import Vocabulary, named_vocabulary
from yt8m.models.artifacts import ModelFolder, list_folders, load_segment_model, open_folder
from yt8m.prediction.inference import Member


@dataclass(frozen=True)
class ModelChoice:
    """Model folders of a `directory`, those with these `names` or, without any, all of them.

    `vocabulary`: the file of the classes of models whose folders do not say which they have.
    """

    directory: Path
    names: Sequence[str] | None = None
    vocabulary: Path | None = None

    def open(self, name: str) -> ModelFolder:
        """The folder of this name. Raises `UserError`."""
        return open_folder(self.directory / name, named_vocabulary(self.vocabulary))

    def open_all(self) -> list[ModelFolder]:
        """The folders. Raises `UserError`, also for one named twice."""
        names = self.names or [path.name for path in list_folders(self.directory)]
        folders = [self.open(name) for name in names]
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
