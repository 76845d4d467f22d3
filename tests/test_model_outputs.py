"""Classes and features recorded in model folders, and their use by every command."""

import json
import logging
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml

from tests.conftest import Outcome
from tests.films import regular, write_film
from tests.shards import AUDIO, RGB, Video, make_video, write_videos
from tests.small_models import (
    CONTEXT,
    DBOF,
    NEXTVLAD,
    TRAINING,
    agnostic_folder,
    aware_folder,
    video_folder,
    write_config,
)
from tests.test_commands import assert_refused
from yt8m.common.config import ExtractorIdentity
from yt8m.common.errors import UserError
from yt8m.data.features import PUBLISHED_RANGE, feature_contract, save_contract
from yt8m.data.vocabulary import CHALLENGE_FILE, Vocabulary, challenge_vocabulary, load_vocabulary
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder

Command = Callable[..., Outcome]
BITS = 10  # of a class index below 1,024
DETECTOR = {
    "type": "dbof",
    "hidden_dim": BITS,
    "fcn_dim": 2 * BITS,
    "p_drop": 0.5,
    "max_len": 20,
    "n_mixtures": 1,
    "per_class": False,
    "frame_se_reduction": 0,
    "video_se_reduction": 0,
}
ROWS = (0, 11, 12, 13, 14, 500, 998, 999)  # of which 12 and 13 are the labels 31 and 30


def frames_of(row: int, n_frames: int = 41) -> np.ndarray:
    """Seconds that show class `row` to the detector: its binary digits, and nothing else."""
    frames = np.zeros((n_frames, 1152), np.uint8)
    frames[:, :BITS] = 255 * (row >> np.arange(BITS) & 1)
    return frames


def detector(path: Path, n_classes: int = 1000) -> Path:
    """The folder, as of 2019, of a context-agnostic model whose class i fires on segments made for it alone."""
    state = {}
    model = load_segment_model(open_folder(agnostic_folder(path, DETECTOR, n_classes)))
    for name, value in model.state_dict().items():
        state[name] = torch.zeros_like(value)
        if name.endswith(("running_var", "fc.0.weight")):
            state[name] += 1
    digits = (torch.arange(n_classes)[:, None] >> torch.arange(BITS) & 1).float()
    state["_model.encoder.0.weight"][:, :BITS] = torch.eye(BITS) / 255
    state["_model.intermediate_fc.2.weight"][:] = torch.eye(2 * BITS)
    state["_model.expert_fc.2.weight"][:, :BITS] = 40 * (2 * digits - 1)  # of the maxima over the frames
    state["_model.expert_fc.2.bias"][:] = -40 * digits.sum(dim=1) + 20
    state["_model.gating_fc.2.bias"][:] = torch.tensor([20.0, -20.0])
    torch.save(state, path / "model.pth")
    config = {"video": {"model": DETECTOR}, "pure_segment": {"training": TRAINING}}
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def shown_videos() -> list[Video]:
    """A video for each of `ROWS`, which shows its class from beginning to end."""
    return [
        Video(f"v{row:03d}".encode(), frames[:, :1024], frames[:, 1024:], None, [])
        for row, frames in ((row, frames_of(row)) for row in ROWS)
    ]


@pytest.fixture(name="challenge_dir")
def fixture_challenge_dir(tmp_path: Path) -> Path:
    """A data folder with the challenge's vocabulary, a model of 2019, and test videos that show one class each."""
    data_dir = tmp_path / "challenge"
    write_videos(data_dir / "segment" / "test" / "test0000.tfrecord", shown_videos())
    shutil.copy(CHALLENGE_FILE, data_dir / "segment_vocabulary.csv")
    detector(data_dir / "cache" / "segment" / "old_0")
    return data_dir


def succeed(outcome: Outcome) -> Outcome:
    """The outcome of a command that has done what it should."""
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.fixture(name="heard")
def fixture_heard(command: Command, caplog: pytest.LogCaptureFixture) -> Command:
    """Run a command; what it logs is put before what is on standard error."""
    caplog.set_level(logging.INFO)

    def call(*arguments: object) -> Outcome:
        caplog.clear()
        outcome = command(*arguments)
        return outcome._replace(err=caplog.text + outcome.err)

    return call


def submitted(command: Command, data_dir: Path) -> tuple[dict[int, list[str]], list[str]]:
    """The list of each class of a submission, in the order of its lines, and what prediction has said."""
    where = ("--data-dir", data_dir)
    succeed(command("prepare_test_meta", *where))
    said = succeed(command("inference_memmap", *where, "--device", "cpu")).err.splitlines()
    succeed(command("create_submission_from_memmaps", *where, "--output", data_dir / "sub.csv"))
    succeed(command("check_submission", data_dir / "sub.csv", *where))
    table = pd.read_csv(data_dir / "sub.csv")
    return dict(zip(table["Class"].tolist(), table["Segments"].str.split())), said


