"""Timelines of videos: models' strongest classes, segment by segment, and ratings.

Dimensions: V videos, S segments of a video, C classes, M models.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yt8m.common.devices import resolve_device
from yt8m.common.errors import UserError, counted
from yt8m.data.candidates import Candidates, load_candidates
from yt8m.data.frames import EVERYTHING, SEGMENT_SECONDS
from yt8m.data.index import Index, load_index
from yt8m.data.partitions import NAMES_FILE
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import RAISE, Damage, composed
from yt8m.data.vocabulary import Vocabulary
from yt8m.localization.spans import clock, digits, runs
from yt8m.models.model_folders import ModelFolder
from yt8m.prediction.inference import (
    Computation,
    ModelChoice,
    Predictor,
    load_members,
    mean_probabilities,
    require_features,
    video_groups,
)
from yt8m.prediction.prediction_files import PREDICTIONS_NAME, SCALE, prediction_files
from yt8m.ranking.fusion import Fusion, Scores
from yt8m.reporting.film_previews import PICTURES_OF_A_FILM, PICTURES_OF_A_PAGE, film_source, films_by_id, look_into
from yt8m.scoring.held_out import trained_on
from yt8m.scoring.ratings import Ratings, ratings_of_table, read_truth

LOGGER = logging.getLogger(__name__)
BLOCK_ROWS = 4096
LEVELS = 200  # probabilities in the page are multiples of 1 / LEVELS
MOST_BYTES = 8_000_000  # of probabilities in the page, one byte each


@dataclass(frozen=True)
class Mark:
    """A rated segment of a video: class index, start second, and score."""

    class_index: int
    start: int
    positive: bool


@dataclass(frozen=True)
class Timeline:
    """A video's duration in seconds, and probabilities (S, C) of its segments, the first one at second `start`."""

    video_id: str
    start: int
    seconds: int
    probabilities: np.ndarray
    marks: list[Mark]

    def strongest(self, top: int) -> np.ndarray:
        """The classes of the `top` highest probabilities, highest first, then the rated ones."""
        peaks = self.probabilities.max(axis=0)
        strongest = np.argsort(-peaks, kind="stable")[:top].tolist()
        rated = {mark.class_index for mark in self.marks} - set(strongest)
        return np.array(strongest + sorted(rated, key=lambda label: -peaks[label]))

    def condensed(self, top: int) -> "ShownVideo":
        """The video for the page, with its `top` strongest classes and the rated ones."""
        classes = self.strongest(top)
        # Rounded down: a level of half of `LEVELS` is a probability of at least 0.5.
        levels = np.floor(self.probabilities[:, classes].T * LEVELS + 1e-4).astype(np.uint8)
        return ShownVideo(self.video_id, self.start, self.seconds, classes.tolist(), levels, self.marks)


@dataclass(frozen=True)
class ShownVideo:
    """A video in the page: `classes` (R,), their probabilities as `levels` (R, S) from 0 to `LEVELS`, and ratings."""

    video_id: str
    start: int
    seconds: int
    classes: list[int]
    levels: np.ndarray
    marks: list[Mark]


@dataclass(frozen=True)
class Selection:
    """The videos of the page, notes on why some come first, by place in the list, and `remarks` on what is left out."""

    videos: list[ShownVideo]
    notes: dict[int, str]
    remarks: list[str]


