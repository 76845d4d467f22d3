"""Predicting all test segments: interruptions, several processes, full disks, damaged videos."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.interrupted import run_interrupted
from tests.killed import kill_until
from tests.processes import fork, fork_all, rank_environments, run_command
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, group_sizes
from yt8m.data.candidates import Candidates, load_candidates
from yt8m.prediction import test_set as prediction
from yt8m.prediction.test_set import remaining_work

Command = Callable[..., Outcome]
N_CLASSES = 5
NAMES = ("agnostic_0", "aware_1", "aware_2")


@pytest.fixture(name="modelled", scope="module")
def fixture_modelled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with test metadata and models; not to be written to."""
    from yt8m import prepare_test_meta

    path = tmp_path_factory.mktemp("modelled") / "data"
    shutil.copytree(tiny_data, path)
    prepare_test_meta.main(prepare_test_meta.build_parser().parse_args(["--data-dir", str(path)]))
    agnostic_folder(path / "cache" / "segment" / NAMES[0], DBOF, path, 1)
    for seed, name in enumerate(NAMES[1:], 2):
        aware_folder(path / "cache" / "segment" / name, NEXTVLAD, DBOF, path, seed)
    return path


@pytest.fixture(name="data_dir")
def fixture_data_dir(modelled: Path, tmp_path: Path) -> Path:
    """A copy, for a test to change."""
    return shutil.copytree(modelled, tmp_path / "data")


def predict(command: Command, data_dir: Path, *options: object) -> dict[str, np.ndarray]:
    """Run the command; returns the predictions of all models."""
    outcome = command("inference_memmap", "--data-dir", data_dir, "--device", "cpu", *options)
    assert outcome.status == 0, outcome.err
    return stored(data_dir)


def stored(data_dir: Path) -> dict[str, np.ndarray]:
    """The predictions that there are; nothing else is in their folder."""
    folder = data_dir / "cache" / "predictions"
    values = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{ending}" for name in values for ending in ("npy", "json")
    }
    return values


def test_killed_at_random_moments_twenty_times_the_files_are_the_same(data_dir: Path) -> None:
    arguments = "inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", "1"  # groups of few
    assert kill_until(20, data_dir / "cache" / "predictions", *arguments) >= 20
    assert set(stored(data_dir)) == set(NAMES)


def test_a_shard_cut_while_it_is_predicted_ends_with_its_name_and_nothing_is_lost(
    data_dir: Path, command: Command
) -> None:
    line = ["inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", 1, "--workers", 0]
    assert command(*line).status == 0
    expected = stored(data_dir)
    shutil.rmtree(data_dir / "cache" / "predictions")
    shard = sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[1]
    content, stat = shard.read_bytes(), shard.stat()
    ended = fork(run_interrupted, "cut-record", 6, *line)
    assert ended.status == 2 and "Traceback" not in ended.err, ended.err
    assert f"{shard}: has been cut off before byte " in ended.err.splitlines()[-1]
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outcome = command(*line)
    assert outcome.status == 0 and "are done already" in outcome.err
    found = stored(data_dir)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_numbers_do_not_depend_on_batches_workers_or_neighbours(command: Command, data_dir: Path) -> None:
    first = predict(command, data_dir, "--batch-size", 1)
    assert set(first) == set(NAMES)
    for options in (("--batch-size", 7, "--workers", 2), ("--model-names", NAMES[2])):
        shutil.rmtree(data_dir / "cache" / "predictions")
        for name, values in predict(command, data_dir, *options).items():
            assert np.abs(values - first[name]).max() <= 1
    assert not (first[NAMES[1]] == first[NAMES[2]]).all()


