"""Comparison of averages of the weights with the weights of the last step: why there is no option for them.

    python benchmarks/accuracy.py --variants here --data-seeds 1 2 3 --training-seeds 1
    python benchmarks/averaging.py

Fine-tunes the base models of finished runs of "here" again, with the schedule of the package's trainers, and compares
at the last step: the weights; their exponential moving average; and the mean of the weights of every fifth step of the
last half and of the last quarter (stochastic weight averaging). Each with the batch statistics of the last step, and
with statistics recomputed for these weights from 50 batches. --pre-training also trains DBoF's base model again. Prints
means over the runs, and the mean differences to the last weights with their 95 % intervals (Student's t). Finished runs
are kept; the same command resumes. Nothing is timed.
"""

import copy
import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.accuracy import DATA_DIR, LEVEL, half_interval
from benchmarks.accuracy_runs import CONFIGS, RESULT, read_json, write_json
from benchmarks.harness import make_parser
from benchmarks.plain_training import COMMANDS, Trainer, batches_of, training_keys

DECAY = 0.99  # at most; after step n + 1 at most (1 + n) / (10 + n)
SHARES = {"half": 0.5, "quarter": 0.25}
EVERY, BATCHES, SEED = 5, 50, 777
LAST, ANEW = "last step", ", recomputed statistics"
TRAININGS = {
    "DBoF AUC": ("train_pure_segment", "pure_segment", "dbof", 0),
    "NeXtVLAD AUC": ("train_pure_segment", "pure_segment", "nextvlad", 1),
}
PRE_TRAINING = {"DBoF base validation loss": ("train_video", "video_dbof", None, None)}


class Averages:
    """The averages of a model's weights to compare; `models` by name."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self._model, self._steps = model, steps
        self._moving = copy.deepcopy(model)
        self._means = {name: copy.deepcopy(model) for name in SHARES}
        self._counts = dict.fromkeys(SHARES, 0)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step."""
        _approach(self._moving, self._model, 1 - min((1 + step) / (10 + step), DECAY))
        for name, share in SHARES.items():
            if step > self._steps * (1 - share) and step % EVERY == 0:
                self._counts[name] += 1
                _approach(self._means[name], self._model, 1 / self._counts[name])

    @torch.no_grad()
    def models(self) -> Iterator[tuple[str, Any]]:
        """Each with its name and the buffers of the model."""
        yield LAST, self._model
        named = {"moving average": self._moving}
        named |= {f"mean of the last {name}": model for name, model in self._means.items()}
        for name, model in named.items():
            for target, buffer in zip(model.buffers(), self._model.buffers()):
                target.copy_(buffer)
            yield name, model


def _approach(target: nn.Module, model: nn.Module, share: float) -> None:
    for average, weight in zip(target.parameters(), model.parameters()):
        average.lerp_(weight, share)


@torch.no_grad()
def compute_statistics(trainer: Trainer, model: nn.Module) -> None:
    """Recompute the statistics of a model's batch norms over some batches, like `torch.optim.swa_utils.update_bn`."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    dataset = trainer.datasets[0]
    batches = batches_of(training_keys(dataset, SEED, False), trainer.settings.batch_size)
    model.train()
    for norm in norms:
        norm.reset_running_stats()
    for number in range(1, BATCHES + 1):
        for norm in norms:
            norm.momentum = 1 / number
        trainer.forward(model, dataset.__getitems__(next(batches)))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def compare(run: Path, title: str) -> dict[str, float]:
    """Train again and return the result of each set of weights."""
    torch.set_num_threads(1)
    command, config, base, fold = (TRAININGS | PRE_TRAINING)[title]
    module, build = COMMANDS[command]
    seed = int(run.name.rsplit("-", 1)[1])
    arguments: list[object] = [CONFIGS / f"{config}.yaml", "--name", "none", "--seed", seed, "--data-dir", run]
    if base is not None:
        arguments += [run / "cache" / "video" / base, "--fold", fold]
    args = module.build_parser().parse_args(list(map(str, arguments)))
    torch.manual_seed(seed)
    trainer = build(args, run, frozenset())
    averages = Averages(trainer.model, trainer.settings.steps)
    for step, _ in trainer.steps(seed):
        averages.update(step)
    results = {}
    for name, model in averages.models():
        for suffix in ("", ANEW):
            if suffix:
                compute_statistics(trainer, model)
            found = trainer.evaluate(model)
            results[f"{name}{suffix}"] = found.get("auc", found["valid_loss"])
    return results


def make(run: Path, title: str, path: Path) -> None:
    """Compare and keep the result, unless it exists."""
    if not path.exists():
        write_json(path, compare(run, title))


def table(results: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Means and differences to the weights of the last step."""
    yield f"| | weights | mean | less {LAST} | {LEVEL:.0%} interval | runs |"
    yield "|---|---|---|---|---|---|"
    for title, runs in results.items():
        digits = 2 if "AUC" in title else 5
        for name in runs[0]:
            values = [run[name] for run in runs]
            differences = [run[name] - run[LAST] for run in runs]
            cells = [f"{statistics.mean(values):.{digits}f}", "", "", str(len(runs))]
            if name != LAST and len(runs) > 1:
                mean, half = statistics.mean(differences), half_interval(differences)
                cells[1:3] = f"{mean:+.{digits}f}", f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}"
            yield f"| {title} | {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing and print the table."""
    parser = make_parser(__doc__, DATA_DIR, "accuracy.py keeps data, models and results")
    parser.add_argument("--pre-training", action="store_true", help="also train DBoF's base model")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    args = parser.parse_args()
    folder = args.data_dir.absolute()
    runs = [run for run in sorted((folder / "runs").glob("here-[0-9]*-[0-9]*")) if (run / RESULT).exists()]
    if not runs:
        sys.exit(f"{folder}: no finished run of the variant 'here'; make them with benchmarks/accuracy.py")
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    titles = TRAININGS | (PRE_TRAINING if args.pre_training else {})
    paths = {(run, title): folder / "averaging" / f"{run.name} {title}.json" for title in titles for run in runs}
    (folder / "averaging").mkdir(exist_ok=True)
    with ProcessPoolExecutor(args.processes) as pool:
        for done in [pool.submit(make, run, title, path) for (run, title), path in paths.items()]:
            done.result()
    results: dict[str, list[dict[str, float]]] = {title: [] for title in titles}
    for (_, title), path in paths.items():
        found = read_json(path)
        assert found is not None
        results[title].append(found)
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
