"""Predictions for the test set: of all segments by several models, and of the videos by a video model.

Prediction of segments resumes after interruptions, and may run in several processes. The videos, in order, are cut into
groups whose sizes depend only on the batch size. A group is always computed as a whole, whichever process does so and
however often the command has been killed, so that the files end up the same, and a file's journal records all of it or
nothing. A video model's predictions can restrict which segments are ranked.

Dimensions: V videos, C classes.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from helperbot import get_logger
from helperbot.distributed import barrier, rank, rank_zero_first, world_size
from helperbot.files import replacing

from yt8m.common.devices import joined, keep_freed_memory, resolve_workers
from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.candidates import Candidates, load_candidates, load_test_index
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.features import require_same
from yt8m.data.frames import trim_of
from yt8m.data.index import Index
from yt8m.data.order import SequentialBatches
from yt8m.data.records import RAISE, Damage
from yt8m.data.vocabulary import Vocabulary, load_vocabulary
from yt8m.models.base import fuse
from yt8m.models.model_files import folder_digest
from yt8m.models.model_folders import ModelFolder, load_video_model
from yt8m.prediction.inference import (
    Arrival,
    Computation,
    ModelChoice,
    Predictor,
    load_members,
    one_behind,
    predict_videos,
    require_features,
    video_groups,
)
from yt8m.prediction.prediction_files import PREDICTIONS_NAME, PartialPredictions, PredictionFile, origin_of_model

LOGGER = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 2.0
PATIENCE = timedelta(days=2)  # how long a process waits for the others
VIDEO_PREDICTIONS_NAME = "video_predictions"
BATCH_SIZE = 32


@dataclass(frozen=True)
class VideoGroup:
    """A group of consecutive videos, and the numbers of the models that have yet to predict it."""

    videos: slice
    members: list[int]


def predict_test_set(
    data_dir: Path,
    models: ModelChoice,
    computation: Computation,
    *,
    offset: int | None,
    batch_size: int,
    workers: int | None = None,
    damage: Damage = RAISE,
) -> None:
    """Write the predictions of models that have none or outdated ones.

    `offset` frames on either side of a segment, None: as each model was trained; `batch_size`: minimum number of
    segments predicted at a time; `workers`: reading threads. Raises `UserError`.
    """
    device = computation.device
    if device.type == "cpu":
        keep_freed_memory()
    cache = data_dir / "cache"
    with joined(torch.device("cpu"), PATIENCE):  # only for barriers
        main_process = rank() == 0
        get_logger(
            "yt8m",
            cache / "inference" / "inference.log" if main_process else None,
            logging.INFO if main_process else logging.WARNING,
        )
        vocabulary = load_vocabulary(data_dir)
        candidates = load_candidates(cache)
        with rank_zero_first():
            index = load_test_index(data_dir, candidates, damage)
        dataset = WholeVideoDataset(index, candidates.records, damage)
        folders = models.open_all()
        require_features(folders, dataset.reader)
        outdated = _outdated(cache, folders, offset, candidates, vocabulary, computation)
        if outdated:
            members = load_members([folder for folder, _ in outdated], offset, vocabulary, device)
            predictor = Predictor(members, replace(computation, trim=candidates.trim))
            _fill([file for _, file in outdated], predictor, dataset, batch_size, resolve_workers(workers, device))


def _outdated(
    cache: Path,
    folders: Sequence[ModelFolder],
    offset: int | None,
    candidates: Candidates,
    vocabulary: Vocabulary,
    computation: Computation,
) -> list[tuple[ModelFolder, PartialPredictions]]:
    """The models whose predictions are missing or outdated, with the files to write."""
    outdated: list[tuple[ModelFolder, PartialPredictions]] = []
    for folder in folders:
        file = PredictionFile(cache / PREDICTIONS_NAME / f"{folder.name}.npy")
        origin = origin_of_model(folder.path) | {
            "test_meta": candidates.digest,
            "vocabulary": vocabulary.digest,
            "outputs": folder.vocabulary(vocabulary).digest,  # as named by the user, if the folder lists no classes
            "offset": folder.offset if offset is None else offset,
            "shifts": list(computation.shifts),
            "amp": str(computation.amp),
        }
        partial = PartialPredictions(file, candidates, len(vocabulary), origin)
        if not file.is_current(origin, candidates, len(vocabulary)):
            outdated.append((folder, partial))
            continue
        LOGGER.info("%s: up to date", file.path)
        if rank() == 0 and not partial.path.exists():  # else one with other settings is unfinished
            partial.discard()  # leftovers of a process killed at its very end
    return outdated


def _fill(
    files: list[PartialPredictions], predictor: Predictor, dataset: WholeVideoDataset, batch_size: int, workers: int
) -> None:
    """Write the files, together with any other processes, and give them their final names."""
    names = ", ".join(member.name for member in predictor.members)
    with ExitStack() as stack:
        for file in files:
            stack.callback(file.release)
            if rank() == 0:
                file.prepare()
        barrier()
        for file in files:
            file.open()
        journals = [file.journal() for file in files]
        barrier()  # all read the journals before anyone writes
        candidates = files[0].candidates
        work = remaining_work(candidates, batch_size, journals)
        n_left = sum(_n_rows(candidates, item.videos) for item in work)
        LOGGER.info(
            "predicting %d segments with %s on %s%s%s",
            n_left,
            names,
            predictor.computation.device,
            f" in {world_size()} processes" if world_size() > 1 else "",
            f"; {candidates.n_rows - n_left} are done already" if n_left < candidates.n_rows else "",
        )
        _predict(files, predictor, dataset, work[rank() :: world_size()], workers)
        for file in files:
            file.close()  # network file systems may show writes to others only now
        barrier()
        if rank() == 0:
            left_out = max(file.finish() for file in files)
            if left_out:
                LOGGER.warning("%d segments of damaged videos have probability 0", left_out)
            LOGGER.info("wrote %s", ", ".join(str(file.file.path) for file in files))


def remaining_work(candidates: Candidates, batch_size: int, journals: list[np.ndarray]) -> list[VideoGroup]:
    """The groups (see `video_groups`) that some model has yet to predict.

    `journals` (videos,) of each model: 1 where a video has been predicted; unreadable ones are tried again.
    """
    work = []
    for videos in video_groups(candidates.row_ends, batch_size):
        members = [number for number, journal in enumerate(journals) if (journal[videos] != 1).any()]
        if members:
            work.append(VideoGroup(videos, members))
    return work


def _n_rows(candidates: Candidates, videos: slice) -> int:
    return int(candidates.row_ends[videos.stop - 1] - candidates.row_starts[videos.start])


def _predict(
    files: list[PartialPredictions],
    predictor: Predictor,
    dataset: WholeVideoDataset,
    work: list[VideoGroup],
    workers: int,
) -> None:
    """Do this process's part of the work; an error or Ctrl-C loses nothing that is done."""
    candidates = files[0].candidates
    keys = [[(0, video) for video in range(item.videos.start, item.videos.stop)] for item in work]
    loader = BatchLoader(dataset, keys, workers, predictor.computation.device)

    def arrivals() -> Iterator[tuple[tuple[VideoGroup, list[int]], Arrival]]:
        for item, group in zip(work, loader, strict=True):
            numbers = [number for number, _ in group]
            predicted = [torch.empty(0, files[0].n_classes, dtype=torch.int16)] * len(item.members)
            if group:
                predicted = predictor([frames for _, frames in group], item.members)
            yield (item, numbers), Arrival(predicted, predictor.computation.device)

    last_save = time.monotonic()
    n_rows = sum(_n_rows(candidates, item.videos) for item in work)
    with ThreadPoolExecutor(1) as thread, Progress("predicting", n_rows, "segment", LOGGER) as progress:
        saving = thread.submit(_save, files)
        try:
            for (item, numbers), results in one_behind(arrivals()):
                for number, values in zip(item.members, predictor.checked(results, item.members)):
                    _write(files[number], item.videos, numbers, values)
                progress.update(_n_rows(candidates, item.videos))
                if saving.done() and time.monotonic() - last_save >= SECONDS_BETWEEN_SAVES:
                    saving.result()
                    saving = thread.submit(_save, files)
                    last_save = time.monotonic()
        finally:
            saving.result()
            _save(files)


