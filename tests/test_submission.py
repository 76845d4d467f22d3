"""Submission files, truth tables, and the command that makes the first from predictions."""
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.create_submission_from_memmaps import build_parser, main
from yt8m.errors import UserError
from yt8m.memmaps import TestMeta, save_test_meta
from yt8m.submission import read_submission, read_table, read_truth, write_submission

ENTRY = st.builds(lambda video_id, start: f"{video_id}:{start}",
                  st.text("abzAZ019_-", min_size=1, max_size=11), st.integers(0, 1500))


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submission") / "sub.csv"


@settings(deadline=None, derandomize=True, max_examples=80)
@given(lists=st.dictionaries(st.integers(0, 3861), st.lists(ENTRY, max_size=8), max_size=6))
def test_what_is_written_is_read(lists: dict[int, list[str]], path: Path) -> None:
    write_submission(path, np.array(list(lists), np.int64), (np.array(items, np.bytes_) for items in lists.values()))
    assert read_submission(path) == lists
    assert list(read_submission(path)) == list(lists)
    assert list(path.parent.iterdir()) == [path]


def test_the_bytes_of_a_submission(path: Path) -> None:
    write_submission(path, np.array([3, 1057]), [np.array([b"aB3d:30", b"0012:245"]), np.array([b"NaN:5"])])
    assert path.read_bytes() == b"Class,Segments\n3,aB3d:30 0012:245\n1057,NaN:5\n"


@pytest.mark.parametrize("lists", [[[b"a:30"]], [[b"a:30"], [b"b:30"], [b"c:30"]]])
def test_a_list_too_few_or_many_leaves_the_file_alone(lists: list[list[bytes]], tmp_path: Path) -> None:
    target = tmp_path / "sub.csv"
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(ValueError):
        write_submission(target, np.array([1, 2]), map(np.array, lists))
    assert target.read_text(encoding="utf-8") == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_windows_line_ends_are_read(path: Path) -> None:
    path.write_bytes(b"Class,Segments\r\n3,a:30 b:35\r\n4,\r\n5,c:30")
    assert read_submission(path) == {3: ["a:30", "b:35"], 4: [], 5: ["c:30"]}


@pytest.mark.parametrize("text, problem", [
    ("", "line 1: expected the header Class,Segments"),
    ("class,segments\n3,a:30\n", "line 1: expected the header Class,Segments"),
    ("3,a:30\n", "line 1: expected the header Class,Segments"),
    ("Class,Segments\n3,a:30\n4\n", "line 3: expected <class id>,<segments>"),
    ("Class,Segments\n\n3,a:30\n", "line 2: expected <class id>,<segments>"),
    ("Class,Segments\n3,a:30\n-4,a:30\n", "line 3: expected <class id>,<segments>"),
    ("Class,Segments\n4.0,a:30\n", "line 2: expected <class id>,<segments>"),
    ("Class,Segments\nfoo,a:30\n", "line 2: expected <class id>,<segments>"),
    ("Class,Segments\n3,a:30\n4,a:30\n03,b:30\n", "line 4: class 03 has a line already")])
def test_a_wrong_line_is_named(text: str, problem: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_submission(path)
    assert str(caught.value) == f"{path}: {problem}"


def test_what_is_no_text_file_is_named(path: Path) -> None:
    path.write_bytes(b"Class,Segments\n3,\xff\xfe\n")
    for odd in (path, path.parent, path.parent / "missing.csv"):
        with pytest.raises(UserError, match=f"{odd}: cannot be read as a submission"):
            read_submission(odd)


def _truth(path: Path, *rows: str, header: str = "vid,start,label,score") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_ids_that_look_like_something_else_stay_text(path: Path) -> None:
    ids = ["0012", "NA", "null", "1e55", "nan", "True", "-inf", "12"]
    table = read_truth(_truth(path, *(f"{video_id},30,5,1" for video_id in ids)))
    assert table["vid"].tolist() == ids


def test_a_truth_table_in_another_column_order_with_more_columns(path: Path) -> None:
    table = read_truth(_truth(path, "x,1,7,30,abcd", "y,0,8,35,efgh", header="note,score,label,start,vid"))
    assert list(table.columns) == ["vid", "start", "label", "score"]
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["efgh", 35, 8, 0]]
    assert [kind.kind for kind in table.dtypes[1:]] == ["i", "i", "i"]


def test_agreeing_ratings_count_once_and_conflicting_ones_are_named(path: Path) -> None:
    table = read_truth(_truth(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,7,1", "abcd,35,7,0"))
    assert table.to_numpy().tolist() == [["abcd", 30, 7, 1], ["abcd", 30, 8, 0], ["abcd", 35, 7, 0]]
    assert table.index.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=f"{path}: abcd:30 has two different scores for label 7"):
        read_truth(_truth(path, "abcd,30,7,1", "abcd,30,8,0", "abcd,30,7,0"))


@pytest.mark.parametrize("score", [-1, 2])
def test_a_score_that_is_neither_0_nor_1_is_named(score: int, path: Path) -> None:
    with pytest.raises(UserError, match=f"{path}: abcd:35 has the score {score} for label 7, expected 0 or 1"):
        read_truth(_truth(path, "abcd,30,7,1", f"abcd,35,7,{score}"))


@pytest.mark.parametrize("header, row", [
    ("vid,start,label", "abcd,30,7"), ("vid,start,class,score", "abcd,30,7,1"), ("abcd,30,7,1", "abcd,30,7,1"),
    ("vid,start,label,score", "abcd,30,7,0.5"), ("vid,start,label,score", "abcd,30.5,7,1"),
    ("vid,start,label,score", "abcd,30,seven,1"), ("vid,start,label,score", "abcd,,7,1"),
    ("vid,start,label,score", "abcd,30,7"), ("vid,start,label,score", f"abcd,{10**20},7,1"),
    ("vid,start,label,score", '"abcd,30,7,1')])
def test_a_malformed_truth_table_is_named(header: str, row: str, path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_truth(_truth(path, row, header=header))
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a CSV with the columns vid, start, label, score, integers but for vid")
    assert "\n" not in message


def test_an_unreadable_table_is_named(path: Path) -> None:
    path.write_bytes(b"")
    for odd in (path, path.parent, path.parent / "missing.csv"):
        with pytest.raises(UserError, match=f"{odd}: expected a CSV with the columns vid, label"):
            read_table(odd, ["vid", "label"])


LABELS = [3, 40, 1057]
VIDEOS = {"aB3d": 7, "0012": 1, "NaN": 4}  # candidate segments of each
N_ROWS = 12


@pytest.fixture(name="maps")
def _maps() -> dict[str, np.ndarray]:
    """Predictions of two models; all scores of a class are distinct, and all means of the two as well."""
    rng = np.random.default_rng(8)
    doubled = np.stack([rng.permutation(4999)[:N_ROWS] for _ in LABELS], axis=1)
    shift = rng.integers(-40, 40, doubled.shape).clip(-doubled, doubled)
    return {"dbof-3_0": (doubled + shift).astype(np.int16), "nextvlad-2_1": (doubled - shift).astype(np.int16),
            "other": np.stack([rng.permutation(9999)[:N_ROWS] for _ in LABELS], axis=1).astype(np.int16)}


@pytest.fixture(name="data_dir")
def _data_dir(maps: dict[str, np.ndarray], tmp_path: Path) -> Path:
    rows = "".join(f"{label},/m/{label},Concept {label},1,2\n" for label in LABELS)
    (tmp_path / "segment_vocabulary.csv").write_text(
        "Index,KnowledgeGraphId,Name,PositiveSegmentCount,TotalSegmentCount\n" + rows, encoding="utf-8")
    counts = list(VIDEOS.values())
    save_test_meta(TestMeta(np.arange(3), np.array(list(VIDEOS), np.bytes_), np.cumsum(counts)), tmp_path / "cache")
    (tmp_path / "cache" / "predictions").mkdir()
    for name in ("dbof-3_0", "nextvlad-2_1"):
        np.save(tmp_path / "cache" / "predictions" / f"{name}.npy", maps[name])
    return tmp_path


def _slow_csv(maps: list[np.ndarray], top_k: int) -> str:
    names = [f"{video_id}:{5 * segment}" for video_id, count in VIDEOS.items() for segment in range(6, 6 + count)]
    lines = ["Class,Segments"]
    for column, label in enumerate(LABELS):
        means = [sum(int(values[row, column]) for values in maps) / len(maps) for row in range(N_ROWS)]
        assert len(set(means)) == N_ROWS
        ranked = sorted(range(N_ROWS), key=lambda row, means=means: -means[row])
        lines.append(f"{label}," + " ".join(names[row] for row in ranked[:top_k]))
    return "\n".join(lines) + "\n"


def _create(data_dir: Path, **options: object) -> Path:
    output = data_dir / "out" / "sub.csv"
    main(Namespace(**{"data_dir": data_dir, "model_names": None, "output": output, "top_k": 100_000, "seed": 0,
                      **options}))
    return output


@pytest.mark.parametrize("top_k", [1, 5, N_ROWS, 100_000])
def test_submission_ranks_by_the_mean_of_all_models(top_k: int, maps: dict[str, np.ndarray], data_dir: Path) -> None:
    output = _create(data_dir, top_k=top_k)
    expected = _slow_csv([maps["dbof-3_0"], maps["nextvlad-2_1"]], top_k)
    assert output.read_bytes() == expected.encode()


def test_submission_of_named_models(maps: dict[str, np.ndarray], data_dir: Path) -> None:
    np.save(data_dir / "cache" / "predictions" / "other.npy", maps["other"])
    output = _create(data_dir, model_names=["other"])
    assert output.read_bytes() == _slow_csv([maps["other"]], 100_000).encode()
    output = _create(data_dir, model_names=["nextvlad-2_1", "dbof-3_0"])
    assert output.read_bytes() == _slow_csv([maps["dbof-3_0"], maps["nextvlad-2_1"]], 100_000).encode()


def test_submission_with_ties_depends_on_the_seed_alone(data_dir: Path) -> None:
    for path in (data_dir / "cache" / "predictions").iterdir():
        np.save(path, np.full((N_ROWS, len(LABELS)), 77, np.int16))
    first, again, other = (_create(data_dir, seed=seed, top_k=9).read_bytes() for seed in (1, 1, 2))
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


@pytest.mark.parametrize("spoil, options, problem", [
    (lambda data_dir: None, {"model_names": ["dbof-3_0", "dbof-4"]}, r"dbof-4.npy: no such predictions"),
    (_without_predictions, {}, r"predictions: no predictions; run `python -m yt8m.inference_memmap`"),
    (lambda data_dir: np.save(data_dir / "cache" / "predictions" / "x.npy", np.zeros((N_ROWS, 4), np.int16)), {},
     r"x.npy: int16 \(12, 4\), but .* ask for int16 \(12, 3\)"),
    (lambda data_dir: (data_dir / "cache" / "test_meta.npz").unlink(), {}, r"test_meta.npz: no test metadata"),
    (lambda data_dir: (data_dir / "segment_vocabulary.csv").unlink(), {}, r"segment_vocabulary.csv: no vocabulary")])
def test_failing_leaves_an_earlier_submission_alone(spoil, options: dict, problem: str, data_dir: Path) -> None:
    output = _create(data_dir)
    before = output.read_bytes()
    spoil(data_dir)
    with pytest.raises(UserError, match=problem):
        _create(data_dir, seed=3, **options)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]
