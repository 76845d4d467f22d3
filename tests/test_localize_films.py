"""`localize` on films, arrays and folders: times to the second, subtitles, and the page."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.films import regular, tone, write_film
from tests.processes import Outcome
from tests.small_models import DBOF, agnostic_folder
from tests.test_extract_features import Colours
from yt8m import load
from yt8m.common.config import ExtractorIdentity
from yt8m.data.features import feature_contract
from yt8m.data.vocabulary import Vocabulary
from yt8m.films.extractors.base import EXTRACTORS

Command = Callable[..., Outcome]
CLASSES = Vocabulary(np.array([3, 5]), ("dog", "cat & <mouse>"))
CONTRACT = feature_contract(6, 2, (0, 150), (-0.1, 0.5), ExtractorIdentity(name="colours", digest="1"))
EVERYTHING = "--threshold", 0


def own_model(folder: Path, **features: object) -> Path:
    """A data folder with a model of the quick extractor's features."""
    path = agnostic_folder(folder / "cache" / "segment" / "m_0", {**DBOF, "video_dim": 6, "audio_dim": 2}, CLASSES, 1)
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    config["features"] = CONTRACT.model_copy(update=features).model_dump(mode="json", exclude_none=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.fixture(name="data_dir", scope="module")
def fixture_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a model. Not to be written to."""
    return own_model(tmp_path_factory.mktemp("own"))


@pytest.fixture(name="films", scope="module")
def fixture_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, the second without sound. Not to be written to."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "one.mp4", regular(12 * 10, 10), rate=10, sound=tone(12))
    write_film(folder / "two.mp4", regular(7 * 10, 10), rate=10)
    return folder


@pytest.fixture(name="localize")
def fixture_localize(command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command with the quick extractor."""
    monkeypatch.setitem(EXTRACTORS, "colours", lambda rest, options: Colours())
    return lambda *words: command("localize", *words, "--data-dir", data_dir, "--device", "cpu")


def answers(outcome: Outcome) -> dict[str, dict]:
    """What was printed as JSON, by video id."""
    assert outcome.status == 0, outcome
    return {answer["video_id"]: answer for answer in json.loads(outcome.out)}


def test_a_film_has_the_answer_of_its_extracted_features(
    localize: Command, command: Command, films: Path, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = data_dir / "cache" / "segment" / "m_0"
    extracted = command(
        "extract_features", films, "--to", tmp_path, "--like", model, "--format", "npy", "--processes", 1
    )
    assert extracted.status == 0, extracted.err
    step = "--step", 5, "--format", "json", *EVERYTHING
    of_films, of_arrays = localize(films, *step), localize(tmp_path / "rgb", *step)
    assert list(answers(of_films)) == ["one", "two"]
    assert answers(of_films) == answers(of_arrays) == answers(localize(tmp_path, *step))
    assert [answers(of_films)[name]["seconds"] for name in ("one", "two")] == [12, 7]
    assert "two.mp4: no sound" in caplog.text
    shards = tmp_path / "shards"
    assert command("extract_features", films, "--to", shards, "--like", model, "--processes", 1).status == 0
    assert answers(localize(shards / "segment", *step)) == answers(of_films)
    assert list(answers(localize(films, "--videos", "two", *step))) == ["two"]


def test_times_to_the_second(localize: Command, films: Path, data_dir: Path) -> None:
    """Against the model on each window of 5 seconds."""
    localizer = load(data_dir / "cache" / "segment", device="cpu")
    features = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (13, 8), np.uint8))
    expected = np.zeros((13, 2))
    counts = np.zeros((13, 1))
    for start in range(13):
        window = torch.zeros(11 + 26, 8, dtype=torch.uint8)  # the segment that begins in second 15 of a longer video
        first = start - 3
        seen = features[max(first, 0) : start + 8]
        window[12 + max(-first, 0) : 12 + max(-first, 0) + len(seen)] = seen
        (values,) = localizer.probabilities([window])
        expected[start : start + 5] += values[3]
        counts[start : start + 5] += 1
    np.testing.assert_allclose(localizer.probabilities_by_second(features), expected / counts, atol=2e-4)
    spans = answers(localize(films, "--format", "json", "--threshold", 0.5))["one"]
    finer = answers(localize(films, "--format", "json", "--threshold", 0.5, "--step", 1))["one"]
    assert spans == finer  # the default for films


def test_subtitles_and_page(localize: Command, films: Path, tmp_path: Path) -> None:
    page = tmp_path / "watch.html"
    film = films / "one.mp4"
    outcome = localize(film, "--format", "vtt", "--html", page, "--classes", "dog", "cat & <mouse>", *EVERYTHING)
    assert outcome.status == 0, outcome.err
    head, *cues = outcome.out.strip("\n").split("\n\n")
    assert head == "WEBVTT" and len(cues) == 2
    assert all(cue.startswith("00:00:00.000 --> 00:00:12.000\n") for cue in cues)
    assert {cue.split("\n")[1].rsplit(" ", 1)[0] for cue in cues} == {"dog", "cat &amp; &lt;mouse&gt;"}
    assert "one.mp4" in page.read_text(encoding="utf-8")
    folder = tmp_path / "subtitles"
    folder.mkdir()
    assert localize(films, "--format", "srt", "--output", folder, *EVERYTHING).status == 0
    lines = (folder / "two.srt").read_text(encoding="utf-8").split("\n")
    assert lines[:2] == ["1", "00:00:00,000 --> 00:00:07,000"] and lines[4] == "2"
    outcome = localize(films, "--format", "srt", *EVERYTHING)
    assert outcome.status == 2 and "--format srt: 2 videos have a file each; name a folder with --output" in outcome.err


def test_subtitles_of_a_film_whose_pictures_begin_late(localize: Command, tmp_path: Path) -> None:
    """Players count from the first picture or sound, the other formats from the first picture."""
    times = [3 + time for time in regular(70, 10)]
    film = write_film(tmp_path / "late.mp4", times, rate=10, sound=tone(10))
    every = "--classes", "dog", *EVERYTHING
    assert "\n00:00:03.000 --> 00:00:10.000\n" in localize(film, "--format", "vtt", *every).out
    assert "\n00:00:03,000 --> 00:00:10,000\n" in localize(film, "--format", "srt", *every).out
    (span,) = answers(localize(film, "--format", "json", *every))["late"]["spans"]
    assert (span["start"], span["end"]) == (0, 7)
    film = write_film(tmp_path / "all-late.ts", [900 + time for time in times], rate=10, clock=90_000)
    assert "\n00:00:00.000 --> 00:00:07.000\n" in localize(film, "--format", "vtt", *every).out


