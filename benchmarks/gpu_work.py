"""Work measured by `gpu.py`: training and prediction, each as steps alone, as its loader alone, and as its loop."""

import argparse
import copy
import logging
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from helperbot import close_logger, move_to
from helperbot.training_step import FiniteGuard, Stepper
from torch import Tensor

from benchmarks.gpu_data import OFFSET, Place
from benchmarks.gpu_timing import REPEATS, WARM_ITEMS, Stretches
from benchmarks.watched_training import COMMANDS
from yt8m.cli import model_folder, run_training
from yt8m.data.candidates import find_candidates
from yt8m.data.dataloader import BatchLoader, TrainingLoader
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.index import load_index
from yt8m.data.vocabulary import challenge_vocabulary
from yt8m.prediction.inference import Arrival, Computation, Member, Predictor, one_behind, video_groups
from yt8m.prediction.prediction_files import PartialPredictions, PredictionFile
from yt8m.training.experiments import Experiment, Sources

# The command and the base models of each configuration.
TRAININGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "video_gated_dbof": ("train_video", ()),
    "video_nextvlad": ("train_video", ()),
    "pure_segment_dbof": ("train_pure_segment", ("dbof",)),
    "pure_segment_nextvlad": ("train_pure_segment", ("nextvlad",)),
    "segment_with_context": ("train_segment_w_context", ("dbof", "nextvlad")),
}
# The number of models of each of `KINDS`: ten as in scripts/context-*.bash, and seven of them.
ENSEMBLES = {"prediction_7": (2, 2, 1, 1, 1), "prediction_10": (3, 3, 2, 1, 1)}
N_BATCHES = 4  # on the device


class Work(ABC):
    """Work to measure, in `unit`s, in the precision `amp`.

    `resident`: bytes on the device before the loop begins, which it needs.
    """

    unit: str
    amp: torch.dtype | None
    resident: int

    @abstractmethod
    def turn(self) -> int:
        """Steps on batches already on the device; returns their number of examples."""

    @abstractmethod
    def loaded(self) -> Generator[int, None, None]:
        """The numbers of examples of the loader's batches, endlessly."""

    @abstractmethod
    def loop(self, expected: float) -> float:
        """Examples per second of the package's loop, for an estimate of `expected`."""


class TimedLoader(TrainingLoader[Any]):
    """The loader of a training of `steps` steps that reports each batch to `stretches`."""

    def __init__(self, loader: TrainingLoader[Any], stretches: Stretches, steps: int) -> None:
        super().__init__(loader.dataset, loader.keys, loader.workers, loader.device)
        self._stretches, self._steps = stretches, steps

    def __iter__(self) -> Generator[Any, None, None]:
        for number, batch in enumerate(super().__iter__(), 1):
            self._stretches.begin(len(batch.examples), number == self._steps)
            yield batch


class Training(Work):
    """A published training."""

    def __init__(self, name: str, place: Place) -> None:
        command, bases = TRAININGS[name]
        self.unit, self.amp, self.resident = "segments" if bases else "videos", place.amp, 0
        module = COMMANDS[command]
        arguments = [place.folder / f"{name}.yaml", *map(place.base_folder, bases), "--name", "timed", "--seed", 8]
        arguments += ["--data-dir", place.folder, "--device", place.device, "--save-every", 10**9, "--restart"]
        arguments += ["--quiet", *(["--fold", "none"] if bases else []), *(["--compile"] if place.compiled else [])]
        self._module = module
        self._args = module.build_parser().parse_args(list(map(str, arguments)))
        self._place = place
        torch.manual_seed(self._args.seed)
        sources = Sources(place.folder, self._args.seed, place.workers, place.device, self._args.damage)
        experiment = module.builder(self._args)(sources)
        self._loader = experiment.training
        with closing(iter(self._loader)) as batches:
            self._batches = [move_to(batch, place.device) for batch in islice(batches, N_BATCHES)]
        settings, task = experiment.settings, experiment.task
        self._batch_size = settings.batch_size
        optimizer = torch.optim.AdamW(experiment.groups, lr=settings.lr, eps=settings.eps, fused=True)
        model = experiment.model.train()
        forward, clip = task.forward, settings.clip_grad_norm
        self._stepper = Stepper(
            model, optimizer, forward, task.criterion, place.device, clip, place.amp, compiled=place.compiled
        )
        self._guard = FiniteGuard(immediate=place.device.type == "cpu")  # as in the trainers

    def turn(self) -> int:
        """See `Work`."""
        return sum(self._stepper.step(batch, 1, self._guard) for batch in self._batches)

    def loaded(self) -> Generator[int, None, None]:
        """See `Work`."""
        return (len(batch.examples) for batch in self._loader)

    def loop(self, expected: float) -> float:
        """See `Work`; the trainers' loop, with its own model, without evaluations and checkpoints."""
        n_steps = max(REPEATS, math.ceil(self._place.seconds * expected / self._batch_size))
        args = argparse.Namespace(**{**vars(self._args), "steps": WARM_ITEMS + n_steps + 1})
        stretches = Stretches(self._place)

        def build(sources: Sources) -> Experiment[Any]:
            experiment = self._module.builder(args)(sources)
            return replace(
                experiment, training=TimedLoader(experiment.training, stretches, args.steps), validation=None
            )

        run_training(args, build)
        close_logger(logging.getLogger("yt8m"))
        shutil.rmtree(model_folder(args))
        return stretches.rate()


