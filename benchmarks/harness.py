"""Functions shared by the benchmarks: generated data, fair timing, and a table of ours against the plain way."""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from yt8m import make_demo_data

SIZES = (
    "--train-videos 1500 --valid-videos 8 --rated-videos 800 --test-videos 300 --classes 200 --shard-videos 100 "
    "--min-seconds 120 --max-seconds 300 --seed 8"
).split()


def make_parser(description: str | None, folder: Path, kept: str) -> argparse.ArgumentParser:
    """Build a parser with `--data-dir`, by default `folder`; `kept`: what is kept there."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, default=folder, metavar="DIR", help=f"where {kept} (default: %(default)s)"
    )
    return parser


def add_repeats(parser: argparse.ArgumentParser, default: int) -> None:
    """Add `--repeats`."""
    parser.add_argument(
        "--repeats", type=int, default=default, metavar="N", help="timings of each way (default: %(default)s)"
    )


def make_data(data_dir: Path) -> None:
    """Generate shards of videos as long as real ones, unless they exist."""
    if not (data_dir / "truth.csv").is_file():  # written last
        make_demo_data.main(make_demo_data.build_parser().parse_args([*SIZES, "--data-dir", str(data_dir)]))


def rates(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The rates of several ways to do the same, taking turns: the median of `repeats` turns.

    A way does its work and returns its rate, in its own units per second.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, way in ways.items():
            print(f"\r{name}, {turn + 1} of {repeats} ... ", end="", file=sys.stderr, flush=True)
            found[name].append(way())
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return {name: statistics.median(values) for name, values in found.items()}


def print_rates(title: str, unit: str, values: Mapping[str, float], plain: str) -> None:
    """Print a table of rates and their ratios to that of the plain way, recognized by the start of its name.

    Of several plain ways the fastest counts.
    """
    print(f"\n{title}")
    fastest = max(value for name, value in values.items() if name.startswith(plain))
    for name, value in values.items():
        ratio = "" if name.startswith(plain) else f"{value / fastest:8.1f} x"
        digits = 0 if value >= 100 else 2
        print(f"  {name:<40}{value:>12,.{digits}f} {unit}/s{ratio}", flush=True)


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file come from disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