class PredictedTimelines:
    """Timelines of test videos, from prediction files and their mean."""

    def __init__(
        self, scores: Sequence[Scores], candidates: Candidates, vocabulary: Vocabulary, truth: Ratings | None
    ) -> None:
        self._scores, self._candidates = scores, candidates
        self._names = vocabulary.names
        self._ids = [video_id.decode(errors="replace") for video_id in candidates.video_ids.tolist()]
        self._numbers = {video_id: number for number, video_id in enumerate(self._ids)}
        self._marks: dict[str, list[Mark]] = {}
        if truth is not None:
            classes = vocabulary.classes(truth.label)
            for row in np.flatnonzero(classes >= 0).tolist():
                marks = self._marks.setdefault(str(truth.video_ids[truth.video[row]]), [])
                marks.append(Mark(int(classes[row]), int(truth.start[row]), bool(truth.positive[row])))

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._numbers

    def timeline(self, video_id: str) -> Timeline:
        """The timeline of a test video."""
        number = self._numbers[video_id]
        rows = slice(int(self._candidates.row_starts[number]), int(self._candidates.row_ends[number]))
        return self._timeline(number, np.mean([values[rows] for values in self._scores], axis=0) / SCALE)

    def _timeline(self, number: int, probabilities: np.ndarray) -> Timeline:
        """Only candidate segments are predicted; the last one may be shorter than assumed here."""
        trim, video_id = self._candidates.trim, self._ids[number]
        seconds = (trim.head + len(probabilities) + trim.tail) * SEGMENT_SECONDS
        start = trim.head * SEGMENT_SECONDS
        return Timeline(video_id, start, seconds, probabilities, self._marks.get(video_id, []))

    def select(self, count: int, top: int) -> Selection:
        """All videos that fit into `MOST_BYTES`, and the `count` most and least certain ones.

        Certainty depends on the highest probability in a video: the most certain ones have the highest, the least
        certain ones those nearest to 0.5.
        """
        top, n_kept = self._room(top)
        videos: list[ShownVideo] = []
        peaks, means, best, seconds = (np.empty(len(self._ids)) for _ in range(4))
        fusion = Fusion(self._scores)
        for group in video_groups(self._candidates.row_ends, BLOCK_ROWS):
            first, last = int(self._candidates.row_starts[group.start]), int(self._candidates.row_ends[group.stop - 1])
            blocks = [values[first:last] for values in self._scores]
            mean = fusion.fuse(first, blocks, slice(0, len(self._names))) / (len(blocks) * SCALE)
            for number in range(group.start, group.stop):
                own = mean[self._candidates.row_starts[number] - first : self._candidates.row_ends[number] - first]
                segment, best[number] = divmod(int(own.argmax()), own.shape[1])
                peaks[number], means[number] = own.max(), own.max(axis=1).mean()
                seconds[number] = (self._candidates.trim.head + segment) * SEGMENT_SECONDS
                if number < n_kept:
                    videos.append(self._timeline(number, own).condensed(top))
        notes = {}
        for order, what in (
            (np.lexsort((-means, -peaks)), "most certain"),
            (np.argsort(np.abs(peaks - 0.5), kind="stable"), "least certain"),
        ):
            for number in [number for number in order[:count].tolist() if number not in notes]:
                notes[number] = (
                    f"among the {what}: {self._names[int(best[number])]}, probability {digits(peaks[number])} at "
                    f"{clock(int(seconds[number]))}"
                )
        return self._with_notes(videos, notes, top)

    def _with_notes(self, videos: list[ShownVideo], notes: Mapping[int, str], top: int) -> Selection:
        """Add the videos with a note that did not fit."""
        n_kept, placed = len(videos), {}
        for number, note in notes.items():
            if number >= n_kept:
                videos.append(self.timeline(self._ids[number]).condensed(top))
            placed[number if number < n_kept else len(videos) - 1] = note
        remarks = []
        if len(videos) < len(self._ids):
            remarks.append(
                f"Left out of the test set: {counted(len(self._ids) - len(videos), 'video')}; the page holds at most "
                f"{MOST_BYTES:,} probabilities"
            )
        return Selection(videos, placed, remarks)

    def _room(self, top: int) -> tuple[int, int]:
        """How many of the `top` classes per video, and how many videos, fit into the page."""
        lengths = self._candidates.row_ends - self._candidates.row_starts
        rated = np.array([len({mark.class_index for mark in self._marks.get(own, ())}) for own in self._ids])
        fewer = next((number for number in range(top, 1, -1) if (lengths * (rated + number)).sum() <= MOST_BYTES), 1)
        return fewer, int(np.searchsorted(np.cumsum(lengths * (rated + fewer)), MOST_BYTES, side="right"))


class RatedTimelines:
    """Timelines of rated videos, predicted on demand by models that have not seen them."""

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
        self._predictors: dict[tuple[Path, ...], Predictor] = {}  # by their models' folders
        self._records = {
            video_id.decode(errors="replace"): record
            for record, video_id in reversed(list(enumerate(index.video_id.tolist())))
        }

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._records

    def timeline(self, video_id: str) -> tuple[Timeline, str] | None:
        """The timeline of a rated video, and a note on its models; None if it is damaged and damage is skipped.

        Raises `UserError` for a video without frames.
        """
        record = self._records[video_id]
        n_frames = int(self._index.n_frames[record])
        if not n_frames:
            raise UserError(f"{self._index.path(record)}: video {video_id} has no frames; choose another of --videos")
        shard = self._index.shard[record : record + 1]
        folders = [folder for folder in self._folders if trained_on(folder.path, self._index).has_not_seen(shard)]
        names = ", ".join(folder.name for folder in folders)
        note = f"a rated video, by {names}, which were not trained on it"
        if not folders:
            folders = list(self._folders)
            note = "a rated video, by models that were, or may have been, trained on it"
            LOGGER.warning("%s: all models were, or may have been, trained on it; the report says so", video_id)
        frames = np.empty((n_frames, self._reader.frame_dim), np.uint8)
        if not self._reader.read([Frames(record, slice(0, n_frames), frames)], whole=True).all():
            return None
        (mean,) = mean_probabilities(self._predictor(folders), [torch.from_numpy(frames)], len(self._vocabulary))
        return Timeline(video_id, 0, n_frames, mean, self._marks(record)), note

    def _predictor(self, folders: Sequence[ModelFolder]) -> Predictor:
        """The predictor of these models, loaded once."""
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


