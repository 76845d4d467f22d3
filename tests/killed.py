"""Run a command repeatedly, killed at random moments, until enough kills have happened."""

import hashlib
import os
import random
import shutil
import signal
import time
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

import yt8m.data.index
from tests.processes import fork, run_command, start, wait_for
from yt8m.prediction import test_set

WHOLE = {".npy", ".pth"}  # what has its name only when it is finished


def run_saving_often(module: str, *arguments: object) -> None:
    """Run a command that saves as often as it can."""
    test_set.SECONDS_BETWEEN_SAVES = 0
    yt8m.data.index._SECONDS_BETWEEN_SAVES = 0  # pylint: disable=protected-access
    run_command(module, *arguments)


def outcome(folder: Path) -> dict[str, str]:
    """Digests of the results that there are; the arrays of an index are in any order."""
    digests = {}
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                parts = [f"{name} {arrays[name].dtype}".encode() + arrays[name].tobytes() for name in sorted(arrays)]
            digests[str(path)] = hashlib.sha256(b"".join(parts)).hexdigest()
        elif path.suffix in WHOLE:
            digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def tear_newest_state(folder: Path, moments: random.Random) -> None:
    """Now and then cut the newest state of a run off, or change a bit of it, if there is an older one."""
    for newest in folder.rglob("state.pt"):
        if newest.with_name("state.previous.pt").exists() and moments.random() < 0.7:
            content = bytearray(newest.read_bytes())
            if moments.random() < 0.5:
                content = content[: moments.randrange(len(content))]
            else:
                content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
            newest.write_bytes(content)


def kill_until(kills: int, folder: Path, *command_line: object) -> int:
    """Run a command that fills `folder` until so many processes have been killed, and leave what the last one made.

    After a kill the newest state of a run may be damaged, too. Checks that predictions, indexes and weights are always
    the same, bit by bit, as without interruption. Returns how many were killed.
    """
    output = folder.parent / "output"

    def begin() -> BaseProcess:
        return start(output, output, Path.cwd(), os.environ, run_saving_often, *command_line)

    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    empty()
    fork(os.getcwd)  # so that the fork server is there
    before = time.monotonic()
    assert wait_for([begin()]) == [0], output.read_text(encoding="utf-8")
    uninterrupted = time.monotonic() - before
    expected = outcome(folder)
    assert expected
    moments = random.Random(0)
    killed = 0
    while killed < kills:
        empty()
        for attempt in count():
            before = time.monotonic()
            process = begin()
            process.join(moments.uniform(0, uninterrupted))
            process.kill()
            code = wait_for([process])[0]
            if code == 0:
                if attempt == 0:  # the machine may have been busy before
                    uninterrupted = min(uninterrupted, time.monotonic() - before)
                break
            assert code == -signal.SIGKILL, output.read_text(encoding="utf-8")
            killed += 1
            tear_newest_state(folder, moments)
            for path, digest in outcome(folder).items():
                assert Path(path).suffix not in WHOLE or "checkpoints" in path or digest == expected[path], path
        found = outcome(folder)
        other = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
        assert not other, f"other results than without interruption: {', '.join(sorted(other))}"
    return killed
