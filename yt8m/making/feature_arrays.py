"""Users' own frame features: a folder of `<video id>.npy`, one row per second, uint8 or float.

Dimensions: L seconds of a video, W columns of its array.
"""

import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from yt8m.common.errors import SHOWN, Faults, UserError, did_you_mean
from yt8m.common.progress import Progress
from yt8m.data.features import pieces
from yt8m.data.records import ID_RULE, composed, unfit_ids

_TAILS = 0.001, 0.999  # quantiles: values beyond them would use up most of the 256 steps
_SAMPLED_VALUES = 2**21


@dataclass(frozen=True)
class Survey:
    """Properties of the arrays of some videos, each read once.

    `lengths`: seconds of each video; `dtype`: of the first array; `low` and `high` (W,): the extremes of each column of
    float arrays (0 and 255 for uint8); `sample` (rows, W): rows of float arrays, from all or at least many videos.
    """

    folder: Path
    lengths: dict[str, int]
    dtype: np.dtype
    low: np.ndarray
    high: np.ndarray
    sample: np.ndarray

    @property
    def width(self) -> int:
        """W."""
        return len(self.low)

    @property
    def is_float(self) -> bool:
        """Whether a range is needed to convert the values to bytes."""
        return self.dtype.kind == "f"

    def extent(self, columns: slice) -> str:
        """The range of the values of some columns, as text."""
        return f"from {self.low[columns].min():.6g} to {self.high[columns].max():.6g}"

    def usual_range(self, columns: slice) -> tuple[float, float] | None:
        """The range of the sampled values of some columns without outliers; None if all are the same."""
        return usual_range(self.sample[:, columns], (self.low[columns].min(), self.high[columns].max()))


def usual_range(sample: np.ndarray, extremes: tuple[float, float]) -> tuple[float, float] | None:
    """The range of values without outliers, rounded; None if all values are the same.

    `extremes`: of all values, of which these are a sample; used if nearly all of the sample is the same.
    """
    low, high = np.quantile(sample, _TAILS)
    if low == high:
        low, high = extremes
    for digits in range(3, 18):
        rounded = [float(f"{value:.{digits}g}") + 0.0 for value in (low, high)]  # + 0.0: not -0
        if rounded[0] < rounded[1]:
            return rounded[0], rounded[1]
    return None


def array_path(folder: Path, video_id: str) -> Path:
    """The path of a video's array; if there is none of just this name, that of one whose accents are in parts."""
    path = folder / f"{video_id}.npy"
    if video_id.isascii() or os.path.exists(path):
        return path
    apart = path.with_name(unicodedata.normalize("NFD", path.name))
    if os.path.exists(apart):
        return apart
    return next((other for other in folder.glob("*.npy") if composed(other.name) == composed(path.name)), path)