class Prediction(Work):
    """Prediction of test segments by an ensemble."""

    def __init__(self, name: str, place: Place, amp: torch.dtype | None) -> None:
        self.unit, self.amp, self._place = "segments", amp, place
        before = _allocated(place.device)
        models = [model for model, count in zip(place.segment_models, ENSEMBLES[name]) for _ in range(count)]
        members = [Member(str(row), copy.deepcopy(model).to(place.device), OFFSET) for row, model in enumerate(models)]
        self._predictor = Predictor(members, Computation(place.device, amp))
        self.resident = _allocated(place.device) - before
        self._numbers = range(len(members))
        index = load_index(place.folder / "segment" / "test", place.folder / "cache")
        self._meta = find_candidates(index)
        self._groups = video_groups(self._meta.row_ends, place.size.segments)
        self._dataset = WholeVideoDataset(index, self._meta.records)
        with closing(self._load()) as loaded:
            self._batches = [move_to(videos, place.device) for _, videos in islice(loaded, N_BATCHES)]

    def _load(self) -> Generator[tuple[slice, list[Tensor]], None, None]:
        """Groups of videos, repeatedly."""
        keys = ([(0, video) for video in range(group.start, group.stop)] for group in cycle(self._groups))
        loader = BatchLoader(self._dataset, keys, self._place.workers, self._place.device)
        for group, batch in zip(cycle(self._groups), loader):
            yield group, [frames for _, frames in batch]

    def _n_segments(self, group: slice) -> int:
        return int(self._meta.row_ends[group.stop - 1] - self._meta.row_starts[group.start])

    def turn(self) -> int:
        """See `Work`."""
        return sum(len(self._predictor(videos, self._numbers)[0]) for videos in self._batches)

    def loaded(self) -> Generator[int, None, None]:
        """See `Work`."""
        return (self._n_segments(group) for group, _ in self._load())

    def loop(self, expected: float) -> float:
        """See `Work`; as in `inference_memmap`, which writes files, but does not wait for the disk."""
        stretches = Stretches(self._place)
        with ExitStack() as stack:
            files = []
            for number in self._numbers:
                path = self._place.folder / "cache" / "predictions" / f"{number}.npy"
                file = PartialPredictions(PredictionFile(path), self._meta, len(challenge_vocabulary()), {})
                stack.callback(file.discard)
                stack.callback(file.release)
                file.prepare()
                file.open()
                files.append(file)
            loaded = stack.enter_context(closing(self._load()))

            def arrivals() -> Iterator[tuple[slice, Arrival]]:
                for group, videos in loaded:
                    stretches.begin(self._n_segments(group))
                    if stretches.enough:
                        return
                    yield group, Arrival(self._predictor(videos, self._numbers), self._place.device)

            for group, results in one_behind(arrivals()):
                for file, values in zip(files, self._predictor.checked(results, self._numbers)):
                    file.write(group, values, np.ones(group.stop - group.start, bool))
        return stretches.rate()


def _allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
