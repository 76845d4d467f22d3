"""The snippets of the README, and the example program killed and resumed."""

import csv
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits.py"
STEPS = 600


def history_of(folder):
    """The history of a run, without speeds."""
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("examples_per_second")
    return rows


def test_the_digits_are_learnt_by_a_run_that_is_killed(tmp_path, monkeypatch, capsys):
    command = [sys.executable, DIGITS, tmp_path / "killed", "--steps", str(STEPS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "evaluation at step 100/" in line:
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    step = int(re.fullmatch(r"repeat the command to resume after step (\d+)\n", out)[1])
    assert 100 <= step < STEPS
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    resuming, result = ended.stdout.splitlines()
    assert resuming == f"resuming after step {step}"
    accuracy, best = re.match(r"accuracy (0\.\d+) at step (\d+): ", result).groups()
    assert float(accuracy) > 0.95
    assert [path.name for path in (tmp_path / "killed" / "best").iterdir()] == [f"step_{int(best):08d}.pt"]

    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path / "all"), "--steps", str(STEPS)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(DIGITS), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.replace(str(tmp_path / "all"), str(tmp_path / "killed")) == result + "\n"
    assert history_of(tmp_path / "killed") == history_of(tmp_path / "all")


def test_a_file_that_is_not_a_state_is_reported_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "state.pt").write_bytes(b"garbage")
    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="state.pt: cannot be read as the state of a run"):
        runpy.run_path(str(DIGITS), run_name="__main__")


def test_the_snippets_of_the_readme_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)  # pylint: disable=exec-used
    assert names["bot"].step == 400
    assert (tmp_path / "run_with_history" / "history.csv").exists()
    assert list((tmp_path / "run_with_history" / "curves").glob("events*"))
    assert "evaluation at step 400/400" in capsys.readouterr().err
