"""Running shell scripts with stand-ins for `python` and `torchrun`, whose work forked processes do."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.run import parse_args as parse_torchrun

from tests.processes import rank_environments, run_program, start, wait_for

# Names itself, and ends as the fork does that has its arguments, environment, directory and output. What is no program
# is Python's own affair. A subshell says the name, for `echo` redirects the output of its shell meanwhile.
STAND_IN = """#!/bin/bash
case "${{0##*/}} $1" in
    python\\ -[cm] | python\\ *.py | torchrun\\ *) ;;
    *) exec "{python}" "$@" ;;
esac
(echo $$ >&{requests})
read -r status <&{replies} && exit "$status"
"""


def run_with_stand_ins(
    command: list[str], directory: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess:
    """Run a program whose stand-ins come first on PATH; what it prints is all in `stdout`."""
    with TemporaryDirectory() as folder:
        (ours, requests), (replies, answers) = os.pipe(), os.pipe()
        for name in ("python", "torchrun"):
            stand_in = Path(folder, name)
            stand_in.write_text(
                STAND_IN.format(python=sys.executable, requests=requests, replies=replies), encoding="utf-8"
            )
            stand_in.chmod(0o755)
        path = os.pathsep.join((folder, environment["PATH"]))
        with (
            open(Path(folder, "output"), "ab+") as output,  # to append: the forks write to it, too
            open(ours, encoding="ascii") as pids,
            subprocess.Popen(
                command,
                cwd=directory,
                env={**environment, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(requests, replies),
            ) as program,
            open(answers, "wb", buffering=0) as codes,
        ):
            os.close(requests)
            os.close(replies)
            for pid in pids:
                codes.write(b"%d\n" % _do_the_work_of(int(pid)))
            program.wait()
            output.seek(0)
            return subprocess.CompletedProcess(command, program.returncode, output.read().decode())


def _do_the_work_of(pid: int) -> int:
    """Do what a stand-in was started for; returns its exit status."""
    process = Path(f"/proc/{pid}")
    _, name, *arguments = _strings(process / "cmdline")
    environments: list[dict[str, str]] = [{}]
    if Path(name).name == "torchrun":
        launch = parse_torchrun(arguments)
        environments = rank_environments(int(launch.nproc_per_node))
        arguments = ["-m"] * launch.module + [launch.training_script, *launch.training_script_args]
    environment = dict(variable.split("=", 1) for variable in _strings(process / "environ"))
    path = _path_of_python(environment.get("PYTHONPATH", ""))
    outputs, directory = (process / "fd" / "1", process / "fd" / "2"), Path(os.readlink(process / "cwd"))
    codes = wait_for(
        [start(*outputs, directory, {**environment, **extra}, run_program, path, *arguments) for extra in environments]
    )
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


@cache
def _path_of_python(own: str) -> list[str]:
    """Where Python finds modules, beside those of the program."""
    program = "import json, sys; print(json.dumps(sys.path[1:]))"
    environment = {**os.environ, "PYTHONPATH": own}
    return json.loads(subprocess.check_output([sys.executable, "-c", program], env=environment))


def _strings(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\0")[:-1]
