"""Run a command that kills itself at a chosen moment: `interrupted.py MOMENT N MODULE ARGUMENTS...`.

Moments: `step N` after the N-th step of this process and what is being saved; `save N` with the N-th file written but
not in its place; `write N` with the N-th state half written; `aside N` between the two renames by which a state becomes
the older one for the N-th time; `evaluation N` at the first batch of the N-th evaluation; `best N` after the N-th best
checkpoint has been written; `export` with everything trained; `term N` is SIGTERM, not SIGKILL, after the N-th step,
`term-evaluation N` in the N-th evaluation. `cut N` kills nothing, but cuts off a shard that the N-th batch is
about to be read from, `cut-record N` within the N-th record that is read as a whole, and `eio N` has nothing read from
the N-th batch on, as a disk does that fails.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helperbot.bot
import helperbot.callbacks
import helperbot.files
import helperbot.state
import numpy as np

import yt8m.data.reader
import yt8m.training.trainer
from tests.processes import run_command
from yt8m.data import native_reading


def end(number: int = signal.SIGKILL) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def interrupt(owner: Any, name: str, at: int, after: bool, action: Callable[[], None] = end) -> None:
    """Act before or after the `at`-th call of a function."""
    original = getattr(owner, name)
    calls = 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            action()
        result = original(*arguments, **options)
        if calls == at and after:
            action()
        return result

    setattr(owner, name, counting)


def await_state() -> None:
    """Wait until no state is being written."""
    for thread in threading.enumerate():
        if thread.name == "state writer":
            thread.join()


def end_with_what_is_saved() -> None:
    """Kill this process once no state is being written."""
    await_state()
    end()


def end_half_written(at: int) -> None:
    """Kill this process with half of the `at`-th state in its temporary file."""
    original = helperbot.state.write_state
    calls = 0

    def counting(state: Any, path: Path) -> None:
        nonlocal calls
        original(state, path)
        calls += path.name.startswith(f".{yt8m.training.trainer.STATE}.")  # not a best checkpoint
        if calls == at:
            os.truncate(path, path.stat().st_size // 2)
            end()

    helperbot.state.write_state = counting


def end_between_renames(at: int) -> None:
    """Kill this process after the `at`-th rename of a newest state to the older one."""
    original = os.replace
    calls = 0

    def counting(source: Any, target: Any) -> None:
        nonlocal calls
        original(source, target)
        calls += Path(source).name == yt8m.training.trainer.STATE
        if calls == at:
            end()

    helperbot.files.os.replace = counting  # type: ignore[assignment]


def fail_to_read(at: int, cut: bool) -> None:
    """Cut a shard off, or have the disk fail from then on, before the frames of the `at`-th batch are read."""
    original = native_reading.read_frames
    calls = 0

    def counting(files: np.ndarray, blocks: np.ndarray, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at and cut:
            os.truncate(f"/proc/self/fd/{files[0]}", blocks[0, 0] + 1)
        if calls >= at and not cut:
            fail(*set(files.tolist()))
        original(files, blocks, *arguments)

    native_reading.read_frames = counting


def fail(*handles: int) -> None:
    """Have reading from the beginning of these open files fail, as from a broken disk, with EIO."""
    nowhere = os.open("/proc/self/mem", os.O_RDONLY)  # there is no memory at low addresses
    for handle in handles:
        os.dup2(nowhere, handle)
    os.close(nowhere)


def cut_record(at: int) -> None:
    """Cut a shard off within the `at`-th record that is read as a whole, just before that."""
    original = yt8m.data.reader.read_payload
    calls = 0

    def counting(shard: Any, offset: int, length: int, path: Path, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.truncate(path, offset + length // 2)
        return original(shard, offset, length, path, *arguments)

    yt8m.data.reader.read_payload = counting


def run_interrupted(moment: str, at: int, module: str, *arguments: str) -> None:
    """Run a command, see the module."""
    bot = helperbot.bot.Bot
    if moment == "step":
        interrupt(bot, "_train_step", at, after=True, action=end_with_what_is_saved)
    elif moment == "write":
        end_half_written(at)
    elif moment == "aside":
        end_between_renames(at)
    elif moment == "save":
        interrupt(helperbot.files.os, "replace", at, after=False)
    elif moment == "evaluation":
        interrupt(bot, "_evaluate", at, after=False)
    elif moment == "best":
        interrupt(helperbot.callbacks, "save_file", at, after=True)
    elif moment == "export":
        interrupt(yt8m.training.trainer, "save_model", at, after=False)
    elif moment == "term":
        interrupt(bot, "_train_step", at, after=True, action=lambda: end(signal.SIGTERM))
    elif moment == "term-evaluation":
        interrupt(bot, "_evaluate", at, after=False, action=lambda: end(signal.SIGTERM))
    elif moment == "cut-record":
        cut_record(at)
    elif moment in ("cut", "eio"):
        fail_to_read(at, moment == "cut")
    else:
        raise ValueError(moment)
    run_command(module, *arguments)


if __name__ == "__main__":
    run_interrupted(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
