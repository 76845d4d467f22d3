"""All commands and snippets of the documentation, run in reading order on tiny data."""

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests import documentation
from tests.documentation import PAGES, ROOT, Block, blocks
from tests.films import regular, tone, write_coloured_films, write_film
from tests.shards import Video, write_videos
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, write_config
from tests.stand_ins import run_with_stand_ins
from yt8m.data.partitions import PARTITIONS, server_name

FEW_STEPS = {  # else 12,000 for some
    "bash scripts/context-agnostic.bash": "bash scripts/context-agnostic.bash --steps 3",
    "bash scripts/context-aware.bash": "bash scripts/context-aware.bash --steps 3",
}
# What is typed otherwise here than on a page, and why. Each has to occur there.
ELSEWHERE = {
    "README.md": {
        "git clone ADDRESS yt8m\ncd yt8m": ":",  # the fixture is a clone
        "bash scripts/demo-film.bash": ":",  # minutes; tests/test_scripts.py has it
        "-m yt8m.localize data/demo-film": "-m yt8m.localize --help data/demo-film",
        "-m yt8m.fit": "-m yt8m.fit --help",
        "-m yt8m.localize later.mp4": "-m yt8m.localize --help later.mp4",
        "--shards 0-49": "--shards 0-1",  # there are fewer
        **FEW_STEPS,
    },
    "docs/real-data.md": {
        "--shards 0-19": "--shards 0-1",
        "--shards 0-49": "--shards 0-1",
        " --vocabulary": "",  # by https, which the server here does not talk
        **FEW_STEPS,
        "--steps 6000": "--steps 3",
        "abcd efgh": "{videos}",
    },
    "docs/one-video.md": {"FILE.tfrecord": "data/segment/test/test0000.tfrecord"},
    "docs/fit.md": {"benchmarks/fitting.py": f"{ROOT}/benchmarks/fitting.py --help"},  # the films are elsewhere
    "docs/rating.md": {
        "yt8m.rate": "yt8m.rate --help",  # else it would wait for ratings
        "yt8m.make_records": "yt8m.make_records --help",
        "benchmarks/rating_choice.py": "benchmarks/rating_choice.py --help",
    },
    "CONTRIBUTING.md": {
        "bash scripts/lint.bash": ":",  # scripts/test.bash runs it beside this test
        "bash scripts/test.bash": ":",  # what runs this test
        "pre-commit install": "pre-commit validate-config",
    },
    "docs/distributed-training.md": {"torchrun": "CUDA_VISIBLE_DEVICES= torchrun"},  # there may be one GPU
    "docs/results.md": {
        f"benchmarks/{name}.py": f"benchmarks/{name}.py --help"  # minutes each, and some an hour and more
        for name in ("accuracy", "averaging", "options", "planted", "watched_training")
    },
    "docs/benchmarks.md": {
        **{
            f"benchmarks/{name}.py": f"benchmarks/{name}.py --help"
            for name in ("loading", "busy_machine", "saving", "training", "inference", "full_size", "gpu", "extraction")
        },
        "--classes 1000 --train-videos 600 --valid-videos 100 --rated-videos 300 --test-videos 600": (
            "--classes 5 --train-videos 16 --valid-videos 8 --rated-videos 32 --test-videos 4 --shard-videos 4"
        ),
        "--steps 300": "--steps 3",
    },
}
# Options of other programs, and of the benchmarks.
FOREIGN = {
    "--base",
    "--build-arg",
    "--data-seeds",
    "--families",
    "--full",
    "--gpus",
    "--kind",
    "--logdir",
    "--look-alikes",
    "--max-children",
    "--memory",
    "--nnodes",
    "--nproc-per-node",
    "--only",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--reference",
    "--seconds",
    "--shm-size",
    "--size",
    "--sizes",
    "--tag",
    "--training-seeds",
    "--variants",
}
OF_HELPERBOT = {"PyTorchHelperBot/README.md"}  # whose own tests run it
# What is done first, in this order: later pages lean on it.
WALK = ("README.md", "docs/installation.md", "docs/real-data.md", "docs/one-video.md")
NOTHING_TO_RUN = {"bibtex", "mermaid"}
SMALL_TRAINING = {**TRAINING, "steps": 3}


