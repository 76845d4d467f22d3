"""Prediction files: neither incomplete nor outdated ones are used."""

import errno
import json
import logging
import multiprocessing
import os
import resource
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_test_meta import index_of
from yt8m.common.errors import UserError
from yt8m.data.candidates import Candidates, find_candidates
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_files import CONFIG_NAME, WEIGHTS_NAME
from yt8m.prediction.prediction_files import (
    PartialPredictions,
    PredictionFile,
    StoredScores,
    origin_of_model,
    prediction_files,
)

ORIGIN = {"model": "4f", "test_meta": "not this one", "offset": 3}
NEWER = {**ORIGIN, "model": "5a"}
TWO = Vocabulary(np.array([9, 4]), ("a", "b"))


def _meta() -> Candidates:
    return find_candidates(index_of([("aaaa", 50, 50), ("shrt", 20, 20), ("bbbb", 45, 61)]))  # 2 + 0 + 1 rows


def _begin(file: PredictionFile, origin: dict, n_classes: int = 2) -> PartialPredictions:
    """A file in the making, prepared and open."""
    partial = PartialPredictions(file, _meta(), n_classes, origin)
    partial.prepare()
    partial.open()
    return partial


def _fill(partial: PartialPredictions, value: int) -> None:
    partial.write(slice(0, 1), np.full((2, partial.n_classes), value, np.int16), np.array([True]))
    partial.write(slice(1, 2), np.full((1, partial.n_classes), value, np.int16), np.array([True]))
    partial.save()


def _write(file: PredictionFile, value: int, origin: dict, n_classes: int = 2) -> None:
    partial = _begin(file, origin, n_classes)
    _fill(partial, value)
    partial.finish()
    partial.release()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_predictions_appear_only_when_complete(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "predictions" / "nextvlad-2_0.npy")
    partial = _begin(file, ORIGIN)
    partial.write(slice(0, 1), np.array([[17, 18], [19, 20]], np.int16), np.array([True]))
    partial.save()
    assert not file.path.exists()
    partial.write(slice(1, 2), np.array([[9999, 0]], np.int16), np.array([True]))
    with pytest.raises(UserError, match="1 videos are missing in its journal"):
        partial.finish()  # not in the journal yet
    partial.save()
    assert partial.finish() == 0
    partial.release()
    values = np.load(file.path, allow_pickle=False)
    assert values.tolist() == [[17, 18], [19, 20], [9999, 0]] and values.dtype == np.int16
    origin = json.loads(file.origin_path.read_text(encoding="utf-8"))
    assert origin.pop("time").endswith("+00:00")
    assert origin == ORIGIN and file.is_current(ORIGIN, _meta(), 2)
    assert _names(file.path.parent) == {"nextvlad-2_0.npy", "nextvlad-2_0.json"}


