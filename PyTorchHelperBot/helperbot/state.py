"""State files of runs: tensors and plain values only."""

from pathlib import Path
from typing import Any

import torch

from helperbot.distributed import gather_rows, rank
from helperbot.files import replacing

STATE_VERSION = 2


class StateError(RuntimeError):
    """A state file is unreadable, or of another version or kind of run."""


def save_file(state: Any, path: Path) -> None:
    """Write `state` to `path` with `torch.save`, atomically.

    Raises:
        OSError: the file cannot be written (disk full, for example); it names the path.
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
            # After a failed write torch's footer fails with "unexpected pos".
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_file(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU: tensors and plain values, never pickled code.

    Raises:
        StateError: the file is unreadable or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Corrupt bytes make the unpickler raise nearly anything.
    except Exception as error:  # pylint: disable=broad-exception-caught
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StateError(f"{path}: cannot be read as the state of a run ({reason[0]})") from None
    version = state.get("version") if isinstance(state, dict) else None
    if version != STATE_VERSION:
        raise StateError(f"{path}: state version {version}, expected {STATE_VERSION}")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch's random generators in all processes."""
    state = {"torch": _of_all_ranks(torch.get_rng_state(), device)}
    if device.type == "cuda":
        state["cuda"] = _of_all_ranks(torch.cuda.get_rng_state(device), device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore torch's random generators in this process."""
    torch.set_rng_state(state["torch"][rank()].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"][rank()].clone(), device)


def _of_all_ranks(state: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Shape (ranks, bytes)."""
    return gather_rows(state.unsqueeze(0).to(device)).cpu()