def test_no_output_overwrites_another_file(localize: Command, films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    film = folder / "one.mp4"
    film.write_bytes((films / "one.mp4").read_bytes())
    for option in ("--output", "--html"):
        outcome = localize(folder, option, film)
        assert outcome.status == 2 and f"{option} {film}: is an input; write to another file" in outcome.err
        outcome = localize(film, option, folder)
        assert outcome.status == 2 and f"{option} {folder}: is a folder" in outcome.err
    assert film.read_bytes() == (films / "one.mp4").read_bytes()
    outcome = localize(film, "--output", tmp_path / "x.html", "--html", folder / ".." / "x.html")
    assert outcome.status == 2 and "is --output, too; write to another file" in outcome.err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("words", [("--offset", 2**62), ("--shifts", -(2**70)), ("--offset", -1)])
def test_shifts_and_offsets_beyond_any_use(localize: Command, films: Path, words: tuple[str, int]) -> None:
    outcome = localize(films, *words)
    assert outcome.status == 2 and f"argument {words[0]}: invalid number from" in outcome.err


def test_the_table_of_several_films_is_one(localize: Command, films: Path, tmp_path: Path) -> None:
    output = tmp_path / "spans.csv"
    assert localize(films / "two.mp4", films / "one.mp4", "--output", output, *EVERYTHING).status == 0
    with output.open(newline="", encoding="utf-8") as file:
        assert [row["video_id"] for row in csv.DictReader(file)] == ["two", "two", "one", "one"]


def test_unreadable_films_are_left_out_on_demand(
    localize: Command, films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cut.mp4").write_bytes((films / "one.mp4").read_bytes()[:300])
    where = tmp_path / "cut.mp4", films
    outcome = localize(*where, "--on-error", "skip", "--output", tmp_path / "spans.csv", *EVERYTHING)
    assert outcome.status == 0, outcome
    rows = list(csv.DictReader((tmp_path / "spans.csv").open(encoding="utf-8")))
    assert {row["video_id"] for row in rows} == {"one", "two"}
    assert f"left out: {tmp_path / 'cut.mp4'}: " in caplog.text and "1 record, ends of" in caplog.text
    assert localize(*where).status == 2


def test_mistakes(localize: Command, command: Command, films: Path, tmp_path: Path) -> None:
    def refused(outcome: Outcome, *parts: str) -> None:
        assert outcome.status == 2, outcome
        assert all(part in outcome.err.splitlines()[-1] for part in parts), outcome.err

    (tmp_path / "text.mp4").write_text("no film", encoding="utf-8")
    refused(localize(tmp_path / "text.mp4"), "text.mp4: ")
    np.save(tmp_path / "odd.npy", np.zeros((9, 3), np.uint8))
    refused(localize(tmp_path / "odd.npy"), "odd.npy: features: shape is (9, 3), expected (seconds, 8)")
    (tmp_path / "empty").mkdir()
    refused(localize(tmp_path / "empty"), "empty: no shard, array or film in this folder")
    refused(localize(films, "--videos", "three"), "--videos three: no such video in any of 2 inputs", "one")
    refused(localize(films / "one.mp4", "--output", films / "one.mp4"), "is an input")
    silent = own_model(tmp_path / "silent", extractor=None)
    film = "localize", films / "one.mp4", "--device", "cpu"
    refused(command(*film, "--data-dir", silent), "does not name the extractor of its training", "--extractor yt8m")
    other = own_model(tmp_path / "other", extractor=ExtractorIdentity(name="colours", digest="2"))
    refused(command(*film, "--data-dir", other), "extractor colours", "other weights or settings")


def test_nothing_but_damage_is_an_error(localize: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skip = "--on-error", "skip"
    broken, empty = tmp_path / "broken.mp4", tmp_path / "empty.tfrecord"
    broken.write_bytes(b"no film")
    empty.touch()
    output, page = tmp_path / "spans.csv", tmp_path / "watch.html"
    for files, where in (((broken,), str(broken)), ((empty,), str(empty)), ((broken, empty), "2 inputs")):
        for form in ("table", "csv", "json", "vtt"):
            outcome = localize(*files, *skip, "--format", form, "--output", output, "--html", page)
            assert (outcome.status, outcome.out) == (2, "")
            (line,) = outcome.err.splitlines()
            assert f"{where}: all videos are left out because of damage; copy or download them again" in line
    assert not output.exists() and not page.exists()
    write_film(tmp_path / "fine.mp4", regular(50, 10), rate=10)
    (line,) = localize(tmp_path, *skip, "--videos", "broken").err.splitlines()
    assert f"{broken}: all videos are left out because of damage" in line
    assert "left out because of damage: 2 records, ends of shards or films, all named above, of 2 files" in caplog.text


def test_an_unreadable_shard_and_a_broken_link_among_films_is_left_out(
    localize: Command, films: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.tfrecord").touch()
    (tmp_path / "broken.mp4").symlink_to("nowhere.mp4")
    found = localize(tmp_path, films / "two.mp4", "--on-error", "skip", "--format", "json")
    assert list(answers(found)) == ["two"]


def test_a_film_that_is_named_twice_is_answered_once(
    localize: Command, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    assert list(answers(localize("two.mp4", f"../{films.name}/one.mp4", films, "--format", "json"))) == ["two", "one"]
