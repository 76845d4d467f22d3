"""Devices: a GPU without kernels in this torch is refused early, with the remedy."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome
from tests.small_models import DBOF, TRAINING, write_config
from yt8m.common import devices
from yt8m.common.devices import has_kernels, resolve_device
from yt8m.common.errors import UserError

# The architectures that the wheels themselves name.
TORCH_2_7 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
TORCH_2_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
P100, V100, T4, L4, H100, NEXT = (6, 0), (7, 0), (7, 5), (8, 9), (9, 0), (13, 0)


@pytest.mark.parametrize(
    "capability, old, new",
    [
        (P100, True, False),
        (V100, True, False),
        (T4, True, True),
        (L4, True, True),
        (H100, True, True),
        (NEXT, False, True),
    ],
)
def test_which_torch_runs_on_which_card(capability: tuple[int, int], old: bool, new: bool) -> None:
    assert has_kernels(capability, TORCH_2_7) == old
    assert has_kernels(capability, TORCH_2_13) == new


def test_machine_code_runs_within_a_generation_and_intermediate_code_on_later_ones() -> None:
    assert has_kernels((8, 6), ["sm_80"]) and not has_kernels((8, 0), ["sm_86"])
    assert not has_kernels((9, 0), ["sm_86"]) and has_kernels((9, 0), ["compute_86"])
    assert has_kernels((9, 0), ["sm_90a"]) and not has_kernels((9, 1), ["sm_90a"])
    assert not has_kernels((9, 0), [])


@pytest.fixture(name="machine_with")
def fixture_machine_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have torch say that there is a GPU of a capability, and what it was built for."""

    def pretend(capability: tuple[int, int], architectures: list[str]) -> None:
        monkeypatch.setattr(torch.version, "cuda", "12.6")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some card")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)

    return pretend


@pytest.mark.parametrize(
    "capability, architectures, remedy",
    [
        (P100, TORCH_2_13, "REQUIREMENTS=requirements-p100.txt"),
        (NEXT, TORCH_2_7, "REQUIREMENTS=requirements.txt"),
        ((3, 5), TORCH_2_7, "--device cpu"),
    ],
)
def test_a_command_says_at_its_start_what_to_install(
    machine_with: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Outcome],
    data_dir: Path,
    tmp_path: Path,
    capability: tuple[int, int],
    architectures: list[str],
    remedy: str,
) -> None:
    machine_with(capability, architectures)
    config = write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": TRAINING})
    outcome = command("train_video", config, "--name", "x", "--data-dir", data_dir)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    for part in ("Some card", f"sm_{capability[0]}{capability[1]}", torch.__version__, remedy, "--device cpu"):
        assert part in line
    assert not (data_dir / "cache" / "video").exists()
    monkeypatch.undo()  # torch would look for the card
    assert command("train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu").status == 0


def test_a_gpu_that_torch_knows_is_taken(machine_with: Callable[..., None]) -> None:
    machine_with(T4, TORCH_2_13)
    assert resolve_device("auto") == torch.device("cuda:0")  # with its number, which torch.cuda.set_device asks for
    with pytest.raises(UserError, match="sees 1 GPU here"):
        resolve_device("cuda:1")


def test_a_process_of_torchrun_has_a_gpu_of_its_own(
    machine_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(T4, TORCH_2_13)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, value in (("RANK", "7"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert resolve_device("auto") == torch.device("cuda:3")


@pytest.mark.parametrize("cuda, reason", [(None, "built without CUDA"), ("13.0", "driver")])
def test_an_unused_gpu_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, cuda: str | None, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(devices, "GPU_FILE", tmp_path / "nvidia0")
        assert resolve_device("auto") == torch.device("cpu")
        assert not caplog.records  # no GPU, nothing to say
        (tmp_path / "nvidia0").touch()
        assert resolve_device("auto") == torch.device("cpu")
    (record,) = caplog.records
    assert reason in record.getMessage() and "computing on the CPU" in record.getMessage()
    assert resolve_device("cpu") == torch.device("cpu") and len(caplog.records) == 1


def test_processes_do_not_share_a_gpu_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--device cuda:1: all local processes would share that GPU; --device cuda"):
        resolve_device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