def test_only_rows_in_the_journal_are_kept(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    partial = _begin(file, ORIGIN)
    partial.write(slice(1, 2), np.array([[5, 6]], np.int16), np.array([True]))
    partial.save()
    partial.write(slice(0, 1), np.array([[1, 2], [3, 4]], np.int16), np.array([True]))  # not saved
    partial.release()
    partial = _begin(file, {**ORIGIN, "time": "later", "folder": "moved"})
    assert (partial.journal() > 0).tolist() == [False, True]
    partial.write(slice(0, 1), np.array([[7, 7], [7, 7]], np.int16), np.array([True]))
    partial.save()
    partial.finish()
    assert np.load(file.path).tolist() == [[7, 7], [7, 7], [5, 6]]
    partial.release()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.npy.partial").write_bytes(b""),
        lambda folder: (folder / "a.npy.partial").unlink(),
        lambda folder: (folder / "a.npy.partial.done").write_bytes(b"1"),
        lambda folder: (folder / "a.npy.partial.json").write_text("{"),
        lambda folder: (folder / "a.npy.partial.json").unlink(),
        None,
    ],
)
def test_a_partial_file_of_something_else_is_begun_anew(damage, tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    partial = _begin(file, ORIGIN)
    _fill(partial, 3)
    partial.release()
    if damage is not None:
        damage(tmp_path)
    partial = _begin(file, ORIGIN if damage else NEWER)
    assert not partial.journal().any()
    _fill(partial, 4)
    partial.finish()
    partial.release()
    assert np.load(file.path).tolist() == [[4, 4]] * 3


def test_rows_that_are_left_out_are_counted_and_make_the_file_outdated(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    partial = _begin(file, ORIGIN)
    partial.write(slice(0, 2), np.zeros((3, 2), np.int16), np.array([False, True]))
    partial.save()
    assert partial.finish() == 2
    partial.release()
    assert not file.is_current(ORIGIN, _meta(), 2)
    assert json.loads(file.origin_path.read_text(encoding="utf-8"))["left_out"] == [0]


def test_two_processes_do_not_make_the_same_file(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    first = _begin(file, ORIGIN)
    for origin in (ORIGIN, NEWER):
        with pytest.raises(UserError, match="a.npy.partial: another process is predicting with this model"):
            PartialPredictions(file, _meta(), 2, origin).prepare()
    _fill(first, 1)
    first.finish()
    first.release()
    assert file.is_current(ORIGIN, _meta(), 2)


def test_a_process_that_outlived_its_command_keeps_others_away(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    first = _begin(file, ORIGIN)
    other_rank = PartialPredictions(file, _meta(), 2, ORIGIN)
    other_rank.open()
    first.release()  # killed, say
    with pytest.raises(UserError, match="another process is predicting with this model"):
        PartialPredictions(file, _meta(), 2, NEWER).prepare()
    _fill(other_rank, 5)
    other_rank.close()
    _write(file, 2, NEWER)
    assert np.load(file.path).tolist() == [[2, 2]] * 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        lambda path: np.save(path, np.zeros((3, 3), np.int16)),
        lambda path: np.save(path, np.zeros((3, 2), np.int32)),
    ],
)
def test_a_finished_file_that_is_damaged_is_made_again(damage, tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 1, ORIGIN)
    damage(file.path)
    assert not file.is_current(ORIGIN, _meta(), 2)
    _write(file, 1, ORIGIN)
    assert file.is_current(ORIGIN, _meta(), 2)


def test_only_what_is_left_out_is_made_again(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    partial = _begin(file, ORIGIN)
    partial.write(slice(0, 2), np.array([[0, 0], [0, 0], [8, 9]], np.int16), np.array([False, True]))
    partial.save()
    partial.finish()
    partial.release()
    partial = _begin(file, ORIGIN)
    assert partial.journal().tolist() == [0, 1]
    partial.write(slice(0, 1), np.array([[1, 2], [3, 4]], np.int16), np.array([True]))
    partial.save()
    assert np.load(file.path)[0].tolist() == [0, 0]  # until the other is finished
    assert partial.finish() == 0
    partial.release()
    assert np.load(file.path).tolist() == [[1, 2], [3, 4], [8, 9]]
    assert file.is_current(ORIGIN, _meta(), 2)
    partial = _begin(file, NEWER)  # another model's do not help
    assert not partial.journal().any()
    partial.release()


def test_a_full_disk_is_reported_at_once(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 1, ORIGIN, 2)
    wide = PartialPredictions(file, _meta(), 100_000, NEWER)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # as a full disk, for this process alone
    try:
        with pytest.raises(UserError, match=r"a.npy.partial: no space for 0.0006 GB of predictions \(.+\); free space"):
            wide.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        wide.release()
    assert _names(tmp_path) == {"a.npy", "a.json"}
    assert np.load(file.path).tolist() == [[1, 1]] * 3


def test_a_disk_that_is_full_later_keeps_what_is_there(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    partial = _begin(file, ORIGIN, 1000)
    partial.write(slice(0, 1), np.full((2, 1000), 1, np.int16), np.array([True]))
    partial.save()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(UserError, match="a.npy.partial: cannot be written .*its content is kept"):
            partial.write(slice(1, 2), np.full((1, 1000), 2, np.int16), np.array([True]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    partial.save()
    partial.release()
    partial = _begin(file, ORIGIN, 1000)
    assert partial.journal().tolist() == [1, 0]
    partial.release()


def _finish_and_die(path: Path, function: str, call: int) -> None:
    """Finish new predictions, and get killed at one of the calls of a function."""
    partial = _begin(PredictionFile(path), NEWER)
    _fill(partial, 2)
    module, name = {"unlink": (Path, "unlink"), "replace": (os, "replace")}[function]
    original, calls = getattr(module, name), [0]

    def dying(*arguments, **options):
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += 1
        return original(*arguments, **options)

    setattr(module, name, dying)
    partial.finish()


@pytest.mark.parametrize("function, calls", [("unlink", 6), ("replace", 3)])
def test_killed_while_it_finishes_it_is_the_old_file_or_the_new_or_goes_on(
    function: str, calls: int, tmp_path: Path
) -> None:
    for call in range(calls):
        file = PredictionFile(tmp_path / f"{function}{call}" / "a.npy")
        _write(file, 1, ORIGIN)
        child = multiprocessing.get_context("fork").Process(target=_finish_and_die, args=(file.path, function, call))
        child.start()
        child.join()
        survived = child.exitcode == 0
        assert survived == (call == calls - 1), (function, call)  # every call but the last, which is not made
        if file.path.exists():
            value = int(np.load(file.path)[0, 0])
            assert value in (1, 2)
            assert not file.is_current(ORIGIN if value == 2 else NEWER, _meta(), 2)
        if not file.is_current(NEWER, _meta(), 2):
            partial = _begin(file, NEWER)
            assert partial.journal().all()
            partial.finish()
            partial.release()
        assert np.load(file.path).tolist() == [[2, 2]] * 3 and file.is_current(NEWER, _meta(), 2)


def test_is_current_needs_values_and_the_same_origin(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    assert not file.is_current(ORIGIN, _meta(), 2)
    _write(file, 1, ORIGIN)
    assert file.is_current(ORIGIN, _meta(), 2)
    assert not file.is_current({**ORIGIN, "offset": 2}, _meta(), 2)
    assert not file.is_current({"model": "4f"}, _meta(), 2)
    origin_path = tmp_path / "a.json"
    text = origin_path.read_text(encoding="utf-8")
    for damaged in (b"", b"{", b"\xff", b"[]"):
        origin_path.write_bytes(damaged)
        assert not file.is_current(ORIGIN, _meta(), 2)
    origin_path.unlink()
    assert not file.is_current(ORIGIN, _meta(), 2)
    origin_path.write_text(text, encoding="utf-8")
    assert file.is_current(ORIGIN, _meta(), 2)
    file.path.unlink()
    assert not file.is_current(ORIGIN, _meta(), 2)


def test_read_gives_the_values_of_this_metadata(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, {"test_meta": _meta().digest, "vocabulary": TWO.digest})
    values = file.read(_meta(), TWO)
    assert values.shape == (3, 2) and len(values) == 3
    assert values[:].tolist() == [[5, 5]] * 3


REMEDY = "run `python -m yt8m.inference_memmap` again"


@pytest.mark.parametrize("origin", [ORIGIN, {}, {"test_meta": None}, []])
def test_read_refuses_values_of_other_metadata(origin: dict, tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, ORIGIN)
    file.origin_path.write_text(json.dumps(origin), encoding="utf-8")
    with pytest.raises(UserError, match=f"a.npy: made for other test metadata; {REMEDY}"):
        file.read(_meta(), TWO)


@pytest.mark.parametrize("vocabulary", [{}, {"vocabulary": Vocabulary(np.array([4, 9]), ("b", "a")).digest}])
def test_read_refuses_values_of_other_classes(vocabulary: dict, tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, {"test_meta": _meta().digest, **vocabulary})
    with pytest.raises(UserError, match=f"a.npy: made for other classes than .*, or another order of them; {REMEDY}"):
        file.read(_meta(), TWO)


@pytest.mark.parametrize(
    "array, found",
    [
        (np.zeros((4, 2), np.int16), r"int16 \(4, 2\)"),
        (np.zeros((3, 3), np.int16), r"int16 \(3, 3\)"),
        (np.zeros(3, np.int16), r"int16 \(3,\)"),
        (np.zeros((3, 2), np.float32), r"float32 \(3, 2\)"),
        (np.zeros((3, 2), np.uint16), r"uint16 \(3, 2\)"),
        (np.zeros((3, 2), np.int16, "F"), r"int16 \(3, 2\)"),
    ],
)
def test_read_names_a_wrong_shape_or_type(array: np.ndarray, found: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=rf"a.npy: {found}, but .* need int16 \(3, 2\); {REMEDY}"):
        PredictionFile(tmp_path / "a.npy").read(_meta(), TWO)


def test_read_takes_predictions_made_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [2, 3], [4, 9999]], np.int16))
    assert PredictionFile(tmp_path / "a.npy").read(_meta(), TWO)[:].tolist() == [[0, 1], [2, 3], [4, 9999]]


@pytest.mark.parametrize("value", [-1, 10_000])
def test_read_refuses_values_beyond_the_scale(value: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [2, value], [4, 5]], np.int16))
    scores = PredictionFile(tmp_path / "a.npy").read(_meta(), TWO)
    assert scores[2:].tolist() == [[4, 5]]
    said = f"a.npy: expected values of 0 to 9999, found .*{value}.* in rows 0 to 2; {REMEDY}"
    with pytest.raises(UserError, match=said):
        _ = scores[:3]


def _zip(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros((3, 2), np.int16))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: np.save(path, np.array([[{}, 1]] * 3, object), allow_pickle=True),
        _zip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"(3, 2)", b"(3, (")),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: path.write_bytes(b"<html>" * 40),
    ],
)
def test_read_names_a_damaged_file(damage, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2), np.int16))
    damage(path)
    with pytest.raises(UserError, match=rf"a.npy: cannot be read as a memory map \(.*\); {REMEDY}"):
        PredictionFile(path).read(_meta(), TWO)


