"""What models say about single videos, second by second: the strongest classes, and what raters said.

Dimensions: V videos, S segments of a video, C classes, M models.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yt8m.common.devices import resolve_device
from yt8m.common.errors import UserError
from yt8m.data.candidates import Candidates, load_candidates
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS
from yt8m.data.index import Index, load_index
from yt8m.data.partitions import NAMES_FILE
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import RAISE, Damage
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_folders import ModelFolder
from yt8m.prediction.inference import (
    Computation,
    ModelChoice,
    Predictor,
    load_members,
    mean_probabilities,
    require_features,
)
from yt8m.prediction.prediction_files import PREDICTIONS_NAME, SCALE, prediction_files
from yt8m.ranking.fusion import Fusion, Scores
from yt8m.scoring.held_out import training_of
from yt8m.scoring.ratings import Ratings, ratings_of_table, read_truth

LOGGER = logging.getLogger(__name__)
BLOCK_ROWS = 4096
_SURE = 0.5  # the most certain videos show something that is at least so probable
REAL_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # the data set's own ids have 4 characters and say nothing of the video
_WATCH = "https://www.youtube.com/watch?v="


@dataclass(frozen=True)
class Mark:
    """A rated segment of a video: class index, start second, whether the class is there."""

    class_index: int
    start: int
    positive: bool


@dataclass(frozen=True)
class Timeline:
    """A video: probabilities (S, C) of its segments, the first of which starts at second `start`; `note` says whose
    they are, or why the video was chosen."""

    video_id: str
    start: int
    probabilities: np.ndarray
    marks: list[Mark]
    note: str

    @property
    def watch_url(self) -> str | None:
        """Where to watch the video, if its id is a real one."""
        return f"{_WATCH}{self.video_id}" if REAL_ID.fullmatch(self.video_id) else None

    def strongest(self, top: int) -> np.ndarray:
        """The classes of the `top` highest probabilities, the highest first, and then those that are rated."""
        peaks = self.probabilities.max(axis=0)
        strongest = np.argsort(-peaks, kind="stable")[:top].tolist()
        rated = {mark.class_index for mark in self.marks} - set(strongest)
        return np.array(strongest + sorted(rated, key=lambda label: -peaks[label]))


class PredictedTimelines:
    """Timelines of test videos, from prediction files and their mean."""

    def __init__(
        self, maps: Sequence[Scores], candidates: Candidates, vocabulary: Vocabulary, truth: Ratings | None
    ) -> None:
        self._maps, self._meta = maps, candidates
        self._numbers = {
            video_id.decode(errors="replace"): number for number, video_id in enumerate(candidates.video_ids.tolist())
        }
        self._marks: dict[str, list[Mark]] = {}
        if truth is not None:
            classes = vocabulary.classes(truth.label)
            for row in np.flatnonzero(classes >= 0).tolist():
                marks = self._marks.setdefault(str(truth.video_ids[truth.video[row]]), [])
                marks.append(Mark(int(classes[row]), int(truth.start[row]), bool(truth.positive[row])))

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._numbers

    def timeline(self, video_id: str, note: str) -> Timeline:
        """The timeline of a video that the test set has."""
        number = self._numbers[video_id]
        rows = slice(int(self._meta.row_starts[number]), int(self._meta.row_ends[number]))
        mean = np.mean([values[rows] for values in self._maps], axis=0) / SCALE
        return Timeline(video_id, self._meta.trim.head * SEGMENT_SECONDS, mean, self._marks.get(video_id, []), note)

    def by_certainty(self, count: int) -> list[Timeline]:
        """The `count` videos of which the models are most certain, and the `count` of which they are least.

        Certainty is the entropy of all probabilities of a segment, in bits, averaged over the segments of a video.
        The most certain are among those that show anything at all.
        """
        doubt, peak = self._doubts()
        order = np.argsort(doubt, kind="stable")
        ids = list(self._numbers)
        shown = order[peak[order] >= _SURE]
        most, least = shown[:count].tolist(), order[::-1][:count].tolist()
        chosen = [(video, "among the most certain") for video in most]
        chosen += [(video, "among the least certain") for video in least if video not in most]
        return [
            self.timeline(ids[video], f"{why}: {doubt[video]:.2f} bits of doubt in a segment") for video, why in chosen
        ]

    def _doubts(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each video the mean entropy of its segments in bits, and its highest probability, (V,) each."""
        probabilities = np.arange(SCALE + 1) / SCALE
        with np.errstate(divide="ignore", invalid="ignore"):
            entropies = -sum(share * np.log2(share) for share in (probabilities, 1 - probabilities))
        entropies = np.nan_to_num(entropies).astype(np.float32)
        fusion = Fusion(self._maps)
        n_rows, n_classes = fusion.shape
        row_doubt, row_peak = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
        for start in range(0, n_rows, BLOCK_ROWS):
            blocks = [values[start : start + BLOCK_ROWS] for values in self._maps]
            mean = fusion.fuse(start, blocks, slice(0, n_classes)) / len(blocks)
            row_doubt[start : start + BLOCK_ROWS] = entropies[np.rint(mean).astype(np.int16)].sum(axis=1)
            row_peak[start : start + BLOCK_ROWS] = mean.max(axis=1) / SCALE
        counts = self._meta.row_ends - self._meta.row_starts
        return (
            np.add.reduceat(row_doubt, self._meta.row_starts) / counts,
            np.maximum.reduceat(row_peak, self._meta.row_starts),
        )


