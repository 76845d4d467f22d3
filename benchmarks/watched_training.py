"""The package's trainers, with the loss on training examples measured at each evaluation.

    python benchmarks/watched_training.py train_video CONFIG --name NAME --seed 1 --data-dir DIR

takes the command lines of the trainers and writes the same model folders. `history.csv` has two more columns.
`seen_loss` is the loss on as many training examples as there are validation examples, with the validated weights, in
evaluation mode: `valid_loss / seen_loss` is 1 for a model that generalizes, and larger for one that overfits or blows
up on single videos. `worst_share` is the largest loss of a single validation example as a share of the sum of all: most
of it if one blows up.
"""

import argparse
import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helperbot import Metric
from helperbot.devices import move_to
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from yt8m import train_pure_segment, train_segment_w_context, train_video
from yt8m.cli import run, run_training
from yt8m.common.devices import resolve_half
from yt8m.data.datasets import ShardDataset
from yt8m.data.order import Key
from yt8m.training.experiments import Builder, Experiment, Sources
from yt8m.training.losses import Task

SEEN, WORST = "seen_loss", "worst_share"
COMMANDS = {
    "train_video": train_video,
    "train_pure_segment": train_pure_segment,
    "train_segment_w_context": train_segment_w_context,
}


def seen_examples(train_set: ShardDataset[Any], n_examples: int) -> list[Key]:
    """Draw `n_examples` training examples, once, in order."""
    drawn = np.random.default_rng(0).permutation(len(train_set))[:n_examples]
    return [(0, example) for example in np.sort(drawn).tolist()]


@dataclass(frozen=True)
class _Seen:
    """A measurement of a model in evaluation mode on training examples, `size` at a time."""

    model: nn.Module
    task: Task[Any]
    dataset: ShardDataset[Any]
    keys: list[Key]
    size: int
    device: torch.device
    amp: torch.dtype | None

    def loss(self) -> float:
        """The mean over the examples."""
        total = 0.0
        for first in range(0, len(self.keys), self.size):
            chosen = self.keys[first : first + self.size]
            batch = move_to(self.dataset.__getitems__(chosen), self.device)
            with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                total += len(chosen) * self.task.criterion(self.task.forward(self.model, batch), batch).item()
        return total / len(self.keys)


def watched(build: Builder, amp_name: str) -> Builder:
    """A builder of the same experiments with an additional metric; `amp_name`: the precision to compute in."""

    def build_watched(sources: Sources) -> Experiment[Any]:
        experiment = build(sources)
        if experiment.validation is None:
            return experiment  # nothing to compare with
        dataset = copy.copy(experiment.training.dataset)
        dataset.seed = None  # read as for evaluation
        keys = seen_examples(dataset, len(experiment.validation.dataset))
        device = sources.device
        amp = resolve_half(amp_name, device)
        seen = _Seen(experiment.model, experiment.task, dataset, keys, experiment.settings.batch_size, device, amp)

        class Watched(Metric):
            """The task's metrics, the loss on training examples and the largest loss of a single example."""

            def __init__(self, own: Metric) -> None:
                super().__init__(own.name)
                self.own = own
                self.losses: list[float] = []

            def reset(self) -> None:
                """See `Metric`."""
                self.own.reset()
                self.losses = []

            def update(self, outputs: Tensor, batch: Any) -> None:
                """See `Metric`."""
                self.own.update(outputs, batch)
                rows = zip(outputs.float().split(1), batch.split(len(outputs)))
                self.losses += [experiment.task.criterion(*row).item() for row in rows]

            def exchange(self) -> None:
                """See `Metric`."""
                self.own.exchange()

            def compute(self) -> dict[str, float]:
                """See `Metric`; called in evaluation mode."""
                results = self.own.compute()
                assert isinstance(results, dict)
                return {**results, SEEN: seen.loss(), WORST: max(self.losses) / sum(self.losses)}

        class WatchedTask(type(experiment.task)):  # type: ignore[misc]
            """The task with these metrics."""

            def metric(self, n_classes: int, folder: Path) -> Metric:
                """See `Task`."""
                return Watched(super().metric(n_classes, folder))

        return replace(experiment, task=WatchedTask(**vars(experiment.task)))

    return build_watched


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    outer = parser.parse_args()
    command = COMMANDS[outer.command]

    def train_watched(args: argparse.Namespace) -> None:
        run_training(args, watched(command.builder(args), args.amp))

    run(train_watched, command.build_parser(), outer.arguments)


if __name__ == "__main__":
    main()
