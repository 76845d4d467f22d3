"""`extract_features`: the same bytes for any number of processes and after any interruption."""

import csv
import json
import os
import shutil
import signal
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.films import damage, regular, tone, write_film
from tests.processes import run_command, start, wait_for
from tests.small_models import DBOF, agnostic_folder, small_vocabulary
from yt8m.common.config import ExtractorIdentity, FeatureContract
from yt8m.common.errors import UserError
from yt8m.data.features import CONTRACT_NAME, feature_contract, find_contract, require_same
from yt8m.data.index import index_file
from yt8m.data.reader import Frames, ShardReader
from yt8m.data.records import unfit_ids
from yt8m.films.extraction import Threads, extract, identity, quantize, require_extractor
from yt8m.films.extractors.base import EXTRACTORS, Extractor, Options, open_extractor
from yt8m.films.film_files import find_films, name_films
from yt8m.films.film_folder import read_like
from yt8m.films.workers import work
from yt8m.models.classifiers import build_video_model
from yt8m.models.config import VideoSection
from yt8m.models.model_folders import exported_config, open_folder, save_model

Command = Callable[..., Outcome]
WIDTHS = 1280, 128


@pytest.fixture(name="extractor", scope="session")
def fixture_extractor() -> Extractor:
    """The default extractor."""
    return open_extractor("efficientnet-lite0", Options())


@pytest.fixture(name="films", scope="session")
def fixture_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three short films, one of them without sound, and a text; not to be written to."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "b one.mp4", regular(75, 25), codec="mpeg4", sound=tone(3))
    write_film(folder / "a" / "two.mkv", regular(50, 25), codec="mpeg4", sound=tone(1), size=(96, 160))
    write_film(folder / "c" / "TWO.AVI", regular(30, 10), codec="mpeg4", clock=10, rate=10)
    (folder / "a" / "notes.txt").write_text("mine", encoding="utf-8")
    return folder


