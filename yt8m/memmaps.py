"""Test metadata (which row is which segment) and prediction files (one memory map a model)."""
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yt8m.errors import UserError
from yt8m.files import replacing
from yt8m.index import Index
from yt8m.segments import HEAD_SEGMENTS, SEGMENT_SECONDS, candidate_segments

LOGGER = logging.getLogger(__name__)
META_NAME, PREDICTIONS_NAME = "test_meta.npz", "predictions"
SCALE = 9999


@dataclass(frozen=True)
class TestMeta:
    """The candidate segments of a test set, video after video.

    `records` (V,) rows of the index; `video_ids` (V,) bytes; `row_ends` (V,): rows of video v are
    row_ends[v-1] to row_ends[v], its segments 6, 7, ... in order.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    records: np.ndarray
    video_ids: np.ndarray
    row_ends: np.ndarray

    @property
    def n_rows(self) -> int:
        """Candidate segments in all."""
        return int(self.row_ends[-1])

    @property
    def row_starts(self) -> np.ndarray:
        """The first row of each video, (V,)."""
        return np.concatenate([[0], self.row_ends[:-1]])

    def row_videos(self) -> np.ndarray:
        """The video of each row, (rows,)."""
        return np.repeat(np.arange(len(self.records)), self.row_ends - self.row_starts)

    def row_segments(self) -> np.ndarray:
        """The segment index of each row within its video, (rows,); it starts at second 5 · index."""
        return np.arange(self.n_rows) - self.row_starts[self.row_videos()] + HEAD_SEGMENTS

    def row_names(self) -> np.ndarray:
        """What the submission calls each row, (rows,): `<video id>:<start second>`, as bytes."""
        starts = (self.row_segments() * SEGMENT_SECONDS).astype(np.bytes_)
        return np.char.add(np.char.add(self.video_ids[self.row_videos()], b":"), starts)

    def digest(self) -> str:
        """SHA-256 of the row order."""
        digest = hashlib.sha256(self.row_ends.astype("<i8").tobytes())
        digest.update(b"\n".join(self.video_ids.tolist()))
        return digest.hexdigest()


def make_test_meta(index: Index) -> TestMeta:
    """The candidate segments of a folder of test shards; videos without any are left out.

    Of several records with the same video id the first counts; the others are reported.
    """
    _, first = np.unique(index.video_id, return_index=True)
    if len(first) < len(index):
        LOGGER.warning("%s: %d records repeat a video id and are left out", index.folder, len(index) - len(first))
    counts = candidate_segments(index.n_frames)
    records = np.sort(first[counts[first] > 0])
    if not records.size:
        raise UserError(f"{index.folder}: no video is long enough to have a candidate segment")
    return TestMeta(records, index.video_id[records], np.cumsum(counts[records]))


def save_test_meta(meta: TestMeta, cache_dir: Path) -> Path:
    """Write the metadata into the cache folder; returns its path."""
    path = cache_dir / META_NAME
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, records=meta.records, video_ids=meta.video_ids, row_ends=meta.row_ends)
    return path


def load_test_meta(cache_dir: Path) -> TestMeta:
    """Read the metadata of a cache folder. Raises `UserError` if it is missing or damaged."""
    path = cache_dir / META_NAME
    remedy = "run `python -m yt8m.prepare_test_meta`"
    if not path.is_file():
        raise UserError(f"{path}: no test metadata; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return TestMeta(file["records"], file["video_ids"], file["row_ends"])
    except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged zip file raises
        raise UserError(f"{path}: cannot be read ({error}); {remedy} again") from None


@dataclass(frozen=True)
class PredictionFile:
    """`cache/predictions/<model>.npy`, int16 round(p · 9999) of (rows, C), and what it was made from."""

    path: Path

    @property
    def _origin_path(self) -> Path:
        return self.path.with_suffix(".json")

    def is_current(self, origin: dict) -> bool:
        """Whether the file is there, whole, and made from the same model, metadata and settings."""
        try:
            return self.path.is_file() and json.loads(self._origin_path.read_text(encoding="utf-8")) == origin
        except (OSError, ValueError):
            return False

    @contextmanager
    def writing(self, n_rows: int, n_classes: int, origin: dict) -> Iterator[np.memmap]:
        """A memory map to fill; it appears under its name when the block ends without an error."""
        with replacing(self.path) as temporary:
            values = np.lib.format.open_memmap(temporary, "w+", np.int16, (n_rows, n_classes))
            yield values
            values.flush()
            self._origin_path.unlink(missing_ok=True)
        with replacing(self._origin_path) as temporary:
            temporary.write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")

    def read(self, meta: TestMeta, n_classes: int) -> np.memmap:
        """The map, checked against the metadata and the vocabulary. Raises `UserError`."""
        remedy = "run `python -m yt8m.inference_memmap` again"
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such predictions; {remedy}")
        try:
            values = np.lib.format.open_memmap(self.path, "r")  # refuses pickled objects
        except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged header raises
            raise UserError(f"{self.path}: cannot be read as a memory map ({error}); {remedy}") from None
        if values.shape != (meta.n_rows, n_classes) or values.dtype != np.int16:
            raise UserError(f"{self.path}: {values.dtype} {values.shape}, but the test metadata and the vocabulary ask "
                            f"for int16 {(meta.n_rows, n_classes)}; {remedy}")
        try:
            origin = json.loads(self._origin_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # made elsewhere: nothing says more than its shape and values
            if values.min() < 0 or values.max() > SCALE:
                raise UserError(f"{self.path}: expected values of 0 to {SCALE}, found {values.min()} to "
                                f"{values.max()}; {remedy}") from None
            return values
        if not isinstance(origin, dict) or origin.get("test_meta") != meta.digest():
            raise UserError(f"{self.path}: made for other test metadata; {remedy}")
        return values


def prediction_files(cache_dir: Path, names: list[str] | None) -> list[PredictionFile]:
    """The prediction files of the named models, or of all, sorted by name. Raises `UserError` if there are none."""
    directory = cache_dir / PREDICTIONS_NAME
    if names is None:
        names = sorted(path.stem for path in directory.glob("[!.]*.npy"))
        if not names:
            raise UserError(f"{directory}: no predictions; run `python -m yt8m.inference_memmap`")
    return [PredictionFile(directory / f"{name}.npy") for name in names]


def quantize(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities in 0..1 as int16 round(p · 9999), in 0..9999."""
    return np.rint(probabilities * SCALE).astype(np.int16)