def test_output_i_of_a_model_of_2019_is_row_i_of_the_table(challenge_dir: Path, command: Command) -> None:
    lists, said = submitted(command, challenge_dir)
    table = pd.read_csv(CHALLENGE_FILE)["Index"].tolist()
    assert list(lists) == table and table[12:14] == [31, 30]
    predicted = np.load(challenge_dir / "cache" / "predictions" / "old_0.npy")
    assert (predicted > 5000).sum() == len(ROWS)
    for row in ROWS:
        assert lists[table[row]][0] == f"v{row:03d}:30"
    (line,) = [line for line in said if "assuming the challenge's 1,000 classes" in line]
    assert "old_0" in line


def test_a_table_in_another_order_gets_the_outputs_by_label(challenge_dir: Path, command: Command) -> None:
    table = pd.read_csv(challenge_dir / "segment_vocabulary.csv")
    table.sort_values("Index").to_csv(challenge_dir / "segment_vocabulary.csv", index=False)
    lists, said = submitted(command, challenge_dir)
    assert list(lists) == sorted(table["Index"])
    for row in ROWS:
        assert lists[table["Index"][row]][0] == f"v{row:03d}:30"
    assert any(
        "old_0: has the classes of" in line and "in another order; its outputs are mapped" in line for line in said
    )
    table.to_csv(challenge_dir / "segment_vocabulary.csv", index=False)  # predictions do not mean the same any more
    outcome = command(
        "create_submission_from_memmaps", "--data-dir", challenge_dir, "--output", challenge_dir / "x.csv"
    )
    assert_refused(outcome, "old_0.npy", "another order", "inference_memmap")


def test_localize_takes_the_classes_from_the_model(challenge_dir: Path, command: Command) -> None:
    """A data folder whose table has six other words once made it answer "fork 0.99" for a guitar."""
    words = "".join(f"{label},{name}\n" for label, name in enumerate(["fork", "cup", "pan", "pot", "jug", "lid"]))
    (challenge_dir / "segment_vocabulary.csv").write_text(f"Index,Name\n{words}", encoding="utf-8")
    shard = challenge_dir / "segment" / "test" / "test0000.tfrecord"
    outcome = succeed(command("localize", shard, "--data-dir", challenge_dir, "--format", "json", "--device", "cpu"))
    names = challenge_vocabulary().names
    for row, answer in zip(ROWS, json.loads(outcome.out)):
        assert {span["class"] for span in answer["spans"]} == {names[row]}, row
    named = command("localize", shard, "--data-dir", challenge_dir, "--classes", "fork")
    assert_refused(named, "fork", f"no class of {challenge_dir}/cache/segment/old_0 has")
    outcome = command("inference_memmap", "--data-dir", challenge_dir)
    assert_refused(outcome, "test_meta.npz")
    command("prepare_test_meta", "--data-dir", challenge_dir)
    outcome = command("inference_memmap", "--data-dir", challenge_dir)
    assert_refused(outcome, "segment_vocabulary.csv has 0 (fork)", "old_0 has 7 (Car)")


def test_a_folder_that_does_not_say_its_classes_needs_them_named(challenge_dir: Path, command: Command) -> None:
    models = challenge_dir / "cache" / "segment"
    shutil.rmtree(models / "old_0")
    detector(models / "small_0", 20)
    shard = challenge_dir / "segment" / "test" / "test0000.tfrecord"
    call = ("localize", shard, "--data-dir", challenge_dir, "--format", "csv", "--device", "cpu")
    assert_refused(command(*call), "small_0: does not say what its 20 outputs are", "--vocabulary CSV")
    table = challenge_dir / "twenty.csv"
    table.write_text("Index\n" + "".join(f"{label}\n" for label in range(119, 99, -1)), encoding="utf-8")
    outcome = succeed(command(*call, "--vocabulary", table))
    assert [line.split(",")[:3] for line in outcome.out.splitlines()[1:]] == [
        [f"v{row:03d}", str(119 - row), f"label {119 - row}"] for row in ROWS if row < 20
    ]
    assert_refused(
        command(*call, "--vocabulary", challenge_dir / "segment_vocabulary.csv"), "has 1000 classes", "made for 20"
    )
    assert_refused(command(*call, "--vocabulary", challenge_dir / "none.csv"), "none.csv: no such file")
    origin = {"vocabulary": Vocabulary(np.arange(20), ("",) * 20).digest}
    (models / "small_0" / "run.json").write_text(json.dumps(origin), encoding="utf-8")
    assert_refused(command(*call, "--vocabulary", table), "twenty.csv: not the vocabulary that", "was trained with")


