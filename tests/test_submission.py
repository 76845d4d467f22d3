"""Submission files, and the command that writes them."""

import gzip
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from yt8m.common.errors import UserError
from yt8m.create_submission_from_memmaps import build_parser, main
from yt8m.data.candidates import Candidates, save_candidates
from yt8m.ranking.submission import open_submission, read_submission, write_submission

ENTRY = st.builds(
    lambda video_id, start: f"{video_id}:{start}", st.text("abzAZ019_-", min_size=1, max_size=11), st.integers(0, 1500)
)


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submission") / "sub.csv"


def write(path: Path, lists: dict[int, list[str]], ranked: list[Callable] | None = None) -> None:
    """Write lists as they are."""
    names = np.array([name for items in lists.values() for name in items], np.bytes_)
    ends = np.cumsum([0] + [len(items) for items in lists.values()])
    if ranked is None:
        ranked = [lambda first=first, last=last: np.arange(first, last) for first, last in zip(ends, ends[1:])]
    write_submission(path, list(lists), names, ranked, lambda classes: None)


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@settings(deadline=None, derandomize=True, max_examples=60)
@given(lists=st.dictionaries(st.integers(0, 3861), st.lists(ENTRY, max_size=8), max_size=6))
def test_what_is_written_is_read(ending: str, lists: dict[int, list[str]], path: Path) -> None:
    target = path.parent / f"written.{ending}"
    write(target, lists)
    assert list(read_submission(target)) == list(lists.items())
    assert [other.name for other in path.parent.iterdir() if other.name.startswith(".")] == []


def test_the_bytes_of_a_submission(path: Path) -> None:
    lists = {3: ["aB3d:30", "0012:245"], 1057: ["NaN:5"]}
    write(path, lists)
    assert path.read_bytes() == b"Class,Segments\n3,aB3d:30 0012:245\n1057,NaN:5\n"
    compressed = path.with_suffix(".csv.gz")
    write(compressed, lists)
    first = compressed.read_bytes()
    assert gzip.decompress(first) == path.read_bytes()
    write(compressed, lists)
    assert compressed.read_bytes() == first  # no time stamps


def _fail() -> np.ndarray:
    raise MemoryError


def test_an_error_leaves_the_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "sub.csv"
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(MemoryError):
        write(target, {1: ["a:30"], 2: ["b:30"]}, [lambda: np.array([0]), _fail])
    assert target.read_text(encoding="utf-8") == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named_and_leaves_the_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "sub.csv"
    target.write_text("precious", encoding="utf-8")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a full disk, for this process alone
    try:
        with pytest.raises(OSError) as caught:
            write(target, {1: [f"video{number}:30" for number in range(5000)]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(target)
    assert target.read_text(encoding="utf-8") == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_windows_line_ends_are_read(path: Path) -> None:
    path.write_bytes(b"Class,Segments\r\n3,a:30 b:35\r\n4,\r\n5,c:30")
    assert dict(read_submission(path)) == {3: ["a:30", "b:35"], 4: [], 5: ["c:30"]}


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "line 1: expected the header Class,Segments"),
        ("class,segments\n3,a:30\n", "line 1: expected the header Class,Segments"),
        ("3,a:30\n", "line 1: expected the header Class,Segments"),
        ("Class,Segments\n3,a:30\n4\n", "line 3: expected <class id>,<segments>"),
        ("Class,Segments\n\n3,a:30\n", "line 2: expected <class id>,<segments>"),
        ("Class,Segments\n3,a:30\n-4,a:30\n", "line 3: expected <class id>,<segments>"),
        ("Class,Segments\n4.0,a:30\n", "line 2: expected <class id>,<segments>"),
        ("Class,Segments\nfoo,a:30\n", "line 2: expected <class id>,<segments>"),
        ("Class,Segments\n3,a:30\n4,a:30\n03,b:30\n", "line 4: class 3 has a line already"),
    ],
)
def test_a_wrong_line_is_named(text: str, problem: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        dict(read_submission(path))
    assert str(caught.value) == f"{path}: {problem}"


def test_binary_files_are_named(path: Path) -> None:
    path.write_bytes(b"Class,Segments\n3,\xff\xfe\n")
    for odd in (path, path.parent, path.parent / "missing.csv"):
        with pytest.raises(UserError, match=f"{odd}: cannot be read as a submission"):
            dict(read_submission(odd))
    damaged = path.parent / "damaged.csv.gz"
    whole = gzip.compress(b"Class,Segments\n3," + bytes(range(97, 123)) * 9 + b":30\n")
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    for content in (b"Class,Segments\n3,a:30\n", whole[:-12], bytes(flipped), b""):
        damaged.write_bytes(content)
        if content:
            with pytest.raises(UserError, match=f"{damaged}: cannot be read as a submission"):
                dict(read_submission(damaged))
        else:
            with open_submission(damaged) as file:
                assert file.read() == b""


LABELS = [3, 40, 1057]
VIDEOS = {"aB3d": 7, "0012": 1, "NaN": 4}  # candidate segments of each
N_ROWS = 12


@pytest.fixture(name="maps")
def _maps() -> dict[str, np.ndarray]:
    """Predictions of two models, whose means are all distinct, though some by 1/2 only; and of another one."""
    rng = np.random.default_rng(8)
    total = np.stack([4000 + rng.permutation(N_ROWS) for _ in LABELS], axis=1)
    first = np.stack([2000 + 8 * rng.permutation(N_ROWS) for _ in LABELS], axis=1)
    return {
        "dbof-3_0": first.astype(np.int16),
        "nextvlad-2_1": (total - first).astype(np.int16),
        "other": np.stack([rng.permutation(9999)[:N_ROWS] for _ in LABELS], axis=1).astype(np.int16),
    }


@pytest.fixture(name="data_dir")
def _data_dir(maps: dict[str, np.ndarray], tmp_path: Path) -> Path:
    rows = "".join(f"{label},/m/{label},Concept {label},1,2\n" for label in LABELS)
    (tmp_path / "segment_vocabulary.csv").write_text(
        "Index,KnowledgeGraphId,Name,PositiveSegmentCount,TotalSegmentCount\n" + rows, encoding="utf-8"
    )
    counts = list(VIDEOS.values())
    save_candidates(Candidates(np.arange(3), np.array(list(VIDEOS), np.bytes_), np.cumsum(counts)), tmp_path / "cache")
    (tmp_path / "cache" / "predictions").mkdir()
    for name in ("dbof-3_0", "nextvlad-2_1"):
        np.save(tmp_path / "cache" / "predictions" / f"{name}.npy", maps[name])
    return tmp_path


def _names() -> list[str]:
    return [f"{video_id}:{5 * segment}" for video_id, count in VIDEOS.items() for segment in range(6, 6 + count)]


def _slow_csv(maps: list[np.ndarray], top_k: int) -> str:
    names = _names()
    lines = ["Class,Segments"]
    for column, label in enumerate(LABELS):
        means = [sum(int(values[row, column]) for values in maps) / len(maps) for row in range(N_ROWS)]
        assert len(set(means)) == N_ROWS
        ranked = sorted(range(N_ROWS), key=lambda row, means=means: -means[row])
        lines.append(f"{label}," + " ".join(names[row] for row in ranked[:top_k]))
    return "\n".join(lines) + "\n"


def _create(data_dir: Path, *options: object, name: str = "sub.csv") -> Path:
    output = data_dir / "out" / name
    arguments = ["--data-dir", data_dir, "--output", output, "--seed", 0, *options]
    main(build_parser().parse_args(list(map(str, arguments))))
    return output


@pytest.mark.parametrize("top_k", [1, 5, N_ROWS, 100_000])
def test_submission_ranks_by_the_mean_of_all_models(top_k: int, maps: dict[str, np.ndarray], data_dir: Path) -> None:
    output = _create(data_dir, "--top-k", top_k)
    expected = _slow_csv([maps["dbof-3_0"], maps["nextvlad-2_1"]], top_k)
    assert output.read_bytes() == expected.encode()


def test_submission_of_named_models(maps: dict[str, np.ndarray], data_dir: Path) -> None:
    np.save(data_dir / "cache" / "predictions" / "other.npy", maps["other"])
    output = _create(data_dir, "--model-names", "other")
    assert output.read_bytes() == _slow_csv([maps["other"]], 100_000).encode()
    output = _create(data_dir, "--model-names", "nextvlad-2_1", "dbof-3_0")
    assert output.read_bytes() == _slow_csv([maps["dbof-3_0"], maps["nextvlad-2_1"]], 100_000).encode()


def test_submission_with_ties_depends_on_the_seed_alone(data_dir: Path) -> None:
    for path in (data_dir / "cache" / "predictions").iterdir():
        np.save(path, np.full((N_ROWS, len(LABELS)), 77, np.int16))
    first, again, other = (_create(data_dir, "--seed", seed, "--top-k", 9).read_bytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_command_line_has_the_challenge_s_defaults() -> None:
    args = build_parser().parse_args([])
    assert (args.output, args.top_k, args.model_names) == (Path("sub.csv"), 100_000, None)
    args = build_parser().parse_args(["--model-names", "a", "b", "--top-k", "5", "--seed", "7"])
    assert (args.model_names, args.top_k, args.seed) == (["a", "b"], 5, 7)


def _without_predictions(data_dir: Path) -> None:
    for path in (data_dir / "cache" / "predictions").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "spoil, options, problem",
    [
        (lambda data_dir: None, ("--model-names", "dbof-3_0", "dbof-4"), r"dbof-4.npy: no such predictions"),
        (_without_predictions, (), r"predictions: no predictions; run `python -m yt8m.inference_memmap`"),
        (
            lambda data_dir: np.save(data_dir / "cache" / "predictions" / "x.npy", np.zeros((N_ROWS, 4), np.int16)),
            (),
            r"x.npy: int16 \(12, 4\), but .* need int16 \(12, 3\)",
        ),
        (lambda data_dir: (data_dir / "cache" / "test_meta.npz").unlink(), (), r"test_meta.npz: no test metadata"),
        (lambda data_dir: (data_dir / "segment_vocabulary.csv").unlink(), (), r"segment_vocabulary.csv: no vocabulary"),
    ],
)
def test_failing_leaves_an_earlier_submission_alone(spoil, options: tuple, problem: str, data_dir: Path) -> None:
    output = _create(data_dir)
    before = output.read_bytes()
    spoil(data_dir)
    with pytest.raises(UserError, match=problem):
        _create(data_dir, "--seed", 3, *options)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]


def test_weights_and_fusions_rank_as_defined(maps: dict[str, np.ndarray], data_dir: Path) -> None:
    np.save(data_dir / "cache" / "predictions" / "other.npy", maps["other"])
    names = ("--model-names", "other", "dbof-3_0")
    heavy = _create(data_dir, *names, "--weights", 0, 2.5)
    assert heavy.read_bytes() == _slow_csv([maps["dbof-3_0"]], 100_000).encode()
    means = _create(data_dir, *names).read_bytes()
    assert _create(data_dir, *names, "--weights", 1, 1).read_bytes() == means
    lists = dict(read_submission(_create(data_dir, *names, "--weights", 0.1, 0.3)))
    for column, segments in enumerate(lists.values()):
        own = dict(zip(_names(), maps["other"][:, column] + 3 * maps["dbof-3_0"][:, column].astype(int)))
        found = [own[name] for name in segments]
        assert found == sorted(found, reverse=True) and len(set(segments)) == N_ROWS
    for fusion, worth in (
        ("geometric", lambda values: np.log(np.maximum(values, 0.5))),
        ("rank", lambda values: -rankdata(-values, axis=0)),
        ("reciprocal-rank", lambda values: 1 / (60 + rankdata(-values, axis=0))),
    ):
        fused = 1 * worth(maps["other"].astype(float)) + 3 * worth(maps["dbof-3_0"].astype(float))
        lists = dict(read_submission(_create(data_dir, *names, "--weights", 1, 3, "--fusion", fusion)))
        for column, segments in enumerate(lists.values()):
            own = dict(zip(_names(), fused[:, column]))
            found = [own[name] for name in segments]
            np.testing.assert_allclose(found, sorted(found, reverse=True), rtol=1e-5)
            assert len(set(segments)) == N_ROWS


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", "1"),
        ("--model-names", "dbof-3_0", "--weights", "1", "2"),
        ("--model-names", "dbof-3_0", "nextvlad-2_1", "--weights", "0", "0"),
        ("--model-names", "dbof-3_0", "nextvlad-2_1", "--weights", "auto", "1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options: tuple, data_dir: Path) -> None:
    with pytest.raises(UserError, match="--weights: expected auto, or one for each of the --model-names, not all 0"):
        _create(data_dir, *options)


def test_an_output_that_cannot_be_is_refused_before_anything_is_read(data_dir: Path) -> None:
    (data_dir / "out" / "sub.csv").mkdir(parents=True)
    (data_dir / "cache" / "test_meta.npz").unlink()
    with pytest.raises(UserError, match="--output .*sub.csv: is a folder"):
        _create(data_dir)


def test_a_compressed_submission_holds_the_same(data_dir: Path) -> None:
    assert gzip.decompress(_create(data_dir, name="sub.csv.gz").read_bytes()) == _create(data_dir).read_bytes()


def test_scores_out_of_range_are_refused(maps: dict[str, np.ndarray], data_dir: Path) -> None:
    output = _create(data_dir)
    before = output.read_bytes()
    odd = maps["other"].copy()
    odd[7, 1] = -1
    np.save(data_dir / "cache" / "predictions" / "other.npy", odd)
    with pytest.raises(UserError, match="other.npy: expected values of 0 to 9999, found -1"):
        _create(data_dir)
    assert output.read_bytes() == before
