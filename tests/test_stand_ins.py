"""Stand-ins: forked processes get the input, environment and exit status of Python's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_ins import run_with_stand_ins

SURROUNDINGS = """
import json, os, sys
json.dump({
    "argv": sys.argv, "path": sys.path, "directory": os.getcwd(), "environment": dict(os.environ), "name": __name__,
    "imported": "yt8m" in sys.modules,
}, sys.stdout)
"""


def bash(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a script with stand-ins."""
    return run_with_stand_ins(["bash", "-euo", "pipefail", "-c", script], folder, dict(os.environ))


@pytest.mark.parametrize("how", ["-m program", f"-c '{SURROUNDINGS}'", "program.py"])
def test_the_surroundings_are_those_of_python(how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SURROUNDINGS, encoding="utf-8")
    found = []
    for python in (sys.executable, "python"):
        done = bash(f"SEED=ä {python} {how} 'a b' -c é", tmp_path)
        assert done.returncode == 0, done.stdout
        found.append(json.loads(done.stdout))
        for name in ("_", "PATH", "SHLVL"):
            found[-1]["environment"].pop(name, None)
    assert found[0]["environment"]["SEED"] == "ä" and found[0]["argv"][1:] == ["a b", "-c", "é"]
    assert found[1] == found[0]


def test_scripts_see_how_a_program_ends_and_what_it_says(tmp_path: Path) -> None:
    done = bash("python -c 'print(\"said\")' | tr a-z A-Z >file; cat file; python --version", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"SAID\nPython {sys.version.split()[0]}\n")
    for code, status, said in (
        ("exit(7)", 7, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; print(1, flush=True); os.kill(os.getpid(), 9)", 137, "1"),
    ):
        done = bash(f"python -c '{code}'; echo not reached", tmp_path)
        assert done.returncode == status and said in done.stdout and "not reached" not in done.stdout


def test_torchrun_starts_as_many_as_it_is_told(tmp_path: Path) -> None:
    code = "import os, sys\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'], *sys.argv[1:])"
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    for program in ("program.py", "-m program"):
        done = bash(f"torchrun --nproc_per_node=2 {program} --option", tmp_path)
        assert done.returncode == 0 and sorted(done.stdout.splitlines()) == ["0 2 --option", "1 2 --option"]
    with pytest.raises(SystemExit):
        bash("torchrun --no-such-option program.py", tmp_path)
