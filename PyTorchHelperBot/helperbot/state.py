"""State files of runs: tensors and plain values only. The newest two are kept."""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from helperbot.distributed import gather_rows, rank, sum_over_ranks, world_size
from helperbot.files import replacing

STATE_VERSION = 2
_WHOLE, _DAMAGED, _MISSING = range(3)


class StateError(RuntimeError):
    """A state file is unreadable, or of another version or kind of run."""


class DamagedStateError(StateError):
    """A file has changed since the state was written to it, or is no state file at all."""


class LoadedState(NamedTuple):
    """A state, the file it comes from, and the damage of the newer one, if there is a newer one."""

    state: dict[str, Any]
    path: Path
    damage: DamagedStateError | None


def previous_path(path: Path) -> Path:
    """The file of the state before the one in `path`: `state.previous.pt` for `state.pt`. Links are followed."""
    path = Path(os.path.realpath(path))
    return path.with_name(f"{path.stem}.previous{path.suffix}")


class StateFiles:
    """The newest two states of a run, in `path` and `previous_path(path)`.

    A file is only replaced by a new one that is whole and on disk, so that a damaged file is never the only one once
    two states have been written. Files of another run, which `load` did not read, are replaced.

    Args:
        path: the newest state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.previous = previous_path(path)
        self._newest_counts = False  # whether it is a whole state of this run
        self._previous_counts = False

    def write(self, state: Any) -> None:
        """Write a state, which becomes the newest.

        Raises:
            OSError: the file cannot be written (disk full, for example); it names the path. Other files are unchanged.
        """
        with replacing(self.path, aside=self.previous if self._newest_counts else None) as temporary:
            write_state(state, temporary)
            if not self._newest_counts and not self._previous_counts:
                self.previous.unlink(missing_ok=True)
        self._previous_counts = self._newest_counts or self._previous_counts
        self._newest_counts = True

    def load(self) -> LoadedState | None:
        """Read the newest state that is undamaged in all processes, which must call this together.

        Returns:
            None if there are no files.

        Raises:
            StateError: all files are damaged, the chosen one is of another version, or only some processes find it.
        """
        damage: list[DamagedStateError] = []
        for path in (self.path, self.previous):
            state, found, error = _look(path)
            counts = sum_over_ranks(torch.tensor([found == outcome for outcome in (_WHOLE, _DAMAGED, _MISSING)]).int())
            whole, damaged, missing = counts.tolist()
            if missing == world_size():
                continue
            if missing:
                raise StateError(f"{path}: {missing} of {world_size()} processes do not find it; all must see the file")
            if damaged:
                damage.append(error or _unreadable(path, f"by {damaged} of {whole + damaged} processes"))
                continue
            self._newest_counts, self._previous_counts = path == self.path, True
            return LoadedState(_of_this_version(state, path), path, damage[0] if damage else None)
        if len(damage) == 2:
            raise DamagedStateError(f"{damage[0]}, nor can {self.previous}, the one before")
        if damage:
            raise damage[0]
        return None


def _look(path: Path) -> tuple[Any, int, DamagedStateError | None]:
    """The state in a file, `_WHOLE`, `_DAMAGED` or `_MISSING`, and why it is damaged."""
    if not path.exists():
        return None, _MISSING, None
    try:
        return _read(path), _WHOLE, None
    except DamagedStateError as error:
        return None, _DAMAGED, error


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


def _read(path: Path) -> Any:
    """Read a state onto the CPU: tensors and plain values, never pickled code. Raises `DamagedStateError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()  # torch writes checksums, but does not check them
        if changed is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {changed}")
        return torch.load(path, map_location="cpu", weights_only=True)
    # Corrupt bytes make the unpickler raise nearly anything.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _unreadable(path, f"({reason[0]})") from None


def _unreadable(path: Path, reason: str) -> DamagedStateError:
    return DamagedStateError(f"{path}: cannot be read as the state of a run {reason}")


def _of_this_version(state: Any, path: Path) -> dict[str, Any]:
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
