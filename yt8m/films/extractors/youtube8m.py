"""`yt8m`: features for models trained on the published data set, by its organizers' recipe.

A frame becomes 1,024 numbers by the Inception network of 2015 and a PCA, the first 0.96 seconds of a second's sound 128
by VGGish and a PCA. They are clipped to -2 to 2 and rounded to bytes; the extractor returns the values of these bytes,
so that shards get exactly the bytes.

The features are not identical to those in the published shards: the maintainers call the networks that they offer
approximate (https://github.com/google-ai-edge/mediapipe/issues/408). docs/yt8m-features.md tells how to measure the
difference.

Dimensions: N seconds, H and W pixels, V = 1024 visual and A = 128 audio features, P = 2048 Inception features.
"""

import hashlib
import io
import logging
import multiprocessing
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yt8m.common.errors import UserError, first_line
from yt8m.data.features import PUBLISHED_EXTRACTOR, PUBLISHED_RANGE
from yt8m.films.extractors.base import Extractor, Options, register
from yt8m.films.extractors.shared import digest_of, exactly, one_by_one, required_package
from yt8m.films.extractors.vggish import EMBEDDING, WINDOWS, VGGish
from yt8m.films.log_mel import log_mel

LOGGER = logging.getLogger(__name__)
NAME = PUBLISHED_EXTRACTOR
VISUAL = 1024
_INCEPTION = 2048
_FRAME, _POOLED = "DecodeJpeg:0", "pool_3/_reshape:0"
_PCA_FLOOR = 1e-4  # added to eigenvalues
_LIMIT = 2.0  # of values, before quantization
_LARGEST_MEMBER = 2**30  # bytes; the published ones have at most 100 MB
_DAMAGED = (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class _Source:
    """A published file: its name and address, the unpacked files that may replace it, and its digest, if known."""

    name: str
    address: str
    holds: tuple[str, ...] = ()
    md5: str | None = None


# Digests are from https://github.com/cosmir/openmic-2018.
_GRAPH = _Source(
    "inception-2015-12-05.tgz",
    "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
    ("classify_image_graph_def.pb",),
)
_PCA = _Source("yt8m_pca.tgz", "http://data.yt8m.org/yt8m_pca.tgz", ("mean.npy", "eigenvals.npy", "eigenvecs.npy"))
_VGGISH = _Source(
    "vggish_model.ckpt",
    "https://storage.googleapis.com/audioset/vggish_model.ckpt",
    md5="d1c7011e6366aa34176bb05c705e31a8",
)
_VGGISH_PCA = _Source(
    "vggish_pca_params.npz",
    "https://storage.googleapis.com/audioset/vggish_pca_params.npz",
    md5="c80cae691033abe7c7ecd11ea39fc834",
)
SOURCES = (_GRAPH, _PCA, _VGGISH, _VGGISH_PCA)


def released_bytes(values: np.ndarray) -> np.ndarray:
    """Features quantized like the organizers' extractor does it: clipped to -2 to 2 and rounded."""
    return ((np.clip(values, -_LIMIT, _LIMIT) + 2) * 255 / 4).round().astype(np.uint8)


def released_values(quantized: np.ndarray) -> np.ndarray:
    """The values of the published data set's bytes, float32."""
    low, high = PUBLISHED_RANGE
    return (quantized * ((high - low) / 255) + low).astype(np.float32)


class YouTube8M(Extractor):
    """See the module."""

    name = NAME
    visual, audio = VISUAL, EMBEDDING
    visual_range = audio_range = PUBLISHED_RANGE

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Open the files in `folder`. Raises `UserError` for missing or wrong ones."""
        files, checkpoint = _files(folder), folder / _VGGISH.name
        tensorflow = _tensorflow()
        self.digest = digest_of({"extractor": NAME, "version": 1}, {**files, checkpoint.name: checkpoint})
        self._mean = _array(folder, "mean.npy", files, range(_INCEPTION, _INCEPTION + 1), 1)[:, 0]
        eigenvalues = _array(folder, "eigenvals.npy", files, range(VISUAL, _INCEPTION + 1), 1)[:VISUAL, 0]
        if (eigenvalues < 0).any():
            raise UserError(f"{folder / 'eigenvals.npy'}: has eigenvalues below 0; {_again(_PCA)}")
        self._scale = np.sqrt(eigenvalues + _PCA_FLOOR)
        eigenvectors = _array(folder, "eigenvecs.npy", files, range(VISUAL, _INCEPTION + 1), _INCEPTION)
        self._vectors = eigenvectors.T[:, :VISUAL]
        self._audio_mean, self._audio_vectors = _audio_pca(folder / _VGGISH_PCA.name, files[_VGGISH_PCA.name])
        self._inception = _Inception(tensorflow, files[_GRAPH.holds[0]], folder / _GRAPH.holds[0], device)
        self._vggish = _vggish(tensorflow, checkpoint).to(device)
        self._device = device

    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Extractor`."""
        return released_values(released_bytes(one_by_one(frames, VISUAL, self._visual_features, NAME)))

    def encode_sound(self, sound: np.ndarray) -> np.ndarray:
        """See `Extractor`."""
        patches = log_mel(sound)[:, :WINDOWS]
        return released_values(released_bytes(one_by_one(patches, EMBEDDING, self._audio_features, NAME)))

    def without_sound(self) -> np.ndarray:
        """The value of the byte 0, which the organizers' extractor writes."""
        return released_values(np.zeros(EMBEDDING, np.uint8))

    def _visual_features(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 → (V,), whitened."""
        return (self._inception(frame) - self._mean) @ self._vectors / self._scale

    def _audio_features(self, patch: np.ndarray) -> np.ndarray:
        """A log-mel patch (`WINDOWS`, `BANDS`) → (A,), whitened."""
        with torch.inference_mode(), exactly():
            embedding = self._vggish(torch.from_numpy(patch).to(self._device)[None])[0].cpu().numpy()
        return self._audio_vectors @ (embedding - self._audio_mean)


@register(NAME)
def open_youtube8m(rest: str, options: Options) -> Extractor:
    """The extractor `yt8m`, with the files in `options.assets`."""
    if rest:
        raise UserError(f"extractor {NAME}:{rest}: expected {NAME} alone; its files are in the folder of --assets")
    if options.assets is None:
        files = ", ".join(f"{source.name} ({source.address})" for source in SOURCES)
        raise UserError(f"extractor {NAME}: needs --assets FOLDER, into which you have downloaded {files}")
    return YouTube8M(options.assets, options.device)


class _Inception:
    """The graph of 2015 in a TensorFlow session."""

    def __init__(self, tensorflow: Any, serialized: bytes, path: Path, device: torch.device) -> None:
        from google.protobuf.message import DecodeError

        v1 = tensorflow.compat.v1
        definition = v1.GraphDef()
        try:
            definition.ParseFromString(serialized)
            with v1.Graph().as_default() as graph:
                v1.import_graph_def(definition, name="")
            self._frame, self._pooled = (graph.get_tensor_by_name(name) for name in (_FRAME, _POOLED))
        except (DecodeError, ValueError, KeyError, tensorflow.errors.OpError) as error:
            problem = f"is not a graph with {_FRAME} and {_POOLED} ({first_line(error)})"
            raise UserError(f"{path}: {problem}; {_again(_GRAPH)}") from None
        settings = v1.ConfigProto(
            intra_op_parallelism_threads=1,  # for reproducible results
            inter_op_parallelism_threads=1,
            device_count={"GPU": int(device.type == "cuda")},
        )
        settings.gpu_options.allow_growth = True  # share the memory with torch
        self._session = v1.Session(graph=graph, config=settings)
        try:
            shape = self._run(np.zeros((8, 8, 3), np.uint8)).shape
        except (TypeError, ValueError, tensorflow.errors.OpError) as error:
            raise UserError(f"{path}: cannot be run ({first_line(error)}); {_again(_GRAPH)}") from None
        if shape != (1, _INCEPTION):
            raise UserError(f"{path}: {_POOLED} has the shape {shape}, not (1, {_INCEPTION}); {_again(_GRAPH)}")

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 → (P,) float32."""
        return self._run(frame)[0]

    def _run(self, frame: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(self._pooled, {self._frame: frame}))


def _again(source: _Source) -> str:
    return f"download {source.name} again, from {source.address}"


def _files(folder: Path) -> dict[str, bytes]:
    """The contents of all files except VGGish's checkpoint, by name; from archives unless they are unpacked. Raises one
    `UserError` for all missing files."""
    there = {name for source in SOURCES for name in (source.name, *source.holds) if (folder / name).is_file()}
    missing = [
        source for source in SOURCES if source.name not in there and not (source.holds and there >= {*source.holds})
    ]
    if missing:
        lacking = ", ".join(f"{source.name} ({source.address})" for source in missing)
        raise UserError(f"{folder}: lacks {lacking}, which the extractor {NAME} needs; download them there")
    contents = {_VGGISH_PCA.name: (folder / _VGGISH_PCA.name).read_bytes()}
    for source in (_GRAPH, _PCA):
        if there >= {*source.holds}:
            contents |= {name: (folder / name).read_bytes() for name in source.holds}
        else:
            contents |= _members(folder / source.name, source)
    for source in (_VGGISH, _VGGISH_PCA):
        _warn_of_another(folder / source.name, source)
    return contents


def _members(path: Path, source: _Source) -> dict[str, bytes]:
    """The files of an archive, in any of its folders, read without unpacking to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:  # to the end, to detect truncated downloads
                name = member.name.rpartition("/")[2]
                if name in source.holds and member.isreg() and member.size <= _LARGEST_MEMBER:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
    except _DAMAGED as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {_again(source)}") from None
    if lacking := [name for name in source.holds if name not in found]:
        raise UserError(f"{path}: lacks {' and '.join(lacking)}; {_again(source)}")
    return {name: found[name] for name in source.holds}


def _warn_of_another(path: Path, source: _Source) -> None:
    """Warn, in the main process only, if a file has another digest."""
    if multiprocessing.parent_process() is not None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != source.md5:
        known = f"(MD5 {digest}, not {source.md5})"
        LOGGER.warning("%s: is not the known file of %s %s; its features may differ", path, source.address, known)


def _array(folder: Path, name: str, files: Mapping[str, bytes], rows: range, columns: int) -> np.ndarray:
    """The array of a `.npy` file of the PCA: floats, with a number of rows in `rows`."""
    try:
        array = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except _DAMAGED as error:
        raise UserError(f"{folder / name}: cannot be read as an array ({first_line(error)}); {_again(_PCA)}") from None
    fits = array.ndim == 2 and array.shape[0] in rows and array.shape[1] == columns
    wanted = f"({rows[0]}{f' to {rows[-1]}' * (len(rows) > 1)}, {columns})"
    return _floats(array, fits, folder / name, wanted, _PCA)


def _floats(array: np.ndarray, fits: bool, path: object, wanted: str, source: _Source) -> np.ndarray:
    if not fits or array.dtype.kind != "f":
        raise UserError(f"{path}: is {array.dtype} with the shape {array.shape}, not floats {wanted}; {_again(source)}")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: has numbers that are not finite; {_again(source)}")
    return array


def _audio_pca(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The means (A,) and the whitened eigenvectors (A, A), one per row."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            means, vectors = np.asarray(arrays["pca_means"]), np.asarray(arrays["pca_eigen_vectors"])
    except (*_DAMAGED, AttributeError, TypeError) as error:  # of a file with a single array
        problem = f"cannot be read as pca_means and pca_eigen_vectors ({first_line(error)})"
        raise UserError(f"{path}: {problem}; {_again(_VGGISH_PCA)}") from None
    square, column = (EMBEDDING, EMBEDDING), (EMBEDDING, 1)
    vectors = _floats(vectors, vectors.shape == square, f"{path}: pca_eigen_vectors", str(square), _VGGISH_PCA)
    means = _floats(means, means.shape == column, f"{path}: pca_means", str(column), _VGGISH_PCA)
    return means[:, 0], vectors


def _vggish(tensorflow: Any, path: Path) -> VGGish:
    """The network with the weights of a checkpoint."""
    try:
        reader = tensorflow.train.load_checkpoint(str(path))
        names = reader.get_variable_to_shape_map()

        def read(name: str) -> np.ndarray:
            if name not in names:
                raise ValueError(f"lacks {name}")
            return np.asarray(reader.get_tensor(name))

        return VGGish(read).eval()
    except (ValueError, RuntimeError, tensorflow.errors.OpError) as error:
        problem = f"is not the checkpoint of VGGish ({first_line(error)})"
        raise UserError(f"{path}: {problem}; {_again(_VGGISH)}") from None


def _tensorflow() -> Any:
    """The module `tensorflow`, silenced. Raises `UserError` if it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        return required_package("tensorflow", NAME, "pip install tensorflow, with Python 3.11 to 3.13")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what C++ libraries write to standard error while they are loaded."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
