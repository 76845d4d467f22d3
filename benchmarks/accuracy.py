"""Accuracy of trained models over several seeds of data and training, here and with the 2019 release's training.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --full --data-seeds 1 2 3

For each variant and pair of seeds, both base models are trained on planted data (`benchmarks/planted.py`), each is
fine-tuned on rated segments, and their ensemble is scored on the test set. --full adds two context-aware models.
Variants are settings of the commands, or have some aspects as in 2019: these are trained by
`benchmarks/plain_training.py` and then, like all, predict with this package's commands: with all frames of a video, and
without padding.

The tables have mean and standard deviation over the runs; the mean difference to --reference over the pairs of runs
with the same seeds, with its 95 % interval (Student's t of these pairs); and the largest ratios of validation loss to
training loss. Nothing is timed.

On two cores, with a one-thread process on each, two runs at a time took 4 minutes each, 6 with --full. Data takes 0.9
GB per seed, a run 40 MB, 60 with --full. Finished runs stay in --data-dir, and the same command resumes.
Changes to the code meanwhile change the results: to work on it, run this in a copy of the repository.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.accuracy_runs import BASES, LOG, Place, Result, Run, Variant, read_json, write_json
from benchmarks.harness import make_parser
from benchmarks.plain_training import ASPECTS
from benchmarks.planted import add_sizes
from benchmarks.watched_training import SEEN, WORST

AS_IN_2019 = "2019"
VARIANTS = (
    Variant(AS_IN_2019, as_in_2019=tuple(sorted(ASPECTS))),
    Variant("here"),
    Variant("here, inputs as in 2019", {"training.center_inputs": False}),
    Variant("here, head as in 2019", {"video.training.prior_bias": False}),
    Variant("here, inputs and head as in 2019", {"training.center_inputs": False, "video.training.prior_bias": False}),
    Variant("here, frames and padding as in 2019", as_in_2019=("frames", "padding")),
    Variant("here, decay as in 2019", as_in_2019=("decay",)),
    Variant("here, order as in 2019", as_in_2019=("order",)),
)
DATA_DIR = ROOT / "data" / "accuracy"
DATA_SEEDS, TRAINING_SEEDS = [1, 2, 3, 4, 5], [1, 2, 3]
LEVEL = 0.95

Results = dict[str, dict[tuple[int, int], Result]]  # by variant and by (data seed, training seed)


def in_turn(jobs: Mapping[str, Callable[[], None]], processes: int) -> list[str]:
    """Run all jobs, `processes` at a time; prints the outcome of each, and returns the names of those that failed."""
    failed = []
    pool = ThreadPoolExecutor(processes)  # each waits for processes
    futures = {pool.submit(job): name for name, job in jobs.items()}
    try:
        for number, future in enumerate(as_completed(futures), 1):
            name, outcome = futures[future], "finished"
            try:
                future.result()
            except subprocess.CalledProcessError as error:
                failed.append(name)
                outcome = f"failed, its {LOG} says why: {' '.join(error.cmd)}"
            print(f"{number} of {len(jobs)}: {name}: {outcome}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command resumes")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


# Measures to show, for runs that have them, and their keys in a result; AUC in percent.
MEASURES = {
    "DBoF AUC": ("auc", "dbof_0"),
    "NeXtVLAD AUC": ("auc", "nextvlad_1"),
    "MAP of these two": ("map", "2"),
    "DBoF context, NeXtVLAD segments AUC": ("auc", "dbof-nextvlad_3"),
    "DBoF twice AUC": ("auc", "dbof-dbof_4"),
    "MAP of all four": ("map", "4"),
}


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the interval of the mean of at least two values, by Student's t."""
    quantile = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
    return float(quantile * statistics.stdev(values) / len(values) ** 0.5)


def accuracy_lines(results: Results, reference_name: str) -> Iterator[str]:
    """The table of means, spreads and differences to the reference."""
    yield f"| | variant | mean | s.d. | runs | less {reference_name!r} | {LEVEL:.0%} interval | pairs |"
    yield "|---|---|---|---|---|---|---|---|"
    for title, (kind, name) in MEASURES.items():
        digits = 4 if "MAP" in title else 2
        found = {
            variant: {seeds: result[kind][name] for seeds, result in runs.items() if name in result[kind]}
            for variant, runs in results.items()
        }
        reference = found.get(reference_name, {})
        for variant, runs in found.items():
            values = list(runs.values())
            if not values:
                continue
            pairs = [value - reference[seeds] for seeds, value in runs.items() if seeds in reference]
            cells = [f"{statistics.mean(values):.{digits}f}", "", str(len(values)), "", "", ""]
            if len(values) > 1:
                cells[1] = f"{statistics.stdev(values):.{digits}f}"
            if pairs and variant != reference_name:
                mean = statistics.mean(pairs)
                cells[3], cells[5] = f"{mean:+.{digits}f}", str(len(pairs))
                if len(pairs) > 1:
                    half = half_interval(pairs)
                    cells[4] = f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}"
            yield f"| {title} | {variant} | {' | '.join(cells)} |"


