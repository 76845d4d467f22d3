"""Shared parts of extractors: audio features, one-by-one encoding, digests, optional packages."""

import hashlib
import json
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch

from yt8m.common.errors import import_package
from yt8m.films.extractors.base import SAMPLE_RATE, Extractor, require_finite
from yt8m.films.log_mel import BANDS, statistics

Item = TypeVar("Item")


class LogMelExtractor(Extractor, ABC):
    """An extractor whose audio features are log-mel statistics."""

    audio = 2 * BANDS

    def encode_sound(self, sound: np.ndarray) -> np.ndarray:
        """See `Extractor`."""
        return statistics(sound)

    def without_sound(self) -> np.ndarray:
        """The features of silence."""
        return statistics(np.zeros((1, SAMPLE_RATE), np.float32))[0]


def one_by_one(items: Iterable[Item], width: int, encode: Callable[[Item], np.ndarray], name: str) -> np.ndarray:
    """Vectors (N, `width`) of items, each computed alone, so that it does not depend on the others.

    Raises `UserError`, which names the extractor, for a vector that is not finite.
    """
    vectors = [encode(item) for item in items]
    result = np.stack(vectors) if vectors else np.empty((0, width), np.float32)
    require_finite(name, result)
    return result


@contextmanager
def exactly() -> Iterator[None]:
    """Compute in true float32 with one thread, so that results do not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)


def digest_of(settings: Mapping[str, object], parts: Mapping[str, bytes | Path]) -> str:
    """Hexadecimal SHA-256 of JSON-serializable settings and of the contents of named files."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, part in sorted(parts.items()):
        if isinstance(part, Path):
            with open(part, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            content = hashlib.sha256(part).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def required_package(module: str, name: str, remedy: str) -> ModuleType:
    """A package that the extractor `name` needs. Raises `UserError` if it is not installed or cannot be imported."""
    return import_package(module, f"extractor {name}", remedy)
