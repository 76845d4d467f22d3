"""Contents, oddities and damage of folders of shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from yt8m.common.errors import RecordError, listed
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.index import Index, check_folder, passed_over, shard_paths
from yt8m.data.partitions import N_LABELS
from yt8m.data.records import shown_id, unfit_ids
from yt8m.data.vocabulary import Vocabulary

_MOST_FRAMES = 300  # of a video in the published data set
WITHOUT_FRAMES = "videos without frames"
UNFIT_IDS = "videos whose id a submission cannot hold"
REPEATED_IDS = "videos whose id is in an earlier folder"
DIFFERENT_COUNTS = "videos with different numbers of rgb and audio frames"


@dataclass(frozen=True)
class FolderReport:
    """What is in a folder: `contents` and counts of `oddities` by description; `remarks`: a line for each kind of odd
    videos, naming them; `errors`: damage, and shards of another kind; `is_usable`: whether all shards can be used."""

    contents: dict[str, str]
    oddities: dict[str, int]
    remarks: list[str]
    errors: list[RecordError]
    is_usable: bool


def report_folders(folders: Sequence[Path], vocabulary: Vocabulary | None) -> dict[Path, FolderReport]:
    """Read every byte of folders of shards. Raises `UserError` for a folder without shards, before reading any."""
    for folder in folders:
        shard_paths(folder)
    reports: dict[Path, FolderReport] = {}
    earlier = np.empty(0, np.bytes_)
    for folder in folders:
        index, errors = check_folder(folder)
        reports[folder] = _report(folder, index, errors, earlier, vocabulary)
        earlier = np.union1d(earlier, index.video_id)
    return reports


def _report(
    folder: Path, index: Index, errors: list[RecordError], earlier: np.ndarray, vocabulary: Vocabulary | None
) -> FolderReport:
    """The report on a folder; `earlier`: the video ids of the folders before it."""
    odd, videos = oddities(index), odd_videos(index)
    again = np.intersect1d(index.video_id, earlier).tolist()
    odd[REPEATED_IDS], videos[REPEATED_IDS] = len(again), [shown_id(video_id) for video_id in again]
    remarks = []
    is_empty = bool(len(index)) and not index.rgb_count.any()
    if is_empty:
        remarks.append(f"{folder}: no record has any rgb frame, so that they are of no use")
    remarks += [
        f"{folder}: {what}: {', '.join(names) if what == UNFIT_IDS else listed(names)}"
        for what, names in videos.items()
        if names
    ]
    remarks += [f"{folder}: not checked: {', '.join(names)}" for names in [passed_over(folder)] if names]
    is_test_set = Path(os.path.abspath(folder)).parts[-2:] == ("segment", "test")
    is_usable = not (errors or is_empty or is_test_set and videos[UNFIT_IDS])
    return FolderReport(contents(index, vocabulary), odd, remarks, errors, is_usable)


def contents(index: Index, vocabulary: Vocabulary | None) -> dict[str, str]:
    """Counts of shards, videos, frames, labels and ratings, by description."""
    n_frames = index.n_frames
    lengths = n_frames if len(index) else np.zeros(1, int)
    n_labelled, n_rated = (len(np.unique(index.owners(ends))) for ends in (index.label_ends, index.rating_ends))
    found = {
        "shards": f"{len(index.shards):,}",
        "bytes": f"{index.stamps[:, 0].sum():,}",
        "videos": f"{len(index):,}",
        "frames": f"{n_frames.sum():,}",
        "shortest / median / longest video": f"{lengths.min()} / {np.median(lengths):g} / {lengths.max()}",
        "width of rgb / audio": " / ".join(_widths(index, key) for key in ("rgb", "audio")),
        "labels": f"{len(index.labels):,}",
        "distinct labels": f"{len(np.unique(index.labels)):,}",
        "videos with labels": _share(n_labelled, len(index)),
        "ratings": f"{len(index.rating_label):,}",
        "positive ratings": _share(int((index.rating_score > 0).sum()), len(index.rating_score)),
        "distinct rated labels": f"{len(np.unique(index.rating_label)):,}",
        "videos with ratings": _share(n_rated, len(index)),
    }
    if vocabulary is not None:
        for name, labels in (("labels", index.labels), ("ratings", index.rating_label)):
            classes = vocabulary.classes(np.unique(labels))
            found[f"classes of the vocabulary with {name}"] = _share(int((classes >= 0).sum()), len(vocabulary))
        owners = index.owners(index.label_ends)[vocabulary.classes(index.labels) >= 0]
        found["videos with labels of the vocabulary"] = _share(len(np.unique(owners)), len(index))
    return found


def _widths(index: Index, key: str) -> str:
    widths = np.unique(getattr(index, f"{key}_width")[getattr(index, f"{key}_count") > 0])
    return ", ".join(map(str, widths)) or "none"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def oddities(index: Index) -> dict[str, int]:
    """Counts of records and ratings that differ from the published data set's, by description; may be 0."""
    n_frames, owners = index.n_frames, index.owners(index.rating_ends)
    unlike = np.zeros(len(index), bool)
    for key in ("rgb", "audio"):
        widths, with_frames = getattr(index, f"{key}_width"), getattr(index, f"{key}_count") > 0
        if with_frames.any():
            unlike |= with_frames & (widths != np.bincount(widths[with_frames]).argmax())
    unlabelled, lacking = np.empty(0, int), np.zeros(len(owners), bool)
    if index.labels.size:
        unlabelled = np.setdiff1d(index.rating_label, index.labels)
        labelled = _pairs(index.owners(index.label_ends), index.labels)
        lacking = (index.rating_score > 0) & ~np.isin(_pairs(owners, index.rating_label), labelled)
    rated = pd.DataFrame({"record": owners, "start": index.rating_start, "label": index.rating_label})
    return {
        WITHOUT_FRAMES: int((n_frames == 0).sum()),
        f"videos of 1 to {SEGMENT_SECONDS - 1} frames": int(((n_frames > 0) & (n_frames < SEGMENT_SECONDS)).sum()),
        f"videos of more than {_MOST_FRAMES} frames": int((n_frames > _MOST_FRAMES).sum()),
        DIFFERENT_COUNTS: len(_different_counts(index)),
        "videos with frames of another width than most": int(unlike.sum()),
        UNFIT_IDS: len(unfit_ids(index.video_id.tolist())),
        "videos that repeat an id": len(index) - len(np.unique(index.video_id)),
        "videos laid out unusually (read through protobuf, slowly)": int(
            ((index.rgb_start < 0) | (index.audio_start < 0)).sum()
        ),
        f"labels outside 0 to {N_LABELS - 1}": int(((index.labels < 0) | (index.labels >= N_LABELS)).sum()),
        "ratings beyond the end of their video": int(
            ((index.rating_start < 0) | (index.rating_start >= n_frames[owners])).sum()
        ),
        f"ratings that do not start at a multiple of {SEGMENT_SECONDS} s": int(
            (index.rating_start % SEGMENT_SECONDS != 0).sum()
        ),
        "ratings with another score than 0 and 1": int((~np.isin(index.rating_score, (0, 1))).sum()),
        "ratings that repeat a segment and label": int(rated.duplicated().sum()),
        "rated labels that no video is labelled with": len(unlabelled),
        "positive ratings of labels that their video lacks": int(lacking.sum()),
    }


def odd_videos(index: Index) -> dict[str, list[str]]:
    """The videos with some of the oddities, by description."""
    return {
        UNFIT_IDS: [shown_id(video_id) for video_id in unfit_ids(index.video_id.tolist())],
        WITHOUT_FRAMES: [shown_id(video_id) for video_id in index.video_id[index.n_frames == 0].tolist()],
        DIFFERENT_COUNTS: [
            f"{shown_id(index.video_id[record])} ({index.rgb_count[record]} and {index.audio_count[record]})"
            for record in _different_counts(index)
        ],
    }


def _different_counts(index: Index) -> np.ndarray:
    """Records with different numbers of rgb and audio frames."""
    return np.flatnonzero(index.rgb_count != index.audio_count) if index.has_audio else np.empty(0, int)


def _pairs(owners: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A unique number for each pair of record and label."""
    return owners.astype(np.int64) << 32 | labels.astype(np.int64) & 0xFFFFFFFF