def test_a_run_with_other_classes_is_not_taken_for_the_challenges(challenge_dir: Path, command: Command) -> None:
    """An earlier version trained on ascending tables only, and said which by a digest."""
    folder = challenge_dir / "cache" / "segment" / "old_0"
    ascending = np.sort(challenge_vocabulary().labels)
    digest = Vocabulary(ascending, ("",) * 1000).digest
    (folder / "run.json").write_text(json.dumps({"vocabulary": digest}), encoding="utf-8")
    succeed(command("prepare_test_meta", "--data-dir", challenge_dir))
    assert_refused(command("inference_memmap", "--data-dir", challenge_dir), "old_0", "--vocabulary CSV")
    pd.DataFrame({"Index": ascending}).to_csv(challenge_dir / "segment_vocabulary.csv", index=False)
    succeed(command("inference_memmap", "--data-dir", challenge_dir))  # the run's own
    assert np.load(challenge_dir / "cache" / "predictions" / "old_0.npy")[2, 12] > 5000


@pytest.fixture(name="reversed_table")
def fixture_reversed_table(tmp_path: Path) -> Path:
    """The challenge's classes, the last one first."""
    table = pd.read_csv(CHALLENGE_FILE)[::-1]
    table.to_csv(tmp_path / "reversed.csv", index=False)
    return tmp_path / "reversed.csv"


def test_predictions_are_made_anew_for_other_classes_of_the_model(
    challenge_dir: Path, reversed_table: Path, command: Command
) -> None:
    succeed(command("prepare_test_meta", "--data-dir", challenge_dir))
    call = ("inference_memmap", "--data-dir", challenge_dir, "--device", "cpu")
    found = []
    for options in ((), ("--vocabulary", reversed_table), ()):
        assert "old_0.npy: up to date" not in succeed(command(*call, *options)).err
        found.append(np.load(challenge_dir / "cache" / "predictions" / "old_0.npy"))
        assert "old_0.npy: up to date" in succeed(command(*call, *options)).err
    assert (found[0] > 5000).sum() == len(ROWS)
    assert (found[1] == found[0][:, ::-1]).all() and (found[2] == found[0]).all()


def old_video_folder(path: Path) -> Path:
    """The folder, as of 2019, of a video model for 1,000 classes, which it does not name."""
    video_folder(path, DBOF, 1000)
    (path / "config.yaml").write_text(yaml.safe_dump({"video": {"model": DBOF}}), encoding="utf-8")
    return path


def predict_elsewhere(command: Command, data_dir: Path) -> None:
    """Predictions of which nothing says how they were made."""
    succeed(command("prepare_test_meta", "--data-dir", data_dir))
    n_rows = int(np.load(data_dir / "cache" / "test_meta.npz")["row_ends"][-1])
    (data_dir / "cache" / "predictions").mkdir()
    np.save(data_dir / "cache" / "predictions" / "theirs.npy", np.ones((n_rows, 1000), np.int16))


def test_videos_are_scored_anew_for_other_classes_of_the_model(
    challenge_dir: Path, reversed_table: Path, command: Command, heard: Command
) -> None:
    predict_elsewhere(command, challenge_dir)
    folder = old_video_folder(challenge_dir / "cache" / "video" / "base")
    call = ("create_submission_from_memmaps", "--data-dir", challenge_dir, "--output", challenge_dir / "sub.csv")
    call = (*call, "--video-model", folder, "--video-cap", 3)
    found = []
    for options in ((), ("--vocabulary", reversed_table), ()):
        assert "base.npz: up to date" not in succeed(heard(*call, *options)).err
        found.append(np.load(challenge_dir / "cache" / "video_predictions" / "base.npz")["scores"])
        assert "base.npz: up to date" in succeed(heard(*call, *options)).err
    assert (found[0].std(axis=1) > 0).sum() == len(ROWS) - 1  # of row 0 the frames are nothing but zeros
    np.testing.assert_allclose(found[1], found[0][:, ::-1], rtol=1e-5)
    np.testing.assert_array_equal(found[2], found[0])
    declare(challenge_dir / "segment" / "test", -1, 1)
    assert_refused(command(*call), "rgb stand for values from -1 to 1", "base for -1.9921875 to 2.0078125")
    declare(challenge_dir / "segment" / "test", *ROUNDED_RANGE)
    assert "base.npz: up to date" in succeed(heard(*call)).err


def test_predictions_that_do_not_say_their_classes_are_in_the_challenges_order(
    challenge_dir: Path, command: Command, heard: Command
) -> None:
    predict_elsewhere(command, challenge_dir)
    call = ("create_submission_from_memmaps", "--data-dir", challenge_dir, "--output", challenge_dir / "sub.csv")
    table = challenge_dir / "segment_vocabulary.csv"
    said = f"theirs.npy: does not say what its columns are; assuming the classes of {table}, in that order"
    assert said in succeed(heard(*call)).err
    pd.read_csv(table).sort_values("Index").to_csv(table, index=False)
    (challenge_dir / "sub.csv").unlink()
    report = ("report", "--data-dir", challenge_dir, "--output", challenge_dir / "page.html")
    for again in (call, report):
        assert_refused(
            command(*again), "theirs.npy: does not say", f"{table} has another", "put the challenge's table there"
        )
    assert not any((challenge_dir / name).exists() for name in ("sub.csv", "page.html"))


