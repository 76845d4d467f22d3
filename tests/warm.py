"""Processes that start in a moment: programs that stand for `python` and have a warm interpreter run what it is given.

A command needs seconds to import its libraries, and often a tenth of a second for what a test has it do. Here one
interpreter, the server, imports the libraries once and forks for each command line; what is tested is imported in the
fork. Tests that are about starting, or about what is imported, use `sys.executable`.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = (
    "concurrent.futures",
    "crc32c",
    "joblib",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "numpy",
    "pandas",
    "pydantic",
    "sklearn.metrics",
    "sklearn.model_selection",
    "telegram",
    "torch",
    "torch._dynamo",  # by optimizers, when the first is made
    "torch.distributed.launcher.api",  # all of torchrun but the module itself, which is to run as a program
    "torch.utils.data",
    "torch.utils.tensorboard",
    "tqdm",
    "yaml",
)
PROGRAMS = {"python": "", "python3": "", "torchrun": "-m torch.distributed.run", "yt8m": "-m yt8m"}


@contextmanager
def warm_interpreter(folder: Path, libraries: Sequence[str] = LIBRARIES) -> Iterator[Path]:
    """Start a server; yields a folder of executables to put first on PATH: `python` and `PROGRAMS`' others.

    They understand `[-u] -m MODULE`, `-c CODE` and `SCRIPT`, with arguments, standard streams, other open files,
    working directory, environment, umask and signals; resource limits are the server's. All else they leave to
    `sys.executable`. `torchrun` starts its processes with that `python`, too. The server ends with the context, or when
    this process is killed.

    Args:
        folder: an empty folder, for the socket, the log of the server, and the executables.
        libraries: the modules to import.
    """
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        with open(folder / "log", "wb") as log:
            # pylint: disable-next=consider-using-with  # its own with would wait before it is told to end
            server = subprocess.Popen(
                [sys.executable, HERE / "warm_server.py", str(listener.fileno()), *libraries],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env={**_without_paths(), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
    try:
        yield _executables(folder / "bin", path)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(60)


def _without_paths() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _executables(folder: Path, path: Path) -> Path:
    folder.mkdir()
    client = shlex.join(map(str, (sys.executable, "-S", "-E", HERE / "warm_client.py", path)))
    # torch.distributed.run starts its processes with PYTHON_EXEC.
    export = f"export PYTHON_EXEC={shlex.quote(str(folder / 'python'))}"
    for name, first in PROGRAMS.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\n{export}\nexec {client} {first} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder
