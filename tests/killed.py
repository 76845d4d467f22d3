"""Run a command of the package again and again, killed at random moments, until enough kills have been seen.

`killed.py KILLS FOLDER MODULE ARGUMENTS...`: each process is a fork of this one, which has torch imported already, and
saves as often as it can. Prints how many were killed, how often a finished FOLDER came out of it, and whether its
predictions, indexes and weights were the same, bit by bit, as without interruption; leaves the last.
"""

import hashlib
import importlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

import yt8m.data.index
from yt8m.cli import run
from yt8m.prediction import predict_test_set
from yt8m.training import trainer

WHOLE = {".npy", ".pth"}  # what has its name only when it is finished


def start(module: str, arguments: list[str]) -> int:
    """Start a process that runs a command; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        assert trainer  # which takes long to import
        predict_test_set.SECONDS_BETWEEN_SAVES = 0
        yt8m.data.index._SECONDS_BETWEEN_SAVES = 0  # pylint: disable=protected-access
        sys.argv = [f"{module}.py", *arguments]
        command = importlib.import_module(f"yt8m.{module}")
        run(command.main, command.build_parser())
        status = 0
    except BaseException:  # pylint: disable=broad-exception-caught  # a fork must not go on as its parent
        traceback.print_exc()
    os._exit(status)


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


def kill_until(kills: int, folder: Path, module: str, arguments: list[str]) -> None:
    """See the module."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    begin = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start(module, arguments), 0)[1]) == 0
    uninterrupted = time.monotonic() - begin
    expected = outcome(folder)
    assert expected
    moments = random.Random(0)
    killed = finished = 0
    while killed < kills:
        shutil.rmtree(folder)
        folder.mkdir()
        while True:
            child = start(module, arguments)
            end = time.monotonic() + moments.uniform(0, 1) * uninterrupted
            done = 0
            while not done and time.monotonic() < end:
                time.sleep(0.001)
                done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            killed += 1
            for path, digest in outcome(folder).items():
                assert Path(path).suffix not in WHOLE or "checkpoints" in path or digest == expected[path], path
        finished += 1
        found = outcome(folder)
        other = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
        assert not other, f"other results than without interruption: {', '.join(sorted(other))}"
    print(f"killed {killed}, finished {finished}, always the same")


if __name__ == "__main__":
    kill_until(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
