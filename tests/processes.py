"""Processes that start quickly: forks by the standard library's fork server, with preloaded libraries.

Tests that are about starting, or about what is imported, use `sys.executable`.
"""

import gc
import importlib
import multiprocessing
import os
import runpy
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "matplotlib.backends.backend_agg",
        "matplotlib.pyplot",
        "sklearn.metrics",
        "telegram",
        "tests.interrupted",
        "tests.killed",
        "torch._dynamo",  # by optimizers, when the first is made
    ]
)
PATIENCE = 300  # seconds for processes that may wait for each other for ever


class Outcome(NamedTuple):
    """How a command or a process ended: exit status (-N: by signal N), standard output, standard error."""

    status: int
    out: str
    err: str


def run_command(module: str, *arguments: object) -> None:
    """Run a command of the package with the arguments of a command line."""
    command = importlib.import_module(f"yt8m.{module}")
    sys.argv = [f"{module}.py", *map(str, arguments)]
    importlib.import_module("yt8m.cli").run(command.main, command.build_parser())


def run_program(path: list[str], *arguments: str) -> None:
    """Do what Python does with `-m MODULE`, `-c CODE` or `FILE`, and with arguments of its own.

    `path`: where Python finds modules beside those of the program, for the package to be imported from there.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "yt8m"]:
        del sys.modules[name]
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        sys.path[:] = [os.getcwd(), *path]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[:] = ["", *path]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # pylint: disable=exec-used
    else:
        sys.argv = [kind, *rest]
        sys.path[:] = [str(Path(kind).resolve().parent), *path]
        runpy.run_path(kind, run_name="__main__")


def start(
    out: Path,
    err: Path,
    directory: Path,
    environment: Mapping[str, str],
    target: Callable[..., object],
    *arguments: object,
) -> BaseProcess:
    """Start a process that calls `target`; what it prints is added to the files `out` and `err`."""
    process = FORKS.Process(target=_call, args=((out, err), directory, dict(environment), target, arguments))
    process.start()
    return process


def _call(
    outputs: Sequence[Path],
    directory: Path,
    environment: Mapping[str, str],
    target: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    for number, path in enumerate(outputs, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    np.random.seed()  # as Python's own generator does after a fork
    multiprocessing.set_start_method(None, force=True)  # the usual one, not that of this process
    gc.freeze()  # so that collections leave the pages alone that all forks share
    try:
        target(*arguments)
    finally:
        threading._shutdown()  # pylint: disable=protected-access  # ends pools, too, whose processes are waited for


def fork_all(
    environments: Sequence[Mapping[str, str]], target: Callable[..., object], *arguments: object
) -> list[Outcome]:
    """Call `target` in processes of their own, one for each of the environments, and wait until all have ended.

    The environments are what there is beside that of this process.
    """
    with TemporaryDirectory() as folder:
        files = [(Path(folder, f"out{number}"), Path(folder, f"err{number}")) for number in range(len(environments))]
        processes = [
            start(*outputs, Path.cwd(), {**os.environ, **environment}, target, *arguments)
            for outputs, environment in zip(files, environments)
        ]
        codes = wait_for(processes)
        return [
            Outcome(code, *(path.read_text(encoding="utf-8") for path in outputs))
            for code, outputs in zip(codes, files)
        ]


def fork(target: Callable[..., object], *arguments: object, **environment: str) -> Outcome:
    """Call `target` in a process of its own, and wait for its end."""
    return fork_all([environment], target, *arguments)[0]


def wait_for(processes: Sequence[BaseProcess]) -> list[int]:
    """Exit statuses (-N: by signal N) of processes."""
    codes = []
    for process in processes:
        process.join(PATIENCE)
        codes.append(process.exitcode)
    if None in codes:
        for process in processes:
            process.kill()
        raise TimeoutError(f"processes have not ended in {PATIENCE} s: {codes}")
    return codes


def rank_environments(count: int) -> list[dict[str, str]]:
    """What `torchrun` sets so that so many processes meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