def test_read_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a.npy: no such predictions; {REMEDY}"):
        PredictionFile(tmp_path / "a.npy").read(_meta(), TWO)


def test_prediction_files_are_all_or_those_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predictions: no predictions; run `python -m yt8m.inference_memmap`"):
        prediction_files(tmp_path, None)
    directory = tmp_path / "predictions"
    for name in ("nextvlad-2_1", "dbof-3_0", "v1.5_2"):
        _write(PredictionFile(directory / f"{name}.npy"), 1, ORIGIN)
    (directory / ".half.npy").write_bytes(b"")
    assert [file.path.stem for file in prediction_files(tmp_path, None)] == ["dbof-3_0", "nextvlad-2_1", "v1.5_2"]
    assert [file.path for file in prediction_files(tmp_path, ["v1.5_2", "dbof-3_0"])] == [
        directory / "v1.5_2.npy",
        directory / "dbof-3_0.npy",
    ]


def test_folds_and_deleted_models_are_taken_only_if_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory, models = tmp_path / "predictions", tmp_path / "segment"
    names = ["cv_0", "cv_7", "gone_1", "here_2", "copied_3"]
    for name in names:
        folder = Path("/another/machine") if name == "copied_3" else models
        _write(PredictionFile(directory / f"{name}.npy"), 1, {**ORIGIN, "folder": str(folder / name)})
        (models / name).mkdir(parents=True)
    (models / "gone_1").rmdir()
    (tmp_path / "cross-validation-cv.json").write_text("{}", encoding="utf-8")
    caplog.set_level(logging.INFO)
    assert [file.path.stem for file in prediction_files(tmp_path, None)] == ["copied_3", "here_2"]
    assert "using copied_3, here_2" in caplog.text
    assert "leaving out cv_0: a fold of a cross-validation; cv_7: a fold" in caplog.text
    assert f"gone_1: its model is no longer at {models / 'gone_1'}" in caplog.text
    assert [file.path.stem for file in prediction_files(tmp_path, names)] == names
    for name in ("here_2", "copied_3"):
        (directory / f"{name}.npy").unlink()
    with pytest.raises(UserError, match="nothing to use without --model-names .cv_0: a fold"):
        prediction_files(tmp_path, None)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 70), st.integers(0, 70))
