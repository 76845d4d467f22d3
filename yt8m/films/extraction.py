"""Features of a film, one visual and one audio vector per second.

Dimensions: N seconds of a film, B seconds of a part of it, V visual and A audio features.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from yt8m.common.config import ExtractorIdentity, FeatureContract
from yt8m.common.errors import RecordError
from yt8m.data.features import Scale, feature_contract, require_same
from yt8m.data.threads import map_ahead
from yt8m.films.decoding import Film
from yt8m.films.extractors.base import Extractor, require_finite
from yt8m.films.pyav import av

_PART_SECONDS = 16  # seconds per call of an extractor; always the same seconds together
NO_SOUND = "no sound"


class Part(NamedTuple):
    """Features of some seconds: `rgb` (B, V) and `audio` (B, A), float32."""

    rgb: np.ndarray
    audio: np.ndarray


@dataclass(frozen=True, eq=False)
class FilmFeatures:
    """Features of a film: `rgb` (N, V) and `audio` (N, A), float32; `notes` describe what was lost."""

    rgb: np.ndarray
    audio: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Threads:
    """Encoding and decoding threads of a process. More than one decoding thread may change frames of damaged films."""

    encode: int = 1
    decode: int = 1


ONE_EACH = Threads()


def encoding_threads(device: torch.device) -> int:
    """How many threads encode on a device: one per core on a CPU; a GPU computes one thing at a time."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" else 1


def extract(film: Path, extractor: Extractor, threads: Threads = ONE_EACH) -> FilmFeatures:
    """The features of a film, bit for bit the same on the same machine for any number of encoding threads.

    Raises `RecordError` for a file that is not a film or has no readable frame.
    """
    parts: list[Part] = []
    notes = stream_features(film, extractor, parts.append, threads)
    rgb, audio = (np.concatenate(kind) for kind in zip(*parts))
    return FilmFeatures(rgb, audio, tuple(notes))


def stream_features(
    path: Path, extractor: Extractor, take: Callable[[Part], object], threads: Threads = ONE_EACH
) -> list[str]:
    """Pass the features of a film to `take` part by part, in memory that does not depend on its length.

    Returns notes, see `FilmFeatures`. Raises `RecordError` for a file that is not a film or has no readable frame.
    """
    try:
        with _one_thread_each(), Film(path, threads.decode) as film:
            notes: list[str] = []
            seconds = _read(film, extractor.shorter_side, extractor.audio > 0)
            encoded = map_ahead(
                lambda read: _encode(extractor, *read), seconds, threads.encode, threads.encode + 1, _use_one_thread
            )
            for part, has_sound in encoded:
                if not has_sound and not notes and extractor.audio:
                    notes.append(NO_SOUND)
                take(part)
            return [*notes, *film.notes]
    except av.FFmpegError as error:
        raise RecordError(path, f"cannot be decoded ({error.strerror})") from None


def quantize(features: Part | FilmFeatures, contract: FeatureContract) -> tuple[np.ndarray, int]:
    """Features as bytes (N, V + A) by the ranges of a contract, and the number of values outside of these."""
    kinds = [(features.rgb, contract.rgb)]
    if contract.audio is not None:
        kinds.append((features.audio, contract.audio))
    quantized = [Scale(*meaning.range).quantize(values) for values, meaning in kinds]
    return np.concatenate([values for values, _ in quantized], axis=1), sum(clipped for _, clipped in quantized)


def identity(extractor: Extractor) -> ExtractorIdentity:
    """The identity of an extractor, for a contract."""
    return ExtractorIdentity(name=extractor.name, digest=extractor.digest)


def require_extractor(extractor: Extractor, contract: FeatureContract, whose: object) -> None:
    """Raise `UserError` unless an extractor makes the features of the contract of `whose`."""
    rgb, audio = contract.rgb.range, (contract.audio or contract.rgb).range
    own = feature_contract(extractor.visual, extractor.audio, rgb, audio, identity(extractor))
    require_same(own, f"extractor {extractor.name}", contract, whose)


def _read(
    film: Film, shorter_side: int | None, with_sound: bool
) -> Iterator[tuple[list[np.ndarray], np.ndarray | None]]:
    """Frames of `_PART_SECONDS` seconds each, and their sound (B, SAMPLE_RATE), None if the film has none."""
    frames = film.frames(shorter_side)
    first = next(frames)  # pylint: disable=stop-iteration-return  # a film without frames is a UserError
    sound = film.sound() if with_sound else None
    frames = chain([first], frames)
    while group := list(islice(frames, _PART_SECONDS)):
        yield group, None if sound is None else np.stack(list(islice(sound, len(group))))


def _encode(extractor: Extractor, frames: Sequence[np.ndarray], sound: np.ndarray | None) -> tuple[Part, bool]:
    """The features of some seconds, and whether they have sound; repeated frames are encoded once."""
    is_new = [row == 0 or frame is not frames[row - 1] for row, frame in enumerate(frames)]
    rgb = extractor.encode_frames([frame for frame, new in zip(frames, is_new) if new])[np.cumsum(is_new) - 1]
    if not extractor.audio:
        audio = np.empty((len(frames), 0), np.float32)
    elif sound is None:
        audio = np.tile(extractor.without_sound(), (len(frames), 1))
    else:
        audio = extractor.encode_sound(sound)
    expected = (len(frames), extractor.visual), (len(frames), extractor.audio)
    if (rgb.shape, audio.shape) != expected:
        raise ValueError(f"extractor {extractor.name} gave {rgb.shape} and {audio.shape}, expected {expected}")
    require_finite(extractor.name, rgb, audio)
    return Part(rgb, audio), sound is not None


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let each thread compute alone, so that results do not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
