"""`fit`: held-out videos, summary, refusals, and resuming."""

import csv
import gc
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from tests.conftest import Outcome
from tests.films import write_coloured_films
from tests.interrupted import run_interrupted
from tests.processes import fork
from tests.test_extract_features import Colours
from yt8m.__main__ import main as run_yt8m
from yt8m.common.config import ExtractorIdentity
from yt8m.data.features import feature_contract, save_contract
from yt8m.data.index import load_index, split_fold
from yt8m.data.vocabulary import RatingRow
from yt8m.films.extractors.base import EXTRACTORS
from yt8m.fitting import outcome as outcomes
from yt8m.fitting.holding_out import even_share
from yt8m.fitting.measuring import Area, ClassScore, LabelScore, RatingScore, SeenVideo
from yt8m.fitting.pseudo_ratings import limit, rate_surest

Command = Callable[..., Outcome]
NAMES = ("bicycle", "dog", "guitar")
WIDTH = 12


@dataclass
class World:
    """24 videos of 20 to 29 seconds, each with one of three concepts in 10 of them; the first 18 are rated."""

    folder: Path
    labels: list[tuple[str, str]]
    ratings: list[tuple[str, int, str, int]]

    @staticmethod
    def make(folder: Path, as_bytes: bool = False) -> "World":
        """Write the arrays."""
        rng = np.random.default_rng(0)
        looks = rng.normal(0, 1, (len(NAMES), WIDTH))
        world = World(folder, [], [])
        (folder / "features").mkdir(parents=True)
        for number in range(24):
            video_id, n_seconds, concept = f"toy{number:02d}", int(rng.integers(20, 30)), number % len(NAMES)
            shown = np.zeros(n_seconds, bool)
            begin = int(rng.integers(0, n_seconds // 5 - 1)) * 5
            shown[begin : begin + 10] = True
            array = rng.normal(0, 0.3, (n_seconds, WIDTH)) + shown[:, None] * looks[concept]
            values = (array * 40 + 128).round().clip(0, 255).astype(np.uint8) if as_bytes else array.astype(np.float32)
            np.save(folder / "features" / f"{video_id}.npy", values)
            world.labels.append((video_id, NAMES[concept]))
            if number < 18:
                for start in range(0, n_seconds - 4, 5):
                    world.ratings.append((video_id, start, NAMES[concept], int(shown[start])))
        return world

    def arguments(self, with_ratings: bool = True) -> list[str]:
        """Write the tables; the command line."""
        tables = {"labels.csv": ("vid,label", self.labels), "ratings.csv": ("vid,start,label,score", self.ratings)}
        for name, (header, rows) in tables.items():
            with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header.split(","), *rows])
        words = ["--features", str(self.folder / "features"), "--labels", str(self.folder / "labels.csv")]
        if with_ratings:
            words += ["--ratings", str(self.folder / "ratings.csv")]
        return [*words, "--name", "toy", "--data-dir", str(self.folder / "data"), "--device", "cpu"]

    @property
    def data(self) -> Path:
        """The data folder that the command makes."""
        return self.folder / "data" / "toy"


def refused(outcome: Outcome) -> str:
    """The one line with which a command has ended that did nothing."""
    assert outcome.status == 2 and not outcome.out
    return outcome.err.splitlines()[-1]


def videos_of(data: Path, partition: str) -> set[bytes]:
    """The ids of a partition's videos."""
    return set(load_index(data / partition, data / "cache").video_id.tolist())


def model_digest(folder: Path) -> list[bytes]:
    """The bytes of a model's weights, by name."""
    state = torch.load(folder / "model.pth", weights_only=True)
    return [name.encode() + value.numpy().tobytes() for name, value in sorted(state.items())]


