"""Prediction files: one memory map per model, written resumably.

`cache/predictions/<model>.npy` holds int16 round(p * 9999) of (rows, C), with the rows of the test metadata; the JSON
file beside it records its origin. While unfinished it is called `<model>.npy.partial`, and a journal,
`<model>.npy.partial.done`, records what it contains, so that a killed process can resume.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from helperbot.files import remove_leftovers, replacing, sync

from yt8m.common.errors import UserError
from yt8m.data.candidates import Candidates
from yt8m.data.vocabulary import Vocabulary, challenge_vocabulary
from yt8m.models.model_files import folder_digest, folder_stamps

LOGGER = logging.getLogger(__name__)
PREDICTIONS_NAME = "predictions"
CROSS_VALIDATION = "cross-validation-"  # prefix of the scores of scripts/cross-validate.bash, before the model's name
SCALE = 9999
_PREDICT_AGAIN = "run `python -m yt8m.inference_memmap` again"
# Keys of an origin that do not identify it: the model's place, its files' sizes and times, time of completion, gaps.
_INFORMATION = ("folder", "stamps", "time", "left_out")


class StoredScores:
    """Rows of a prediction file, (rows, C) int16, read on demand.

    Unlike with a memory map, rows once read do not count towards the memory of the process. If `doubted`, as the file's
    origin is unknown, reading raises `UserError` for values out of range.
    """

    def __init__(self, values: np.memmap, doubted: bool) -> None:
        self._doubted = doubted
        self.path = Path(str(values.filename))
        self.shape = values.shape
        self._offset = values.offset
        self._file = self.path.open("rb", buffering=0)  # pylint: disable=consider-using-with  # closed with this object

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A copy of consecutive rows. Several threads may call it at once."""
        first, stop, _ = rows.indices(len(self))
        values = np.empty((max(stop - first, 0), self.shape[1]), np.int16)
        rest = memoryview(values.reshape(-1).view(np.uint8).data)
        place = self._offset + first * values.itemsize * self.shape[1]
        while rest:
            try:
                count = os.preadv(self._file.fileno(), [rest], place)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read ({error.strerror}); {_PREDICT_AGAIN}") from None
            if not count:
                raise UserError(f"{self.path}: has been cut off while it was read; {_PREDICT_AGAIN}")
            rest, place = rest[count:], place + count
        if self._doubted and values.size and (values.min() < 0 or values.max() > SCALE):
            raise UserError(
                f"{self.path}: expected values of 0 to {SCALE}, found {values.min()} to {values.max()} in "
                f"rows {first} to {stop - 1}; {_PREDICT_AGAIN}"
            )
        return values


@dataclass(frozen=True)
class PredictionFile:
    """`cache/predictions/<model>.npy` and the JSON file beside it."""

    path: Path

    @property
    def origin_path(self) -> Path:
        """The file with the origin of the values."""
        return self.path.with_suffix(".json")

    def is_current(self, origin: dict[str, Any], candidates: Candidates, n_classes: int) -> bool:
        """Whether the file exists, whole, and was made from the same model, metadata and settings."""
        return self.left_out(origin, candidates, n_classes) == []

    def left_out(self, origin: dict[str, Any], candidates: Candidates, n_classes: int) -> list[int] | None:
        """The videos whose rows are left out, if the file exists, whole and of that origin; else None."""
        found = _read_json(self.origin_path)
        if found is None or _essence(found) != _essence(origin):
            return None
        try:
            self._map(candidates, n_classes)
        except UserError:
            return None
        return found.get("left_out", [])

    def read(self, candidates: Candidates, vocabulary: Vocabulary) -> StoredScores:
        """The values, checked against the metadata, the vocabulary and the model. Raises `UserError`."""
        values = self._map(candidates, len(vocabulary))
        origin = _read_json(self.origin_path)
        if origin is None:  # made elsewhere
            challenge = challenge_vocabulary()
            if len(vocabulary) == len(challenge) and (challenge.classes(vocabulary.labels) >= 0).all():
                if vocabulary.digest != challenge.digest:
                    raise UserError(
                        f"{self.path}: does not say what its columns are; those of 2019 are the challenge's classes in "
                        f"its order, but {vocabulary.source} has another; put the challenge's table there"
                    )
            LOGGER.info(
                "%s: does not say what its columns are; assuming the classes of %s, in that order",
                self.path,
                vocabulary.source,
            )
        else:
            if origin.get("test_meta") != candidates.digest:
                raise UserError(f"{self.path}: made for other test metadata; {_PREDICT_AGAIN}")
            if origin.get("vocabulary") != vocabulary.digest:
                raise UserError(
                    f"{self.path}: made for other classes than {vocabulary.source} has, or another order of them; "
                    f"{_PREDICT_AGAIN}"
                )
            if _model_has_changed(origin):
                raise UserError(
                    f"{self.path}: made with other weights than {origin['folder']} has now; {_PREDICT_AGAIN}"
                )
            if origin.get("left_out"):
                LOGGER.warning(
                    "%s: segments of %d damaged videos count with probability 0", self.path, len(origin["left_out"])
                )
        return StoredScores(values, doubted=origin is None)

    def _map(self, candidates: Candidates, n_classes: int) -> np.memmap:
        """Map the file. Raises `UserError` unless it is whole and of the right size."""
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such predictions; {_PREDICT_AGAIN}")
        try:
            values = np.lib.format.open_memmap(self.path, "r")  # refuses pickled objects
        except Exception as error:  # whatever a damaged header raises
            raise UserError(f"{self.path}: cannot be read as a memory map ({error}); {_PREDICT_AGAIN}") from None
        if values.shape != (candidates.n_rows, n_classes) or values.dtype != np.int16 or not values.flags.c_contiguous:
            raise UserError(
                f"{self.path}: {values.dtype} {values.shape}, but the test metadata and the vocabulary "
                f"need int16 {(candidates.n_rows, n_classes)}; {_PREDICT_AGAIN}"
            )
        return values


