"""Two processes with gloo give the results of one."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import helperbot_two_processes as script
import pytest
import torch
import torch.distributed as dist
from helperbot import LaunchError, distributed, process_group
from helperbot.distributed import (
    SyncBatchNorm1d,
    data_parallel,
    gather_rows,
    is_distributed,
    launched,
    local_rank,
    rank,
    rank_zero_first,
    sum_over_ranks,
    synchronize_batch_norm,
    world_size,
)
from torch import nn

CPU = torch.device("cpu")


def launch(folder, part):
    """Run a part of the script in two processes; returns their results."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [*command, script.__file__, str(folder), part], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{part}{number}.pt", weights_only=True) for number in range(2)]


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
    """The folder of the two processes."""
    return tmp_path_factory.mktemp("two")


@pytest.fixture(name="begun", scope="module")
def fixture_begun(folder):
    """Results of the first launch, once for all tests since it takes seconds."""
    return launch(folder, "begin")


@pytest.fixture(name="gone_on", scope="module")
def fixture_gone_on(folder, begun):
    """Results of the second launch."""
    assert begun
    return launch(folder, "go_on")


@pytest.mark.parametrize("case", script.CASES)
def test_batch_norm_is_that_of_all_rows(begun, case):
    shape, options, dtype = script.CASES[case]
    generator = torch.Generator().manual_seed(3)
    norm = nn.BatchNorm1d(shape[0], **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.randn(shape[0], generator=generator))
            norm.bias.copy_(torch.randn(shape[0], generator=generator))
    rows = 3 + 2 * torch.randn(sum(script.ROWS), *shape, generator=generator)
    weights = torch.randn(rows.shape, generator=generator)
    for _ in range(2):
        norm.zero_grad()
        own = rows.to(dtype, copy=True).requires_grad_()
        output = norm(own)
        (output * weights).sum().backward()
    one, two = (results["norms"][case] for results in begun)
    assert one["output"].dtype == output.dtype == dtype
    half = dtype == torch.bfloat16
    close = {"rtol": 0.02, "atol": 0.05} if half else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([one["output"], two["output"]]), output, **close)
    torch.testing.assert_close(torch.cat([one["input"], two["input"]]), own.grad, **close)
    summed = [sum(both) for both in zip(one["parameters"], two["parameters"])]
    expected = [value.grad for value in norm.parameters()]
    torch.testing.assert_close(summed, expected, **close)
    for buffers in (one["buffers"], two["buffers"]):
        torch.testing.assert_close(buffers, dict(norm.named_buffers()), **close)
    norm.eval()
    if norm.track_running_stats:  # else evaluation uses the statistics of each process
        evaluated = torch.cat([one["evaluated"], two["evaluated"]])
        torch.testing.assert_close(evaluated, norm(rows.to(evaluated.dtype)), **close)


def test_rows_are_gathered_in_the_order_of_the_processes(begun):
    rows = torch.tensor([[0, 1], [2, 3], [100, 101], [102, 103], [104, 105]])
    for results in begun:
        got = results["rows"]
        assert torch.equal(got["unequal"], rows)
        assert torch.equal(got["bytes"], rows[:, 0].to(torch.uint8))
        assert torch.equal(got["float"], rows.double())
        assert torch.equal(got["one has none"], rows[2:4])
        assert got["none"].shape == (0, 2) and got["none"].dtype == torch.int64
        assert got["sum"].tolist() == [3.0, 6.0]
        assert not got["sum"].requires_grad
        assert got["untouched"].tolist() == [1.0, 2.0]
        assert got["number"].item() == 7 and got["number"].dtype == torch.int64
    first, second = (results["rows"] for results in begun)
    assert torch.equal(first["on first"][0], rows)
    assert first["on first"][1].tolist() == [False, False, False, True, True]
    assert torch.equal(first["of the second"], rows[2:4])
    assert [values.shape for values in second["on first"]] == [(0, 2), (0,)]
    assert second["of the second"].shape == (0, 2)


def test_process_0_goes_first(begun):
    assert [results["ordered"] for results in begun] == [False, True]


@pytest.mark.parametrize("variant", script.VARIANTS)
def test_two_processes_train_as_one_with_the_doubled_batch(begun, variant, tmp_path):
    expected = script.train_variant(variant, 0, 1, tmp_path)
    one, two = (results["variants"][variant] for results in begun)
    assert one["losses"] == two["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert one["norm"] == pytest.approx(expected["norm"], rel=1e-3)
    torch.testing.assert_close(one["model"], two["model"], rtol=0, atol=0)
    torch.testing.assert_close(one["model"], expected["model"], rtol=1e-3, atol=1e-5)
    assert one["history"] == two["history"]
    assert [entry["step"] for entry in one["history"]] == [3, 6, 7]
    for entry, single in zip(one["history"], expected["history"]):
        assert entry["train_loss"] == pytest.approx(single["train_loss"], rel=1e-4)
        assert entry["results"] == pytest.approx(single["results"], rel=1e-3)
    assert one["stepped"] == two["stepped"] == expected["stepped"]


@pytest.mark.parametrize("name", script.UNEQUAL)
def test_a_step_is_that_on_all_examples_however_they_are_divided(begun, name):
    expected = script.unequal(name)
    one, two = (results["unequal"][name] for results in begun)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one, expected, rtol=1e-11, atol=1e-13)