def _save(files: list[PartialPredictions]) -> None:
    for file in files:
        file.save()


def _write(file: PartialPredictions, videos: slice, numbers: list[int], values: np.ndarray) -> None:
    """Write the predictions for the readable `numbers` among consecutive `videos`; the others get 0."""
    candidates = file.candidates
    counts = (candidates.row_ends - candidates.row_starts)[videos]
    read = np.isin(np.arange(videos.start, videos.stop), numbers)
    if not read.all():
        whole = np.zeros((counts.sum(), file.n_classes), np.int16)
        whole[np.repeat(read, counts)] = values
        values = whole
    file.write(videos, values, read)


@dataclass(frozen=True)
class CandidateRules:
    """Which videos' segments are candidates for a class, and how the video's own score counts.

    A video counts for a class if the class is among the video's `top_k` best, its probability is at least
    `threshold`, and the video is among the `cap` best of the class; None is no limit. The scores of its segments are
    multiplied by probability ** `weight`.
    """

    top_k: int | None = None
    threshold: float | None = None
    cap: int | None = None
    weight: float = 0.0

    def factors(self, scores: np.ndarray, seed: int) -> np.ndarray:
        """Probabilities (V, C) float32 → factors of the scores of segments, NaN for videos that do not count.

        A probability of NaN never counts. `seed` breaks ties between videos.
        """
        factors = scores ** np.float32(self.weight)
        factors[np.isnan(scores)] = np.nan
        n_videos, n_classes = scores.shape
        if self.top_k is not None and self.top_k < n_classes:
            order = np.argpartition(-scores, self.top_k, axis=1)
            np.put_along_axis(factors, order[:, self.top_k :], np.nan, axis=1)
        if self.cap is not None and self.cap < n_videos:
            shuffled = np.random.default_rng(seed).permutation(n_videos)
            order = np.argpartition(-scores[shuffled], self.cap, axis=0)
            np.put_along_axis(factors, shuffled[order[self.cap :]], np.nan, axis=0)
        if self.threshold is not None:
            factors[scores < np.float32(self.threshold)] = np.nan
        return factors


