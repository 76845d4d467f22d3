"""An interpreter with libraries imported, which forks a process for each command line that a client sends.

`warm_server.py LISTENER MODULES...`: LISTENER is the number of a listening Unix socket, MODULES are imported first. It
ends when its standard input does, and so do then the processes that it made. It imports nothing of what is tested, and
computes nothing: a process that has threads cannot be forked. In the forks everything is as in a process of their own,
as far as Python programs see, but for what Python and the libraries read from the environment once, when they start: a
client whose `READ_ONCE` variables are others is told to start an interpreter of its own. All forks have one hash seed.
"""

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# With a module of this name tensorboard does without TensorFlow; helperbot makes it for the same reason.
NO_TENSORFLOW = "tensorboard.compat.notf"
READ_ONCE = (
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MKL_NUM_THREADS",
    "MPLBACKEND",
    "MPLCONFIGDIR",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTHONHOME",
    "PYTHONIOENCODING",
    "PYTHONOPTIMIZE",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
)
MAX_FILES = 250  # more do not go into one message
PR_SET_PDEATHSIG = 1
OPEN_MODES = {"stdin": "rb", "stdout": "wb", "stderr": "wb"}


@dataclass(frozen=True)
class Request:
    """What a client asks for; `files` are its open files here, `numbers` what they are to be in the fork."""

    unbuffered: bool
    kind: str
    target: str
    arguments: list[str]
    numbers: list[int]
    directory: str
    environment: dict[str, str]
    umask: int
    ignored: list[int]
    files: list[int]


@dataclass
class Running:
    """A fork, the file that says when it has ended, and its client, unless that is gone."""

    pid: int
    ended: int
    client: socket.socket | None


def receive(client: socket.socket) -> Request | None:
    """Read a request, see `warm_client.ask`; None if the client is gone before all of it is there."""
    header, files, _, _ = socket.recv_fds(client, 4, MAX_FILES)
    length = int.from_bytes(header, "big")
    payload = client.recv(length, socket.MSG_WAITALL)
    if len(header) == 4 and len(payload) == length:
        return Request(**json.loads(payload), files=files)
    for file in files:
        os.close(file)
    return None


class Server:
    """Serves clients until there can be none; in each fork `serve` returns what it is to run."""

    def __init__(self, listener: socket.socket) -> None:
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, listener)
        self._selector.register(0, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Returns None in the server itself, once its standard input has ended."""
        while True:
            key, _ = self._selector.select()[0]  # one at a time: it may make those after it void
            if isinstance(key.data, Running):
                if key.fd == key.data.ended:
                    self._reap(key.data)
                else:
                    self._listen_to(key.data)
            elif isinstance(key.data, socket.socket):
                request = self._admit(key.data.accept()[0])
                if request is not None:
                    return request
            else:
                return None

    def _admit(self, client: socket.socket) -> Request | None:
        request = receive(client)
        if request is None:
            client.close()
            return None
        pid = 0
        if any(os.environ.get(name) != request.environment.get(name) for name in READ_ONCE):
            client.sendall(b"fresh\n")
            client.close()
        else:
            pid = os.fork()
            if not pid:
                client.close()
                self._leave()
                return request
            running = Running(pid, os.pidfd_open(pid), client)
            self._selector.register(running.ended, selectors.EVENT_READ, running)
            self._selector.register(client, selectors.EVENT_READ, running)
        for file in request.files:
            os.close(file)
        return None

    def _leave(self) -> None:
        """In a fork: end with the server, and close what is the server's."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(1)
        os.setsid()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fd:
                os.close(key.fd)
        self._selector.close()

    def _reap(self, running: Running) -> None:
        self._selector.unregister(running.ended)
        os.close(running.ended)
        code = os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        if running.client is not None:
            try:
                running.client.sendall(b"%d\n" % code)
            except OSError:
                pass  # it has been killed meanwhile
            self._forget_client(running)

    def _listen_to(self, running: Running) -> None:
        assert running.client is not None
        try:
            numbers = running.client.recv(100)
        except ConnectionResetError:
            numbers = b""
        for number in numbers:
            os.kill(running.pid, number)
        if not numbers:  # the client has been killed, which cannot be passed on
            os.kill(running.pid, signal.SIGKILL)
            self._forget_client(running)

    def _forget_client(self, running: Running) -> None:
        assert running.client is not None
        self._selector.unregister(running.client)
        running.client.close()
        running.client = None


def take_files(files: list[int], numbers: list[int]) -> None:
    """Give the open `files` these numbers, whatever had them."""
    for standard in range(3):
        os.close(standard)
    above = max([2, *files, *numbers]) + 1
    moved = [os.dup2(file, above + place) for place, file in enumerate(files)]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers):
        os.dup2(file, number)
        os.close(file)


def open_streams(unbuffered: bool) -> None:
    """Make `sys.stdin`, `sys.stdout` and `sys.stderr` anew, as Python does when it starts."""
    for number, (name, mode) in enumerate(OPEN_MODES.items()):
        old = getattr(sys, name)
        raw = unbuffered and name != "stdin"
        stream = None
        try:
            # pylint: disable-next=consider-using-with  # open as long as the process is
            binary: Any = open(number, mode, buffering=0 if raw else -1, closefd=False)
            stream = io.TextIOWrapper(
                binary,
                encoding=old.encoding,
                errors=old.errors,
                line_buffering=not unbuffered and (name == "stderr" or binary.isatty()),
                write_through=unbuffered,
            )
        except OSError:
            pass  # closed in the client, too
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(request: Request) -> None:
    """Become the process that was asked for, and run its program."""
    take_files(request.files, request.numbers)
    os.umask(request.umask)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    open_streams(request.unbuffered or bool(os.environ.get("PYTHONUNBUFFERED")))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator seeds itself after a fork
    if "torch" in sys.modules:
        threads = os.environ.get("OMP_NUM_THREADS")
        sys.modules["torch"].set_num_threads(int(threads) if threads else len(os.sched_getaffinity(0)))
    importlib.invalidate_caches()
    first = {"-m": request.directory, "-c": ""}.get(request.kind, os.path.dirname(os.path.realpath(request.target)))
    extra = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = [first, *(extra.split(os.pathsep) if extra else [])]
    sys.argv[:] = [request.kind if request.kind == "-c" else request.target, *request.arguments]
    if request.kind == "-m":
        runpy.run_module(request.target, run_name="__main__", alter_sys=True)
        return
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    name, source = "<string>", request.target.encode()
    if request.kind == "script":
        name = module.__file__ = os.path.abspath(request.target)
        source = Path(name).read_bytes()  # once: it may be a pipe
    exec(compile(source, name, "exec"), vars(module))  # pylint: disable=exec-used  # what Python does


def run_to_the_end(request: Request) -> NoReturn:
    """Run a program and end as Python ends; the objects of all those libraries are left to the system."""
    code = 0
    try:
        run(request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:  # pylint: disable=broad-exception-caught
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]  # pylint: disable=protected-access  # as multiprocessing does
    atexit._run_exitfuncs()  # pylint: disable=protected-access
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:  # all as Python does
            code = 120
            print(f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}", file=sys.stderr)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def main() -> None:
    """See the module."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    del sys.path[0]  # the folder of this file
    sys.modules[NO_TENSORFLOW] = ModuleType(NO_TENSORFLOW)
    path = list(sys.path)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    sys.path[:] = path  # torch 2.7 adds a folder
    threads = len(os.listdir("/proc/self/task"))
    tested = {"yt8m", "helperbot", "tensorflow"} & set(sys.modules)
    if threads != 1 or tested:
        sys.exit(f"after the import of the libraries there are {threads} threads, and imported are {tested}")
    gc.freeze()  # so that collections in the forks leave the pages alone that they share
    request = Server(listener).serve()
    if request is not None:
        run_to_the_end(request)


if __name__ == "__main__":
    main()
