"""Rates on a device: of turns by its own clock, of loops as medians of stretches, and the time of its kernels."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import torch

from benchmarks.gpu_data import Place

REPEATS, WARM_TURNS, WARM_ITEMS, N_PRODUCTS = 5, 3, 10, 4

Result = TypeVar("Result")


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """The return value of some work, and the seconds it takes, on a GPU by its own clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    result = work()
    end.record()
    end.synchronize()
    return result, begin.elapsed_time(end) / 1e3


def median_rate(place: Place, turn: Callable[[], int]) -> float:
    """Examples per second of a turn, which returns their number."""
    for _ in range(WARM_TURNS):
        turn()
    synchronize(place.device)
    rates: list[float] = []
    end = time.perf_counter() + place.seconds
    while len(rates) < REPEATS or time.perf_counter() < end:
        n_examples, seconds = timed(place.device, turn)
        rates.append(n_examples / seconds)
    return statistics.median(rates)


def product_rate(place: Place, dtype: torch.dtype) -> float:
    """Floating-point operations per second of products of large matrices."""
    n_rows = place.size.matrix
    matrix = torch.rand(n_rows, n_rows, device=place.device).to(dtype)
    result = torch.empty_like(matrix)

    def turn() -> int:
        for _ in range(N_PRODUCTS):
            torch.mm(matrix, matrix, out=result)
        return N_PRODUCTS * 2 * n_rows**3

    return median_rate(place, turn)


class Stretches:
    """The rate of a loop: the median of its stretches, each at least a fifth of the requested time.

    The first `WARM_ITEMS` items do not count. Each stretch ends by waiting for the device.
    """

    def __init__(self, place: Place) -> None:
        self._device, self._least = place.device, place.seconds / REPEATS
        self._n_items = self._n_examples = 0
        self._marks: list[tuple[float, int]] = []  # time, and examples begun before

    def begin(self, n_examples: int, last: bool = False) -> None:
        """Begin an item of `n_examples`; the `last` ends the stretch, whatever its length."""
        self._n_items += 1
        due = last or not self._marks or time.perf_counter() - self._marks[-1][0] >= self._least
        if self._n_items > WARM_ITEMS and due:
            synchronize(self._device)
            self._marks.append((time.perf_counter(), self._n_examples))
        self._n_examples += n_examples

    @property
    def enough(self) -> bool:
        """Whether they have taken the requested time."""
        return len(self._marks) > REPEATS

    def rate(self) -> float:
        """Examples per second."""
        pairs = list(pairwise(self._marks))
        return statistics.median((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The total length covered by the spans (start, stop), which may overlap."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def busy_seconds(place: Place, turn: Callable[[], int]) -> float | None:
    """The time of kernels per example of a turn; None if none can be observed."""
    if place.device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profiler:
        n_examples = turn() + turn()
        synchronize(place.device)
    path = place.folder / "trace.json"
    profiler.export_chrome_trace(str(path))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    path.unlink()
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") == "kernel"]
    return covered(spans) / 1e6 / n_examples if spans else None  # in microseconds