# --- names ----------------------------------------------------------------------------------------------

ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
TOOLS = ("axe", "bit", "cup", "die", "eye", "fan", "gun", "hob")
LABELS = range(10, 18)
NARROW = {**DBOF, "video_dim": RGB, "audio_dim": AUDIO}


def write_names(path: Path, names: Sequence[str]) -> None:
    """A table in which the first of `LABELS` have these names."""
    rows = [f"{label},{name}\n" for label, name in zip(LABELS, names)]
    path.write_text("".join(["Index,Name\n", *rows]), encoding="utf-8")


def named_classes(names: Sequence[str]) -> Vocabulary:
    """The same as a vocabulary."""
    return Vocabulary(np.array(LABELS[: len(names)]), tuple(names))


@pytest.fixture(name="zoo")
def fixture_zoo(tmp_path: Path, command: Command) -> Path:
    """A data folder of `ANIMALS` with two test videos and a model, ready for predictions."""
    data_dir = tmp_path / "zoo"
    videos = [make_video(0, 41), replace(make_video(1, 41), video_id=b"-dash"), make_video(2, 41)]
    write_videos(data_dir / "segment" / "test" / "test0000.tfrecord", videos)
    write_names(data_dir / "segment_vocabulary.csv", ANIMALS)
    agnostic_folder(data_dir / "cache" / "segment" / "zoo_0", NARROW, named_classes(ANIMALS))
    succeed(command("prepare_test_meta", "--data-dir", data_dir))
    return data_dir


def zoo_calls(zoo: Path, names: Sequence[str]) -> list[tuple[object, ...]]:
    """Two commands that compare the model with these names: those of the data, and those of another model."""
    write_names(zoo / "segment_vocabulary.csv", names)
    agnostic_folder(zoo / "models" / "a_0", NARROW, named_classes(names))
    shutil.copytree(zoo / "cache" / "segment" / "zoo_0", zoo / "models" / "zoo_0", dirs_exist_ok=True)
    where = ("--data-dir", zoo, "--device", "cpu")
    shard = zoo / "segment" / "test" / "test0000.tfrecord"
    return [("inference_memmap", *where), ("localize", shard, *where, "--model-dir", zoo / "models")]


@pytest.mark.parametrize(
    "names, said",
    [
        (TOOLS, "10 is 'ant' there and 'axe' here, 11 is 'bee' there and 'bit' here, "),
        (TOOLS, "14 is 'eel' there and 'eye' here and 3 more; if the classes are the same"),
        ((*TOOLS[:5], *ANIMALS[5:]), "14 is 'eel' there and 'eye' here; if the classes are the same"),
        (("", "label 11", *TOOLS[2:4], "", "FOX", "", ""), "12 is 'cat' there and 'cup' here, 13 is 'dog' "),
    ],
    ids=["all", "and more", "most", "most of those named"],
)
def test_the_same_label_ids_under_other_names_are_other_classes(
    names: Sequence[str], said: str, zoo: Path, command: Command
) -> None:
    calls = zoo_calls(zoo, names)
    for call, source in zip(calls, (zoo / "segment_vocabulary.csv", zoo / "models" / "a_0")):
        assert_refused(command(*call), f"zoo_0: has other names than {source} for the same label ids: ", said)
    assert not (zoo / "cache" / "predictions").exists()


@pytest.mark.parametrize(
    "names, said",
    [
        ((*ANIMALS[:7], "rooster"), "17 is 'hen' there and 'rooster' here"),
        ((*TOOLS[:4], *ANIMALS[4:]), "13 is 'dog' there and 'die' here"),
        ((" ant", "BEE", "Cat ", "", "label 14", "fox", "gnu", "hen"), None),
        (("", "label 11", "", "", "", "", "", ""), None),
    ],
    ids=["one", "half", "blanks and capitals", "no names"],
)
def test_a_few_other_names_are_warned_of(names: Sequence[str], said: str | None, zoo: Path, heard: Command) -> None:
    for call in zoo_calls(zoo, names):
        warnings = [line for line in succeed(heard(*call)).err.splitlines() if "other names" in line]
        assert [line.endswith(str(said)) for line in warnings] == [True] * (said is not None), warnings