@pytest.fixture(name="clone", scope="module")
def fixture_clone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone that has been set up, with tiny data, and tiny configurations under the published names."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("scripts", "benchmarks", "yt8m"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("pyproject.toml", "environment.yml", ".pre-commit-config.yaml", "Dockerfile"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(tiny_data, folder / "data")
    for path in folder.glob("data/*/*/*0001.tfrecord"):
        path.unlink()  # to be downloaded
    shutil.copytree(tiny_data, folder / "data" / "demo")
    shutil.copy(tiny_data / "truth.csv", folder)
    agnostic = {"pure_segment": {"training": SMALL_TRAINING}}
    aware = {"segment_w_context": {"model": CONTEXT, "training": SMALL_TRAINING}}
    for where in ("", "demo/"):
        write_config(
            folder / f"scripts/{where}video_gated_dbof.yaml", video={"model": DBOF, "training": SMALL_TRAINING}
        )
        write_config(
            folder / f"scripts/{where}video_nextvlad.yaml", video={"model": NEXTVLAD, "training": SMALL_TRAINING}
        )
        write_config(folder / f"scripts/{where}segment_with_context.yaml", **aware)
    for name in ("pure_segment_dbof", "pure_segment_nextvlad", "demo/pure_segment"):
        write_config(folder / f"scripts/{name}.yaml", **agnostic)
    programs_here = folder / ".venv" / "bin"
    programs_here.mkdir(parents=True)
    (programs_here / "activate").touch()
    (programs_here / "pre-commit").symlink_to(Path(sys.executable).parent / "pre-commit")
    empty_archive = 'case "$*" in *" tar "*) tar --create --files-from=/dev/null ;; esac'  # the data that it has made
    for name, answer in (("docker", ""), ("conda", ""), ("buildah", empty_archive)):
        program = folder / "stubs" / name  # not on every machine: what they are asked to do is kept
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{folder}/asked.txt"\n{answer}\n', encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture(name="proxy", scope="module")
def fixture_proxy(tiny_data: Path) -> Iterator[str]:
    """The address of a proxy that answers for the data set's servers, with the tiny data."""
    contents = {}
    for partition in PARTITIONS:
        shards = {
            server_name(path.name): path.read_bytes() for path in (tiny_data / partition.folder).glob("*.tfrecord")
        }
        contents |= {f"http://us.data.yt8m.org/{partition.published}/{name}": shard for name, shard in shards.items()}
        plan = {"files": {name: md5(content).hexdigest() for name, content in shards.items()}}
        place = partition.published.replace("/frame/", "/download_plans/frame_")
        contents[f"http://data.yt8m.org/{place}.json"] = json.dumps(plan).encode()

    class Mirror(BaseHTTPRequestHandler):
        """Knows the plans and the shards of all partitions."""

        # pylint: disable=invalid-name  # the names are those of http.server

        def do_HEAD(self) -> None:
            """Say how long a file is."""
            self._answer()

        def do_GET(self) -> None:
            """Send a file."""
            self.wfile.write(self._answer())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self) -> bytes:
            content = contents.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content or b""

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(name="read", scope="module")
def fixture_read(proxy: str) -> Callable[..., None]:
    """Do in a folder what a page says."""
    own = {"PYTHON": "python", "http_proxy": proxy, "no_proxy": ""}
    environment = {name: value for name, value in os.environ.items() if name not in ("SEED", "DATA_DIR")} | own

    def follow(page: str, folder: Path, **values: str) -> None:
        path = os.pathsep.join((str(folder / "stubs"), os.environ["PATH"]))
        for block in blocks(page):
            command = _command(page, block, folder, values)
            if command is None:
                continue
            done = run_with_stand_ins(command, folder, {**environment, "PATH": path})
            assert done.returncode == 0, f"{page}, line {block.line}:\n{block.text}\n{done.stdout}"

    return follow