def prediction_files(cache_dir: Path, names: Sequence[str] | None) -> list[PredictionFile]:
    """The prediction files of the named models, or of all, sorted by name.

    "All" excludes models that are no longer in place, and the folds of a cross-validation, which are one model; logs
    which files are used and left out. Raises `UserError` if there are none.
    """
    directory = cache_dir / PREDICTIONS_NAME
    if names is None:
        found = sorted(path.stem for path in directory.glob("[!.]*.npy"))
        if not found:
            raise UserError(f"{directory}: no predictions; run `python -m yt8m.inference_memmap`")
        skipped = {name: reason for name in found if (reason := _skip_reason(cache_dir, name)) is not None}
        names = [name for name in found if name not in skipped]
        left_out = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        if not names:
            raise UserError(f"{directory}: nothing to use without --model-names ({left_out})")
        LOGGER.info("%s: using %s", directory, ", ".join(names))
        if skipped:
            LOGGER.warning("%s: leaving out %s; --model-names would use them", directory, left_out)
    return [PredictionFile(directory / f"{name}.npy") for name in names]


def _skip_reason(cache_dir: Path, name: str) -> str | None:
    """Why a model's predictions are used only if it is named; None if always."""
    base, _, fold = name.rpartition("_")
    if fold.isdigit() and (cache_dir / f"{CROSS_VALIDATION}{base}.json").exists():
        return "a fold of a cross-validation"
    origin = _read_json(PredictionFile(cache_dir / PREDICTIONS_NAME / f"{name}.npy").origin_path)
    folder = Path(str((origin or {}).get("folder", "")))
    # If its parent is missing, too, the predictions come from another machine.
    if folder.is_absolute() and folder.parent.is_dir() and not folder.is_dir():
        return f"its model is no longer at {folder}"
    return None


def origin_of_model(folder: Path) -> dict[str, Any]:
    """The model's part of an origin."""
    return {"model": folder_digest(folder), "folder": str(folder.absolute()), "stamps": folder_stamps(folder)}


def _model_has_changed(origin: dict[str, Any]) -> bool:
    """Whether the model that predictions were made with is still in place, but has changed."""
    try:
        folder = Path(origin["folder"])
        return folder_stamps(folder) != origin["stamps"] and folder_digest(folder) != origin["model"]
    except (OSError, KeyError, TypeError):  # the model is missing, or its place is not recorded
        return False


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}  # unknown origin


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _essence(origin: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in origin.items() if key not in _INFORMATION}


