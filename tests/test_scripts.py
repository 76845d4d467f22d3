"""The chained scripts: their commands, skipping finished steps, stopping at the first failure."""

import importlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
PYTHON_STUB = """#!/usr/bin/env bash
echo "$*" >>"$RECORD"
case "$*" in *"$FAIL_ON"*) [ -z "$FAIL_ON" ] || exit 3 ;; esac
while [ $# -gt 0 ]; do
    case $1 in
        --name) name=$2 ;; --fold) fold=_$2 ;; --data-dir) data=$2 ;;
        yt8m.train_video) kind=video ;; yt8m.train_*) kind=segment ;;
    esac
    shift
done
[ -n "${kind:-}" ] || exit 0
folder=$data/cache/$kind/$name${fold:-}
mkdir -p "$folder" && touch "$folder/model.pth"
"""


class Chain:
    """A chained script with an interpreter that only records what it is asked to run."""

    def __init__(self, folder: Path) -> None:
        self.data, self.record, self.python = folder / "data", folder / "record", folder / "python"
        self.python.write_text(PYTHON_STUB, encoding="utf-8")
        self.python.chmod(0o755)
        self.errors = ""

    def run(
        self, script: str, *options: str, fail_on: str = "", seed: str | None = None
    ) -> tuple[int, list[list[str]]]:
        """Exit status and the commands run; `errors` is what went to standard error."""
        self.record.write_text("", encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHON": str(self.python),
            "DATA_DIR": str(self.data),
            "RECORD": str(self.record),
            "FAIL_ON": fail_on,
        }
        environment.pop("SEED", None)
        if seed is not None:
            environment["SEED"] = seed
        done = subprocess.run(
            ["bash", SCRIPTS / script, *options],
            env=environment,
            check=False,
            cwd=self.data.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = done.stderr
        return done.returncode, [shlex.split(line) for line in self.record.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(name="chain")
def fixture_chain(tmp_path: Path) -> Chain:
    """Scripts that do not train."""
    return Chain(tmp_path)


EXPECTED = {
    "pretraining.bash": [("video/dbof-3", 4827), ("video/nextvlad-2", 1635)],
    "context-agnostic.bash": [
        ("segment/dbof-3_0", 1213),
        ("segment/dbof-3_1", 1216),
        ("segment/dbof-3_2", 1351),
        ("segment/nextvlad-2_0", 5696),
        ("segment/nextvlad-2_1", 1696),
        ("segment/nextvlad-2_2", 2396),
    ],
    "context-aware.bash": [
        ("segment/dbof-3-nextvlad-2_3", 4055),
        ("segment/dbof-3-nextvlad-2_4", 5055),
        ("segment/nextvlad-2-nextvlad-2_5", 5455),
        ("segment/dbof-3-dbof-3_4", 3055),
    ],
}


@pytest.mark.parametrize("script", EXPECTED)
def test_a_script_makes_the_published_models(chain: Chain, script: str) -> None:
    status, commands = chain.run(script, "--device", "cpu")
    assert status == 0
    assert [int(command[command.index("--seed") + 1]) for command in commands] == [seed for _, seed in EXPECTED[script]]
    for folder, _ in EXPECTED[script]:
        assert (chain.data / "cache" / folder / "model.pth").is_file()
    for command in commands:
        assert command[0] == "-m" and (ROOT / command[2]).is_file()
        assert command[command.index("--device") + 1] == "cpu"
    assert chain.run(script) == (0, [])  # all finished


@pytest.mark.parametrize("script", EXPECTED)
def test_a_script_stops_at_the_first_failure_and_goes_on_from_there(chain: Chain, script: str) -> None:
    second_seed = EXPECTED[script][1][1]
    status, commands = chain.run(script, fail_on=f"--seed {second_seed}")
    assert status == 3 and len(commands) == 2
    status, commands = chain.run(script)
    assert status == 0 and len(commands) == len(EXPECTED[script]) - 1


def test_the_longer_runs_say_so(chain: Chain) -> None:
    longer = []
    for script in EXPECTED:
        longer += [command for command in chain.run(script)[1] if "--steps" in command]
    assert [(command[command.index("--seed") + 1], command[command.index("--steps") + 1]) for command in longer] == [
        ("1696", "12000"),
        ("4055", "12000"),
    ]


AGNOSTIC = "cv", "train_pure_segment", "scripts/pure_segment_dbof.yaml", "bases/dbof"
AWARE = "mix", "train_segment_w_context", "scripts/segment_with_context.yaml", "bases/dbof", "bases/next vlad"


@pytest.mark.parametrize("arguments", [AGNOSTIC, AWARE])
def test_cross_validation_trains_on_every_fold_and_scores_last(chain: Chain, arguments: tuple[str, ...]) -> None:
    name, trainer, *positional = arguments
    status, (*trained, scored) = chain.run("cross-validate.bash", *arguments)
    assert status == 0, chain.errors
    words = " ".join(positional).split()  # what the stub records has lost the quotes
    assert trained == [
        [
            "-m",
            f"yt8m.{trainer}",
            *words,
            "--fold",
            str(fold),
            "--name",
            name,
            "--seed",
            "0",
            "--data-dir",
            str(chain.data),
        ]
        for fold in range(8)
    ]
    score = [
        "-m",
        "yt8m.evaluate",
        "--data-dir",
        str(chain.data),
        "--out-of-fold",
        name,
        "--output",
        str(chain.data / "cache" / f"cross-validation-{name}"),
    ]
    assert scored == score
    assert sorted(path.name for path in (chain.data / "cache" / "segment").iterdir()) == [
        f"{name}_{fold}" for fold in range(8)
    ]
    assert chain.run("cross-validate.bash", *arguments) == (0, [*trained, score])  # trainers know what is finished


@pytest.mark.parametrize("own", [["--device", "cuda:1", "--on-error", "skip"], ["--device=cuda:1", "--on-error=skip"]])
def test_cross_validation_passes_options_on(chain: Chain, own: list[str]) -> None:
    options = ["--steps", "500", *own]
    status, (*trained, scored) = chain.run("cross-validate.bash", *AGNOSTIC, *options, seed="7")
    assert status == 0 and len(trained) == 8
    for fold, command in enumerate(trained):
        assert command[command.index("--fold") :] == [
            "--fold",
            str(fold),
            "--name",
            "cv",
            *options,
            "--seed",
            "7",
            "--data-dir",
            str(chain.data),
        ]
    assert scored[-len(own) :] == own and "--steps" not in scored


def test_cross_validation_stops_at_the_first_failure_and_goes_on_from_there(chain: Chain) -> None:
    status, commands = chain.run("cross-validate.bash", *AGNOSTIC, fail_on="--fold 2")
    assert status == 3 and [command[command.index("--fold") + 1] for command in commands] == ["0", "1", "2"]
    status, commands = chain.run("cross-validate.bash", *AGNOSTIC, fail_on="yt8m.evaluate")
    assert status == 3
    assert [command[command.index("--fold") + 1] for command in commands[:-1]] == list("01234567")
    assert commands[-1][1] == "yt8m.evaluate"


@pytest.mark.parametrize(
    "arguments, part",
    [
        ((), "expected a name"),
        (AGNOSTIC[:3], "expected a name"),
        ((*AGNOSTIC[:3], "--steps", "5"), "expected a name"),
        ((*AGNOSTIC, "bases/dbof"), "expected 1 base model folders, found 2"),
        (AWARE[:4], "expected 2 base model folders, found 1"),
        (("cv", "train_video", *AGNOSTIC[2:]), "train_video: expected train_pure_segment or"),
        ((*AGNOSTIC, "--fold", "3"), "--fold: the script sets"),
        ((*AGNOSTIC, "--name=x"), "--name=x: the script sets"),
        ((*AGNOSTIC, "--seed", "3"), "SEED"),
        ((*AGNOSTIC, "--data-dir", "x"), "DATA_DIR"),
    ],
)
def test_cross_validation_says_how_to_use_it(chain: Chain, arguments: tuple[str, ...], part: str) -> None:
    assert chain.run("cross-validate.bash", *arguments) == (2, [])
    assert part in chain.errors.splitlines()[0]
    assert "usage: bash scripts/cross-validate.bash NAME train_pure_segment CONFIG BASE_MODEL_DIR" in chain.errors
    assert not chain.data.exists()


def test_scripts_are_valid_bash() -> None:
    scripts = [*SCRIPTS.glob("*.bash"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 7
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)


def test_published_configurations_have_a_header() -> None:
    for path in SCRIPTS.glob("*.yaml"):
        header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        text = "\n".join(header)
        assert "python -m yt8m.train_" in text and "Hardware and time" in text and "Score" in text
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_film_demo_gives_commands_that_there_are(chain: Chain, tmp_path: Path) -> None:
    """Run as a copy, since it writes beside itself; what the commands do has tests of its own."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    environment = {**os.environ, "PYTHON": str(chain.python), "RECORD": str(chain.record), "FAIL_ON": ""}
    subprocess.run(["bash", tmp_path / "scripts" / "demo-film.bash"], env=environment, check=True)
    commands = [shlex.split(line) for line in chain.record.read_text(encoding="utf-8").splitlines()]
    assert [words[1] for words in commands] == [
        "pip",
        *(f"yt8m.{name}" for name in ("make_demo_films", "fit", "localize", "evaluate_spans")),
    ]
    for _, module, *words in commands[1:]:
        importlib.import_module(module).build_parser().parse_args(words)
    assert commands[2][2:4] == ["--videos", "data/demo-film/films"]
