"""The state of a run in a file, so that a killed run can go on: tensors and plain values only."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helperbot.distributed import gather_rows, rank
from helperbot.files import replacing

STATE_VERSION = 2


class StateError(RuntimeError):
    """A state file cannot be read, or is of another version or another kind of run."""


def save_file(state: Any, path: Path) -> None:
    """Write `state` with `torch.save` to `path`, which is replaced in one go or not at all.

    Raises:
        OSError: the file cannot be written, for example since the disk is full; it names the path.
    """
    with replacing(path) as temporary:
        write_state(state, temporary)


def write_state(state: Any, path: Path) -> None:
    """Write `state` with `torch.save`.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # Of a write that has failed torch's own end of the file says "unexpected pos".
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_file(path: Path) -> dict[str, Any]:
    """Read a state, on the CPU. Loads tensors and plain values, never pickled code.

    Raises:
        StateError: the file cannot be read, or is of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged bytes make the unpickler raise nearly anything: IndexError, KeyError, struct.error...
    except Exception as error:  # pylint: disable=broad-exception-caught
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StateError(f"{path}: cannot be read as the state of a run ({reason[0]})") from None
    version = state.get("version") if isinstance(state, dict) else None
    if version != STATE_VERSION:
        raise StateError(f"{path}: a state of version {version}, expected {STATE_VERSION}")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all random generators: torch's of every process, Python's and numpy's."""
    # pylint: disable-next=unexpected-keyword-arg  # it looks for the signature of a compiled function
    numpy = np.random.get_state(legacy=False)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state: dict[str, Any] = {
        "torch": _of_all_ranks(torch.get_rng_state(), device),
        "python": random.getstate(),
        "numpy": (numpy["bit_generator"], keys, numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]),
    }
    if device.type == "cuda":
        state["cuda"] = _of_all_ranks(torch.cuda.get_rng_state(device), device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the random generators of this process back into their states."""
    torch.set_rng_state(state["torch"][rank()].clone())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"][rank()].clone(), device)


def _of_all_ranks(state: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(ranks, bytes)."""
    return gather_rows(state.unsqueeze(0).to(device)).cpu()