def test_examples_are_counted_in_all_processes(begun):
    for results in begun:
        none, single = results["too few"]
        assert none == "the batch of step 1 has 0 examples; at least 1 needed"
        assert single == "expected more than 1 value per channel when training, got 1 in all processes"


def test_processes_evaluate_in_step_with_unequal_numbers_of_batches(begun):
    batches = [*script.batches_of([3, 0, 2], seed=6), *script.batches_of([4], seed=7)]
    expected = script.make_bot(script.network(nn.BatchNorm1d), script.Note(), 0, 1).evaluate(batches)
    for results in begun:
        assert results["exchanged"]["results"] == pytest.approx(expected, rel=1e-6)
        assert results["exchanged"]["times"] == 2 * 3


def test_only_process_0_writes(begun, folder):
    assert begun
    for variant in script.VARIANTS:
        written = folder / "rank0" / variant.replace(" ", "_")
        names = sorted(path.name for path in written.rglob("*"))
        assert {"best", "history.csv", "state.previous.pt", "state.pt"} < set(names)
        assert len(names) == 6  # and the checkpoints of the two states
    assert not (folder / "rank1").exists()


def test_half_precision_with_batch_norm(begun):
    one, two = (results["half"] for results in begun)
    assert one == two
    assert one == pytest.approx(begun[0]["variants"]["batch norm"]["losses"], rel=0.05)


def test_a_loss_that_is_not_finite_in_one_process_ends_both(begun):
    assert [results["diverged"] for results in begun] == [(3, 0), (3, 1)]


@pytest.mark.parametrize(
    "name, step, evaluations", [("step", 4, [3]), ("evaluation", 3, [3]), ("last", script.STEPS, [3, 6, 7])]
)
def test_a_signal_to_one_process_ends_both_and_they_go_on(begun, gone_on, name, step, evaluations):
    for results in begun:
        assert results["all"]["signal"] is None
        assert results[name]["signal"] == signal.SIGTERM
        assert results[name]["step"] == step
        assert results[name]["evaluations"] == evaluations
    for before, after in zip(begun, gone_on):
        assert after[name]["signal"] is None
        assert after[name]["evaluations"] == before["all"]["evaluations"]
        torch.testing.assert_close(after[name], before["all"], rtol=0, atol=0)
    # Each process has its own random state.
    assert not torch.equal(*begun[0]["all"]["state"])


def test_the_first_process_says_when_it_is_time_to_save(begun):
    assert [results["timed"] for results in begun] == [[3, 6, 7, 7]] * 2


@pytest.mark.parametrize("name", ["damaged", "misread"])
def test_all_processes_go_back_to_the_older_state_even_if_one_alone_cannot_read_the_newest(begun, gone_on, name):
    assert [results[f"{name} from"] for results in gone_on] == [4, 4]
    for before, after in zip(begun, gone_on):
        assert before[name]["step"] == 5
        torch.testing.assert_close(after[name], before["all"], rtol=0, atol=0)


def test_a_state_that_not_all_processes_find_is_refused(gone_on):
    for results in gone_on:
        assert "state.pt: 1 of 2 processes do not find it; all must see the file" in results["lost"]


