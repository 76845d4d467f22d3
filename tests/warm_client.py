"""The program that stands for `python` where tests start processes: has the warm interpreter run the command line.

`warm_client.py SOCKET ARGUMENTS...`: sends its arguments, environment, working directory and open files to the server
that listens at SOCKET (see `warm_server.py`), passes signals on, and ends as the process ends that the server makes of
them: with its status, or killed by the same signal. What the server does not do, such as `--version`, a program read
from standard input, or a variable that has to be set before libraries are imported, an interpreter of its own does.

Runs without site packages (`-S -E`), and imports little: it starts in a fiftieth of a second.
"""

import json
import os
import signal
import socket
import sys
from types import FrameType

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def parse(arguments: list[str]) -> dict[str, object] | None:
    """What to run, of `[-u] -m MODULE`, `-c CODE` or `SCRIPT` and arguments; None if it is anything else."""
    unbuffered = arguments[:1] == ["-u"]
    kind, *rest = arguments[unbuffered:] or [""]
    if kind in ("-m", "-c") and rest:
        return {"unbuffered": unbuffered, "kind": kind, "target": rest[0], "arguments": rest[1:]}
    if os.path.exists(kind) and not os.path.isdir(kind):
        return {"unbuffered": unbuffered, "kind": "script", "target": kind, "arguments": rest}
    return None


def ask(connection: socket.socket, command: dict[str, object]) -> None:
    """Send the request: its length in 4 bytes, which the open files go along with, and JSON."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    numbers = [number for number in numbers if _is_inherited(number)]
    umask = os.umask(0o077)
    os.umask(umask)
    request = {
        **command,
        "numbers": numbers,
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": umask,
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
    }
    payload = json.dumps(request).encode()
    socket.send_fds(connection, [len(payload).to_bytes(4, "big")], numbers)
    connection.sendall(payload)


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)  # this program's own files are not
    except OSError:  # the one that listed the folder
        return False


def pass_signals_on(connection: socket.socket) -> None:
    """Send the number of each signal to the server, but for those that this process has been told to ignore."""

    def send(number: int, _frame: FrameType | None) -> None:
        try:
            connection.sendall(bytes([number]))
        except OSError:
            pass  # it has just ended

    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, send)


def end_as(code: int) -> None:
    """End with a status, or, for a negative code, by that signal."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        signal.pause()
    sys.exit(code)


def main() -> None:
    """See the module."""
    path, *arguments = sys.argv[1:]
    command = parse(arguments)
    if command is not None:
        # A signal that comes before the server knows of this process waits until it does.
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            ask(connection, command)
        except OSError as error:
            sys.exit(f"{path}: {error.strerror}; the warm interpreter has ended, see the file log beside it")
        pass_signals_on(connection)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        reply = connection.makefile("rb").readline()
        if not reply:
            sys.exit(f"{path}: the warm interpreter has ended, see the file log beside it")
        if reply != b"fresh\n":
            end_as(int(reply))
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