class RatedTimelines:
    """Timelines of rated videos, predicted when they are asked for by models that have not seen them."""

    def __init__(
        self,
        index: Index,
        vocabulary: Vocabulary,
        folders: Sequence[ModelFolder],
        device: torch.device,
        damage: Damage = RAISE,
    ) -> None:
        self._index, self._vocabulary, self._folders, self._device = index, vocabulary, folders, device
        self._reader = ShardReader(index, damage)
        self._predictors: dict[tuple[Path, ...], Predictor] = {}  # by the folders of their models
        self._records = {
            video_id.decode(errors="replace"): record
            for record, video_id in reversed(list(enumerate(index.video_id.tolist())))
        }

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._records

    def timeline(self, video_id: str) -> Timeline | None:
        """The timeline of a video that the rated set has; None if it cannot be read, and damage is skipped.

        Raises `UserError` where there is nothing to see.
        """
        record = self._records[video_id]
        n_frames = int(self._index.n_frames[record])
        if not n_frames:
            raise UserError(f"{self._index.path(record)}: video {video_id} has no frames; choose another of --videos")
        shard = self._index.shard[record : record + 1]
        folders = [folder for folder in self._folders if training_of(folder.path, self._index).has_not_seen(shard)]
        names = ", ".join(folder.name for folder in folders)
        note = f"a rated video, by {names}, which were not trained on it"
        if not folders:
            folders = list(self._folders)
            note = "a rated video, by models that were trained on it, or may have been"
            LOGGER.warning("%s: all models were trained on it, or may have been; the report says so", video_id)
        frames = np.empty((n_frames, self._reader.frame_dim), np.uint8)
        if not self._reader.read([Frames(record, slice(0, n_frames), frames)], whole=True).all():
            return None
        (mean,) = mean_probabilities(self._predictor(folders), [torch.from_numpy(frames)], len(self._vocabulary))
        return Timeline(video_id, 0, mean, self._marks(record), note)

    def _predictor(self, folders: Sequence[ModelFolder]) -> Predictor:
        """What predicts with these models, which are loaded once."""
        paths = tuple(folder.path for folder in folders)
        if paths not in self._predictors:
            require_features(folders, self._reader)
            members = load_members(folders, None, self._vocabulary, self._device)
            self._predictors[paths] = Predictor(members, Computation(self._device, trim=EVERYTHING))
        return self._predictors[paths]

    def _marks(self, record: int) -> list[Mark]:
        starts, labels, scores = (
            self._index.of_record(record, values, self._index.rating_ends)
            for values in (self._index.rating_start, self._index.rating_label, self._index.rating_score)
        )
        classes = self._vocabulary.classes(labels)
        return [
            Mark(label, start, score > 0)
            for label, start, score in zip(classes.tolist(), starts.tolist(), scores.tolist())
            if label >= 0
        ]


def collect_timelines(
    data_dir: Path,
    vocabulary: Vocabulary,
    models: ModelChoice,
    *,
    video_ids: Sequence[str] | None = None,
    n_videos: int,
    truth: Path | None = None,
    device: str = "auto",
    damage: Damage = RAISE,
) -> list[Timeline]:
    """Timelines of these videos, or of the `n_videos` test videos that the models are most and least certain of.

    A test video's are the means of what the models have predicted, or those named by `models`; a rated video's are
    predicted now. `truth`: a CSV of ratings of test videos. Raises `UserError`, also for an id that nobody knows.
    """
    cache = data_dir / "cache"
    ratings = None if truth is None else ratings_of_table(read_truth(truth, data_dir / NAMES_FILE))
    test = None
    if _are_predictions(cache, models.names, needed=ratings is not None or (bool(models.names) and video_ids is None)):
        candidates = load_candidates(cache)
        maps = [file.read(candidates, vocabulary) for file in prediction_files(cache, models.names)]
        test = PredictedTimelines(maps, candidates, vocabulary, ratings)
    if video_ids is None:
        return [] if test is None else test.by_certainty(n_videos)
    rated = None
    found = []
    for video_id in video_ids:
        if test is not None and video_id in test:
            found.append(test.timeline(video_id, "a test video"))
            continue
        if rated is None:
            index = load_index(data_dir / "segment" / "train", cache, damage)
            rated = RatedTimelines(index, vocabulary, models.open_all(), resolve_device(device), damage)
        if video_id not in rated:
            raise UserError(
                f"--videos: no video {video_id} in {data_dir}, neither among the predicted test "
                "videos nor among the rated ones"
            )
        timeline = rated.timeline(video_id)
        if timeline is not None:
            found.append(timeline)
    return found


def _are_predictions(cache: Path, names: Sequence[str] | None, needed: bool) -> bool:
    """Whether there are predictions of test segments by these models. Raises `UserError` if none that are needed."""
    patterns = ["[!.]*.npy"] if names is None else [f"{name}.npy" for name in names]
    there = any(any((cache / PREDICTIONS_NAME).glob(pattern)) for pattern in patterns)
    if needed and not there:
        raise UserError(
            f"{cache / PREDICTIONS_NAME}: no such predictions of test segments; run `python -m yt8m.inference_memmap`"
        )
    return there


def page_values(timeline: Timeline, vocabulary: Vocabulary, top: int) -> dict[str, Any]:
    """What the page shows of a timeline: plain values."""
    classes = timeline.strongest(top).tolist()
    place_of = {label: place for place, label in enumerate(classes)}
    return {
        "video": timeline.video_id,
        "note": timeline.note,
        "url": timeline.watch_url,
        "start": timeline.start,
        "classes": [{"label": int(vocabulary.labels[label]), "name": vocabulary.names[label]} for label in classes],
        "probabilities": [[round(float(value), 4) for value in timeline.probabilities[:, label]] for label in classes],
        "marks": [
            {"class": place_of[mark.class_index], "start": mark.start, "positive": mark.positive}
            for mark in timeline.marks
        ],
    }
