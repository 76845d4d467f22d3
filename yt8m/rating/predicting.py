"""Probabilities of films' segments, from a model and extracted features.

Dimensions: S segments of a film, C classes of a model.
"""

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from yt8m.common.devices import resolve_device
from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.frames import EVERYTHING
from yt8m.data.index import index_file
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.classifiers import ContextAgnosticModel
from yt8m.models.model_folders import load_video_model, open_folder
from yt8m.prediction.inference import Computation, Member, Predictor, load_members, mean_probabilities, require_features
from yt8m.rating.questions import Judgement

LOGGER = logging.getLogger(__name__)


class SegmentJudge:
    """A model that judges segments: a segment model or, before any segment is rated, a video model, which treats
    segments as whole videos. `vocabulary`: its classes."""

    def __init__(self, path: Path, device: str) -> None:
        """Load the model of a folder. Raises `UserError`."""
        self._folder = open_folder(path)
        self.vocabulary: Vocabulary = self._folder.vocabulary()
        computation = Computation(resolve_device(device), trim=EVERYTHING)
        if self._folder.kind == "video":
            model = ContextAgnosticModel(load_video_model(self._folder, self.vocabulary)).eval()
            members = [Member(self._folder.name, model.to(computation.device), self._folder.offset)]
        else:
            members = load_members([self._folder], None, self.vocabulary, computation.device)
        self._predictor = Predictor(members, computation)

    def judge(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities (S, C) of all segments of a film, from its features (seconds, D) uint8."""
        (probabilities,) = mean_probabilities(self._predictor, [torch.from_numpy(frames)], len(self.vocabulary))
        return probabilities

    def judge_folder(self, folder: Path, video_ids: Collection[str]) -> Judgement:
        """Judge the films with these ids whose features are in shards in a folder or its subfolders.

        Raises `UserError` for a folder without shards, features other than the model's, and damaged ones.
        """
        shards = sorted(folder.rglob("*.tfrecord"))
        if not shards:
            raise UserError(f"--features {folder}: no shard (.tfrecord) in it or its subfolders")
        found: dict[str, np.ndarray] = {}
        with Progress("looking at films", len(video_ids), "film", LOGGER) as progress:
            for shard in shards:
                index = index_file(shard)
                ids = [video_id.decode(errors="replace") for video_id in index.video_id.tolist()]
                rows = [row for row, video_id in enumerate(ids) if video_id in video_ids]
                dataset = WholeVideoDataset(index, np.array(rows, np.int64))
                if rows:
                    require_features([self._folder], dataset.reader)
                for number, row in enumerate(rows):
                    if ids[row] not in found:
                        ((_, frames),) = dataset.__getitems__([(0, number)])
                        found[ids[row]] = self.judge(frames.numpy())
                        progress.update(1)
        return Judgement(found, self.vocabulary)