def test_stored_scores_are_rows_of_the_file(n_rows: int, n_classes: int, first: int, stop: int) -> None:
    values = np.random.default_rng(n_rows).integers(0, 10_000, (n_rows, n_classes)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        np.save(path, values)
        scores = StoredScores(np.lib.format.open_memmap(path, "r"), doubted=True)
        np.testing.assert_array_equal(scores[first:stop], values[first:stop])
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="cut off"):
            _ = scores[n_rows - 1 :]


def test_a_disk_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2), np.int16))
    scores = StoredScores(np.lib.format.open_memmap(path, "r"), doubted=True)

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(UserError) as error:
        _ = scores[:2]
    assert str(error.value) == f"{path}: cannot be read (Input/output error); {REMEDY}"


def test_predictions_of_a_model_that_has_changed_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / CONFIG_NAME).write_text("a: 1", encoding="utf-8")
    (folder / WEIGHTS_NAME).write_bytes(b"weights")
    file = PredictionFile(tmp_path / "a.npy")
    _write(file, 5, origin_of_model(folder) | {"test_meta": _meta().digest, "vocabulary": TWO.digest})
    os.utime(folder / WEIGHTS_NAME)  # the same weights, copied anew
    assert file.read(_meta(), TWO)[:1].tolist() == [[5, 5]]
    (folder / WEIGHTS_NAME).write_bytes(b"others.")
    with pytest.raises(UserError, match=f"a.npy: made with other weights than {folder} has now; {REMEDY}"):
        file.read(_meta(), TWO)
    (folder / WEIGHTS_NAME).unlink()  # predictions may outlive their model
    assert file.read(_meta(), TWO)[:1].tolist() == [[5, 5]]