def test_two_processes_write_the_file_of_one(command: Command, data_dir: Path) -> None:
    expected = predict(command, data_dir, "--batch-size", 4)
    shutil.rmtree(data_dir / "cache" / "predictions")
    line = ("inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", 4)
    done = fork_all(rank_environments(2), run_command, *line)
    assert [rank.status for rank in done] == [0, 0], done
    assert sum(rank.err.count("in 2 processes") for rank in done) == 1
    for name, values in stored(data_dir).items():
        assert np.abs(values - expected[name]).max() <= 1  # one thread sums in another order
    again = fork_all(rank_environments(2), run_command, *line)
    assert [rank.status for rank in again] == [0, 0], again
    assert sum(rank.err.count("up to date") for rank in again) == len(NAMES)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=15),
    batch_size=st.integers(1, 50),
    done=st.lists(st.lists(st.integers(0, 2), min_size=15, max_size=15), min_size=1, max_size=3),
)
def test_groups_do_not_depend_on_what_is_done(counts: list[int], batch_size: int, done: list[list[int]]) -> None:
    candidates = Candidates(
        np.arange(len(counts)), np.array([b"%d" % row for row in range(len(counts))]), np.cumsum(counts)
    )
    nothing = [np.zeros(len(counts), np.uint32)]
    groups = [work.videos for work in remaining_work(candidates, batch_size, nothing)]
    assert [video for group in groups for video in range(group.start, group.stop)] == list(range(len(counts)))
    for group in groups[:-1]:
        assert sum(counts[group]) >= batch_size > sum(counts[group][:-1])
    journals = [np.array(own[: len(counts)], np.uint32) for own in done]
    work = remaining_work(candidates, batch_size, journals)
    lacking = [[number for number, journal in enumerate(journals) if (journal[group] != 1).any()] for group in groups]
    assert [(item.videos, item.members) for item in work] == [
        (group, members) for group, members in zip(groups, lacking) if members
    ]


def test_a_model_that_is_new_predicts_alone(command: Command, data_dir: Path) -> None:
    (data_dir / "later").mkdir()
    shutil.move(data_dir / "cache" / "segment" / NAMES[1], data_dir / "later")
    predict(command, data_dir)
    shutil.move(data_dir / "later" / NAMES[1], data_dir / "cache" / "segment")
    before = {path.name: path.stat().st_mtime_ns for path in (data_dir / "cache" / "predictions").iterdir()}
    assert set(predict(command, data_dir)) == set(NAMES)
    for path in (data_dir / "cache" / "predictions").iterdir():
        assert path.stem == NAMES[1] or before[path.name] == path.stat().st_mtime_ns


def test_other_settings_are_other_predictions(command: Command, data_dir: Path) -> None:
    options = ("--model-names", NAMES[0])
    first = predict(command, data_dir, *options)[NAMES[0]]
    for more in (("--offset", 1), ("--shifts", -1, 0, 1), ("--amp", "bf16")):
        other = predict(command, data_dir, *options, *more)[NAMES[0]]
        assert (other != first).any(), more
        assert np.abs(other - first).mean() < 3000
    origin = json.loads((data_dir / "cache" / "predictions" / f"{NAMES[0]}.json").read_text(encoding="utf-8"))
    assert origin["amp"] == "torch.bfloat16" and origin["shifts"] == [0] and origin["offset"] == 3
    assert set(origin) == {
        "model",
        "folder",
        "stamps",
        "test_meta",
        "vocabulary",
        "outputs",
        "offset",
        "shifts",
        "amp",
        "time",
    }
    assert (predict(command, data_dir, *options)[NAMES[0]] == first).all()
    outcome = command("inference_memmap", "--data-dir", data_dir, "--shifts", 1, 1)
    assert outcome.status == 2 and "--shifts: 1 is named more than once" in outcome.err
    outcome = command("inference_memmap", "--data-dir", data_dir, "--model-names", NAMES[0], NAMES[0] + "/")
    assert outcome.status == 2 and f"--model-names: {NAMES[0]} is named more than once" in outcome.err


def test_unfinished_predictions_with_other_settings_are_left_alone(command: Command, data_dir: Path) -> None:
    options = ("--model-names", NAMES[0])
    predict(command, data_dir, *options)
    folder = data_dir / "cache" / "predictions"
    for ending in ("partial", "partial.json", "partial.done"):
        (folder / f"{NAMES[0]}.npy.{ending}").write_bytes(b"another's")
    assert command("inference_memmap", "--data-dir", data_dir, "--device", "cpu", *options).status == 0
    assert len(list(folder.glob("*.npy.partial*"))) == 3
    (folder / f"{NAMES[0]}.npy.partial").unlink()  # the rest is what a finished one may leave behind
    predict(command, data_dir, *options)


