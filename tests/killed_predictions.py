"""Predict with a data folder's models again and again, killed at random moments, until enough kills have been seen.

`killed_predictions.py DATA_DIR KILLS`: each process is a fork of this one, which has torch imported already. Prints how
many were killed, how often a finished set of files came out of it, and whether all of those were the same as one made
without interruption; leaves the last.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from yt8m.cli import run
from yt8m.inference_memmap import build_parser, main
from yt8m.prediction import predict_test_set as prediction


def predict(data_dir: Path) -> int:
    """Start a process that predicts in groups of few segments, each of which it saves; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        prediction.SECONDS_BETWEEN_SAVES = 0
        sys.argv = ["inference_memmap.py", "--data-dir", str(data_dir), "--device", "cpu", "--batch-size", "1"]
        run(main, build_parser())
        status = 0
    except BaseException:  # pylint: disable=broad-exception-caught  # a fork must not go on as its parent
        traceback.print_exc()
    os._exit(status)


def outcome(folder: Path) -> dict[str, str]:
    """Digests of the prediction files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.npy")}


def kill_until(data_dir: Path, kills: int) -> None:
    """See the module."""
    folder = data_dir / "cache" / "predictions"
    start = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(predict(data_dir), 0)[1]) == 0
    uninterrupted = time.monotonic() - start
    expected = outcome(folder)
    assert expected
    moments = random.Random(0)
    killed = finished = 0
    while killed < kills:
        shutil.rmtree(folder)
        while True:
            child = predict(data_dir)
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
            assert all(outcome(folder)[name] == expected[name] for name in outcome(folder))
        finished += 1
        assert outcome(folder) == expected, "other predictions than without interruption"
    print(f"killed {killed}, finished {finished}, always the same")


if __name__ == "__main__":
    kill_until(Path(sys.argv[1]), int(sys.argv[2]))