class Colours(Extractor):
    """A quick one: mean and deviation of each colour, and of the sound."""

    name, digest = "colours", "1"
    visual, audio = 6, 2

    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Extractor`."""
        values = [np.concatenate([frame.mean(axis=(0, 1)), frame.std(axis=(0, 1))]) for frame in frames]
        return np.array(values, np.float32)

    def encode_sound(self, sound: np.ndarray) -> np.ndarray:
        """See `Extractor`."""
        return np.stack([sound.mean(axis=1), sound.std(axis=1)], axis=1).astype(np.float32)

    def without_sound(self) -> np.ndarray:
        """See `Extractor`."""
        return np.zeros(2, np.float32)


@pytest.fixture(name="colours")
def fixture_colours(monkeypatch: pytest.MonkeyPatch, command: Command) -> Command:
    """The command with the quick extractor, by this process alone."""
    monkeypatch.setitem(EXTRACTORS, "colours", lambda rest, options: Colours())
    return lambda *words: command("extract_features", *words, "--extractor", "colours", "--processes", 1)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, but for locks and what else is hidden, and for its caches."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and "cache" not in path.parts
    }


def shards_of(folder: Path) -> dict[str, np.ndarray]:
    """The frames (seconds, rgb and audio) of each video of a folder's test shards."""
    found = {}
    for path in sorted((folder / "segment" / "test").glob("*.tfrecord")):
        index = index_file(path)
        reader = ShardReader(index)
        for record, name in enumerate(index.video_id.tolist()):
            out = np.empty((int(index.n_frames[record]), reader.frame_dim), np.uint8)
            assert reader.read([Frames(record, slice(0, len(out)), out)], whole=True).all()
            found[name.decode()] = out
    return found


def table_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's table of films."""
    with (folder / "films.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- features ------------------------------------------------------------------------------------------


def test_features_are_the_same_whatever_computes_beside(films: Path, extractor: Extractor) -> None:
    path = films / "b one.mp4"
    once, again = extract(path, extractor), extract(path, extractor, Threads(encode=3))
    assert once.rgb.shape == (3, 1280) and once.audio.shape == (3, 128) and not once.notes
    assert once.rgb.dtype == once.audio.dtype == np.float32 and once.rgb.std(axis=0).any()
    assert np.array_equal(once.rgb, again.rgb) and np.array_equal(once.audio, again.audio)


def test_a_film_without_sound_has_the_features_of_silence(films: Path, extractor: Extractor) -> None:
    found = extract(films / "c" / "TWO.AVI", extractor)
    assert found.notes == ("no sound",) and np.array_equal(found.audio, np.tile(extractor.without_sound(), (3, 1)))
    assert np.allclose(found.audio[0, :64], np.log(0.01))


def test_bytes_are_those_of_the_contract(films: Path, extractor: Extractor) -> None:
    found = extract(films / "b one.mp4", extractor)
    contract = feature_contract(*WIDTHS, (0.0, 2.0), (-3.0, 1.0), identity(extractor))
    values, clipped = quantize(found, contract)
    rgb = np.rint((found.rgb.astype(np.float64) - 0) * 255 / 2).clip(0, 255)
    audio = np.rint((found.audio.astype(np.float64) + 3) * 255 / 4).clip(0, 255)
    assert np.array_equal(values, np.concatenate([rgb, audio], axis=1)) and values.dtype == np.uint8
    assert clipped == (found.rgb > 2).sum() + ((found.audio < -3) | (found.audio > 1)).sum()


def test_features_name_their_extractor(extractor: Extractor) -> None:
    contract = feature_contract(*WIDTHS, extractor=identity(extractor))
    require_extractor(extractor, contract, "model")
    other = contract.model_copy(update={"extractor": ExtractorIdentity(name="hf:clip", digest="0")})
    with pytest.raises(UserError, match="efficientnet-lite0.*those of model by hf:clip"):
        require_extractor(extractor, other, "model")
    weights = contract.model_copy(update={"extractor": ExtractorIdentity(name=extractor.name, digest="0")})
    with pytest.raises(UserError, match="by other weights or settings of it"):
        require_same(contract, "shards", weights, "model")
    own = feature_contract(*WIDTHS, (0.0, 2.0), (-3.0, 1.0), identity(extractor))
    unknown = own.model_copy(update={"extractor": None})
    require_same(own, "shards", unknown, "model")
    require_same(unknown, "shards", own, "model")


def test_a_model_keeps_the_extractor_of_its_features(tmp_path: Path) -> None:
    contract = feature_contract(6, 2, (0.0, 2.0), (-3.0, 1.0), identity(Colours()))
    section = VideoSection.model_validate({"model": {**DBOF, "video_dim": 6, "audio_dim": 2}})
    vocabulary = small_vocabulary(3)
    model = build_video_model(section.model, 3)
    save_model(tmp_path / "model", exported_config(video=section), model, vocabulary, contract)
    assert open_folder(tmp_path / "model").features == contract == read_like(tmp_path / "model")
    save_model(tmp_path / "old", exported_config(video=section), model, vocabulary, feature_contract(6, 2))
    assert "extractor" not in (tmp_path / "old" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("audio", [128, 0])
def test_the_published_features_are_those_of_one_extractor(audio: int) -> None:
    published = feature_contract(1024, audio)
    by = {
        name: published.model_copy(update={"extractor": ExtractorIdentity(name=name, digest="0")})
        for name in ("yt8m", "hf:clip")
    }
    require_same(by["yt8m"], "shards", published, "model")
    require_same(published, "shards", by["yt8m"], "model")
    with pytest.raises(
        UserError, match="by the extractor hf:clip, those of model are the released .* --extractor yt8m"
    ):
        require_same(by["hf:clip"], "shards", published, "model")
    with pytest.raises(UserError, match="name no extractor .* those of model are made by hf:clip; use"):
        require_same(published, "shards", by["hf:clip"], "model")


# --- the command ---------------------------------------------------------------------------------------


def test_films_become_test_shards(
    films: Path, tmp_path: Path, command: Command, extractor: Extractor, caplog: pytest.LogCaptureFixture
) -> None:
    done = command("extract_features", films, "--to", tmp_path / "own", "--processes", 1)
    assert done.status == 0, done.err
    assert "3 films, 8 seconds; for the configuration: video_dim: 1280, audio_dim: 128" in done.out
    assert f"no sound: {films / 'c' / 'TWO.AVI'}" in caplog.text
    contract = find_contract(tmp_path / "own")
    assert contract is not None and contract.extractor == identity(extractor)
    assert find_contract(tmp_path / "own" / "segment" / "test") == contract
    found = shards_of(tmp_path / "own")
    for video_id, path in (("b_one", "b one.mp4"), ("two", "a/two.mkv"), ("TWO", "c/TWO.AVI")):
        assert np.array_equal(found[video_id], quantize(extract(films / path, extractor), contract)[0])
    assert table_of(tmp_path / "own") == [
        {"video_id": "TWO", "path": str(films / "c/TWO.AVI"), "seconds": "3", "notes": "no sound"},
        {"video_id": "b_one", "path": str(films / "b one.mp4"), "seconds": "3", "notes": ""},
        {"video_id": "two", "path": str(films / "a/two.mkv"), "seconds": "2", "notes": ""},
    ]
    before = contents(tmp_path / "own")
    assert command("extract_features", films, "--to", tmp_path / "own").status == 0  # nothing is left to do
    assert contents(tmp_path / "own") == before


def test_the_range_is_that_of_nearly_all_values(films: Path, tmp_path: Path, colours: Command) -> None:
    assert colours(films, "--to", tmp_path).status == 0
    contract = find_contract(tmp_path)
    assert contract is not None and contract.audio is not None
    floats = [extract(film, Colours()) for film in find_films([films])]
    for kind, meaning in (("rgb", contract.rgb), ("audio", contract.audio)):
        values = np.concatenate([getattr(features, kind) for features in floats])
        assert np.allclose(meaning.range, np.quantile(values.astype(np.float64), [0.001, 0.999]), rtol=0.01, atol=1e-6)


def test_predictions_are_made_from_films(films: Path, tmp_path: Path, command: Command, colours: Command) -> None:
    assert colours(films, "--to", tmp_path).status == 0
    contract = find_contract(tmp_path)
    assert contract is not None
    model = {**DBOF, "video_dim": 6, "audio_dim": 2}
    folder = agnostic_folder(tmp_path / "cache" / "segment" / "small_0", model, small_vocabulary(3))
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    old = text[text.index("features:") : text.index("vocabulary:")]
    new = json.dumps(contract.model_dump(mode="json"))
    (folder / "config.yaml").write_text(text.replace(old, f"features: {new}\n"), encoding="utf-8")
    shard = tmp_path / "segment" / "test" / "test0000.tfrecord"
    done = command("localize", shard, "--data-dir", tmp_path, "--format", "json", "--threshold", 0)
    assert done.status == 0, done.err
    assert [video["video_id"] for video in json.loads(done.out)] == ["TWO", "b_one", "two"]


def test_the_number_of_processes_changes_no_byte(films: Path, tmp_path: Path, command: Command) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        assert command("extract_features", films, "--to", folder, "--processes", processes).status == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2") != {}


def test_arrays_become_records_with_the_same_contract(
    films: Path, tmp_path: Path, command: Command, colours: Command
) -> None:
    assert colours(films, "--to", tmp_path / "arrays", "--format", "npy").status == 0
    assert colours(films, "--to", tmp_path / "shards").status == 0
    arrays, own = tmp_path / "arrays", tmp_path / "own"
    for key, width in zip(("rgb", "audio"), (6, 2)):
        array = np.load(arrays / key / "two.npy")
        assert array.shape == (2, width) and array.dtype == np.uint8
    options = ("--audio", arrays / "audio", "--partition", "segment/test", "--data-dir", own)
    assert command("make_records", arrays / "rgb", *options).status == 0
    expected = find_contract(tmp_path / "shards")
    assert expected is not None and find_contract(own / "segment" / "test") == expected
    found, same = shards_of(own), shards_of(tmp_path / "shards")
    assert found.keys() == same.keys() and all(
        np.array_equal(found[name], own_frames) for name, own_frames in same.items()
    )
    alone = ("--partition", "segment/test", "--data-dir", tmp_path / "alone")
    assert command("make_records", arrays / "rgb", *alone).status == 0
    assert find_contract(tmp_path / "alone/segment/test") == expected.model_copy(update={"audio": None})
    wrong = json.loads((arrays / "audio" / CONTRACT_NAME).read_text(encoding="utf-8"))
    wrong["extractor"]["digest"] = "0"
    (arrays / "audio" / CONTRACT_NAME).write_text(json.dumps(wrong), encoding="utf-8")
    refused = command("make_records", arrays / "rgb", *options, "--overwrite")
    assert refused.status == 2 and "name different extractors" in refused.err
    np.save(arrays / "rgb" / "two.npy", np.zeros((2, 5), np.uint8))
    for name in ("b_one", "TWO"):
        (arrays / "rgb" / f"{name}.npy").unlink()
    refused = command("make_records", arrays / "rgb", *alone, "--overwrite")
    assert refused.status == 2 and "belongs to other arrays" in refused.err


def test_more_films_are_added_by_the_same_contract(films: Path, tmp_path: Path, colours: Command) -> None:
    first = films / "b one.mp4"
    assert colours(first, "--to", tmp_path / "own").status == 0
    contract, before = find_contract(tmp_path / "own"), shards_of(tmp_path / "own")
    assert colours(films / "a", films / "c", "--to", tmp_path / "own").status == 0
    after = shards_of(tmp_path / "own")
    assert find_contract(tmp_path / "own") == contract and after.keys() == {"b_one", "two", "TWO"}
    assert np.array_equal(after["b_one"], before["b_one"])
    assert colours(films, "--to", tmp_path / "like", "--like", tmp_path / "own").status == 0
    assert contents(tmp_path / "like") == contents(tmp_path / "own")


def test_a_folder_has_one_extractor_and_range(films: Path, tmp_path: Path, colours: Command) -> None:
    film = films / "c"
    assert colours(film, "--to", tmp_path / "own").status == 0
    path = tmp_path / "own" / CONTRACT_NAME
    contract = FeatureContract.model_validate_json(path.read_text(encoding="utf-8"))
    other = contract.model_copy(update={"extractor": ExtractorIdentity(name="colours", digest="0")})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CONTRACT_NAME).write_text(other.model_dump_json(), encoding="utf-8")
    for to, like in ((tmp_path / "other", tmp_path / "own"), (tmp_path / "own", tmp_path / "other")):
        refused = colours(film, "--to", to, "--like", like)
        assert refused.status == 2 and "other weights or settings" in refused.err
    shifted = contract.model_copy(update={"rgb": contract.rgb.model_copy(update={"range": (0.0, 9.0)})})
    (tmp_path / "other" / CONTRACT_NAME).write_text(shifted.model_dump_json(), encoding="utf-8")
    refused = colours(film, "--to", tmp_path / "own", "--like", tmp_path / "other")
    assert refused.status == 2 and "bytes of rgb stand for values" in refused.err
    refused = colours(film, "--to", tmp_path / "new", "--like", films)
    assert refused.status == 2 and "neither a features.json" in refused.err


def test_results_that_are_gone_are_not_forgotten(films: Path, tmp_path: Path, colours: Command) -> None:
    assert colours(films / "a", "--to", tmp_path).status == 0
    for path in (tmp_path / "cache" / "films").iterdir():
        path.unlink()
    refused = colours(films / "c", "--to", tmp_path)
    assert refused.status == 2 and "results are missing" in refused.err and "two" in refused.err
    assert list(shards_of(tmp_path)) == ["two"]
    assert colours(films / "c", films / "a", "--to", tmp_path).status == 0
    assert list(shards_of(tmp_path)) == ["TWO", "two"]
    values = tmp_path / "cache" / "films" / "two.f32"
    values.write_bytes(values.read_bytes()[:-4])
    refused = colours(films / "c", "--to", tmp_path)
    assert refused.status == 2 and "two.f32: damaged or missing" in refused.err


def test_films_that_were_moved_are_the_same_films(
    films: Path, tmp_path: Path, colours: Command, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = shutil.copytree(films, tmp_path / "here"), tmp_path / "there"
    assert colours(here, "--to", tmp_path / "own").status == 0
    before = shards_of(tmp_path / "own")
    here.rename(there)
    (there / "a" / "two.mkv").unlink()
    assert colours(there, "--to", tmp_path / "own").status == 0
    after = shards_of(tmp_path / "own")
    assert after.keys() == before.keys() and all(
        np.array_equal(own_frames, before[name]) for name, own_frames in after.items()
    )
    assert f"films are gone, their features are kept: {here / 'a/two.mkv'}" in caplog.text
    assert [row["path"] for row in table_of(tmp_path / "own")] == [
        str(there / "c/TWO.AVI"),
        str(there / "b one.mp4"),
        str(here / "a/two.mkv"),
    ]


def test_a_changed_film_is_extracted_again(tmp_path: Path, colours: Command) -> None:
    film = write_film(tmp_path / "film.mp4", regular(50, 25), codec="mpeg4")
    assert colours(film, "--to", tmp_path / "own").status == 0
    write_film(film, regular(75, 25), codec="mpeg4")
    assert colours(film, "--to", tmp_path / "own").status == 0
    assert len(shards_of(tmp_path / "own")["film"]) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_films_that_fail_are_named_and_the_rest_is_written(
    films: Path, tmp_path: Path, command: Command, processes: int
) -> None:
    bad = tmp_path / "films"
    bad.mkdir()
    (bad / "text.mp4").write_text("no film", encoding="utf-8")
    (bad / "film.avi").symlink_to(films / "c" / "TWO.AVI")
    (bad / "gone.mp4").symlink_to("nowhere.mp4")
    foreign = Path(os.fsdecode(os.fsencode(bad) + b"/latin\xe9.mp4"))
    shutil.copyfile(films / "c" / "TWO.AVI", foreign)
    unreadable = write_film(
        bad / "unreadable.mp4", regular(50, 25), codec="libvpx-vp9", options={"movflags": "faststart"}
    )
    content = unreadable.read_bytes()
    begin = content.index(b"mdat") + 4
    unreadable.write_bytes(content[:begin] + bytes(len(content) - begin))
    damaged = damage(write_film(bad / "damaged.mkv", regular(100, 25)), 0.5, 0.6)
    done = command("extract_features", bad, films / "a", "--to", tmp_path / "own", "--processes", processes)
    assert done.status == 1 and "failed, 4 films:" in done.out and "Traceback" not in done.err
    last = done.out.splitlines()[-4:]
    assert last[0] == f"{bad / 'gone.mp4'}: cannot be read (No such file or directory)"
    assert last[1] == f"{bad}/latin\\udce9.mp4: the name is not UTF-8; rename it"
    assert last[2].startswith(f"{bad / 'text.mp4'}: cannot be opened as a film")
    assert last[3].startswith(f"{unreadable}: no frame of it can be decoded")
    assert shards_of(tmp_path / "own").keys() == {"damaged", "film", "two"}
    assert any(row["video_id"] == damaged.stem and " to " in row["notes"] for row in table_of(tmp_path / "own"))
    nothing = command("extract_features", bad / "text.mp4", "--to", tmp_path / "none", "--processes", processes)
    assert nothing.status == 1 and not contents(tmp_path / "none")
    films_moved = tmp_path / "moved"
    bad.rename(films_moved)  # films are found again beside what cannot be read
    again = command("extract_features", films_moved, films / "a", "--to", tmp_path / "own", "--processes", processes)
    assert again.status == 1 and "failed, 4 films:" in again.out
    assert shards_of(tmp_path / "own").keys() == {"damaged", "film", "two"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["."], "no film in this folder"),
        (["film.mp4", "--extractor", "efficientnet"], "expected one of"),
        (["film.mp4", "--extractor", "efficientnet-lite0:x"], "takes nothing after its name"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, arguments: list[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0].startswith("film"):
        write_film(tmp_path / "film.mp4", regular(30, 25), codec="mpeg4")
    done = command("extract_features", *arguments, "--to", tmp_path / "own")
    assert done.status == 2 and what in done.err and len(done.err.splitlines()) == 1


# --- processes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "ending", "number"),
    [
        (1, "*.f32.*.tmp", signal.SIGKILL),
        (1, "*.f32.*.tmp", signal.SIGTERM),
        (1, "TWO.json", signal.SIGKILL),
        (2, "*.json", signal.SIGKILL),
        (2, "*.json", signal.SIGHUP),
    ],
)
def test_a_run_that_is_killed_goes_on_and_ends_in_the_same_bytes(
    films: Path, tmp_path: Path, command: Command, processes: int, ending: str, number: signal.Signals
) -> None:
    folder, output = tmp_path / "own", tmp_path / "output"
    arguments = ("extract_features", films, "--to", folder, "--processes", processes)
    assert command(*arguments).status == 0
    expected = contents(folder)
    folder.rename(tmp_path / "whole")
    process = start(output, output, Path.cwd(), os.environ, run_command, *arguments)
    while process.is_alive() and not list(folder.rglob(ending)):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    status = wait_for([process])[0]
    said = output.read_text(encoding="utf-8")
    if number == signal.SIGKILL:
        assert status == -number, said
    else:
        assert status == 128 + number, said
        assert said.splitlines()[-1] == f"{folder}: interrupted; the same command resumes"
    assert contents(folder) != expected
    assert command(*arguments).status == 0
    assert contents(folder) == expected
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def begin_odd_work(folder: Path) -> Callable[[int, Callable[[int], object]], None]:
    """Work that goes wrong in the ways that its tasks say."""

    def do(task: int, report: Callable[[int], object]) -> None:
        report(task)
        if task == 2:
            raise UserError("two")
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 4:
            raise ZeroDivisionError("four")
        if task == 5:
            (folder / "pid").write_text(str(os.getpid()), encoding="ascii")
            time.sleep(600)
        (folder / str(task)).touch()

    return do


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    told: list[int] = []
    results = dict(work([1, 2, 3, 6, 7, 8], 2, told.append, begin_odd_work, tmp_path))
    assert {task for task, error in results.items() if error is None} == {1, 6, 7, 8}
    assert str(results[2]) == "two" and "status -9; is there too little memory" in str(results[3])
    assert sorted(told) == [1, 2, 3, 6, 7, 8] and (tmp_path / "8").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_is_raised(tmp_path: Path, processes: int) -> None:
    with pytest.raises(ZeroDivisionError, match="four"):
        list(work([1, 4, 6], processes, lambda count: None, begin_odd_work, tmp_path))


def begin_nothing(message: str) -> Callable[[int, Callable[[int], object]], None]:
    """Work that cannot begin."""
    raise UserError(message)


@pytest.mark.parametrize("processes", [1, 2])
def test_work_that_no_process_can_begin_fails(processes: int) -> None:
    with pytest.raises(UserError, match="no memory"):
        list(work([1, 2, 3], processes, lambda count: None, begin_nothing, "no memory"))


def sleep_in_a_process(folder: Path) -> None:
    """Have a process work that does not end."""
    list(work([5, 5], 2, lambda count: None, begin_odd_work, folder))


def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    process = start(tmp_path / "out", tmp_path / "out", Path.cwd(), os.environ, sleep_in_a_process, tmp_path)
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text(encoding="ascii")):
        assert process.is_alive(), (tmp_path / "out").read_text(encoding="utf-8")
        time.sleep(0.05)
    process.kill()
    process.join()
    while Path("/proc", pid).exists() and "Z" not in Path("/proc", pid, "stat").read_text(encoding="utf-8").split()[2]:
        time.sleep(0.05)


# --- names ---------------------------------------------------------------------------------------------


def test_films_are_found_once_each_and_in_order(films: Path, tmp_path: Path) -> None:
    found = find_films([films / "c", films, films / "a" / ".." / "b one.mp4", films / "a" / "notes.txt"])
    assert [str(path.relative_to(films)) for path in found] == ["a/notes.txt", "a/two.mkv", "b one.mp4", "c/TWO.AVI"]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.mp4").touch()
    (tmp_path / "._a.mp4").touch()
    with pytest.raises(UserError, match="no film in this folder"):
        find_films([tmp_path])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a/x.mp4", "/b/x.mp4", "/c/x.mkv"], ["x", "x-2", "x-3"]),
        (["/a/x.mp4", "/b/x.mp4", "/b/x-2.mp4"], ["x", "x-3", "x-2"]),
        (["/a, b: c.mp4", "/é\u0301.mp4", '/"\x07.mp4', "/x.y.mp4"], ["a__b__c", "é\u0301", "__", "x.y"]),
        (["/-abc.mp4", "/.mp4"], ["-abc", ".mp4"]),
        (["/" + "é" * 120 + ".mp4"], ["é" * 100]),
        (["/a/e\u0301.mp4", "/b/é.mp4"], ["é", "é-2"]),  # as macOS and as others write it
    ],
)
def test_ids_are_the_files_names(paths: Sequence[str], expected: Sequence[str]) -> None:
    assert [name_films([*map(Path, paths)], {})[Path(path)] for path in paths] == expected


@given(
    st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=6), unique=True, max_size=8),
    st.integers(0, 8),
)
def test_ids_are_fit_different_and_stay(names: list[str], known: int) -> None:
    films = [Path("/films", str(number % 3), f"{name}.mp4") for number, name in enumerate(names)]
    first = name_films(films[:known], {})
    ids = name_films(films, first)
    assert ids.items() >= first.items() and len(set(ids.values())) == len(set(films))
    assert all(unicodedata.is_normalized("NFC", video_id) for video_id in ids.values())
    assert not unfit_ids([video_id.encode() for video_id in ids.values()])
    assert not any("/" in video_id for video_id in ids.values())