def ratio_lines(results: Results) -> Iterator[str]:
    """The table of ratios of validation to training loss, and of single examples' losses to all, by variant."""
    yield "| variant | trainings | validation / training loss: median | largest | largest share of one example |"
    yield "|---|---|---|---|---|"
    for variant, runs in results.items():
        for kind, title in (("base", "base models"), ("fine-tuning", "fine-tunings")):
            found = [ratio for run in runs.values() for ratio in run["ratio"][kind].values() if ratio]
            if found:
                ratios, worst = ([ratio[key] for ratio in found] for key in (SEEN, WORST))
                cells = f"{statistics.median(ratios):.2f} | {max(ratios):.2f} | {max(worst):.3f}"
                yield f"| {variant} | {len(found)} {title} | {cells} |"


def print_tables(results: Results, reference: str) -> None:
    """Print the tables of existing results."""
    if not results:
        return
    print("", *accuracy_lines(results, reference), "", *ratio_lines(results), sep="\n")
    print(
        "\nOf each training the largest at any of its evaluations; losses of the same weights, in evaluation mode, on "
        "equally many examples."
    )
    codes = {code for runs in results.values() for result in runs.values() for code in result["codes"]}
    if len(codes) > 1:
        print(f"\nThese are results of {len(codes)} versions of the code: some differences may be due to that.")


def parse_arguments() -> argparse.Namespace:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, DATA_DIR, "data, models and results are kept")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"which of {', '.join(map(repr, names))} (default: all)",
    )
    parser.add_argument(
        "--reference",
        choices=names,
        default=AS_IN_2019,
        metavar="NAME",
        help="what differences are taken to (default: %(default)s)",
    )
    for name, seeds in (("data", DATA_SEEDS), ("training", TRAINING_SEEDS)):
        shown = " ".join(map(str, seeds))
        parser.add_argument(
            f"--{name}-seeds", type=int, nargs="+", default=seeds, metavar="S", help=f"(default: {shown})"
        )
    parser.add_argument("--full", action="store_true", help="also train context-aware models")
    parser.add_argument(
        "--families",
        nargs="+",
        choices=BASES,
        default=list(BASES),
        metavar="NAME",
        help=f"which of {', '.join(BASES)} (default: all)",
    )
    parser.add_argument(
        "--processes", type=int, default=2, metavar="N", help="runs at a time, with one thread each (default: 2)"
    )
    parser.add_argument("--list", action="store_true", help="list finished runs, and print their tables")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of each training, to try this (default: the configurations')"
    )
    add_sizes(parser)
    return parser.parse_args()


def settle(args: argparse.Namespace) -> Place:
    """The folder of data and results, if its sizes and steps are the same."""
    path = args.data_dir.absolute() / "settings.json"
    now: dict[str, Any] = {"sizes": [list(size) for size in args.sizes], "steps": args.steps}
    before = read_json(path)
    if before not in (None, now):
        sys.exit(f"{path}: was {before}, is {now}; choose another --data-dir")
    if not args.list:
        write_json(path, now)
    return Place(path.parent, args.sizes, args.steps)


def main() -> None:
    """Run what is missing and print the tables."""
    args = parse_arguments()
    place = settle(args)
    runs = [
        Run(place, variant, data_seed, training_seed, args.full, tuple(args.families))
        for training_seed in args.training_seeds
        for data_seed in args.data_seeds
        for variant in VARIANTS
        if variant.name in args.variants
    ]
    missing = [run for run in runs if run.result is None]
    failed: list[str] = []
    if args.list:
        print(*(f"{run}: {'missing' if run in missing else 'finished'}" for run in runs), sep="\n")
    else:
        seeds = dict.fromkeys(run.data_seed for run in missing)
        failed = in_turn({f"data {seed}": partial(place.prepare, seed) for seed in seeds}, args.processes)
        failed = failed or in_turn({str(run): run.make for run in missing}, args.processes)
    results: Results = {}
    for run in sorted(runs, key=lambda run: VARIANTS.index(run.variant)):
        result = run.result
        if result is not None:
            results.setdefault(run.variant.name, {})[run.data_seed, run.training_seed] = result
    print_tables(results, args.reference)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