class PartialPredictions:
    """An unfinished prediction file, shared by all processes that predict.

    One process calls `prepare` before any opens it, and `finish` after all have closed it; each opens it and writes its
    own rows. The journal has one number per video: 0, 1 if its rows are written, 2 if it could not be read; it is
    written only after the rows are on disk. It also serves as the lock against other commands.
    """

    def __init__(self, file: PredictionFile, candidates: Candidates, n_classes: int, origin: dict[str, Any]) -> None:
        self.file, self.candidates, self.origin, self.n_classes = file, candidates, origin, n_classes
        self.path = file.path.with_name(f"{file.path.name}.partial")
        self._origin_path = self.path.with_name(f"{self.path.name}.json")
        self._journal_path = self.path.with_name(f"{self.path.name}.done")
        self._values = self._journal = self._lock = -1  # file descriptors
        self._waiting: list[tuple[int, np.ndarray]] = []  # first video and entries of the journal
        self._waiting_lock = threading.Lock()
        self._size = candidates.n_rows * n_classes * 2

    def prepare(self) -> None:
        """Create the file, or keep one begun with the same model, metadata and settings. Raises `UserError`.

        If a finished file lacks damaged videos, it starts as a copy of that. No other command can prepare it until
        this process releases it, and all that have it open close it, or end.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked_journal()
        if not self._is_begun():
            # New files, in case a process of an earlier command still has the old ones open.
            self.discard()
            os.close(self._lock)
            self._lock = self._locked_journal()
            try:
                self._begin()
            except OSError as error:
                self.discard()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise UserError(f"{self.path}: cannot be created ({error.strerror})") from None
                raise UserError(
                    f"{self.path}: no space for {self._size / 1e9:.3g} GB of predictions "
                    f"({error.strerror}); free space or put cache/predictions on another disk"
                ) from None
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # now the others can hold it, too

    def _is_begun(self) -> bool:
        found = _read_json(self._origin_path)
        return (
            found is not None
            and _essence(found) == _essence(self.origin)
            and self.path.is_file()
            and self.path.stat().st_size > self._size
            and os.fstat(self._lock).st_size == 4 * len(self.candidates.records)
        )

    def _begin(self) -> None:
        done = np.zeros(len(self.candidates.records), "<u4")
        lacking = self.file.left_out(self.origin, self.candidates, self.n_classes)
        if lacking:
            shutil.copyfile(self.file.path, self.path)
            done[:] = 1
            done[lacking] = 0
        else:
            np.lib.format.open_memmap(self.path, "w+", np.int16, (self.candidates.n_rows, self.n_classes))
            with self.path.open("r+b") as values:  # fail now rather than after hours
                os.posix_fallocate(values.fileno(), 0, self.path.stat().st_size)
        self._journal_path.write_bytes(done.tobytes())
        _write_json(self._origin_path, self.origin)

    def _locked_journal(self) -> int:
        """Open and lock the journal, creating it if needed."""
        handle = os.open(self._journal_path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), self._journal_path.stat()):
                return handle
        except (BlockingIOError, FileNotFoundError):  # in use, or just finished and removed
            pass
        os.close(handle)
        raise UserError(f"{self.path}: another process is predicting with this model; wait for it or stop it")

    def discard(self) -> None:
        """Remove the file, its journal and its origin."""
        for path in (self._origin_path, self.path, self._journal_path):
            path.unlink(missing_ok=True)
        for path in (self._origin_path, self.file.origin_path):
            remove_leftovers(path.parent, path.name)

    def open(self) -> None:
        """Open the prepared file for writing."""
        self._values = os.open(self.path, os.O_WRONLY)
        self._journal = os.open(self._journal_path, os.O_WRONLY)
        fcntl.flock(self._journal, fcntl.LOCK_SH)

    def close(self) -> None:
        """Close the file; the process that prepared it still holds the lock."""
        for handle in (self._values, self._journal):
            if handle >= 0:
                os.close(handle)
        self._values = self._journal = -1

    def release(self) -> None:
        """Close the file and release the lock."""
        self.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def journal(self) -> np.ndarray:
        """The journal, (videos,) uint32."""
        return np.fromfile(self._journal_path, "<u4")

    def write(self, videos: slice, values: np.ndarray, read: np.ndarray) -> None:
        """Write the rows of consecutive videos, (rows, C) int16; `read` (videos,): which of them could be read."""
        header = self.path.stat().st_size - self._size
        self._write(
            self._values,
            np.ascontiguousarray(values).data.cast("B"),
            header + int(self.candidates.row_starts[videos.start]) * self.n_classes * 2,
        )
        with self._waiting_lock:
            self._waiting.append((videos.start, np.where(read, 1, 2).astype("<u4")))

    def save(self) -> None:
        """Sync all rows written so far to disk, then record them in the journal; safe while another thread writes."""
        with self._waiting_lock:
            waiting, self._waiting = self._waiting, []
        if waiting:
            with self._keeping():
                os.fdatasync(self._values)
        for first, entries in waiting:
            self._write(self._journal, entries.data.cast("B"), 4 * first)

    def _write(self, handle: int, rest: memoryview, place: int) -> None:
        with self._keeping():
            while rest:
                count = os.pwrite(handle, rest, place)
                rest, place = rest[count:], place + count

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Report errors as ones that lose nothing."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); its content is kept: fix that and "
                "run the command again"
            ) from None

    def finish(self) -> int:
        """Give the finished file its name; returns the number of rows left out. Raises `UserError` if any are missing.

        If killed at any moment, it leaves a partial file to finish or a finished one, and never one model's values
        beside another's origin.
        """
        journal = self.journal()
        if not journal.all():
            raise UserError(
                f"{self.path}: {np.count_nonzero(journal == 0)} videos are missing in its journal; "
                "run the command again"
            )
        left_out = np.flatnonzero(journal > 1)
        origin = self.origin | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
        if left_out.size:
            origin["left_out"] = left_out.tolist()  # so that it does not count as current
        self.file.path.unlink(missing_ok=True)
        _write_json(self.file.origin_path, origin)
        os.replace(self.path, self.file.path)
        sync(self.file.path.parent)  # before the files for resuming are removed
        self.discard()
        return int((self.candidates.row_ends - self.candidates.row_starts)[left_out].sum())