def list_arrays(folder: Path) -> list[str]:
    """The sorted video ids of a folder's arrays. Raises `UserError` if there are none, or two of an id."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of arrays, <video id>.npy")
    found = sorted(composed(path.name.removesuffix(".npy")) for path in folder.iterdir() if path.name.endswith(".npy"))
    if not found:
        raise UserError(f"{folder}: no .npy files in this folder")
    faults = Faults(folder, "two files whose names differ only in how letters with accents are stored; remove one")
    for video_id, other in pairwise(found):
        if video_id == other:
            faults.add(f"{video_id}.npy is there twice")
    faults.raise_any()
    return found


def check_ids(video_ids: Sequence[str], source: object) -> None:
    """Raise `UserError` for ids that a submission cannot hold, or that are not file names."""
    faults = Faults(source, f"{ID_RULE}; nor a slash, since it names files")
    for video_id in video_ids:
        if "/" in video_id or unfit_ids([video_id.encode(errors="surrogatepass")]):
            faults.add(f"video id {video_id!r}")
    faults.raise_any()


def require_arrays(video_ids: Collection[str], source: object, folders: Sequence[Path | None]) -> int:
    """Raise `UserError` if one of the given folders lacks the array of a video named by `source`.

    Returns the number of other videos in the first folder.
    """
    n_others = []
    for folder in folders:
        if folder is not None:
            known = list_arrays(folder)
            remedy = f"leave such videos out of it, or put their arrays into {folder}"
            require_known(video_ids, known, f"{{0}}.npy in {folder}", source, remedy)
            n_others.append(len(set(known) - set(video_ids)))
    return n_others[0]


def require_known(video_ids: Collection[str], known: Collection[str], what: str, source: object, remedy: str) -> None:
    """Raise `UserError` for unknown ids of videos, named by `source`; `what` each lacks, with {0} for its id."""
    missing = sorted(set(video_ids) - set(known))
    faults = Faults(source, remedy)
    for video_id in missing:
        near = did_you_mean(video_id, known) if len(missing) <= SHOWN else None
        faults.add(f"video {video_id} has no {what.format(video_id)}" + (f" ({near})" if near else ""))
    faults.raise_any()


def read_array(folder: Path, video_id: str, values: bool = True) -> np.ndarray:
    """Read the array of a video (L, W). Raises `UserError` if it is not an array of features.

    Without `values` only shape and type are read: the array is mapped into memory, where reading a value that the disk
    cannot deliver would kill the process.
    """
    path = array_path(folder, video_id)
    try:
        array = np.load(path, mmap_mode=None if values else "r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # whatever a damaged header raises
        if "pickle" in str(error):  # what numpy takes every foreign file for; its hint to load it is no remedy
            raise UserError(f"{path}: cannot be read as an array of numbers; save one with numpy.save") from None
        raise UserError(f"{path}: cannot be read as an array ({' '.join(str(error).split())})") from None
    if not isinstance(array, np.ndarray):  # a zip file of arrays under this name
        raise UserError(f"{path}: not an array; save one with numpy.save")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError(f"{path}: values are {array.dtype}, expected uint8 or floats")
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{path}: shape is {array.shape}, expected (seconds, width), neither of them 0")
    return array


def survey(folder: Path, video_ids: Sequence[str], progress: Progress) -> Survey:
    """Read the arrays of these videos, one at a time. Raises `UserError` that lists their faults."""
    faults = Faults(folder)
    lengths: dict[str, int] = {}
    dtype, low, high = np.dtype(np.uint8), np.empty(0), np.empty(0)
    first = ""
    widths: set[int] = set()
    samples: list[np.ndarray] = []
    for number, video_id in enumerate(video_ids):
        name = array_path(folder, video_id).name
        try:
            array = read_array(folder, video_id, values=False)
            if array.dtype.kind == "f":
                array = read_array(folder, video_id)
        except UserError as error:
            faults.add(str(error).removeprefix(f"{folder}/"))
            continue
        if not lengths:
            first, dtype = name, array.dtype
            low, high = np.full(array.shape[1], 255.0), np.zeros(array.shape[1])
            if dtype.kind == "f":
                low, high = np.full(array.shape[1], np.inf), np.full(array.shape[1], -np.inf)
        if array.shape[1] != len(low):
            faults.add(f"{name}: {array.shape[1]} columns wide, {first} is {len(low)}")
        elif array.dtype.kind != dtype.kind:
            faults.add(f"{name}: values are {array.dtype}, those of {first} {dtype}")
        elif dtype.kind == "f":
            own = _extremes(array)
            if not np.isfinite(own).all():
                faults.add(f"{name}: has values that are not finite numbers")
            else:
                low, high = np.minimum(low, own[0]), np.maximum(high, own[1])
                samples.append(_sample(array, number, len(video_ids)))
        lengths[video_id] = len(array)
        widths.add(array.shape[1])
        progress.update(1)
    if len(widths) > 1 and len(set(lengths.values())) == 1:
        faults.remedy = "probably transposed, (width, seconds): save array.T"
    faults.raise_any()
    if dtype.kind != "f":
        low, high = np.zeros(len(low)), np.full(len(low), 255.0)
        samples = [np.empty((0, len(low)))]
    return Survey(folder, lengths, dtype, low, high, np.concatenate(samples))


def _sample(array: np.ndarray, number: int, n_arrays: int) -> np.ndarray:
    """Some rows of array `number` of `n_arrays`, (rows, W) float64; all samples together have a bounded size."""
    n_rows = max(_SAMPLED_VALUES // array.shape[1], 1)  # of all arrays
    if number % -(-n_arrays // n_rows):
        return np.empty((0, array.shape[1]))
    n_own = min(max(n_rows // n_arrays, 1), len(array))
    return array[((np.arange(n_own) + 0.5) * (len(array) / n_own)).astype(int)].astype(np.float64)


def _extremes(array: np.ndarray) -> np.ndarray:
    """Minimum and maximum of each column, (2, W) float64; NaN for columns with NaN."""
    parts = [array[rows] for rows in pieces(len(array))]
    return np.stack(
        [np.min([part.min(axis=0) for part in parts], axis=0), np.max([part.max(axis=0) for part in parts], axis=0)]
    ).astype(np.float64)