def _command(page: str, block: Block, folder: Path, values: dict[str, str]) -> list[str] | None:
    """How to run a block; None for one that has nothing to run."""
    text = block.text
    for written, typed in ELSEWHERE.get(page, {}).items():
        text = re.sub(re.escape(written) + r"(?![\w.])", typed.format(**values), text)
    if block.language == "bash":
        return ["bash", "-euo", "pipefail", "-c", text]
    name = text.splitlines()[0].removeprefix("# ")
    if block.language == "python" and not name.endswith(".py"):
        return ["python", "-c", text]
    if block.language in ("python", "yaml"):
        assert re.fullmatch(r"[\w/.-]+\.(py|yaml)", name), (
            f"{page}, line {block.line}: a YAML block begins with its file's name"
        )
        (folder / name).write_text(text, encoding="utf-8")
        return None
    assert block.language in NOTHING_TO_RUN, f"{page}, line {block.line}: no test runs {block.language}"
    return None


@pytest.fixture(name="walked", scope="module")
def fixture_walked(clone: Path, read: Callable[..., None], tiny_data: Path) -> Path:
    """The clone after all that the README says, and the pages that lead on from it, has been done in it."""
    labels = (tiny_data / "test_labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    videos = list(dict.fromkeys(line.split(",")[0] for line in labels))
    for page in WALK:
        read(page, clone, videos=" ".join(videos[:2]))
    return clone


def test_the_pages_lead_to_what_they_promise(walked: Path) -> None:
    data = walked / "data"
    assert len(list(data.glob("*/*/*0001.tfrecord"))) == 4  # downloaded
    finished = {path.parent.name for path in data.glob("cache/segment/*/model.pth")}
    assert {"dbof-3_0", "nextvlad-2_2", "dbof-3-nextvlad-2_4", "dbof-cv_7", "dbof-3_none"} <= finished
    for path in (
        walked / "sub.csv",
        data / "cache" / "report.html",
        data / "cache" / "evaluation.csv",
        data / "cache" / "segment" / "dbof-3_0" / "model.onnx",
        data / "demo" / "sub.csv",
        data / "demo" / "cache" / "report.html",
    ):
        assert path.stat().st_size > 100, path


def test_the_image_is_used_as_it_is_built(walked: Path) -> None:
    asked = (walked / "asked.txt").read_text(encoding="utf-8").splitlines()
    assert asked[0] == "docker build -t yt8m ."
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (folder,) = re.findall(r"^WORKDIR (\S+)$", image, re.M)
    mounted = re.findall(r"-v \w+:(\S+)", asked[1])
    assert mounted == [f"{folder}/data/segment", f"{folder}/data/video"]
    assert asked[1].startswith("docker run --gpus all") and asked[1].endswith("-ti yt8m")
    assert asked[2].startswith("docker build -t yt8m-cpu ") and asked[2].endswith(" .")
    assert [line for line in asked if line.startswith("buildah build ") and " --tag yt8m " in line]
    arguments = re.findall(r"--build-arg\s+(\w+)", documentation.text_of("docs/installation.md"))
    assert set(arguments) == set(re.findall(r"^ARG (\w+)", image, re.M))


@pytest.mark.parametrize(
    "page",
    [
        "docs/data-formats.md",
        "docs/reproducibility.md",
        "docs/distributed-training.md",
        "docs/benchmarks.md",
        "docs/results.md",
        "docs/python-api.md",
        "docs/rating.md",
        "CONTRIBUTING.md",
    ],
)
def test_the_other_pages_work_after_these(page: str, walked: Path, read: Callable[..., None]) -> None:
    read(page, walked)


def test_the_notebook_runs_from_its_first_cell_to_its_last(walked: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "python-api.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    program = [sys.executable, "-c", "\n".join(cells)]
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(program, cwd=walked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("features: shape is (")


def test_own_features(read: Callable[..., None], tmp_path: Path) -> None:
    read("docs/own-features.md", tmp_path)
    assert (tmp_path / "sub.csv").stat().st_size > 100


def test_adding_a_model(read: Callable[..., None], tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    read("docs/adding-a-model.md", tmp_path)
    assert (tmp_path / "data" / "cache" / "segment" / "attention_0" / "model.onnx").is_file()


def test_films(read: Callable[..., None], tmp_path: Path) -> None:
    for name in ("films/one.mp4", "later.mp4"):
        write_film(tmp_path / name, regular(30, 10), codec="mpeg4", rate=10, sound=tone(3))
    read("docs/films.md", tmp_path)
    assert (tmp_path / "own" / "films.csv").read_text(encoding="utf-8").count("\n") == 3
    contracts = [tmp_path / name / "features.json" for name in ("own", "arrays/audio", "train/segment/test")]
    assert len({path.read_text(encoding="utf-8") for path in contracts}) == 1


def test_fit(read: Callable[..., None], tmp_path: Path) -> None:
    write_coloured_films(tmp_path)
    shutil.copy(tmp_path / "films" / "film00.mp4", tmp_path / "later.mp4")
    read("docs/fit.md", tmp_path)
    assert (tmp_path / "data" / "mine" / "cache" / "segment" / "all_none" / "model.pth").is_file()


def test_features_of_films_are_compared_with_released_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 1152), np.uint8)
    own = frames.copy()
    own[4, 1024:] = rng.integers(0, 256, 128)  # in one second, another sound
    for name, features in (("released", frames), ("own", own)):
        write_videos(tmp_path / f"{name}.tfrecord", [Video(b"fg6m", features[:, :1024], features[:, 1024:])])
    (block,) = blocks("docs/yt8m-features.md")
    done = run_with_stand_ins(["python", "-c", block.text], tmp_path, dict(os.environ))
    said = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "fg6m visual 1-32",
        "fg6m visual 33-256",
        "fg6m visual 257-1024",
        "fg6m audio",
    ]
    assert all(
        re.match("fg6m visual .*: 1.000, at worst 1.000 in second .*; of another second -?0.", line)
        for line in said[:3]
    )
    assert re.match("fg6m audio: 1.000, at worst -?0.[0-3].* in second 4; of another second -?0.[0-3]", said[3])


def test_every_page_with_something_to_run_is_run() -> None:
    run_above = {*WALK, "docs/own-features.md", "docs/adding-a-model.md", "docs/yt8m-features.md"} | OF_HELPERBOT
    run_above |= {"docs/extractors.md", "docs/films.md", "docs/fit.md"}  # the former by tests/test_extractors.py
    (mark,) = test_the_other_pages_work_after_these.pytestmark  # type: ignore[attr-defined]
    run_above |= set(mark.args[1])
    for page in PAGES:
        if any(block.language not in NOTHING_TO_RUN for block in blocks(page)):
            assert page in run_above


@pytest.mark.parametrize("page", ELSEWHERE)
def test_commands_that_are_typed_differently_are_on_their_pages(page: str) -> None:
    commands = "".join(block.text for block in blocks(page))
    for written in ELSEWHERE[page]:
        assert written in commands


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = documentation.text_of("README.md")
    assert len(text.splitlines()) <= 200
    first_screen = text.splitlines()[:25]
    assert "Nobody has run this on the full data set yet" in " ".join(first_screen)
    linked = {link.partition("#")[0] for link in documentation.links("README.md")}
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in documentation.links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in documentation.anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_mentioned_exist(page: str) -> None:
    modules = [path.stem for path in (ROOT / "yt8m").glob("*.py") if "build_parser" in path.read_text(encoding="utf-8")]
    known = set(FOREIGN)
    for module in modules:
        if module != "cli":
            parser = importlib.import_module(f"yt8m.{module}").build_parser()
            actions = parser._actions  # pylint: disable=protected-access
            known |= {option for action in actions for option in action.option_strings}
    assert {option.replace("_", "-") for option in documentation.options(page)} <= known


def test_the_parts_of_the_architecture_are_there() -> None:
    text = documentation.text_of("docs/architecture.md")
    parts = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert set(parts) == {path.name for path in (ROOT / "yt8m").iterdir() if (path / "__init__.py").exists()}
    named = re.findall(rf"\b({'|'.join(parts)})[./](\w+)", text.replace(".md", ""))
    assert len(named) > 20
    for part, module in named:
        assert (ROOT / "yt8m" / part / f"{module}.py").exists(), f"{part}.{module}"


def test_pictures_of_the_pages_are_small() -> None:
    for path in (ROOT / "docs").glob("*.png"):
        assert path.stat().st_size < 1_000_000
