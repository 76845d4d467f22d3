"""Speed of training and prediction with the published configurations on a GPU, and what limits it.

    python benchmarks/gpu.py

first compares with the CPU: small models of each family must give the same losses, gradients and predictions in
float32, or it exits with status 2. Then it makes 3,608 videos of random bytes, as long as real ones, in the layouts of
2/frame and 3/frame, and measures each configuration in scripts/ in the trainers' default precision (bfloat16 if the GPU
has it, else float16), and prediction in float32, its default, and in that precision. Each row of the Markdown table is
printed as soon as it is measured:

- step alone: steps on batches already on the GPU;
- loop: the package's own loop, fed by its loader from shards in the page cache, without evaluations and checkpoints;
  that of prediction writes its files, but does not wait for the disk;
- share: the loop's rate as a share of that of the step alone;
- loader alone: batches with nothing else to do, read by the commands' default number of threads;
- arithmetic: the share of the step alone that its matrix products take at the rate of a large one;
- idle: the share of the loop's time in which no kernel runs;
- memory: the peak memory of the loop's tensors;
- the loop's time for the challenge's 1,704,348 segments.

Rates are medians, of the step alone by the GPU's clock. Models are untrained, which does not affect times.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

# pylint: disable=wrong-import-position
from benchmarks.gpu_check import check_equal
from benchmarks.gpu_data import SIZES, Place, make_data, progress
from benchmarks.gpu_timing import Stretches, busy_seconds, median_rate, product_rate
from benchmarks.gpu_work import ENSEMBLES, TRAININGS, Prediction, Training, Work
from yt8m.cli import number_type, run
from yt8m.common.devices import resolve_device

N_SEGMENTS = 1_704_348
COLUMNS = (
    "",
    "precision",
    "step alone",
    "loop",
    "share",
    "loader alone",
    "arithmetic",
    "idle",
    "memory",
    f"{N_SEGMENTS:,} segments",
)


def loader_rate(place: Place, work: Work) -> float:
    """Examples per second of the loader alone."""
    stretches = Stretches(place)
    with closing(work.loaded()) as batches:
        for n_examples in batches:
            stretches.begin(n_examples)
            if stretches.enough:
                break
    return stretches.rate()


def row(name: str, place: Place, work: Work, product: float) -> str:
    """Measure some work and return its row of the table. `product`: operations per second of a large matrix product."""
    device = place.device
    on_gpu = device.type == "cuda"
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        n_examples = work.turn()
    operations = counter.get_total_flops() / n_examples
    alone = median_rate(place, work.turn)
    loader = loader_rate(place, work)
    if on_gpu:
        gc.collect()  # of earlier rows
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) - work.resident
    loop = work.loop(min(alone, loader))
    memory = f"{(torch.cuda.max_memory_allocated(device) - before) / 1e9:.2f} GB" if on_gpu else "-"
    busy = busy_seconds(place, work.turn)  # last, since a profiler may slow down what follows
    cells = (
        name,
        precision(work.amp),
        f"{alone:,.0f} {work.unit}/s",
        f"{loop:,.0f} {work.unit}/s",
        share(loop / alone),
        f"{loader:,.0f} {work.unit}/s",
        share(operations * alone / product),
        "-" if busy is None else share(max(0.0, 1 - busy * loop)),
        memory,
        f"{N_SEGMENTS / loop / 60:.1f} min" if name in ENSEMBLES else "-",
    )
    return f"| {' | '.join(cells)} |"


def share(value: float) -> str:
    """A share in percent."""
    return f"{value:.0%}".replace("%", " %")


def precision(amp: torch.dtype | None) -> str:
    """The name of a half precision, or of None."""
    return str(amp or torch.float32).removeprefix("torch.")


def works(name: str, place: Place) -> Iterator[Work]:
    """The work under each name, created in turn."""
    if name in TRAININGS:
        yield Training(name, place)
    else:
        yield from (Prediction(name, place, amp) for amp in dict.fromkeys((None, place.amp)))


def report(place: Place, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the machine's description and the table."""
    device = place.device
    progress("measuring matrix products")
    products = {amp: product_rate(place, amp or torch.float32) for amp in dict.fromkeys((None, place.amp))}
    shown = " and ".join(f"{rate / 1e12:.3g} TFLOP/s in {precision(amp)}" for amp, rate in products.items())
    yield (
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, "
        f"{len(os.sched_getaffinity(0))} CPU cores, {place.workers} loader threads; matrix products: {shown}."
    )
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"{'|---' * len(COLUMNS)}|"
    for name in names:
        for work in works(name, place):
            progress(f"measuring {name} in {precision(work.amp)}")
            yield row(name, place, work, products[work.amp])


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", metavar="cuda[:i]|cpu", help="device to compute on (default: cuda)")
    names = [*TRAININGS, *ENSEMBLES]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)} (default: all)"
    )
    parser.add_argument(
        "--seconds",
        type=number_type("number above 0", lambda value: value > 0),
        default=4.0,
        metavar="S",
        help="for each rate of a row, of which it has three (default: 4)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="keep the generated data there, 1 GB, for the next run (default: a temporary folder)",
    )
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the output to this file")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="published",
        help="tiny: small models and data, for a trial (default: published)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Compare, measure, print. Raises `UserError`."""
    device = resolve_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with ExitStack() as stack:
        files = [sys.stdout]
        if args.output is not None:
            files.append(stack.enter_context(args.output.open("w", encoding="utf-8")))

        def say(line: str) -> None:
            for file in files:
                print(line, file=file, flush=True)

        progress("comparing with the CPU")
        say(check_equal(device))
        folder = args.data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yt8m-gpu-")))
        place = Place(folder / args.size, SIZES[args.size], device, args.seconds, args.compile)
        make_data(place)
        for line in report(place, args.only):
            say(line)


if __name__ == "__main__":
    run(main, build_parser())
