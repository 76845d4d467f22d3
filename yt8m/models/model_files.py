"""The files of a model folder and detection of changes; imports nothing heavy."""

import hashlib
import json
from pathlib import Path
from typing import Any

CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.pth"
ORIGIN_NAME = "run.json"  # beside them, if this release has trained the model


def folder_digest(path: Path) -> str:
    """SHA-256 of configuration and weights of a model folder, which identifies its predictions.

    Raises `OSError`.
    """
    digest = hashlib.sha256((path / CONFIG_NAME).read_bytes())
    with (path / WEIGHTS_NAME).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_stamps(path: Path) -> list[list[int]]:
    """Size in bytes and modification time in ns of configuration and weights. Raises `OSError`."""
    stats = [(path / name).stat() for name in (CONFIG_NAME, WEIGHTS_NAME)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def read_origin(folder: Path) -> dict[str, Any] | None:
    """The origin in the folder's `run.json`; None if there is none or it cannot be read."""
    try:
        found = json.loads((folder / ORIGIN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
