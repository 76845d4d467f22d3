"""The two files of a model folder, and how to tell whether they have changed; imports nothing heavy."""

import hashlib
from pathlib import Path

CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.pth"


def folder_digest(path: Path) -> str:
    """SHA-256 over both files of a model folder: the same digest, the same predictions. Raises `OSError`."""
    digest = hashlib.sha256((path / CONFIG_NAME).read_bytes())
    with (path / WEIGHTS_NAME).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_stamps(path: Path) -> list[list[int]]:
    """Size in bytes and modification time in ns of both files. Raises `OSError`."""
    stats = [(path / name).stat() for name in (CONFIG_NAME, WEIGHTS_NAME)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]