def test_without_a_launcher_nothing_happens(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not launched()
    with process_group(CPU):
        assert not dist.is_initialized()
        assert (is_distributed(), rank(), local_rank(), world_size()) == (False, 0, 0, 1)
        value = torch.ones(2, requires_grad=True)
        assert sum_over_ranks(value) is value
        assert gather_rows(value) is value
        with rank_zero_first():
            pass
    assert not dist.is_initialized()


def test_alone_the_synchronized_batch_norm_is_the_usual_one():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3)))
    names = list(model.state_dict())
    assert synchronize_batch_norm(model, CPU) is model
    assert list(model.state_dict()) == names
    kinds = [type(module) for module in model.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == [SyncBatchNorm1d, SyncBatchNorm1d, nn.BatchNorm2d]
    usual = nn.BatchNorm1d(3)
    rows = torch.randn(5, 3)
    assert torch.equal(model[0](rows), usual(rows))
    assert torch.equal(model[0].running_var, usual.running_var)


@pytest.fixture(name="environment")
def fixture_environment(monkeypatch):
    """Set a launcher's environment, by default of one process at a free port; returns host:port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def prepare(**values):
        usual = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in {**usual, **values}.items():
            monkeypatch.setenv(name, str(value))
        return f"127.0.0.1:{port}"

    return prepare


@pytest.mark.parametrize("own, missing", [(0, "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 1 more"), (1, "rank 0")])
def test_a_process_says_what_it_waits_for_and_gives_up(environment, monkeypatch, caplog, own, missing):
    place = environment(RANK=own, WORLD_SIZE=10)
    monkeypatch.setattr(distributed, "_SILENCE", 0.2)
    with pytest.raises(LaunchError) as caught, process_group(CPU, arrival=timedelta(seconds=0.6)):
        pass
    (record,) = caplog.records
    count = 9 if own == 0 else 1
    what = f"{count} of 10 ranks at {place}: {missing}"
    assert record.getMessage() == f"waiting for {what} (for at most 1 s)"
    assert str(caught.value).startswith(f"gave up after 1 s waiting for {what}; start every rank from 0")
    assert not dist.is_initialized()


BY_HAND = """
import sys, torch
from helperbot import LaunchError, distributed, process_group
distributed._SILENCE = 0.1
try:
    with process_group(torch.device("cpu")):
        print(int(distributed.sum_over_ranks(torch.tensor(1))))
except LaunchError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("gone", [False, True])
def test_processes_that_are_started_by_hand_meet_or_learn_that_the_first_has_gone(environment, gone):
    place = environment(WORLD_SIZE=3)

    def start(number):
        variables = os.environ | {"RANK": str(number)}
        command = [sys.executable, "-c", BY_HAND]
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    second, first = start(1), start(0)
    for line in second.stderr:
        if line.startswith(f"waiting for 1 of 3 ranks at {place}: rank 2"):
            break  # the first is there
    processes = [first, second]
    if gone:
        first.kill()
    else:
        processes.append(start(2))
    (out, _), (other, error), *_ = (process.communicate(timeout=120) for process in processes)
    if gone:
        assert (out, other, second.returncode) == ("", "", 1)
        assert f"the 3 ranks cannot meet at {place} (MASTER_ADDR, MASTER_PORT): " in error
    else:
        assert (out, other) == ("3\n", "3\n")
        assert [process.returncode for process in processes] == [0, 0, 0]


def gloo_threads():
    """The names of gloo's threads in this process."""
    names = [path.read_text(encoding="utf-8") for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_outlives_the_group_does_not_keep_it(environment, fails):
    environment()
    for _ in range(2):
        with suppress(ZeroDivisionError), process_group(CPU):
            wrapper = data_parallel(nn.Linear(3, 1), CPU)
            wrapper(torch.ones(2, 3)).sum().backward()
            assert gloo_threads()
            if fails:
                raise ZeroDivisionError
        assert wrapper.module.weight.grad.tolist() == [[2, 2, 2]]
        assert not gloo_threads()


def test_a_process_that_fails_ends_and_so_does_the_other(environment, tmp_path):
    environment(WORLD_SIZE=2)
    command = [sys.executable, script.__file__, str(tmp_path), "fail"]
    processes = [
        subprocess.Popen(  # pylint: disable=consider-using-with  # the two are waited for below
            command, env=os.environ | {"RANK": str(number)}, stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert errors[1].rstrip().endswith("ArithmeticError: process 1 fails")
    assert "by peer" in errors[0]  # closed or reset


def test_an_address_that_is_taken_is_named(environment):
    place = environment(WORLD_SIZE=2)
    with socket.socket() as taken:
        taken.bind(("", int(place.partition(":")[2])))
        taken.listen()
        message = f"the 2 ranks cannot meet at {place} .*EADDRINUSE"
        with pytest.raises(LaunchError, match=message), process_group(CPU):
            pass


@pytest.mark.parametrize(
    "values, message",
    [
        ({"MASTER_PORT": "http"}, "environment: MASTER_PORT is 'http', expected a whole number"),
        ({"MASTER_PORT": "70000"}, "environment: MASTER_PORT is '70000'"),
        ({"WORLD_SIZE": "two"}, "environment: WORLD_SIZE is 'two'"),
        ({"RANK": "-1"}, "environment: RANK is '-1'"),
        ({"RANK": "1"}, "environment: RANK is 1, expected 0 to WORLD_SIZE - 1, and WORLD_SIZE is 1"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment, values, message):
    environment(**values)
    with pytest.raises(LaunchError, match=message), process_group(CPU):
        pass


def test_a_launcher_may_start_a_single_process(environment):
    environment()
    assert launched()
    with process_group(CPU):
        assert dist.is_initialized()
        assert (is_distributed(), rank(), local_rank(), world_size()) == (False, 0, 0, 1)
    assert not dist.is_initialized()


def test_the_local_rank_is_the_launchers(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3