@pytest.fixture(name="fitted", scope="module")
def fixture_fitted(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Fitted to floats and ratings; not to be written to."""
    world = World.make(tmp_path_factory.mktemp("fit"))
    outcome = fork(_fit, *world.arguments())
    assert outcome.status == 0, outcome.err
    (world.folder / "out.txt").write_text(outcome.out, encoding="utf-8")
    return world


def _fit(*arguments: str) -> None:
    run_interrupted("step", 10**9, "fit", *arguments)


# --- with ratings -------------------------------------------------------------------------------------


def test_the_summary_says_what_was_held_out_and_how_good_the_model_is(fitted: World) -> None:
    text = (fitted.folder / "out.txt").read_text(encoding="utf-8")
    assert "trained without 5 videos, which measure it" in text
    (auc,) = [float(line.split()[1]) for line in text.splitlines() if line.startswith("AUC ")]
    assert auc > 0.9
    for name in NAMES:
        assert f"\n  {name}" in text
    assert "with half of the ratings (" in text and "localize: python -m yt8m.localize " in text


def test_held_out_videos_are_in_no_training(fitted: World) -> None:
    data = fitted.data
    index = load_index(data / "segment" / "train", data / "cache")
    held = videos_of(data, "video/valid")
    assert len(held) == 5 and not held & videos_of(data, "video/train")
    training, validation = split_fold(index, 0)
    rated_held = set(index.video_id[np.isin(index.shard, validation)].tolist())
    assert rated_held and rated_held <= held
    assert not set(index.video_id[np.isin(index.shard, training)].tolist()) & held
    assert not videos_of(data / "cache" / "fit" / "half", "segment/train") & held
    assert len(index.shards) == 8


def test_videos_without_ratings_are_learned_by_their_surest_segments(fitted: World) -> None:
    index = load_index(fitted.data / "segment" / "train", fitted.data / "cache")
    ratings = {
        (index.video_id[record].decode(), int(start), int(score))
        for record in range(len(index.video_id))
        for start, score in zip(
            *(index.of_record(record, of, index.rating_ends) for of in (index.rating_start, index.rating_score))
        )
    }
    own = {(video_id, start, score) for video_id, start, _, score in fitted.ratings}
    unrated = {name.decode() for name in videos_of(fitted.data, "video/train")} - {row[0] for row in fitted.ratings}
    added = ratings - own
    assert own <= ratings and {video_id for video_id, _, _ in added} == unrated != set()
    assert f"also trained on {len(added)} segments of videos" in (fitted.folder / "out.txt").read_text(encoding="utf-8")
    assert unrated <= {name.decode() for name in videos_of(fitted.data / "cache" / "fit" / "half", "segment/train")}


def test_each_class_is_held_out(fitted: World) -> None:
    held = {video_id.decode() for video_id in videos_of(fitted.data, "video/valid")}
    assert {name for video_id, name in fitted.labels if video_id in held} == set(NAMES)
    rated = {(name, score) for video_id, _, name, score in fitted.ratings if video_id in held}
    assert rated == {(name, score) for name in NAMES for score in (0, 1)}


def test_the_commands_of_the_settings_made_the_models(fitted: World, command: Command) -> None:
    for name in ("video.yaml", "segment.yaml"):
        line = (fitted.data / name).read_text(encoding="utf-8").splitlines()[0]
        words = shlex.split(line.removeprefix("# python -m yt8m."))
        outcome = command(words[0], *words[1:], "--device", "cpu")
        assert outcome.status == 0 and "is already finished" in outcome.err  # of the same inputs


def test_the_model_localizes(fitted: World, command: Command) -> None:
    (line,) = [
        line for line in (fitted.folder / "out.txt").read_text(encoding="utf-8").splitlines() if "localize:" in line
    ]
    words = shlex.split(line.removeprefix("localize: python -m yt8m."))
    outcome = command(words[0], *words[1:], "--device", "cpu", "--format", "json")
    answers = json.loads(outcome.out)
    assert len(answers) == 5
    labels = dict(fitted.labels)
    best = [max(answer["spans"] + answer["below_threshold"], key=lambda span: span["highest"]) for answer in answers]
    assert sum(span["class"] == labels[span["video_id"]] for span in best) >= 4


def test_a_second_call_says_the_same_and_trains_nothing(fitted: World, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in fitted.data.rglob("*.pth")}
    outcome = command("fit", *fitted.arguments())
    assert outcome.out == (fitted.folder / "out.txt").read_text(encoding="utf-8")
    assert before == {path: path.stat().st_mtime_ns for path in fitted.data.rglob("*.pth")} and len(before) == 4


def test_the_hint_is_spelled_as_the_user_typed(fitted: World, capfd: pytest.CaptureFixture[str]) -> None:
    run_yt8m(["fit", *map(str, fitted.arguments())])
    assert capfd.readouterr().out.splitlines()[-1].startswith(f"localize: yt8m localize {fitted.data}")
    gc.unfreeze()


def test_other_inputs_need_another_name(fitted: World, command: Command) -> None:
    line = refused(command("fit", *fitted.arguments(), "--seed", 5))
    assert "made with other inputs: seed was 0, is 5; choose another --name, or start over with --restart" in line
    line = refused(command("fit", *fitted.arguments(with_ratings=False)))
    assert "ratings has changed" in line
    line = refused(command("fit", *fitted.arguments(), "--name", "..x"))
    assert "--name" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_between_trainings_it_says_that_it_resumes(
    fitted: World,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
) -> None:
    unheeded: list[int] = []

    def note(number: int, _: object) -> None:
        unheeded.append(number)

    handler = signal.default_int_handler if number == signal.SIGINT else note
    before = signal.signal(number, handler)
    try:
        monkeypatch.setattr("yt8m.fitting.measuring.score_ratings", lambda *_: os.kill(os.getpid(), number))
        assert command("fit", *fitted.arguments()).status == 128 + number
        assert signal.getsignal(number) == handler and not unheeded
    finally:
        signal.signal(number, before)
    assert f"{fitted.data}: interrupted; the same command resumes" in caplog.text.splitlines()[-1]


def test_an_ignored_signal_stays_ignored(
    fitted: World, command: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        monkeypatch.setattr("yt8m.fitting.fitting.require_enough", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        assert command("fit", *fitted.arguments()).status == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "interrupted" not in caplog.text


def test_a_folder_may_be_moved_but_not_renamed(fitted: World, tmp_path: Path, command: Command) -> None:
    there = shutil.copytree(fitted.data, tmp_path / "toy")
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*.pth")}
    outcome = command("fit", *fitted.arguments(), "--data-dir", tmp_path)
    assert outcome.out.replace(str(there), str(fitted.data)) == (fitted.folder / "out.txt").read_text(encoding="utf-8")
    assert before == {path: path.stat().st_mtime_ns for path in there.rglob("*.pth")}
    for name in ("video", "segment"):
        assert str(there / f"{name}.yaml") in (there / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    shutil.copytree(fitted.data, tmp_path / "renamed")
    line = refused(command("fit", *fitted.arguments(), "--data-dir", tmp_path, "--name", "renamed"))
    assert "made with other inputs: name was toy, is renamed; choose" in line
    (there / "video.yaml").write_text("video: {}\n", encoding="utf-8")
    line = refused(command("fit", *fitted.arguments(), "--data-dir", tmp_path))
    assert f"{there / 'video.yaml'}: was changed" in line


def test_killed_at_any_step_the_same_command_ends_in_the_same_weights(fitted: World, tmp_path: Path) -> None:
    world = World.make(tmp_path)
    arguments = world.arguments()
    # During pre-training, while it is exported, in the fine-tuning, in that on half of the ratings.
    for moment, at in (("step", 7), ("export", 1), ("save", 9), ("step", 30), ("export", 2)):
        assert fork(run_interrupted, moment, at, "fit", *arguments).status == -9
    assert fork(_fit, *arguments).status == 0
    for folder in ("cache/video/toy", "cache/segment/toy_0", "cache/fit/half/model"):
        assert model_digest(world.data / folder) == model_digest(fitted.data / folder)


def test_every_class_may_be_rated_in_every_video(tmp_path: Path, command: Command) -> None:
    """No class is then assumed absent from a video: there are no mined negatives."""
    world = World.make(tmp_path)
    world.ratings += [(video_id, 0, other, 0) for video_id, own in world.labels for other in NAMES if other != own]
    outcome = command("fit", *world.arguments())
    assert outcome.status == 0, outcome.err
    assert "AUC" in outcome.out


def test_restart_begins_anew(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    assert fork(run_interrupted, "step", 3, "fit", *world.arguments()).status == -9
    world.ratings = world.ratings[:-1]
    arguments = world.arguments()
    assert "ratings has changed" in refused(command("fit", *arguments))
    kept = world.data / "films" / "kept"
    kept.parent.mkdir()
    kept.touch()
    assert command("fit", *arguments, "--restart").status == 0
    assert kept.exists()


def test_refused_tables_may_be_corrected(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    right = list(world.ratings)
    world.ratings = [*right, (right[0][0], 500, right[0][2], 1)]
    assert "start: 500 is beyond the end" in refused(command("fit", *world.arguments()))
    zeros = [("toy00", start, name, 0) for name in NAMES for start in range(0, 20, 5)]
    world.ratings = zeros + [row for row in right if row[3] and row[0] != "toy00"]
    assert "too few videos to train on some and measure" in refused(command("fit", *world.arguments()))
    assert not (world.data / "cache").exists()  # before any training
    world.ratings = right
    assert command("fit", *world.arguments()).status == 0


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    world.data.mkdir(parents=True)
    (world.data / "precious.txt").touch()
    for more in ([], ["--restart"]):
        assert "not made by this command" in refused(command("fit", *world.arguments(), *more))
    assert os.listdir(world.data) == ["precious.txt"]


# --- features -----------------------------------------------------------------------------------------


def test_bytes_with_a_contract_keep_it(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path, as_bytes=True)
    rgb, audio = tmp_path / "both" / "rgb", tmp_path / "both" / "audio"
    rgb.mkdir(parents=True)
    audio.mkdir()
    for path in (world.folder / "features").iterdir():
        array = np.load(path)
        np.save(rgb / path.name, array[:, :8])
        np.save(audio / path.name, array[:, 8:])
    made = feature_contract(8, 4, (-1.0, 2.0), (0.0, 3.0), ExtractorIdentity(name="mine", digest="1" * 64))
    for folder in (rgb, audio):
        save_contract(made, folder)
    arguments = world.arguments()
    arguments[1] = str(tmp_path / "both")
    assert command("fit", *arguments).status == 0
    config = yaml.safe_load((world.data / "cache/segment/toy_0/config.yaml").read_text(encoding="utf-8"))
    assert config["features"]["extractor"]["name"] == "mine"
    assert [config["features"][key]["range"] for key in ("rgb", "audio")] == [[-1.0, 2.0], [0.0, 3.0]]


def test_floats_get_the_usual_range(fitted: World) -> None:
    contract = json.loads((fitted.data / "video/train/features.json").read_text(encoding="utf-8"))
    values = np.concatenate([np.load(path) for path in (fitted.folder / "features").iterdir()])
    low, high = contract["rgb"]["range"]
    assert np.allclose((low, high), np.quantile(values, (0.001, 0.999)), atol=0.1)


def test_films_are_extracted_and_those_that_cannot_be_read_left_out(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(EXTRACTORS, "colours", lambda rest, options: Colours())
    write_coloured_films(tmp_path)
    (tmp_path / "films" / "broken.mp4").write_text("no film", encoding="utf-8")
    with (tmp_path / "labels.csv").open("a", encoding="utf-8") as file:
        file.write("broken,red\nmy film: 1,red\nmy_film__1,red\n")
    name = tmp_path / "films" / "my film: 1.mp4"
    (tmp_path / "films" / "film02.mp4").rename(name)  # its id is my_film__1
    for table in tmp_path.glob("*.csv"):
        table.write_text(table.read_text(encoding="utf-8").replace("film02", name.stem), encoding="utf-8")
    namesake = tmp_path / "films" / "other" / "film03.mp4"
    namesake.parent.mkdir()
    shutil.copyfile(tmp_path / "films" / "film03.mp4", namesake)
    words = [f"--{name}={tmp_path / name}.csv" for name in ("labels", "ratings")]
    words += ["--name=my colours", f"--data-dir={tmp_path}", "--device=cpu", "--extractor=colours", "--processes=1"]
    outcome = command("fit", "--videos", tmp_path / "films", *words)
    assert outcome.status == 0 and "left out: 1 film" in caplog.text and "broken.mp4" in caplog.text
    kept = tmp_path / "films" / "film03.mp4"
    said = f"several films are named film03: film03 is {kept}; left out: {namesake} is film03-2"
    assert caplog.text.count("several films are named") == caplog.text.count(said) == 1
    fitted = tmp_path / "my colours"
    assert outcome.out.splitlines()[-1] == f"localize: python -m yt8m.localize film.mp4 --data-dir '{fitted}'"
    for section in ("video", "segment"):
        (*_, folder, option, seed) = shlex.split(
            (fitted / f"{section}.yaml").read_text(encoding="utf-8").split("\n")[0]
        )
        assert (folder, option, seed) == (str(fitted), "--seed", "0")
    assert b"my_film__1" in videos_of(fitted, "video/train") | videos_of(fitted, "video/valid")
    config = yaml.safe_load((fitted / "cache/segment/my colours_0/config.yaml").read_text(encoding="utf-8"))
    assert config["features"]["extractor"] == {"name": "colours", "digest": "1"}
    assert list(config["features"]["trim"]) == [0, 0]
    with (tmp_path / "labels.csv").open("a", encoding="utf-8") as file:
        file.write("film00.mp4,red\n")
    line = refused(command("fit", "--videos", tmp_path / "films", *words))
    assert "video film00.mp4 has no film film00.mp4 in" in line and "film00 " in line.partition("did you mean")[2]


# --- without ratings ----------------------------------------------------------------------------------


def test_without_ratings_the_labels_do(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    outcome = command("fit", *world.arguments(with_ratings=False))
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    figures = [
        float(line.split()[0]) for line in lines if line.startswith("  ") and line.split()[0].startswith(("0.", "1."))
    ]
    (chosen,) = [line for line in lines if line.startswith("chosen: ")]
    assert len(figures) == 2 and ("as it is" in chosen) == (figures[0] > figures[1])
    assert "not when" in lines[-3]
    answers = json.loads(
        command(
            "localize",
            world.data / "video/valid/validate0000.tfrecord",
            *("--data-dir", world.data, "--device", "cpu", "--format", "json"),
        ).out
    )
    assert len(answers) == 5
    assert not (world.data / "segment").exists()


def test_what_is_not_defined_is_said_in_words(tmp_path: Path) -> None:
    nothing = float("nan")
    alike = ClassScore("dog", 4, 4, nothing)
    area = Area(0.75, nothing, nothing)
    ratings = RatingScore(1, 8, 6, area, 0.5, nothing, nothing, [alike], 9, area, area)
    ways = {"dog": nothing}
    for score in (ratings, LabelScore(1, {"as it is": ways, "fine-tuned": ways})):
        lines = outcomes.Outcome(tmp_path, tmp_path / "model", False, ["v"], score).lines()
        assert not any("nan" in line.split() for line in lines) and any("not measured" in line for line in lines)


def test_the_surest_segments_are_rated() -> None:
    probabilities = np.linspace(0, 1, 20)[:, None] * [1, 0.5] + [0, 0.1]
    rows = rate_surest([SeenVideo("v", np.array([True, False]), probabilities)], ["one", "other"])
    assert [(row.start, row.score) for row in rows] == [(0, 0), (5, 0), (10, 0), (15, 0), (90, 1), (95, 1)]
    assert {row.label for row in rows} == {"one"}
    assert [row.score for row in rate_surest([SeenVideo("v", np.array([True]), np.ones((1, 1)))], ["one"])] == [1]


# --- what is refused ----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(0, 40), st.integers(0, 3))
def test_pseudo_ratings_are_limited_by_whole_videos(counts: list[int], most: int, seed: int) -> None:
    rows = [RatingRow(0, f"v{video}", 5 * place, "dog", 1) for video, n in enumerate(counts) for place in range(n)]
    kept = limit(rows, most, seed)
    assert len(kept) <= most and len(set(kept)) == len(kept) and set(kept) <= set(rows)
    assert (len(kept) == len(rows)) == (len(rows) <= most) and kept == limit(rows, most, seed)
    left_out = {row.video_id for row in rows} - {row.video_id for row in kept}
    assert all(row.video_id not in left_out for row in kept) and len(kept) == sum(
        count for video, count in enumerate(counts) if f"v{video}" not in left_out
    )
    assert all(len(kept) + counts[int(video[1:])] > most for video in left_out)


def test_too_little_is_refused_class_by_class(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    few = [row for row in world.labels if row[1] == "dog"][:3]
    world.labels = [row for row in world.labels if row[1] != "dog"] + few
    world.ratings = [row for row in world.ratings if row[2] != "guitar" or row[3] == 1]
    line = refused(command("fit", *world.arguments()))
    assert "'dog' has 3 labelled videos; 'guitar' has 0 ratings of 0; expected at least 2 classes" in line
    assert not world.data.exists()


def test_short_classes_are_left_out_on_demand(
    tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    world = World.make(tmp_path)
    world.ratings = [row for row in world.ratings if row[2] != "guitar" or row[3] == 1]
    assert "--skip-short leaves" in refused(command("fit", *world.arguments()))
    outcome = command("fit", *world.arguments(), "--skip-short")
    assert outcome.status == 0 and "left out: 'guitar' has 0 ratings of 0" in caplog.text
    with (world.data / "segment_vocabulary.csv").open(encoding="utf-8") as file:
        assert [row["Name"] for row in csv.DictReader(file)] == ["bicycle", "dog"]


def test_one_class_and_few_videos_are_refused(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    ratings = world.ratings
    world.ratings = [row for row in ratings if row[2] == "dog"]
    assert "the single class 'dog'; expected at least 2 classes" in refused(command("fit", *world.arguments()))
    world.ratings = [
        row for row in ratings if row[0] in ("toy00", "toy01", "toy03", "toy04", "toy06", "toy07", "toy09")
    ]
    world.ratings = [row for row in world.ratings if row[2] != "guitar"]
    assert "rates 7 videos; expected" in refused(command("fit", *world.arguments()))


def test_ratings_of_one_kind_in_all_but_one_video_are_refused(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    zeros = [("toy00", start, name, 0) for name in NAMES for start in range(0, 20, 5)]
    world.ratings = zeros + [row for row in world.ratings if row[3] and row[0] != "toy00"]
    assert "rate segments of more videos" in refused(command("fit", *world.arguments()))


def test_names_may_differ_in_blanks_but_not_in_letters(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    world.ratings = [(*row[:2], "Dog" if row[2] == "dog" else f" {row[2]} ", row[3]) for row in world.ratings]
    line = refused(command("fit", *world.arguments()))
    assert "'Dog' has 0 labelled videos (did you mean dog?)" in line and "guitar" not in line


def test_annotations_of_unknown_videos_are_refused(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    world.ratings.append(("toy04.mp4", 0, "dog", 1))
    line = refused(command("fit", *world.arguments()))
    assert "video toy04.mp4 has no toy04.mp4.npy in" in line and "did you mean toy04" in line


def test_options_that_do_not_go_together(tmp_path: Path, command: Command) -> None:
    world = World.make(tmp_path)
    assert "--processes: needs --videos" in refused(command("fit", *world.arguments(), "--processes", 2))
    films = ["--videos", tmp_path, *world.arguments()[2:]]
    assert "--audio: needs --features" in refused(command("fit", *films, "--audio", tmp_path))


# --- the split ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=5, max_size=40), st.integers(0, 2**31))
@example([[0, 0, 0, int(n == 5)] if n < 11 else [0, int(n in (14, 15, 17)), int(n < 14), 0] for n in range(18)], 131072)
def test_a_share_is_as_even_as_can_be(rows: Sequence[Sequence[int]], seed: int) -> None:
    kinds = np.array([[1, *row] for row in rows])
    chosen = even_share(csr_matrix(kinds), 0.2, seed)
    assert chosen.sum() == max(round(0.2 * len(kinds)), 1)
    assert (chosen == even_share(csr_matrix(kinds), 0.2, seed)).all()

    def unevenness(held: np.ndarray) -> float:
        totals = kinds.sum(axis=0)
        return float((((kinds[held].sum(axis=0) - 0.2 * totals) ** 2) / np.maximum(totals, 1)).sum())

    found = unevenness(chosen)
    for leaving in np.flatnonzero(chosen):  # no exchange makes it better
        for entering in np.flatnonzero(~chosen):
            other = chosen.copy()
            other[leaving], other[entering] = False, True
            assert unevenness(other) >= found - 1e-9
