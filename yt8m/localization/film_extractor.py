"""The extractor of films' features for a model, the same that made its training features."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from yt8m.common.errors import UserError
from yt8m.films.extraction import require_extractor
from yt8m.films.extractors.base import Extractor, Options
from yt8m.films.extractors.opening import open_extractor
from yt8m.localization.localizer import Localizer


@dataclass
class FilmExtractor:
    """Opens an extractor for the first film: `name`, None for the models' own; `assets` as in `Options`."""

    name: str | None
    assets: Path | None
    device: torch.device
    _opened: Extractor | None = field(default=None, init=False)

    def __call__(self, localizer: Localizer) -> Extractor:
        """The extractor for a localizer's models. Raises `UserError` if it is unknown, or a different one."""
        if self._opened is None:
            whose = localizer.folders[0].path
            own = localizer.features.extractor
            name = self.name or (None if own is None else own.name)
            if name is None:
                raise UserError(
                    f"{whose}: does not name the extractor of its training features; name it with "
                    "--extractor (for models of the released data set: --extractor yt8m --assets FOLDER)"
                )
            self._opened = open_extractor(name, Options(self.assets, self.device))
            require_extractor(self._opened, localizer.features, whose)
        return self._opened
