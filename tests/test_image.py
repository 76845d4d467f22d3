"""The script that builds the image without a daemon: its calls of buildah, and its error messages."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILDAH_STUB = """#!/usr/bin/env bash
printf '%s\\0' "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
case "$*" in *"${FAIL_ON:-nothing}"*) exit 3 ;; esac
case $1 in
    from) echo "container-of-${*: -1}" ;;
    inspect) [ -e "$STORE/etc" ] ;;
    mount) echo "$STORE" ;;
    images) echo "1.81 GB" ;;
    run) case "$*" in *" tar "*) mkdir segment video && tar --create segment video && rmdir segment video ;; esac ;;
esac
"""
DEBOOTSTRAP_STUB = """#!/usr/bin/env bash
root=${*: -1}
mkdir -p "$root"/{dev,etc,usr/bin,var/cache/apt/archives,var/lib/apt/lists}
touch "$root/usr/bin/$DEBIAN_PYTHON" "$root/var/cache/apt/archives/python.deb" "$root/var/lib/apt/lists/main"
echo "$@" >"$root/etc/asked"
"""


class ImageBuilder:
    """`scripts/build-image.bash`, with programs that only record what they are asked to do."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.store, self.temporary = folder / "programs", folder / "store", folder / "temporary"
        for made in (self.programs, self.store, self.temporary):
            made.mkdir()
        for name in ("bash", "cat", "cp", "dirname", "mkdir", "mktemp", "rm", "rmdir", "sed", "tar", "chmod", "touch"):
            (self.programs / name).symlink_to(str(shutil.which(name)))
        self.add("buildah", BUILDAH_STUB)
        self.add("debootstrap", DEBOOTSTRAP_STUB)
        self.add("id", "#!/usr/bin/env bash\necho 0\n")
        self.record = folder / "record"
        self.output = self.errors = ""

    def add(self, name: str, text: str) -> None:
        """Put a program into its PATH."""
        (self.programs / name).write_text(text, encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def run(self, *options: str, **environment: str) -> tuple[int, list[list[str]]]:
        """Exit status and what buildah was asked to do; nothing is left behind."""
        self.record.write_text("", encoding="utf-8")
        places = {"PATH": self.programs, "RECORD": self.record, "STORE": self.store, "TMPDIR": self.temporary}
        own = {name: str(path) for name, path in places.items()}
        done = subprocess.run(
            ["bash", ROOT / "scripts" / "build-image.bash", *options],
            env={"DEBIAN_PYTHON": "python3.11", **own, **environment},
            cwd=self.temporary,
            capture_output=True,
            text=True,
            check=False,
        )
        self.output, self.errors = done.stdout, done.stderr
        assert not list(self.temporary.iterdir())
        asked = self.record.read_text(encoding="utf-8").split("\0\n")
        return done.returncode, [line.split("\0") for line in asked if line]


@pytest.fixture(name="builder")
def fixture_builder(tmp_path: Path) -> ImageBuilder:
    """A builder of images that builds none."""
    return ImageBuilder(tmp_path)


def test_the_image_is_built_without_a_daemon_and_tried(builder: ImageBuilder) -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^FROM (\S+)$", image, re.M)
    (folder,) = re.findall(r"^WORKDIR (\S+)$", image, re.M)
    status, (pulled, built, *tried, removed) = builder.run("--build-arg", "UID=1234", "--tag=yt8m-mine")
    assert status == 0, builder.errors
    assert pulled == ["pull", "--policy", "missing", base]
    assert built[0] == "build" and built[-3:] == ["--build-arg", "UID=1234", "."]
    assert built[built.index("--from") + 1] == base and built[built.index("--tag") + 1] == "yt8m-mine"
    assert built[built.index("--format") + 1] == "docker"  # the other one has no SHELL and no HEALTHCHECK
    assert removed == ["rm", "container-of-yt8m-mine"]
    assert builder.output.splitlines()[-1] == "yt8m-mine: 1.81 GB, built and tested"

    runs = [step for step in tried if step[0] == "run"]
    commands = [step[step.index("--") + 1 :] for step in runs]
    for command in commands:
        if command[0] == "yt8m" and command[1] != "--help":
            importlib.import_module(f"yt8m.{command[1]}").build_parser().parse_args(command[2:])
            assert all((ROOT / word).is_file() for word in command[2:] if word.endswith(".yaml"))
    names = [command[1] for command in commands if command[0] == "yt8m"]
    assert names[:2] == ["--help", "make_demo_data"] and names[-1] == "check_submission"
    assert {"train_video", "train_pure_segment", "inference_memmap"} < set(names)
    for step, command in zip(runs, commands):
        mounted = [word.partition(":")[2] for word in step if word.startswith(str(builder.temporary))]
        made = names.index(command[1]) > 1 if command[0] == "yt8m" else command[0] == "bash"
        assert mounted == ([f"{folder}/data/segment:ro", f"{folder}/data/video:ro"] if made else [])


def test_an_image_that_does_not_work_is_reported(builder: ImageBuilder) -> None:
    status, asked = builder.run(FAIL_ON="train_video")
    assert status == 3 and asked[-2][:1] == ["run"] and asked[-1] == ["rm", "container-of-yt8m"]
    assert "tried" not in builder.output
    status, asked = builder.run(FAIL_ON="id -un")
    assert status == 2 and builder.errors.startswith("build-image: yt8m: expected the user docker")


def test_debian_itself_takes_the_place_of_an_image_that_cannot_be_pulled(builder: ImageBuilder) -> None:
    status, asked = builder.run(FAIL_ON="pull ")
    assert status == 2 and len(asked) == 1
    assert builder.errors.splitlines() == [
        "build-image: python:3.11.14-slim-bookworm could not be pulled; where no registry can be reached, "
        "add --base debootstrap"
    ]
    status, asked = builder.run("--base", "debootstrap")
    assert status == 0, builder.errors
    name = "localhost/yt8m-base:bookworm"  # its own: no later build takes it for what FROM names
    assert [step[-1] for step in asked if step[0] in ("pull", "commit")] == [name]
    (built,) = (step for step in asked if step[0] == "build")
    assert built[built.index("--from") + 1] == name
    assert " bookworm " in (builder.store / "etc" / "asked").read_text(encoding="utf-8")
    left = {str(path.relative_to(builder.store)) for path in builder.store.rglob("*") if path.is_file()}
    assert left == {"etc/asked", "usr/bin/python3.11"}  # without caches
    (builder.programs / "debootstrap").unlink()
    status, asked = builder.run("--base=debootstrap")
    assert status == 0 and not [step for step in asked if step[0] == "commit"]  # kept from before


@pytest.mark.parametrize(
    "options, missing, environment, line",
    [
        ((), "buildah", {}, "buildah is not installed; it is in the package of that name: apt-get install buildah"),
        (("--base=debootstrap",), "debootstrap", {}, "debootstrap is not installed; it is in the package of that name"),
        (("--base=debootstrap",), "", {"DEBIAN_PYTHON": "python3.13"}, "bookworm does not have the Python 3.11 that"),
        (("--base", "alpine"), "", {}, "--base alpine: expected debootstrap"),
        (("--tag",), "", {}, "--tag: expected a value"),
        (("--tag=",), "", {}, "--tag: expected a value"),
    ],
)
def test_missing_programs_of_the_image_build_are_named(
    builder: ImageBuilder, options: tuple[str, ...], missing: str, environment: dict[str, str], line: str
) -> None:
    if missing:
        (builder.programs / missing).unlink()
    status, asked = builder.run(*options, **environment)
    assert status == 2 and line in builder.errors.splitlines()[0]
    assert not [step for step in asked if step[0] in ("build", "commit")]


def test_debootstrap_needs_root(builder: ImageBuilder) -> None:
    builder.add("id", "#!/usr/bin/env bash\necho 1000\n")
    assert builder.run("--base=debootstrap")[0] == 2
    assert builder.errors == "build-image: --base debootstrap needs root, since debootstrap does\n"
