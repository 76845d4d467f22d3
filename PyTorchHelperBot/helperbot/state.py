"""The state of a run in a file, so that a killed run can go on: tensors and plain values only."""

from pathlib import Path
from typing import Any

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
    """The states of torch's random generators, of every process."""
    state = {"torch": _of_all_ranks(torch.get_rng_state(), device)}
    if device.type == "cuda":
        state["cuda"] = _of_all_ranks(torch.cuda.get_rng_state(device), device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put torch's random generators of this process back into their states."""
    torch.set_rng_state(state["torch"][rank()].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"][rank()].clone(), device)


def _of_all_ranks(state: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(ranks, bytes)."""
    return gather_rows(state.unsqueeze(0).to(device)).cpu()
