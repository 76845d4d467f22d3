"""What a video model thinks of the test videos, to say which of their segments are worth ranking.

Dimensions: V videos, C classes.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.candidates import Candidates
from yt8m.data.damage import Damage
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.features import require_same
from yt8m.data.index import Index
from yt8m.data.sampling import SequentialBatches
from yt8m.data.segments import trim_of
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.artifacts import ModelFolder, load_video_model
from yt8m.models.base import fold
from yt8m.models.model_files import folder_digest
from yt8m.prediction.inference import Computation, predict_videos

LOGGER = logging.getLogger(__name__)
VIDEO_PREDICTIONS_NAME = "video_predictions"
BATCH_SIZE = 32


@dataclass(frozen=True)
class CandidateRules:
    """Which segments of which videos are candidates for a class, and how the video's own score counts.

    A video counts for a class if the class is among the video's `top_k` best, if its probability is at least
    `threshold`, and if the video is among the `cap` best of the class; what is None rules nothing out. The scores of
    its segments are multiplied by probability ** `weight`.
    """

    top_k: int | None = None
    threshold: float | None = None
    cap: int | None = None
    weight: float = 0.0

    def factors(self, scores: np.ndarray, seed: int) -> np.ndarray:
        """Probabilities (V, C) float32 → what multiplies the scores of segments, NaN for those that do not count.

        A probability of NaN never counts. Of equally probable videos `seed` chooses.
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

    Kept in `cache/video_predictions`; NaN for videos that cannot be read, where damage is skipped, and then not kept.
    Raises `UserError`.
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
    fold(model)
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
                    raise UserError(f"{path}: predicts values that are not numbers; its weights are of no use")
            n_read += len(batch)
            progress.update(len(batch))
    if n_read == len(dataset):
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, scores=scores, origin=np.array(origin))
    return scores


def _read(path: Path, origin: str) -> np.ndarray | None:
    """What is kept there, if it has that origin."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["scores"] if str(file["origin"]) == origin else None
    except FileNotFoundError:
        return None
    except Exception as error:  # pylint: disable=broad-exception-caught  # whatever a damaged zip file raises
        LOGGER.warning("%s cannot be read (%s); the videos are scored anew", path, error)
        return None
