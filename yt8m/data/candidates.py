"""Candidate segments of a test set: the video and segment of each row of a prediction file."""

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from helperbot.files import replacing

from yt8m.common.errors import UserError, listed
from yt8m.data.features import CONTRACT_NAME, read_trim
from yt8m.data.frames import CANDIDATES, SEGMENT_SECONDS, Trim
from yt8m.data.index import Index, load_index
from yt8m.data.records import ID_RULE, Damage, shown_id, unfit_ids

LOGGER = logging.getLogger(__name__)
CANDIDATES_FILE = "test_meta.npz"


@dataclass(frozen=True)
class Candidates:
    """The candidate segments of a test set, grouped by video.

    `records` (V,): rows of the index; `video_ids` (V,) bytes; `row_ends` (V,): video v has rows
    row_ends[v-1] to row_ends[v], its segments in order, except those that `trim` leaves out.
    """

    records: np.ndarray
    video_ids: np.ndarray
    row_ends: np.ndarray
    trim: Trim = CANDIDATES

    @property
    def n_rows(self) -> int:
        """The number of candidate segments."""
        return int(self.row_ends[-1])

    @cached_property
    def row_starts(self) -> np.ndarray:
        """The first row of each video, (V,)."""
        return np.concatenate([[0], self.row_ends[:-1]])

    def row_videos(self) -> np.ndarray:
        """The video of each row, (rows,)."""
        return np.repeat(np.arange(len(self.records)), self.row_ends - self.row_starts)

    def row_segments(self) -> np.ndarray:
        """The segment index of each row within its video, (rows,); it starts at second 5 · index."""
        return np.arange(self.n_rows) - self.row_starts[self.row_videos()] + self.trim.head

    def row_names(self) -> np.ndarray:
        """The name of each row in a submission, (rows,): `<video id>:<start second>`, as bytes."""
        starts = self.row_segments() * SEGMENT_SECONDS
        starts = starts.astype(f"S{len(str(starts.max()))}")
        return np.char.add(np.char.add(self.video_ids[self.row_videos()], b":"), starts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 that identifies the rows."""
        digest = hashlib.sha256(self.row_ends.astype("<i8").tobytes())
        digest.update(b"\n".join(self.video_ids.tolist()))
        if self.trim != CANDIDATES:  # the default keeps the digest of earlier releases
            digest.update(f"\n\n{self.trim}".encode())
        return digest.hexdigest()


def find_candidates(index: Index, trim: Trim = CANDIDATES) -> Candidates:
    """The candidate segments of a folder of test shards, without the videos that have none.

    `trim`: the segments to leave out of each video, see `read_trim`.

    Of records with the same video id, the first counts; the number of others is logged. Raises `UserError` for ids
    that a submission cannot hold.
    """
    video_ids, first = np.unique(index.video_id, return_index=True)
    _check_ids(video_ids, index.folder, "write the records with other ids")
    if len(first) < len(index):
        LOGGER.warning("%s: %d records repeat a video id and are left out", index.folder, len(index) - len(first))
    counts = trim.count_left(index.n_frames)
    records = np.sort(first[counts[first] > 0])
    if not records.size:
        raise UserError(
            f"{index.folder}: no video is long enough to have a candidate segment; the first "
            f"{trim.head * SEGMENT_SECONDS} seconds and the last {trim.tail * SEGMENT_SECONDS} of a video are left "
            f"out, which `trim` in {CONTRACT_NAME} there can change"
        )
    return Candidates(records, index.video_id[records], np.cumsum(counts[records]), trim)


def save_candidates(candidates: Candidates, cache_dir: Path) -> Path:
    """Write the metadata into the cache folder; return its path."""
    path = cache_dir / CANDIDATES_FILE
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            records=candidates.records,
            video_ids=candidates.video_ids,
            row_ends=candidates.row_ends,
            trim=(candidates.trim.head, candidates.trim.tail),
        )
    return path


def load_candidates(cache_dir: Path) -> Candidates:
    """Read the metadata of a cache folder. Raises `UserError` if it is missing or damaged, or for ids that a submission
    cannot hold."""
    path = cache_dir / CANDIDATES_FILE
    remedy = "run `python -m yt8m.prepare_test_meta`"
    if not path.is_file():
        raise UserError(f"{path}: no test metadata; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            trim = Trim(*map(int, file["trim"])) if "trim" in file else CANDIDATES  # from an earlier release
            candidates = Candidates(file["records"], file["video_ids"], file["row_ends"], trim)
    except Exception as error:  # whatever a damaged zip file raises
        raise UserError(f"{path}: cannot be read ({error}); {remedy} again") from None
    _check_ids(candidates.video_ids, path, f"write the records with other ids, and {remedy} again")
    return candidates


def load_test_index(data_dir: Path, candidates: Candidates, damage: Damage) -> Index:
    """The index of the test shards. Raises `UserError` if the metadata was made from other shards."""
    index = load_index(data_dir / "segment" / "test", data_dir / "cache", damage)
    found = find_candidates(index, read_trim(index.folder))
    if found.digest != candidates.digest or not np.array_equal(found.records, candidates.records):
        raise UserError(
            f"{index.folder}: not the shards that the test metadata was made from; "
            "run `python -m yt8m.prepare_test_meta` again"
        )
    return index


def _check_ids(video_ids: np.ndarray, source: Path, remedy: str) -> None:
    unfit = unfit_ids(video_ids.tolist())
    if unfit:
        names = listed([shown_id(video_id) for video_id in unfit])
        raise UserError(f"{source}: a submission cannot hold the video ids {names}; {ID_RULE}; {remedy}")