@pytest.mark.parametrize(
    "names, refused",
    [
        (("",) * 8, False),
        (("", "bee", "CAT", "label 13", "", "", "", ""), False),
        (("", "bit", "cup", "", "", "", "", ""), True),
    ],
    ids=["no names", "some", "others"],
)
def test_names_that_the_model_lacks_do_not_count(
    names: Sequence[str], refused: bool, zoo: Path, heard: Command
) -> None:
    agnostic_folder(zoo / "cache" / "segment" / "zoo_0", NARROW, named_classes(names))
    outcome = heard("inference_memmap", "--data-dir", zoo, "--device", "cpu")
    assert outcome.status == (2 if refused else 0), outcome
    said = "zoo_0: has other names than .*: 11 is 'bit' there and 'bee' here, 12 is 'cup' there and 'cat' here;"
    assert bool(re.search(said, outcome.err)) == refused and ("other names" in outcome.err) == refused


def test_a_vocabulary_does_not_count_for_a_model_that_says_its_classes(zoo: Path, heard: Command) -> None:
    write_names(zoo / "tools.csv", TOOLS)
    call = ("inference_memmap", "--data-dir", zoo, "--device", "cpu")
    said = "zoo_0: lists its classes; --vocabulary is ignored for it"
    assert said not in succeed(heard(*call)).err
    again = succeed(heard(*call, "--vocabulary", zoo / "tools.csv")).err
    assert said in again and "zoo_0.npy: up to date" in again


def test_a_base_model_of_other_classes_is_not_fine_tuned(command: Command, data_dir: Path, tmp_path: Path) -> None:
    vocabulary = load_vocabulary(data_dir)
    base = video_folder(tmp_path / "base", DBOF, replace(vocabulary, names=TOOLS[:5]))
    config = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    outcome = command("train_pure_segment", config, base, "--fold", 0, "--name", "a", "--data-dir", data_dir)
    example = f"{vocabulary.labels[0]} is 'axe' there and {vocabulary.names[0]!r} here"
    assert_refused(outcome, f"{base}: has other names than {data_dir}/segment_vocabulary.csv", example)
    assert not (data_dir / "cache" / "segment").exists()


