"""The two files of a model folder and their digest; imports nothing heavy."""
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