def test_shifted_segments_are_those_so_many_seconds_later(command: Command, data_dir: Path) -> None:
    options = ("--model-names", NAMES[0])
    plain = predict(command, data_dir, *options)[NAMES[0]]
    shifted = predict(command, data_dir, *options, "--shifts", 5)[NAMES[0]]
    both = predict(command, data_dir, *options, "--shifts", 0, 5)[NAMES[0]]
    candidates = load_candidates(data_dir / "cache")
    for first, end in zip(candidates.row_starts, candidates.row_ends):
        assert np.abs(shifted[first : end - 1] - plain[first + 1 : end]).max() <= 1
    assert np.abs(both - (plain.astype(int) + shifted) / 2).max() <= 1.5


def test_a_full_disk_ends_with_a_line_and_nothing_is_lost(command: Command, data_dir: Path) -> None:
    predict(command, data_dir, "--model-names", NAMES[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))  # as a full disk, for this process alone
    try:
        outcome = command("inference_memmap", "--data-dir", data_dir, "--model-names", NAMES[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert f"{NAMES[1]}.npy.partial: no space for" in outcome.err.splitlines()[-1]
    assert set(stored(data_dir)) == {NAMES[0]}


def test_predictions_before_an_error_are_kept(
    command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(command, data_dir, "--batch-size", 1)
    shutil.rmtree(data_dir / "cache" / "predictions")
    original, calls = prediction.Predictor.__call__, []

    def failing(self, videos, chosen):
        calls.append(list(chosen))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, videos, chosen)

    monkeypatch.setattr(prediction.Predictor, "__call__", failing)
    assert command("inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", 1).status == 130
    partial = data_dir / "cache" / "predictions" / f"{NAMES[0]}.npy.partial.done"
    assert np.fromfile(partial, "<u4").tolist() == [1, 1, 1, 0, 0, 0]  # the fourth had not arrived
    outcome = command("inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", 1)
    assert outcome.status == 0 and len(calls) == 5 + 3
    assert "are done already" in outcome.err
    for name, values in stored(data_dir).items():
        assert (values == expected[name]).all()


def test_damaged_videos_are_left_out_and_predicted_once_they_are_mended(
    command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(command, data_dir)
    shutil.rmtree(data_dir / "cache" / "predictions")
    shard = sorted((data_dir / "segment" / "test").glob("*.tfrecord"))[1]  # its videos make a group of their own
    whole, stat = shard.read_bytes(), shard.stat()
    offsets = [int.from_bytes(whole[:8], "little") // 2, -3000]
    damaged = bytearray(whole)
    for offset in offsets:
        damaged[offset] ^= 1  # inside the features of both records
    shard.write_bytes(damaged)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outcome = command(
        "inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--on-error", "skip", "--batch-size", 1
    )
    assert outcome.status == 0
    candidates = load_candidates(data_dir / "cache")
    rows = slice(candidates.row_starts[4], candidates.row_ends[5])
    assert f"{rows.stop - rows.start} segments of damaged videos have probability 0" in outcome.err
    for name, values in stored(data_dir).items():
        assert not values[rows].any()
        assert np.abs(values[: rows.start] - expected[name][: rows.start]).max() <= 1
    shard.write_bytes(whole)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    groups = group_sizes(monkeypatch)
    for name, values in predict(command, data_dir, "--batch-size", 1).items():
        assert np.abs(values - expected[name]).max() <= 1
    assert groups == [1, 1]  # no others


def test_progress_is_logged_where_there_is_no_terminal(
    command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yt8m.common.progress.SECONDS_BETWEEN_LINES", 0)
    outcome = command("inference_memmap", "--data-dir", data_dir, "--device", "cpu", "--batch-size", 1)
    lines = [line for line in outcome.err.splitlines() if "segments/s" in line]
    n_rows = load_candidates(data_dir / "cache").n_rows
    assert len(lines) == 6
    assert f"predicting: {n_rows} of {n_rows}, " in lines[-1] and lines[-1].endswith("segments/s, 00:00 left")