def video_scores(
    folder: ModelFolder,
    index: Index,
    candidates: Candidates,
    vocabulary: Vocabulary,
    cache_dir: Path,
    workers: int,
    device: torch.device,
    damage: Damage,
) -> np.ndarray:
    """Probabilities (V, C) float32 of a video model for the videos of the metadata and the classes of the vocabulary.

    Kept in `cache/video_predictions`. If damage is skipped, NaN for unreadable videos, and then nothing is kept. Raises
    `UserError`.
    """
    path, n_classes = folder.path, len(vocabulary)
    dataset = WholeVideoDataset(index, candidates.records, damage)
    require_same(dataset.reader.features, index.folder, folder.features, path)
    model = load_video_model(folder, vocabulary).to(device).eval()
    kept = cache_dir / VIDEO_PREDICTIONS_NAME / f"{path.resolve().name}.npz"
    origin = json.dumps(
        {
            "model": folder_digest(path),
            "test_meta": candidates.digest,
            "vocabulary": vocabulary.digest,
            "outputs": folder.vocabulary(vocabulary).digest,
        }
    )
    scores = _read(kept, origin)
    if scores is not None:
        LOGGER.info("%s: up to date", kept)
        return scores
    fuse(model)
    scores = np.full((len(candidates.records), n_classes), np.nan, np.float32)
    n_read = 0
    trim = trim_of(folder.features)
    batches = BatchLoader(dataset, SequentialBatches(len(dataset), BATCH_SIZE), workers, device)
    with Progress(f"scoring videos with {path}", len(dataset), "video", LOGGER) as progress:
        for batch in batches:
            if batch:
                numbers, videos = zip(*batch)
                scores[list(numbers)] = predict_videos(model, videos, Computation(device), trim).cpu().numpy()
                if not np.isfinite(scores[list(numbers)]).all():
                    raise UserError(f"{path}: predicts values that are not numbers; its weights are unusable")
            n_read += len(batch)
            progress.update(len(batch))
    if n_read == len(dataset):
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, scores=scores, origin=np.array(origin))
    return scores


def _read(path: Path, origin: str) -> np.ndarray | None:
    """The kept scores, if they have that origin."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["scores"] if str(file["origin"]) == origin else None
    except FileNotFoundError:
        return None
    except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged zip file raises
        LOGGER.warning("%s cannot be read (%s); scoring the videos again", path, error)
        return None
