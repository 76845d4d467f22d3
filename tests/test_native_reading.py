"""Compiled reading: exactly the requested frames, without the GIL, wherever the package is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import Video, index_videos, make_video, read_rows
from yt8m.data import native_reading
from yt8m.data.index import Index, load_index
from yt8m.data.reader import Rows, ShardReader
from yt8m.data.records import Damage

ROOT = Path(__file__).parent.parent


def wide_video(number: int, n_frames: int, rgb: int = 1024, audio: int = 128) -> Video:
    """A video of random frames as wide as those of the data set."""
    rng = np.random.default_rng((number, n_frames))
    frames = (rng.integers(0, 256, (n_frames, width), np.uint8) for width in (rgb, audio))
    return Video(b"w%03d" % number, *frames)


WIDE = [[wide_video(number, n_frames) for number, n_frames in enumerate(shard)] for shard in ((300, 1), (140, 299, 20))]
VIDEOS = [video for shard in WIDE for video in shard]


@pytest.fixture(name="index", scope="module")
def fixture_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The index of `WIDE`: what is read of a long video takes several pieces."""
    return index_videos(tmp_path_factory.mktemp("data"), WIDE)


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A record, and ascending seconds of it: few or many, with gaps of any size, none at all."""
    record = draw(st.integers(0, len(VIDEOS) - 1))
    n_frames = len(VIDEOS[record].frames)
    chosen = np.random.default_rng(draw(st.integers(0, 999))).random(n_frames) < draw(st.sampled_from([0.01, 0.5, 1.0]))
    first, stop = sorted(draw(st.tuples(*[st.integers(0, n_frames)] * 2)))
    return record, [second for second in range(first, stop) if chosen[second]]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(requests(), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_the_rows_that_were_asked_for_and_no_others_are_written(
    index: Index, wanted: list[tuple[int, list[int]]], gaps: list[int]
) -> None:
    lengths = np.array([len(seconds) for _, seconds in wanted])
    ends = np.cumsum(lengths)
    rows = ends - lengths + np.cumsum(gaps[: len(wanted)])  # with other rows before and between
    out = np.full((ends[-1] + sum(gaps), 1152), 99, np.uint8)
    expected = out.copy()
    for (record, seconds), row in zip(wanted, rows):
        expected[row : row + len(seconds)] = VIDEOS[record].frames[seconds]
    records, seconds = (
        np.array(values, np.int64)
        for values in ([record for record, _ in wanted], [second for _, chosen in wanted for second in chosen])
    )
    assert ShardReader(index).read_rows(Rows(records, seconds, ends - lengths, ends, rows), out).all()
    np.testing.assert_array_equal(out, expected)


def test_usual_records_are_read_by_compiled_code(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ShardReader(index)
    monkeypatch.setattr(reader, "read", lambda requests: np.zeros(len(requests), bool))
    wanted = [(record, range(len(video.frames))) for record, video in enumerate(VIDEOS)]
    found, met = read_rows(reader, *wanted, *wanted)
    assert met.all()
    np.testing.assert_array_equal(found, np.concatenate([video.frames for video in VIDEOS] * 2))


def test_frames_wider_than_a_piece_are_read(tmp_path: Path) -> None:
    video = wide_video(1, 4, native_reading.PIECE + 1, 200)
    reader = ShardReader(index_videos(tmp_path, [[video]]))
    found, met = read_rows(reader, (0, [0, 1, 3]))
    assert met.all()
    np.testing.assert_array_equal(found, video.frames[[0, 1, 3]])


def test_a_data_set_without_sound_is_read(tmp_path: Path) -> None:
    video = make_video(1, 9, n_audio=0)
    found, met = read_rows(ShardReader(index_videos(tmp_path, [[video]])), (0, [2, 3, 8]))
    assert met.all()
    np.testing.assert_array_equal(found, video.rgb[[2, 3, 8]])


def test_damage_does_not_affect_the_rest_of_a_batch(tmp_path: Path) -> None:
    index = index_videos(tmp_path, WIDE)
    path = index.path(3)
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[content.index(VIDEOS[3].rgb[250].tobytes()) - 2] ^= 1  # in the frame's header
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    damage = Damage(skip=True)
    wanted = [(3, [249, 251]), (0, [5, 7]), (3, [10, 250]), (2, [0]), (4, [19])]
    found, met = read_rows(ShardReader(index, damage), *wanted)
    assert met.tolist() == [True, True, False, True, True]
    expected = np.concatenate([VIDEOS[record].frames[seconds] for record, seconds in wanted])
    sound = np.repeat(met, [len(seconds) for _, seconds in wanted])
    np.testing.assert_array_equal(found[sound], expected[sound])
    assert [error.video_id for error in damage.left_out.values()] == [b"w001"]


def test_rows_beyond_the_array_are_refused_and_nothing_is_written(index: Index) -> None:
    out = np.full((5, 1152), 99, np.uint8)
    for row in (3, -1, 2**40):
        rows = Rows(*(np.array(values) for values in ([0], [1, 2, 3], [0], [3], [row])))
        with pytest.raises(ValueError, match="beyond an array of 5"):
            ShardReader(index).read_rows(rows, out)
        assert (out == 99).all()


def test_reading_leaves_pythons_lock_to_other_threads() -> None:
    """Whether another thread is seen to go on meanwhile depends on the machine."""
    assert native_reading.read_frames.targetoptions["nogil"]


# --- what is compiled, and where it is kept ------------------------------------------------------------


@pytest.fixture(name="installed", scope="module")
def fixture_installed(tmp_path_factory: pytest.TempPathFactory, index: Index) -> Path:
    """A folder with both packages, and a program that reads frames of a shard with them."""
    folder = tmp_path_factory.mktemp("installed")
    for package in (ROOT / "yt8m", ROOT / "PyTorchHelperBot" / "helperbot"):
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    load_index(index.folder, folder / "cache")
    (folder / "program.py").write_text(
        "import logging, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from yt8m.data.index import load_index\n"
        "from yt8m.data.reader import Rows, ShardReader\n"
        "logging.basicConfig(level=logging.INFO)\n"
        f"reader = ShardReader(load_index(Path({str(index.folder)!r}), Path({str(folder / 'cache')!r})))\n"
        "assert 'numba' not in sys.modules\n"
        "out = np.empty((2, 1152), np.uint8)\n"
        "assert reader.read_rows(Rows(*map(np.array, ([3], [4, 250], [0], [2], [0]))), out).all()\n"
        "sys.stdout.buffer.write(out.tobytes())\n",
        encoding="utf-8",
    )
    return folder


def start(installed: Path, **environment: Path) -> subprocess.Popen:
    """Start the program, with these variables."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-B", installed / "program.py"],
        env={**kept, "PYTHONPATH": str(installed), **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> str:
    """See that a program has read what it should; returns what it said."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == VIDEOS[3].frames[[4, 250]].tobytes()
    return err.decode()


def compiled_files(folder: Path) -> set[str]:
    """The names of numba's files below a folder."""
    return {path.name for path in folder.rglob("*.nb?")}


def test_processes_that_start_at_once_keep_one_compiled_copy(installed: Path, tmp_path: Path) -> None:
    for _ in range(2):
        processes = [start(installed, NUMBA_CACHE_DIR=tmp_path) for _ in range(3)]
        assert [finish(process) for process in processes] == [""] * 3
    assert len(compiled_files(tmp_path)) == 10  # of five functions an index and the code
    assert not compiled_files(installed)


def test_without_a_writable_cache_code_is_compiled_again_with_a_log_line(installed: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()  # where folders would have to be: of these even root cannot make any
    cache = installed / "yt8m" / "data" / "__pycache__"
    cache.touch()
    try:
        said = finish(start(installed, HOME=nowhere, XDG_CACHE_HOME=nowhere))
    finally:
        cache.unlink()
    assert said.count("\n") == 1 and "cannot be cached" in said and "NUMBA_CACHE_DIR" in said


def test_damaged_cached_code_is_compiled_again(installed: Path, tmp_path: Path) -> None:
    finish(start(installed, NUMBA_CACHE_DIR=tmp_path))
    for path in tmp_path.rglob("*.nbi"):
        path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be cached" in finish(start(installed, NUMBA_CACHE_DIR=tmp_path))
