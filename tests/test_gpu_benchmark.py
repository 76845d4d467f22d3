"""The GPU benchmark, run on the CPU with tiny models."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_check, gpu_timing
from benchmarks.gpu_data import SIZES, Place
from yt8m.cli import run

TINY = "--device", "cpu", "--size", "tiny", "--seconds", "0.02"
TRAININGS = ("video_gated_dbof", "video_nextvlad", "pure_segment_dbof", "pure_segment_nextvlad", "segment_with_context")
ENSEMBLES = "prediction_7", "prediction_10"


def rows_of(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def rate(cell: str) -> float:
    """The number in "1,234 videos/s"."""
    number, unit = cell.split(" ")
    assert unit in ("videos/s", "segments/s")
    return float(number.replace(",", ""))


def test_every_configuration_and_ensemble_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    output = tmp_path / "table.md"
    gpu.main(gpu.build_parser().parse_args([*TINY, "--output", str(output)]))
    shown = capsys.readouterr()
    assert output.read_text(encoding="utf-8") == shown.out
    assert not list(tmp_path.glob("yt8m-gpu-*"))  # the data was temporary
    configurations = {path.stem for path in (Path(gpu.__file__).parent.parent / "scripts").glob("*.yaml")}
    assert configurations == set(TRAININGS)
    rows = rows_of(shown.out)
    assert [row[0] for row in rows] == [*TRAININGS, *ENSEMBLES]
    for name, precision, alone, loop, _, loader, arithmetic, idle, memory, time in rows:
        assert min(map(rate, (alone, loop, loader))) > 0
        assert precision == "float32" and arithmetic.endswith(" %")
        assert (idle, memory) == ("-", "-")
        assert time.endswith(" min") if name in ENSEMBLES else time == "-"
        assert f"measuring {name} " in shown.err


def test_kept_data_is_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "--data-dir", str(tmp_path), "--only"]
    seen = []
    for name in (TRAININGS[4], ENSEMBLES[0]):
        gpu.main(gpu.build_parser().parse_args([*arguments, name]))
        assert [row[0] for row in rows_of(capsys.readouterr().out)] == [name]
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npz"]
        seen.append({path: path.stat().st_mtime_ns for path in files})
    assert seen[0] == seen[1]  # nor has either left any other file


def off_by(change: Callable[[Any], None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function whose first result, that of the device, is changed."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        calls = []

        def wrapped(*arguments: Any) -> Any:
            result = function(*arguments)
            if not calls:
                change(result)
            calls.append(1)
            return result

        return wrapped

    return wrap


def _lose(results: dict[str, torch.Tensor]) -> None:
    results["loss"] += 1e-3


def _spoil(results: dict[str, torch.Tensor]) -> None:
    results["loss"] *= torch.nan


def _turn(results: dict[str, torch.Tensor]) -> None:
    results["encoder.0.weight"] *= 1.01


def _shift(results: list[np.ndarray]) -> None:
    results[2][0, 0] += 6


@pytest.mark.parametrize(
    "function, change, expected",
    [
        ("step_results", _lose, "dbof, loss: differs from the CPU's by "),
        ("step_results", _spoil, "dbof, loss: differs from the CPU's by nan"),
        (
            "step_results",
            _turn,
            "dbof, gradient of encoder.0.weight: differs from the CPU's by 1.0e-02, more than 1e-03",
        ),
        (
            "predictions",
            _shift,
            "dbof-nextvlad, predictions of 9,999: differs from the CPU's by 6.0e+00, more than 5e+00",
        ),
    ],
)
def test_unequal_results_end_the_benchmark(
    function: str,
    change: Callable[[Any], None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu_check, function, off_by(change)(getattr(gpu_check, function)))
    status, shown = ended(TINY, capsys)
    assert status == 2 and shown.out == ""
    comparing, line = shown.err.splitlines()
    assert comparing == "comparing with the CPU ..." and f"error: {expected}" in line


def ended(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """How the benchmark ends that does not come to its end, and what it prints."""
    with pytest.raises(SystemExit) as end:
        run(gpu.main, gpu.build_parser(), arguments)
    gc.unfreeze()
    return int(end.value.code or 0), capsys.readouterr()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    status, shown = ended((), capsys)
    assert status == 2 and shown.out == ""
    (line,) = shown.err.splitlines()
    assert "error: --device cuda: torch" in line and "sees 0 GPUs here" in line


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path) -> Place:
    """A place whose measurements take 10 s, by stretches of 2 s."""
    return Place(tmp_path, SIZES["tiny"], torch.device("cpu"), 10.0)


def test_the_rate_of_a_loop_is_that_of_its_middle_stretch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(gpu_timing, "time", SimpleNamespace(perf_counter=lambda: now))
    stretches = gpu_timing.Stretches(place)
    for seconds in [100.0] * 10 + [1.0] * 4 + [0.5] * 4 + [7.0] + [1.0] * 2:  # from one item to the next
        assert not stretches.enough
        stretches.begin(30)
        now += seconds
    stretches.begin(30)
    assert stretches.enough
    assert stretches.rate() == 30.0  # of 30, 30, 60, 30 / 7 and 30 examples per second


def test_the_last_item_ends_a_stretch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(gpu_timing, "time", SimpleNamespace(perf_counter=lambda: now))
    stretches = gpu_timing.Stretches(place)
    for number in range(15):
        stretches.begin(3, last=number == 14)
        now += 0.25
    assert stretches.rate() == 12.0


def test_kernels_that_overlap_count_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [(0, 10), (5, 7), (8, 15), (100, 125)]  # microseconds
    events = [{"cat": "kernel", "ts": start, "dur": stop - start} for start, stop in kernels]
    events += [{"cat": "gpu_memcpy", "ts": 30, "dur": 20}, {"cat": "gpu_user_annotation", "ts": 0, "dur": 500}, {}]

    class Profiler:
        """Has seen these events."""

        def __init__(self, activities: list[Any], acc_events: bool) -> None:
            assert activities == [torch.profiler.ProfilerActivity.CUDA] and acc_events

        def __enter__(self) -> "Profiler":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def export_chrome_trace(self, path: str) -> None:
            """Write a trace."""
            Path(path).write_text(json.dumps({"traceEvents": events}), encoding="utf-8")

    assert gpu_timing.busy_seconds(place, lambda: 4) is None
    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    on_gpu = Place(place.folder, place.size, torch.device("cuda", 0), place.seconds)
    assert gpu_timing.busy_seconds(on_gpu, lambda: 4) == pytest.approx(40e-6 / 8)  # it takes two turns
    events[:] = [{}]
    assert gpu_timing.busy_seconds(on_gpu, lambda: 4) is None
    assert not list(place.folder.iterdir())
