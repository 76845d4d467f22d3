"""Wheels that work outside the repository, and consistent lists of requirements."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def requirements(name: str) -> dict[str, str]:
    """Pins of a requirements file and of those that it includes: version by normalized name."""
    pins: dict[str, str] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            pins |= requirements(line.removeprefix("-r "))
        elif line:
            package, version = re.fullmatch(
                r"([\w.-]+)==([\w.+]+)(?:; python_version < .*)?", line
            ).groups()  # every line is a pin
            pins[normalized(package)] = version
    return pins


def normalized(package: str) -> str:
    """The name of a package as the index has it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def dependencies(project: Path) -> set[str]:
    """Names of what a pyproject.toml asks for, with what is optional."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *table["dependencies"],
        *(line for group in table.get("optional-dependencies", {}).values() for line in group),
    ]
    return {normalized(re.match(r"[\w.-]+", line)[0]) for line in asked}


def test_exactly_the_dependencies_of_the_packages_are_pinned() -> None:
    pinned = set(requirements("requirements.txt"))
    of_tests = set(requirements("requirements-dev.txt"))
    asked = (dependencies(ROOT) | dependencies(ROOT / "PyTorchHelperBot")) - {"pytorch-helper-bot"}
    assert pinned <= asked <= pinned | of_tests
    assert not pinned & of_tests


def test_old_cards_new_cards_and_cpus_differ_in_torch_alone() -> None:
    new, old, cpu = (requirements(f"requirements{which}.txt") for which in ("", "-p100", "-cpu"))
    assert (new.pop("torch"), old.pop("torch"), cpu.pop("torch")) == ("2.13.0", "2.7.1", "2.13.0+cpu")
    assert new == old == cpu


def test_the_environment_of_conda_is_that_of_pip() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    packages = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (of_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert of_pip == ["-r requirements.txt", "-e ./PyTorchHelperBot", "-e ."]
    assert "pip" in packages
    (python,) = [entry.removeprefix("python=") for entry in packages if entry.startswith("python=")]
    image = re.search(r"^FROM python:(\d+\.\d+)\.\d+-slim", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert image is not None and python == image[1] == asked.removeprefix(">=").partition(",")[0]


def test_a_change_of_the_code_does_not_install_torch_again() -> None:
    """In the Dockerfile, the requirements are installed before anything else of the repository is copied."""
    steps = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    copies = [step.split()[2:-1] for step in steps if step.startswith("COPY")]
    assert copies == [["requirements*.txt"], ["."]]
    install = next(number for number, step in enumerate(steps) if "pip install -r" in step)
    assert install < next(number for number, step in enumerate(steps) if re.match(r"COPY\s+\S+\s+\. ", step))
    users = [step for step in steps if step.startswith("USER")]
    (number,) = re.findall(r"^ARG UID=(\d+)$", "\n".join(steps), re.M)
    assert users == ["USER ${UID}"] and int(number) > 0


def test_the_image_can_be_built_for_cpus() -> None:
    """What chooses the torch and the place where it is to be had are arguments of the build, before torch is installed;
    an index that lacks the build for CPUs cannot lead to one with CUDA."""
    arguments, _, rest = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("pip install -r ")
    assert {"REQUIREMENTS", "PIP_EXTRA_INDEX_URL"} <= set(re.findall(r"^ARG (\w+)", arguments, re.M))
    assert rest.startswith('"$REQUIREMENTS"')
    assert requirements("requirements-cpu.txt")["torch"].endswith("+cpu")


@pytest.fixture(name="installed", scope="module")
def fixture_installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that have both packages from wheels, in a folder without the repository."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for project, package in ((ROOT / "PyTorchHelperBot", "helperbot"), (ROOT, "yt8m")):
        copy = folder / project.name  # since building leaves folders behind
        shutil.copytree(project / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(project / name, copy)
        subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, copy], check=True)
    wheels = sorted(folder.glob("*.whl"))
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["pytorch_helper_bot", "yt8m"]
    target = folder / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, *wheels], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**environment, "PYTHONPATH": str(target), "PATH": f"{target / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    """What a command prints that runs in another folder."""
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder).stdout


def test_the_wheels_are_whole(installed: dict[str, str], tmp_path: Path) -> None:
    target = Path(installed["PYTHONPATH"])
    for package, source in (("yt8m", ROOT / "yt8m"), ("helperbot", ROOT / "PyTorchHelperBot" / "helperbot")):
        wanted, found = (
            {
                path.relative_to(folder)
                for path in folder.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            for folder in (source, target / package)
        )
        assert found == wanted
    script = "import helperbot, yt8m; print(helperbot.__file__, yt8m.__file__)"
    assert run(installed, tmp_path, sys.executable, "-c", script).split() == [
        str(target / package / "__init__.py") for package in ("helperbot", "yt8m")
    ]


def test_commands_work_outside_the_repository(installed: dict[str, str], tiny_data: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert run(installed, tmp_path, "yt8m", "--version").split()[-1] == version
    data = tmp_path / "data"
    data.mkdir()
    for name in ("segment", "segment_vocabulary.csv"):
        (data / name).symlink_to(tiny_data / name)
    assert "segments of 6 videos" in run(installed, tmp_path, "yt8m", "prepare_test_meta")
    assert "timelines" in run(installed, tmp_path, "yt8m", "report", "--quiet")
    page = (data / "cache" / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and len(page) > 1_000_000  # with the charts' library in it
    assert not (tiny_data / "cache" / "report.html").exists()