def test_the_two_tables_of_a_data_folder_have_to_agree(
    command: Command, heard: Command, data_dir: Path, tmp_path: Path
) -> None:
    table, names = data_dir / "segment_vocabulary.csv", load_vocabulary(data_dir).names
    known = pd.read_csv(table)
    known.assign(Name=TOOLS[:5]).to_csv(table, index=False)
    config = write_config(tmp_path / "v.yaml", video={"model": DBOF, "training": TRAINING})
    pure = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    aware = write_config(tmp_path / "c.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    where, base = ("--data-dir", data_dir), tmp_path / "base"
    said = f"{data_dir}/vocabulary.csv: has other names than {table} for the same label ids: "
    mend = f"prepare_vocabulary --overwrite --data-dir {data_dir}`"
    succeed(command("prepare_test_meta", *where))
    for call in (
        ("check_data", *where),
        ("train_video", config, "--name", "x", *where),
        ("train_pure_segment", pure, base, "--fold", 0, "--name", "x", *where),
        ("train_segment_w_context", aware, base, base, "--fold", 0, "--name", "x", *where),
        ("find_lr", config, *where),
        ("inference_memmap", *where),
        ("create_submission_from_memmaps", *where, "--output", tmp_path / "sub.csv"),
        ("check_submission", tmp_path / "sub.csv", *where),
        ("evaluate", *where, "--fold", 0),
        ("report", *where),
        ("prepare_vocabulary", *where),
    ):
        outcome = command(*call)
        assert_refused(outcome, said, f"is {names[0]!r} there and 'axe' here")
        assert outcome.err.endswith(f"{mend}\n")
    succeed(command("prepare_vocabulary", *where, "--overwrite"))
    assert load_vocabulary(data_dir).names == names
    assert "other names" not in succeed(heard("check_data", *where)).err
    known.assign(Name=["axe", *names[1:]]).to_csv(table, index=False)
    assert f"is {names[0]!r} there and 'axe' here" in succeed(heard("check_data", *where)).err


def test_further_labels_of_a_data_folder_do_not_count_as_other_names(zoo: Path, heard: Command) -> None:
    """The table of all labels may have more than are rated, and need not have all of those."""
    for rows in (["3,axe", "10,ant", "11,BEE", "900,hob"], ["900,hob"], [f"{label}," for label in LABELS]):
        (zoo / "vocabulary.csv").write_text("\n".join(["Index,Name", *rows, ""]), encoding="utf-8")
        assert "other names" not in succeed(heard("check_data", "--data-dir", zoo)).err


def test_a_table_of_names_that_cannot_be_read_has_its_own_remedy(zoo: Path, command: Command) -> None:
    (zoo / "vocabulary.csv").write_bytes("Index,Name\n10,ant\n".encode("utf-16"))
    outcome = command("check_data", "--data-dir", zoo)
    assert_refused(outcome, f'{zoo}/vocabulary.csv: is UTF-16; save it as "CSV UTF-8"')
    assert "prepare_vocabulary" not in outcome.err


def test_classes_are_found_however_their_accents_are_written(zoo: Path, command: Command) -> None:
    names = [unicodedata.normalize(form, "Café Ångström") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    shard = zoo / "segment" / "test" / "test0000.tfrecord"
    for number, own in enumerate(names):
        agnostic_folder(zoo / f"models{number}" / "m_0", NARROW, named_classes([own, "dog"]))
        where = ("--data-dir", zoo, "--model-dir", zoo / f"models{number}", "--device", "cpu")
        for asked in (*names, names[1].upper(), f" {names[1]}"):
            call = ("localize", shard, *where, "--classes", asked, "--threshold", 0, "--format", "json")
            answers = json.loads(succeed(command(*call)).out)
            assert {span["class"] for answer in answers for span in answer["spans"]} == {names[0]}


def test_videos_of_several_options_add_up(zoo: Path, command: Command) -> None:
    where = ("--data-dir", zoo, "--device", "cpu")
    shard = zoo / "segment" / "test" / "test0000.tfrecord"
    asked = ("--videos", "v002", "--videos=-dash", "--videos", "v000")
    outcome = succeed(command("localize", shard, *where, *asked, "--format", "json"))
    assert [answer["video_id"] for answer in json.loads(outcome.out)] == ["v002", "-dash", "v000"]
    classes = ("--classes", "ant", "--classes", "bee", "12", "--threshold", 0)
    answers = json.loads(succeed(command("localize", shard, *where, *asked, *classes, "--format", "json")).out)
    assert [answer["video_id"] for answer in answers] == ["v002", "-dash", "v000"]
    for answer in answers:
        assert {span["class"] for span in answer["spans"]} == {"ant", "bee", "cat"}
    succeed(command("inference_memmap", *where))
    for options, count in ((asked, "3 timelines"), (asked[:3], "2 timelines"), (asked[2:3], "1 timeline;")):
        assert count in succeed(command("report", *where, *options, "--output", zoo / "page.html")).out
    page = (zoo / "page.html").read_text(encoding="utf-8")
    assert "-dash" in page and "v000" not in page
    assert_refused(command("report", *where, *asked, "--videos", "v002"), "--videos: v002 is named more than once")


# --- what training exports ------------------------------------------------------------------------------


def test_training_exports_classes_and_features(command: Command, data_dir: Path, tmp_path: Path) -> None:
    labels = load_vocabulary(data_dir).labels[::-1].tolist()
    (data_dir / "vocabulary.csv").unlink()  # has other names
    rows = [f"{label},{name}" for label, name in zip(labels, ["yes", "1.50", "", "né: #1", "- x"])]
    (data_dir / "segment_vocabulary.csv").write_text("\n".join(["Index,Name", *rows, ""]), encoding="utf-8")
    config = write_config(tmp_path / "v.yaml", video={"model": DBOF, "training": TRAINING})
    succeed(command("train_video", config, "--name", "base", "--data-dir", data_dir, "--device", "cpu"))
    base = data_dir / "cache" / "video" / "base"
    pure = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    succeed(command("train_pure_segment", pure, base, "--fold", 0, "--name", "a", "--data-dir", data_dir))
    for folder in (base, data_dir / "cache" / "segment" / "a_0"):
        opened = open_folder(folder)
        assert opened.vocabulary().labels.tolist() == labels
        assert opened.vocabulary().names == ("yes", "1.50", f"label {labels[2]}", "né: #1", "- x")
        assert opened.features.widths == (1024, 128) and opened.features.rgb.range == PUBLISHED_RANGE
    # An exported configuration is a configuration: training goes by its own data.
    succeed(command("train_video", base / "config.yaml", "--name", "again", "--data-dir", data_dir, "--device", "cpu"))


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("family", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_outputs_are_mapped_by_label(family: dict, per_class: bool, tmp_path: Path) -> None:
    own = Vocabulary(np.array([31, 30, 7, 9]), ("a", "b", "c", "d"))
    wanted = Vocabulary(np.array([7, 31, 9, 30]), ("", "", "", ""), "elsewhere")
    rows = [2, 0, 3, 1]
    model = {**family, "per_class": per_class}
    frames = torch.randint(256, (3, 11, 1152), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        folder = video_folder(tmp_path / "video", model, own)
        expected = load_video_model(folder).eval()(frames)[:, rows]
        assert torch.equal(load_video_model(folder, wanted).eval()(frames), expected)
        folder = agnostic_folder(tmp_path / "agnostic", model, own)
        expected = load_segment_model(open_folder(folder)).eval()(frames)[:, rows]
        assert torch.equal(load_segment_model(open_folder(folder), wanted).eval()(frames), expected)
        folder = aware_folder(tmp_path / "aware", model, model, own)
        context = (frames, None, torch.arange(3))
        expected = load_segment_model(open_folder(folder)).eval()(frames, *context)[:, rows]
        assert torch.equal(load_segment_model(open_folder(folder), wanted).eval()(frames, *context), expected)


def test_a_base_model_in_another_order_is_fine_tuned_in_the_order_of_the_data(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    base = video_folder(tmp_path / "base", {**DBOF, "p_drop": 0.0}, data_dir)
    config = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    table = pd.read_csv(data_dir / "segment_vocabulary.csv")
    models = []
    for name, order in (("one", table), ("other", table[::-1])):
        order.to_csv(data_dir / "segment_vocabulary.csv", index=False)
        outcome = succeed(
            command(
                "train_pure_segment", config, base, "--fold", 0, "--name", name, "--data-dir", data_dir, "--seed", 1
            )
        )
        models.append(open_folder(data_dir / "cache" / "segment" / f"{name}_0"))
    assert "in another order; its outputs are mapped by label id" in outcome.err
    first, second = (load_segment_model(model, models[0].vocabulary()).eval() for model in models)
    assert models[1].vocabulary().labels.tolist() == table["Index"].tolist()[::-1]
    frames = torch.randint(256, (3, 11, 1152), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(first(frames), second(frames), rtol=1e-3, atol=1e-3)


# --- what goes in ---------------------------------------------------------------------------------------


ROUNDED_RANGE = (-1.992188, 2.007812)  # the published range in seven digits


def declare(folder: Path, *bounds: float, audio: tuple[float, float] | None = None) -> None:
    """Say what the bytes of a folder's features stand for; those of `audio` for the same, unless it is given."""
    meaning = {"rgb": {"width": 1024, "range": bounds}, "audio": {"width": 128, "range": audio or bounds}}
    (folder / "features.json").write_text(json.dumps(meaning), encoding="utf-8")


def test_the_features_of_one_extractor_alone_are_the_released_data_sets(
    command: Command, challenge_dir: Path, tmp_path: Path
) -> None:
    def made_by(folder: Path, name: str) -> None:
        """Say that features were extracted from films; in all else they are as released."""
        features = feature_contract(1024, 128, extractor=ExtractorIdentity(name=name, digest="0"))
        save_contract(features.model_copy(update={"trim": (0, 0)}), folder)

    test = challenge_dir / "segment" / "test"
    made_by(test, "yt8m")
    agnostic_folder(challenge_dir / "cache" / "segment" / "new_0", DETECTOR, challenge_dir, 1)
    calls = {
        "inference_memmap": ("inference_memmap", "--data-dir", challenge_dir),
        "localize": ("localize", test / "test0000.tfrecord", "--data-dir", challenge_dir, "--top", 1),
    }
    succeed(command("prepare_test_meta", "--data-dir", challenge_dir))
    assert all("extractor" not in path.read_text(encoding="utf-8") for path in challenge_dir.rglob("config.yaml"))
    for call in calls.values():
        assert succeed(command(*call)).status == 0
    made_by(test, "efficientnet-lite0")
    for call in calls.values():
        for model in ("old_0", "new_0"):
            refused = command(*call, "--model-names", model)
            assert_refused(refused, "by the extractor efficientnet-lite0", model, "--extractor yt8m --assets FOLDER")
    film = write_film(tmp_path / "film.mp4", regular(6, 1), rate=1)
    like = ("--like", challenge_dir / "cache" / "segment" / "old_0")
    refused = command("extract_features", film, "--to", tmp_path / "own", "--extractor", "efficientnet-lite0", *like)
    assert_refused(refused, "extractor efficientnet-lite0: features are made", "those of --like are the released data")


def test_bytes_that_stand_for_other_values_are_refused(
    command: Command, challenge_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    test = challenge_dir / "segment" / "test"
    declare(test, -1, 1)
    succeed(command("prepare_test_meta", "--data-dir", challenge_dir))
    for call in (
        ("inference_memmap", "--data-dir", challenge_dir),
        ("localize", test / "test0000.tfrecord", "--data-dir", challenge_dir),
    ):
        assert_refused(
            command(*call), "rgb stand for values from -1 to 1", "old_0 for -1.9921875 to 2.0078125", "features.json"
        )
    declare(test, *PUBLISHED_RANGE)
    succeed(command("inference_memmap", "--data-dir", challenge_dir))
    predicted = challenge_dir / "cache" / "predictions" / "old_0.npy"
    for bounds in ((-1, 1), (-1.98, PUBLISHED_RANGE[1]), (PUBLISHED_RANGE[0], 2.009), (-1.9919, PUBLISHED_RANGE[1])):
        declare(test, *bounds)
        assert_refused(command("inference_memmap", "--data-dir", challenge_dir), f"from {bounds[0]} to {bounds[1]}")
    declare(test, *PUBLISHED_RANGE, audio=(0, 6))
    assert_refused(
        command("inference_memmap", "--data-dir", challenge_dir), "bytes of audio stand for values from 0 to 6"
    )
    declare(test, *ROUNDED_RANGE)
    assert f"{predicted}: up to date" in succeed(command("inference_memmap", "--data-dir", challenge_dir)).err

    config = write_config(tmp_path / "v.yaml", video={"model": DBOF, "training": TRAINING})
    train = ("train_video", config, "--name", "base", "--data-dir", data_dir, "--device", "cpu")
    declare(data_dir / "video" / "train", 0, 6)
    assert_refused(command(*train), "video/valid", "-1.9921875 to 2.0078125", "video/train for 0 to 6")
    declare(data_dir / "video" / "valid", 0, 6)
    succeed(command(*train))
    base = data_dir / "cache" / "video" / "base"
    assert open_folder(base).features.rgb.range == (0, 6)
    pure = write_config(tmp_path / "s.yaml", pure_segment={"training": TRAINING})
    tune = ("train_pure_segment", pure, base, "--fold", 0, "--name", "a", "--data-dir", data_dir)
    assert_refused(command(*tune), "segment/train", "base for 0 to 6")
    declare(data_dir / "segment" / "train", 0, 6)
    succeed(command(*tune))
    assert_refused(command("evaluate", "--data-dir", challenge_dir, "--fold", 0), "segment/train")


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "cannot be read as"),
        ("[]", "cannot be read as"),
        ('{"rgb": {"width": 1024, "range": [2, -2]}}', "expected the lower value first"),
        ('{"rgb": {"width": 8, "range": [-2, 2]}}', "describes features of the widths (8, 0), those of"),
    ],
)
def test_a_wrong_features_file_is_refused(text: str, said: str, command: Command, challenge_dir: Path) -> None:
    succeed(command("prepare_test_meta", "--data-dir", challenge_dir))
    (challenge_dir / "segment" / "test" / "features.json").write_text(text, encoding="utf-8")
    assert_refused(command("inference_memmap", "--data-dir", challenge_dir), "features.json", said)


@pytest.mark.parametrize(
    "section, said",
    [
        ({"vocabulary": []}, "vocabulary: expected at least one class"),
        ({"vocabulary": [[3, "a"], [3, "b"]]}, "no label id twice"),
        ({"vocabulary": [[3, "a"], [4]]}, "vocabulary.1"),
        ({"vocabulary": "all"}, "vocabulary"),
        ({"vocabulary": [[3, "a"], [2**31, "b"]]}, "vocabulary.1.0: "),
        ({"vocabulary": [[3, "a"], [2**31 - 1, "b"]]}, "made for 3 classes, but config.yaml lists 2"),
        ({"vocabulary": [[3, "a"], [10**30, "b"]]}, "vocabulary.1.0: "),
        ({"vocabulary": [[3, "a"], [4, "b"]]}, "made for 3 classes, but config.yaml lists 2"),
        ({"features": {"rgb": {"width": 5, "range": [0, 1]}}}, "features: widths (5, 0), but the model is made for"),
        ({"features": {"rgb": {"width": 1024}}}, "features.rgb.range: missing key"),
    ],
)
def test_a_wrong_description_of_a_model_is_refused(section: dict, said: str, tmp_path: Path) -> None:
    folder = video_folder(tmp_path / "m", DBOF, 3)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **section}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_video_model(folder)
    assert said in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_id_of_a_model_that_is_too_large_is_said_in_a_line(zoo: Path, command: Command) -> None:
    path = zoo / "cache" / "segment" / "zoo_0" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    shard = zoo / "segment" / "test" / "test0000.tfrecord"
    for label in (2**31, 2**63, 10**30):
        config["vocabulary"][1][0] = label
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        for call in (("inference_memmap", "--data-dir", zoo), ("localize", shard, "--data-dir", zoo)):
            assert_refused(command(*call), f"{path}: ", "vocabulary.1.0: expected less than 2147483648")


def test_an_exported_file_has_the_models_own_classes(challenge_dir: Path, command: Command) -> None:
    (challenge_dir / "segment_vocabulary.csv").unlink()
    folder = challenge_dir / "cache" / "segment" / "old_0"
    succeed(command("export_model", folder, "--data-dir", challenge_dir))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    says = {
        key: json.loads(session.get_modelmeta().custom_metadata_map[key]) for key in ("labels", "names", "features")
    }
    assert (
        says["labels"] == challenge_vocabulary().labels.tolist()
        and says["names"][13] == challenge_vocabulary().names[13]
    )
    assert says["features"]["rgb"] == {"width": 1024, "range": list(PUBLISHED_RANGE)}