def select_videos(
    data_dir: Path,
    vocabulary: Vocabulary,
    models: ModelChoice,
    *,
    video_ids: Sequence[str] | None = None,
    n_videos: int,
    top: int,
    truth: Path | None = None,
    device: str = "auto",
    damage: Damage = RAISE,
) -> Selection:
    """These videos, or the whole test set, first the `n_videos` most and least certain ones.

    Timelines of test videos are means of existing predictions, or of those named by `models`; rated videos are
    predicted now. `top`: classes per video; `truth`: a CSV of ratings of test videos. Raises `UserError`, also for an
    unknown id.
    """
    cache = data_dir / "cache"
    ratings = None if truth is None else ratings_of_table(read_truth(truth, data_dir / NAMES_FILE))
    test = None
    if _are_predictions(cache, models.names, needed=ratings is not None or (bool(models.names) and video_ids is None)):
        candidates = load_candidates(cache)
        scores = [file.read(candidates, vocabulary) for file in prediction_files(cache, models.names)]
        test = PredictedTimelines(scores, candidates, vocabulary, ratings)
    if video_ids is None:
        return Selection([], {}, []) if test is None else test.select(n_videos, top)
    rated = None
    found: list[tuple[Timeline, str]] = []
    for video_id in map(composed, video_ids):
        if test is not None and video_id in test:
            found.append((test.timeline(video_id), "a test video"))
            continue
        if rated is None:
            index = load_index(data_dir / "segment" / "train", cache, damage)
            rated = RatedTimelines(index, vocabulary, models.open_all(), resolve_device(device), damage)
        if video_id not in rated:
            raise UserError(
                f"--videos: no video {video_id} in {data_dir}, neither among the predicted test videos nor among the "
                "rated ones"
            )
        timeline = rated.timeline(video_id)
        if timeline is not None:
            found.append(timeline)
    videos = [timeline.condensed(top) for timeline, _ in found]
    return Selection(videos, {place: note for place, (_, note) in enumerate(found)}, [])


def _are_predictions(cache: Path, names: Sequence[str] | None, needed: bool) -> bool:
    """Whether there are predictions of test segments by these models. Raises `UserError` if needed ones are missing."""
    patterns = ["[!.]*.npy"] if names is None else [f"{name}.npy" for name in names]
    there = any(any((cache / PREDICTIONS_NAME).glob(pattern)) for pattern in patterns)
    if needed and not there:
        raise UserError(
            f"{cache / PREDICTIONS_NAME}: no such predictions of test segments; run python -m yt8m.inference_memmap"
        )
    return there


def page_values(selection: Selection, vocabulary: Vocabulary, films: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The videos as plain values for the page, with one string of all levels.

    `films`: those of `films_of`, by place of the video in the list.
    """
    labels = sorted({label for video in selection.videos for label in video.classes})
    place_of = {label: place for place, label in enumerate(labels)}
    videos = []
    for video in selection.videos:
        row_of = {label: row for row, label in enumerate(video.classes)}
        marks = [[row_of[mark.class_index], mark.start, mark.positive] for mark in video.marks]
        classes = [place_of[label] for label in video.classes]
        videos.append([video.video_id, video.start, video.seconds, video.levels.shape[1], classes, marks])
    return {
        "classes": [vocabulary.names[label] for label in labels],
        "videos": videos,
        "levels": base64.b64encode(b"".join(video.levels.tobytes() for video in selection.videos)).decode(),
        "scale": LEVELS,
        "notes": [[place, note] for place, note in selection.notes.items()],
        "remarks": selection.remarks,
        "films": [[place, film] for place, film in films.items()],
    }


def films_of(selection: Selection, folder: Path, page: Path) -> dict[int, dict[str, Any]]:
    """The films in a folder that are named after videos, by place of the video.

    Videos with a note get pictures of their spans, in the order of the rows. Raises `UserError` if there are none.
    """
    paths = films_by_id(folder)
    films = {}
    for place, video in enumerate(selection.videos):
        path = paths.get(video.video_id)
        if path is None:
            continue
        seconds = []
        if place in selection.notes:
            for row in video.levels:
                for first, last in runs(row >= LEVELS // 2):
                    best = video.start + (first + int(row[first:last].argmax())) * SEGMENT_SECONDS
                    seconds.append((best + min(video.seconds, best + SEGMENT_SECONDS)) / 2)
        share = min(PICTURES_OF_A_FILM, PICTURES_OF_A_PAGE // len(selection.notes))
        look = look_into(path, seconds[:share])
        films[place] = film_source(path, page, look) | {"pictures": [look.address(second) for second in seconds]}
    if not films:
        raise UserError(f"--films {folder}: no film there is named after one of the videos")
    return films
