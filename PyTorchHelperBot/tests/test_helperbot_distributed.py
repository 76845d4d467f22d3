"""Several processes: two on this machine, with gloo, which have to come to what one comes to."""

import signal
import socket
import subprocess
import sys

import helperbot_two_processes as script
import pytest
import torch
import torch.distributed as dist
from helperbot import process_group
from helperbot.distributed import (
    SyncBatchNorm1d,
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
    """Start two processes, and read what they have written down."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [*command, script.__file__, str(folder), part], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{part}{number}.pt", weights_only=True) for number in range(2)]


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
    """Where the two processes write."""
    return tmp_path_factory.mktemp("two")


@pytest.fixture(name="begun", scope="module")
def fixture_begun(folder):
    """What the two processes of the first launch came to; starting them takes seconds."""
    return launch(folder, "begin")


@pytest.fixture(name="gone_on", scope="module")
def fixture_gone_on(folder, begun):
    """What the two processes of the second launch came to."""
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
    if norm.track_running_stats:  # else each process has its own statistics in evaluation
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


def test_only_process_0_writes(begun, folder):
    assert begun
    for variant in script.VARIANTS:
        written = folder / "rank0" / variant.replace(" ", "_")
        names = sorted(path.name for path in written.rglob("*"))
        assert {"best", "history.csv", "state.pt"} < set(names)
        assert len(names) == 5  # and two checkpoints
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
    # Otherwise a state of the random generators for both would do.
    assert not torch.equal(*begun[0]["all"]["state"])


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


def test_a_launcher_may_start_a_single_process(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (
        ("RANK", 0),
        ("LOCAL_RANK", 0),
        ("WORLD_SIZE", 1),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port),
    ):
        monkeypatch.setenv(name, str(value))
    assert launched()
    with process_group(CPU):
        assert dist.is_initialized()
        assert (is_distributed(), rank(), local_rank(), world_size()) == (False, 0, 0, 1)
    assert not dist.is_initialized()


def test_the_local_rank_is_the_launchers(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3
