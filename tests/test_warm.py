"""The warm interpreter: a process of its has the input, output, surroundings and end that Python's own would have."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm import warm_interpreter

SURROUNDINGS = """
import json, os, signal, sys, threading
json.dump({
    "argv": sys.argv, "path": sys.path, "directory": os.getcwd(), "environment": dict(os.environ),
    "name": __name__, "file": globals().get("__file__"), "main": sys.modules["__main__"].__dict__ is globals(),
    "umask": os.umask(0), "ignored": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    "interrupt": signal.getsignal(signal.SIGINT) == signal.default_int_handler,
    "files": sorted(os.listdir("/proc/self/fd"))[:-1], "threads": len(os.listdir("/proc/self/task")),
    "bytecode": sys.dont_write_bytecode, "stdin": sys.stdin.read(), "leader": os.getsid(0) == os.getpid(),
    "streams": [(s.encoding, s.errors, s.line_buffering, s.write_through) for s in (sys.stdin, sys.stdout, sys.stderr)],
}, sys.stdout)
"""
ENDS = {
    "the end": "print('all')",
    "status": "import sys; print('some'); sys.exit(7)",
    "large status": "raise SystemExit(258)",
    "message": "import sys; sys.exit('a message')",
    "none": "import sys; sys.exit(None)",
    "exception": "print('before'); 1/0",
    "os._exit": "import os; print('lost'); os._exit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "killed": "import os; print('kept', flush=True); os.kill(os.getpid(), 9)",
    "terminated": "import os; os.kill(os.getpid(), 15)",
    "aborted": "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "at exit": "import atexit; atexit.register(print, 'at exit'); print('first')",
    "a thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()",
    "a pool": "from concurrent.futures import ThreadPoolExecutor as P\nP(1).submit(lambda: print('done'))",
    "no reader": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "no such module": "import no_such_module",
}


@pytest.fixture(name="both", params=["-m", "-c", "script"])
def fixture_both(request: pytest.FixtureRequest, python: str, tmp_path: Path) -> list[list[str]]:
    """The command line of `SURROUNDINGS`, in three ways, by Python itself and by the warm interpreter."""
    (tmp_path / "pro gram.py").write_text(SURROUNDINGS, encoding="utf-8")
    (tmp_path / "program.py").write_text(SURROUNDINGS, encoding="utf-8")
    what = {"-m": ["-m", "program"], "-c": ["-c", SURROUNDINGS], "script": ["pro gram.py"]}[request.param]
    return [[program, *what, "a b", "-c", "é"] for program in (sys.executable, python)]


@pytest.mark.parametrize("unbuffered", [False, True])
def test_the_surroundings_are_those_of_python(both: list[list[str]], unbuffered: bool, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": "/one:/two", "WORD": "ä", "HOME": "/h", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH") if name in os.environ}
    found = []
    for line in both:
        with open(tmp_path / "more", "wb") as more:
            done = subprocess.run(
                ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *line],
                check=False,
                capture_output=True,
                input=b"something to read",
                cwd=tmp_path,
                env={**kept, **environment},
                umask=0o027,
                start_new_session=True,
                pass_fds=[more.fileno()],
            )
        assert done.returncode == 0 and not done.stderr, done.stderr
        found.append(json.loads(done.stdout))
    for name in ("PYTHON_EXEC", "PWD", "_", "SHLVL", "OLDPWD"):  # what `tests.warm` and shells set
        for one in found:
            one["environment"].pop(name, None)
    assert found[1]["argv"][1:] == ["a b", "-c", "é"] and found[1]["stdin"] == "something to read"
    assert found[1] == found[0]


@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_python_ends(how: str, python: str) -> None:
    ended = [
        subprocess.run([program, "-c", ENDS[how]], check=False, capture_output=True, text=True, env=environment)
        for program in (sys.executable, python)
        for environment in [{**os.environ, "PYTHONUNBUFFERED": ""}]
    ]
    assert ended[1].returncode == ended[0].returncode and ended[1].stdout == ended[0].stdout
    assert ended[1].stderr.splitlines()[-1:] == ended[0].stderr.splitlines()[-1:]


def test_what_it_does_not_do_python_does(python: str, tmp_path: Path) -> None:
    def run(
        *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, program: str | None = None
    ) -> str:
        done = subprocess.run(
            [python, *arguments], check=True, capture_output=True, text=True, env=env, cwd=cwd, input=program
        )
        return done.stdout

    assert run("--version") == f"Python {sys.version.split()[0]}\n"
    assert run("-", program="print(6 * 7)") == "42\n"
    assert run("-X", "utf8", "-c", "import sys; print(sys.flags.utf8_mode)") == "1\n"
    code = "import sys; print(sys.flags.hash_randomization, 'torch' in sys.modules)"
    assert run("-c", code) == "1 True\n"
    assert run("-c", code, env={**os.environ, "PYTHONHASHSEED": "0"}) == "0 False\n"
    assert run("-c", "import sys; print({'yt8m', 'helperbot', 'tensorflow'} & set(sys.modules))") == "set()\n"
    assert run("-c", "import random, numpy; print(random.random(), numpy.random.random())") != run(
        "-c", "import random, numpy; print(random.random(), numpy.random.random())"
    )
    assert subprocess.run([python, "no_such_file.py"], check=False, stderr=subprocess.DEVNULL).returncode == 2
    (tmp_path / "program.py").write_text("print('one')", encoding="utf-8")
    assert run("program.py", cwd=tmp_path) == "one\n"
    (tmp_path / "program.py").write_text("print('two')", encoding="utf-8")
    assert run("program.py", cwd=tmp_path) == "two\n"


WAITING = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def has_ended(pid: int) -> bool:
    """Whether a process ends within a minute that is nobody's child here; a zombie has ended, too."""
    for _ in range(6000):
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_process(number: int, python: str) -> None:
    with subprocess.Popen(
        [python, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid != process.pid
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -number and has_ended(pid)
    assert errors.endswith("KeyboardInterrupt\n") if number == signal.SIGINT else not errors


def test_a_process_may_handle_a_signal(python: str) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(143)); print('ready', flush=True); signal.pause()"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
    assert process.returncode == 143


def test_all_of_the_programs_are_found_on_the_path(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os; print(os.environ['RANK'])\nos._exit(0)", encoding="utf-8")
    script = 'python -c "print(1)" && torchrun --standalone --nproc_per_node=1 program.py && python3 <(echo "print(2)")'
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0 and done.stdout == "1\n0\n2\n", done.stderr


def test_nothing_is_left_once_the_tests_have_been_killed(tmp_path: Path) -> None:
    folder = tmp_path / "warm"
    folder.mkdir()
    code = (
        "import pathlib, subprocess, sys, tests.warm\n"
        "with tests.warm.warm_interpreter(pathlib.Path(sys.argv[1]), ['json']) as programs:\n"
        f"    subprocess.run([programs / 'python', '-c', 'import os; print(os.getppid()); ' + {WAITING!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as process:
        assert process.stdout is not None
        server, child = (int(process.stdout.readline()) for _ in range(2))
        process.kill()
        assert has_ended(server) and has_ended(child)


def test_a_server_that_has_ended_is_told(tmp_path: Path) -> None:
    with warm_interpreter(tmp_path, []) as programs:
        pass
    done = subprocess.run([programs / "python", "-c", "0"], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "the warm interpreter has ended, see the file log beside it" in done.stderr
