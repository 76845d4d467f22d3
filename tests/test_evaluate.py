"""`evaluate`: submissions and predictions against ratings of the test set, models on unseen shards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.conftest import Outcome
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder
from tests.test_scoring import Key, slow_map
from yt8m.data.candidates import load_candidates
from yt8m.data.frames import context_frames
from yt8m.data.index import Index, load_index, split_fold
from yt8m.data.reader import Frames, ShardReader
from yt8m.evaluate import build_parser, main
from yt8m.models.model_folders import load_segment_model, open_folder
from yt8m.ranking.submission import read_submission

Command = Callable[..., Outcome]
N_CLASSES = 5
WIDE = NEXTVLAD | {"fcn_dim": 64}  # so wide that not all units are dead before training
STARTS = (30, 35, 60)
ENTRY = st.sampled_from([f"{vid}:{start}" for vid in ("aB3-", "0012", "NA", "none") for start in (*STARTS, 5)])
RATINGS = st.dictionaries(
    st.tuples(st.sampled_from(["aB3-", "0012", "NA"]), st.sampled_from(STARTS), st.sampled_from([3, 7, 12])),
    st.integers(0, 1),
    min_size=1,
)


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a vocabulary and nothing else."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "segment_vocabulary.csv").write_text("Index,Name\n3,Three\n7,Seven\n12,Twelve\n", encoding="utf-8")
    return folder


def write_case(folder: Path, rated: dict[Key, int], lists: dict[int, list[str]]) -> None:
    """A truth table and a submission."""
    lines = [f"{vid},{start},{label},{score}" for (vid, start, label), score in rated.items()]
    (folder / "truth.csv").write_text("\n".join(["vid,start,label,score", *lines]) + "\n", encoding="utf-8")
    lines = [f"{label},{' '.join(segments)}" for label, segments in lists.items()]
    (folder / "sub.csv").write_text("\n".join(["Class,Segments", *lines]) + "\n", encoding="utf-8")


def evaluated(folder: Path, *options: object) -> dict:
    """What the command writes."""
    main(build_parser().parse_args(["--data-dir", str(folder), "--seed", "0", *map(str, options)]))
    return json.loads((folder / "cache" / "evaluation.json").read_text(encoding="utf-8"))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    RATINGS.filter(lambda rated: any(rated.values())),
    st.dictionaries(st.sampled_from([3, 7, 12, 99]), st.lists(ENTRY, max_size=20)),
    st.integers(1, 25),
)
def test_map_equals_its_definition(
    folder: Path, rated: dict[Key, int], lists: dict[int, list[str]], top_k: int
) -> None:
    listed = {entry.rpartition(":")[0] for entries in lists.values() for entry in entries}
    assume(not listed or listed & {video_id for video_id, _, _ in rated})  # else it is of another test set
    write_case(folder, rated, lists)
    document = evaluated(
        folder, "--truth", folder / "truth.csv", "--submission", folder / "sub.csv", "--top-k", top_k, "--resamples", 0
    )
    aps, mean = slow_map(rated, lists, top_k)
    (subject,) = document["subjects"]
    assert subject["name"] == "sub.csv"
    assert subject["map"] == pytest.approx(mean, rel=0, abs=1e-12)
    assert subject["duplicates"] == sum(len(own[:top_k]) - len(set(own[:top_k])) for own in lists.values())
    for row in document["classes"]:
        scores = [score for (_, _, label), score in rated.items() if label == row["label"]]
        assert (row["ratings"], row["positive"]) == (len(scores), sum(scores))
        assert (float("nan") if row["ap"][0] is None else row["ap"][0]) == pytest.approx(
            aps[row["label"]], rel=0, abs=1e-12, nan_ok=True
        )
    assert [row["label"] for row in document["classes"]] == sorted(aps)


def test_output_and_files(folder: Path, command: Command) -> None:
    write_case(
        folder,
        {("a", 30, 3): 1, ("a", 35, 3): 0, ("b", 30, 3): 1, ("b", 30, 7): 1, ("b", 35, 99): 1},
        {3: ["b:30", "b:30", "a:35", "x:5", "a:30"], 12: ["a:30"]},
    )
    outcome = command(
        "evaluate",
        "--data-dir",
        folder,
        "--truth",
        folder / "truth.csv",
        "--submission",
        folder / "sub.csv",
        "--output",
        folder / "deep" / "mine",
        "--resamples",
        50,
    )
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == f"5 ratings of {folder}/truth.csv (4 positive) in 2 videos; 3 classes with a positive rating"
    assert lines[2].split() == ["MAP@100000", "95", "%", "interval", "AUC", "class", "AUC", "precision", "recall"]
    ap = (1 + 2 / 3) / 2  # of class 3; 7 and 99 have no list
    assert lines[3].split()[:2] == ["sub.csv", f"{ap / 3:.4f}"]
    assert lines[3].endswith("2 rated classes are missing; 1 duplicates count once")
    assert lines[3].split().count("-") == 3 and lines[5].startswith("-: not defined; AUC, precision and recall need")
    assert "nan" not in outcome.out
    table = pd.read_csv(folder / "deep" / "mine.csv", keep_default_na=False)
    assert list(table.columns) == ["label", "name", "subject", "ratings", "positive", "ap", "auc"]
    own = table[table["subject"] == "sub.csv"]
    assert own["label"].tolist() == [3, 7, 99]
    assert own["name"].tolist() == ["Three", "Seven", "(not in the vocabulary)"]
    assert own["ratings"].tolist() == [3, 1, 1] and own["positive"].tolist() == [2, 1, 1]
    ratings = pd.read_csv(folder / "deep" / "mine-ratings.csv", dtype={"vid": str})
    assert ratings[["vid", "start", "label", "score"]].values.tolist() == [
        ["a", 30, 3, 1],
        ["a", 35, 3, 0],
        ["b", 30, 3, 1],
        ["b", 30, 7, 1],
        ["b", 35, 99, 1],
    ]
    document = json.loads((folder / "deep" / "mine.json").read_text(encoding="utf-8"))
    (subject,) = document["subjects"]
    assert subject["map_low"] <= subject["map"] <= subject["map_high"]
    ranks = {row["rank"]: row for row in subject["at_ranks"]}
    assert list(ranks) == [1, 10, 100, 1000, 10000, 100000]
    assert ranks[1]["taken"] == 1 and ranks[1]["precision"] == 1 and ranks[1]["recall"] == 0.25
    assert ranks[10]["taken"] == 3 and ranks[10]["recall"] == 0.5


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--truth", "T", "--submission", "missing.csv"], "missing.csv: cannot be read as a submission"),
        (["--truth", "missing.csv", "--submission", "S"], "missing.csv: no such file"),
        (["--truth", "T"], "test_meta.npz: no test metadata"),
        (["--fold", "0", "--submission", "S"], "--submission: needs --truth"),
        (["--out-of-fold", "a", "--video-labels", "T"], "--video-labels: needs --truth"),
        (["--truth", "T", "--model-dir", "x"], "--model-dir: --truth measures existing predictions"),
        (["--truth", "T", "--submission", "S", "--include-trained"], "--include-trained: needs --fold"),
        (["--out-of-fold", "a", "--model-names", "b"], "--model-names: --out-of-fold names the models already"),
        (["--truth", "negative.csv", "--submission", "S"], "negative.csv: none of 1 ratings is positive"),
        (
            ["--truth", "other.csv", "--submission", "S"],
            "sub.csv: none of its 1 entries is in one of the 1 rated videos, such as b;",
        ),
        (["--fold", "8"], "argument --fold: invalid choice"),
        ([], "one of the arguments --truth --fold --out-of-fold is required"),
        (["--fold", "0"], "segment/train: no such folder"),
    ],
)
def test_mistakes(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], problem: str
) -> None:
    write_case(folder, {("a", 30, 3): 1}, {3: ["a:30"]})
    (folder / "negative.csv").write_text("vid,start,label,score\na,30,3,0\n", encoding="utf-8")
    (folder / "other.csv").write_text("vid,start,label,score\nb,30,3,1\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    names = {"T": "truth.csv", "S": "sub.csv"}
    outcome = command("evaluate", "--data-dir", folder, *(names.get(option, option) for option in options))
    assert outcome.status == 2
    assert problem in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


# --- predictions of test segments ----------------------------------------------------------------------


@pytest.fixture(name="predicted_dir")
def fixture_predicted_dir(data_dir: Path, command: Command) -> Path:
    """A data folder with two untrained models, and their predictions of the test segments."""
    agnostic_folder(data_dir / "cache" / "segment" / "dbof_0", DBOF, data_dir)
    aware_folder(data_dir / "cache" / "segment" / "both_1", DBOF, NEXTVLAD, data_dir)
    for module in ("prepare_test_meta", "inference_memmap"):
        assert command(module, "--data-dir", data_dir).status == 0
    return data_dir


@pytest.mark.parametrize("change", ["videos", "starts", "labels"])
def test_a_truth_that_is_not_of_this_test_set_is_refused(predicted_dir: Path, command: Command, change: str) -> None:
    truth = pd.read_csv(predicted_dir / "truth.csv", dtype={"vid": str}, keep_default_na=False)
    if change == "videos":
        truth["vid"] += "x"
    elif change == "starts":
        truth["start"] += 100_000
    else:
        truth["label"] += 1_000_000
    truth.to_csv(predicted_dir / "other.csv", index=False)
    outcome = command("evaluate", "--data-dir", predicted_dir, "--truth", predicted_dir / "other.csv")
    assert outcome.status == 2 and f"none of the {len(truth)} ratings is of a candidate segment" in outcome.err
    assert not (predicted_dir / "cache" / "evaluation.json").exists()


@pytest.mark.parametrize("top_k", [4, 100_000])
def test_predictions_score_as_their_submission_does(predicted_dir: Path, command: Command, top_k: int) -> None:
    how = "--data-dir", predicted_dir, "--top-k", top_k, "--seed", 7
    truth = "--truth", predicted_dir / "truth.csv"
    assert command("create_submission_from_memmaps", *how, "--output", predicted_dir / "sub.csv").status == 0
    assert command("evaluate", *how, *truth).status == 0
    document = json.loads((predicted_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    subjects = {subject["name"]: subject for subject in document["subjects"]}
    assert list(subjects) == ["random order", "both_1", "dbof_0", "ensemble", "best weights"]
    assert command("evaluate", *how, *truth, "--submission", predicted_dir / "sub.csv").status == 0
    document = json.loads((predicted_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    assert [subject["name"] for subject in document["subjects"]] == ["random order", "sub.csv"]
    assert document["subjects"][0] == subjects["random order"]
    for key in ("map", "map_low", "map_high", "class_auc", "listed"):
        assert document["subjects"][1][key] == subjects["ensemble"][key]


def test_probabilities_of_predictions(predicted_dir: Path, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    truth = pd.read_csv(predicted_dir / "truth.csv", dtype={"vid": str}, keep_default_na=False)
    outside = pd.DataFrame({"vid": ["none"], "start": [30], "label": truth["label"].iloc[:1], "score": [1]})
    pd.concat([truth, outside]).to_csv(predicted_dir / "more.csv", index=False)
    outcome = command(
        "evaluate",
        "--data-dir",
        predicted_dir,
        "--truth",
        predicted_dir / "more.csv",
        "--model-names",
        "dbof_0",
        "both_1",
    )
    assert outcome.status == 0, outcome.err
    assert f"1 of {len(truth) + 1} ratings are of segments" in caplog.text and "they are not ranked" in caplog.text
    table = pd.read_csv(
        predicted_dir / "cache" / "evaluation-ratings.csv",
        dtype={"vid": str},
        keep_default_na=False,
        na_values={name: [""] for name in ("dbof_0", "both_1", "ensemble")},
    )
    rows = {
        segment: row for row, segment in enumerate(load_candidates(predicted_dir / "cache").row_names().astype(str))
    }
    labels = pd.read_csv(predicted_dir / "segment_vocabulary.csv")["Index"].tolist()
    maps = {name: np.load(predicted_dir / "cache" / "predictions" / f"{name}.npy") for name in ("dbof_0", "both_1")}
    assert len(table) == len(truth) + 1
    for rating in table.itertuples():
        row = rows.get(f"{rating.vid}:{rating.start}")
        values = [np.nan if row is None else maps[name][row, labels.index(rating.label)] / 9999 for name in maps]
        assert [rating.dbof_0, rating.both_1, rating.ensemble] == pytest.approx([*values, sum(values) / 2], nan_ok=True)
    document = json.loads((predicted_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    model = next(subject for subject in document["subjects"] if subject["name"] == "dbof_0")
    table = table.dropna()  # what is not predicted is last in the lists, but has no probability
    assert len(table) == len(truth)
    assert model["auc"] == pytest.approx(roc_auc_score(table["score"], table["dbof_0"]))
    assert sum(row["ratings"] for row in model["calibration"]) == len(table)


# --- rated shards ----------------------------------------------------------------------------------------


def trained_without(folder: Path, index: Index, fold: object) -> Path:
    """Say of a model's folder which fold its training held out."""
    (folder / "run.json").write_text(json.dumps({"fold": fold, "segment/train": index.digest}), encoding="utf-8")
    return folder


@pytest.fixture(name="rated_dir")
def fixture_rated_dir(data_dir: Path) -> Path:
    """A data folder whose models held out fold 2 (two of them), fold 3, none, and who knows what."""
    models, index = data_dir / "cache" / "segment", load_index(data_dir / "segment" / "train", data_dir / "cache")
    trained_without(agnostic_folder(models / "dbof_2", DBOF, data_dir, seed=1), index, 2)
    trained_without(aware_folder(models / "both_2", DBOF, NEXTVLAD, data_dir, seed=2), index, 2)
    trained_without(agnostic_folder(models / "dbof_3", DBOF, data_dir, seed=3), index, 3)
    trained_without(agnostic_folder(models / "full_none", DBOF, data_dir, seed=4), index, "none")
    agnostic_folder(models / "old_2", DBOF, data_dir, seed=5)
    return data_dir


def literal_probabilities(data_dir: Path, name: str, table: pd.DataFrame) -> list[float]:
    """What a model says of each rating of a table, one at a time."""
    index = load_index(data_dir / "segment" / "train", data_dir / "cache")
    records = {video_id.decode(): record for record, video_id in enumerate(index.video_id.tolist())}
    labels = pd.read_csv(data_dir / "segment_vocabulary.csv")["Index"].tolist()
    model = load_segment_model(open_folder(data_dir / "cache" / "segment" / name)).eval()
    reader = ShardReader(index)
    results = []
    for rating in table.itertuples():
        record = records[rating.vid]
        n_frames = int(index.n_frames[record])
        frames = np.empty((n_frames, reader.frame_dim), np.uint8)
        reader.read([Frames(record, slice(0, n_frames), frames)])
        padded = np.concatenate(
            [np.zeros((3, reader.frame_dim), np.uint8), frames, np.zeros((8, reader.frame_dim), np.uint8)]
        )
        segment = torch.from_numpy(padded[rating.start : rating.start + 11])[None]
        context = ()
        if model.needs_context:
            context = torch.from_numpy(frames[slice(*context_frames(n_frames))])[None], None, torch.tensor([0])
        with torch.inference_mode():
            results.append(float(model(segment, *context)[0, labels.index(rating.label)].sigmoid()))
    return results


def test_models_are_measured_on_what_they_have_not_seen(
    rated_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2, "--batch-size", 7)
    assert outcome.status == 0, outcome.err
    for name, reason in (
        ("dbof_3", "was trained on all shards except fold 3"),
        ("full_none", "was trained on all shards"),
        ("old_2", "it is not known which shards it was trained on"),
    ):
        line = next(line for line in caplog.text.splitlines() if f"/{name}:" in line)
        assert reason in line and "left out" in line and "--include-trained" in line
    document = json.loads((rated_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    names = [subject["name"] for subject in document["subjects"]]
    assert names == ["random order", "video labels only", "both_2", "dbof_2", "ensemble", "best weights"]
    assert {subject["note"] for subject in document["subjects"][2:-1]} == {
        "not trained on these shards, though its checkpoint may have been chosen on them"
    }
    table = pd.read_csv(rated_dir / "cache" / "evaluation-ratings.csv", dtype={"vid": str}, keep_default_na=False)
    index = load_index(rated_dir / "segment" / "train", rated_dir / "cache")
    owners = index.owners(index.rating_ends)
    of_fold = np.isin(index.shard[owners], split_fold(index, 2)[1])
    expected = {
        (index.video_id[owner].decode(), start, label): int(score)
        for owner, start, label, score in zip(
            owners[of_fold], index.rating_start[of_fold], index.rating_label[of_fold], index.rating_score[of_fold]
        )
    }
    assert {(row.vid, row.start, row.label): row.score for row in table.itertuples()} == expected
    for name in ("both_2", "dbof_2"):
        np.testing.assert_allclose(table[name], literal_probabilities(rated_dir, name, table), atol=1e-5)
    np.testing.assert_allclose(table["ensemble"], table[["both_2", "dbof_2"]].mean(axis=1), atol=1e-6)
    lists = {
        label: [f"{row.vid}:{row.start}" for row in own.sort_values("ensemble", ascending=False).itertuples()]
        for label, own in table.groupby("label")
    }
    _, literal = slow_map(expected, lists, 100_000)
    assert document["subjects"][4]["map"] == pytest.approx(literal, rel=0, abs=1e-12)


def test_damaged_videos_are_left_out_when_told_so(
    rated_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    index = load_index(rated_dir / "segment" / "train", rated_dir / "cache")
    rated = np.flatnonzero(np.diff(index.rating_ends, prepend=0) > 0)
    record = next(row for row in rated if index.shard[row] in split_fold(index, 2)[1])
    path = index.path(record)
    content = bytearray(path.read_bytes())
    frame = np.empty((1, ShardReader(index).frame_dim), np.uint8)
    ShardReader(index).read([Frames(record, slice(1, 2), frame)])
    content[content.index(frame[0, : index.rgb_width[record]].tobytes()) + 5] ^= 4  # length and layout stay right
    path.write_bytes(content)
    call = "evaluate", "--data-dir", rated_dir, "--fold", 2
    whole = [row["ratings"] for row in evaluated_table(command, rated_dir, call)]
    outcome = command(*call, "--on-error", "skip")
    assert outcome.status == 0 and "are of damaged videos" in caplog.text and "checksum mismatch" in caplog.text
    table = pd.read_csv(rated_dir / "cache" / "evaluation-ratings.csv", dtype={"vid": str}, keep_default_na=False)
    assert index.video_id[record].decode() not in set(table["vid"])
    n_ratings = int(np.diff(index.rating_ends, prepend=0)[record])
    assert sum(whole) - len(table) == n_ratings > 0


def evaluated_table(command: Command, data_dir: Path, call: tuple[object, ...]) -> list[dict]:
    """The classes of an evaluation."""
    assert command(*call).status == 0
    return json.loads((data_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))["classes"]


def test_other_models_are_measured_when_told_so_and_marked(
    rated_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2, "--include-trained", "--resamples", 0)
    assert outcome.status == 0, outcome.err
    assert caplog.text.count("measured anyway") == 3
    document = json.loads((rated_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    notes = {subject["name"]: subject["note"] for subject in document["subjects"][2:]}
    marked = [name for name, note in notes.items() if "TRAINED ON" in note]
    assert marked == ["dbof_3", "full_none", "old_2", "ensemble"]
    assert document["subjects"][0]["map_low"] is None  # no resamples, no interval


def test_no_model_is_left_to_measure(rated_dir: Path, command: Command) -> None:
    before = sorted(path for path in (rated_dir / "cache").iterdir() if path.is_file())
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 5)
    assert outcome.status == 2
    assert "none of 5 models is known to have been trained without the shards of fold 5" in outcome.err
    assert sorted(path for path in (rated_dir / "cache").iterdir() if path.is_file()) == before


def test_a_model_of_other_shards_is_unknown(
    rated_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(
        rated_dir / "segment" / "train" / "validate0000.tfrecord",
        rated_dir / "segment" / "train" / "validate9999.tfrecord",
    )
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2, "--model-names", "dbof_2")
    assert outcome.status == 2
    assert f"was trained when {rated_dir}/segment/train held other shards" in caplog.text


def test_out_of_fold(rated_dir: Path, command: Command) -> None:
    models, index = rated_dir / "cache" / "segment", load_index(rated_dir / "segment" / "train", rated_dir / "cache")
    for fold in range(8):
        trained_without(agnostic_folder(models / f"cv_{fold}", WIDE, rated_dir, seed=10 + fold), index, fold)
    outcome = command("evaluate", "--data-dir", rated_dir, "--out-of-fold", "cv", "--output", rated_dir / "oof")
    assert outcome.status == 0, outcome.err
    table = pd.read_csv(rated_dir / "oof-ratings.csv", dtype={"vid": str}, keep_default_na=False)
    shards = {video_id.decode(): shard for video_id, shard in zip(index.video_id.tolist(), index.shard.tolist())}
    assert len(table) == len(index.rating_label)
    for fold, own in table.groupby("fold"):
        assert {shards[vid] for vid in own["vid"]} <= set(split_fold(index, fold)[1].tolist())
        np.testing.assert_allclose(own["cv"], literal_probabilities(rated_dir, f"cv_{fold}", own), atol=1e-5)
    document = json.loads((rated_dir / "oof.json").read_text(encoding="utf-8"))
    row = next(row for row in document["folds"] if row["subject"] == "cv" and row["measure"] == "MAP")
    assert row["folds"] == sorted(table["fold"].unique())
    folds = dict(zip(row["folds"], row["values"]))
    for fold, own in table.groupby("fold"):
        lists = {
            label: [f"{row.vid}:{row.start}" for row in part.sort_values("cv", ascending=False).itertuples()]
            for label, part in own.groupby("label")
        }
        rated = {(row.vid, row.start, row.label): row.score for row in own.itertuples()}
        assert own.groupby(["label", "cv"])["score"].nunique().max() == 1  # no order that would have to be drawn
        assert folds[fold] == pytest.approx(slow_map(rated, lists, 10**9)[1], rel=0, abs=1e-12)
    lines = outcome.out.splitlines()
    header = next(line for line in lines if "fold 0" in line)
    assert header.split()[-3:] == ["mean", "std.", "deviation"]
    values = row["values"]
    assert [row["mean"], row["deviation"]] == pytest.approx([np.mean(values), np.std(values, ddof=1)])
    own = next(line for line in lines if line.startswith("cv") and " MAP " in line).split()
    assert "-: not defined" in outcome.out and " nan" not in outcome.out
    assert own[2:] == [*(f"{value:.4f}" for value in values), f"{np.mean(values):.4f}", f"{np.std(values, ddof=1):.4f}"]


def test_out_of_fold_refuses_a_model_that_has_seen_the_fold(rated_dir: Path, command: Command) -> None:
    models, index = rated_dir / "cache" / "segment", load_index(rated_dir / "segment" / "train", rated_dir / "cache")
    for fold in range(8):
        trained_without(agnostic_folder(models / f"cv_{fold}", DBOF, rated_dir), index, 1 if fold == 4 else fold)
    outcome = command("evaluate", "--data-dir", rated_dir, "--out-of-fold", "cv")
    assert outcome.status == 2
    assert f"{models}/cv_4: was trained on all shards except fold 1" in outcome.err
    shutil.rmtree(models / "cv_4")
    outcome = command("evaluate", "--data-dir", rated_dir, "--out-of-fold", "cv")
    assert outcome.status == 2 and f"{models}/cv_4: no such model folder" in outcome.err


def test_a_model_that_predicts_nan_is_named(rated_dir: Path, command: Command) -> None:
    weights = rated_dir / "cache" / "segment" / "dbof_2" / "model.pth"
    state = torch.load(weights, weights_only=True)
    torch.save(
        {name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()}, weights
    )
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2)
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert f"{weights.parent}: predicts values that are not numbers" in outcome.err


def test_videos_with_a_duplicate_id_do_not_count(
    rated_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    folder = rated_dir / "segment" / "train"
    shards = sorted(path.name for path in folder.glob("*.tfrecord"))
    index = load_index(folder, rated_dir / "cache")
    inside, outside = (shards[rows[0]] for rows in reversed(split_fold(index, 2)))
    (folder / outside).write_bytes((folder / inside).read_bytes())
    index = load_index(folder, rated_dir / "cache")
    trained_without(rated_dir / "cache" / "segment" / "dbof_2", index, 2)
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2, "--model-names", "dbof_2")
    gone = {video_id.decode() for video_id in index.video_id[index.shard == shards.index(inside)].tolist()}
    if outcome.status == 0:
        table = pd.read_csv(rated_dir / "cache" / "evaluation-ratings.csv", dtype={"vid": str}, keep_default_na=False)
        assert not set(table["vid"]) & gone
    else:  # they were all that the fold has
        assert "no rating is left to measure with" in outcome.err
    assert "are of videos whose id several records share" in caplog.text


@pytest.mark.parametrize("name", ["score", "ensemble", "random order", "best weights"])
def test_a_name_that_means_something_else_is_refused(rated_dir: Path, command: Command, name: str) -> None:
    models = rated_dir / "cache" / "segment"
    (models / "dbof_2").rename(models / name)
    outcome = command("evaluate", "--data-dir", rated_dir, "--fold", 2, "--model-names", name, "both_2")
    assert outcome.status == 2 and f"{name}: cannot be evaluated under this name" in outcome.err


def test_k_counts_on_rated_shards_too(rated_dir: Path, command: Command) -> None:
    for top_k in (1, 3, 100_000):
        assert (
            command(
                "evaluate",
                "--data-dir",
                rated_dir,
                "--fold",
                2,
                "--model-names",
                "both_2",
                "--top-k",
                top_k,
                "--resamples",
                0,
            ).status
            == 0
        )
        document = json.loads((rated_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
        subject = document["subjects"][2]
        table = pd.read_csv(rated_dir / "cache" / "evaluation-ratings.csv", dtype={"vid": str}, keep_default_na=False)
        lists = {
            label: [f"{row.vid}:{row.start}" for row in own.sort_values("both_2", ascending=False).itertuples()]
            for label, own in table.groupby("label")
        }
        rated = {(row.vid, row.start, row.label): row.score for row in table.itertuples()}
        assert subject["map"] == pytest.approx(slow_map(rated, lists, top_k)[1], rel=0, abs=1e-12)
        assert subject["listed"] == sum(min(top_k, len(segments)) for segments in lists.values())


def test_the_baselines_are_lists_of_all_candidates(predicted_dir: Path, command: Command) -> None:
    how = (
        "--data-dir",
        predicted_dir,
        "--truth",
        predicted_dir / "truth.csv",
        "--model-names",
        "dbof_0",
        "--video-labels",
        predicted_dir / "test_labels.csv",
    )
    n_rows = load_candidates(predicted_dir / "cache").n_rows
    listed = {}
    for top_k in (n_rows // 2, n_rows):
        assert command("evaluate", *how, "--top-k", top_k).status == 0
        document = json.loads((predicted_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
        listed[top_k] = [subject["listed"] for subject in document["subjects"][:2]]
    assert listed[n_rows] == [document["ratings"]] * 2
    share = listed[n_rows // 2][0] / document["ratings"]
    assert 0.3 < share < 0.7  # half of the candidates are listed, and so is about half of the rated ones


def test_an_evaluation_of_a_submission_needs_no_models(data_dir: Path, command: Command) -> None:
    truth = pd.read_csv(data_dir / "truth.csv", dtype={"vid": str}, keep_default_na=False)
    positive = truth[truth["score"] == 1]
    lists = {label: [f"{row.vid}:{row.start}" for row in own.itertuples()] for label, own in positive.groupby("label")}
    write_case(data_dir, {(row.vid, row.start, row.label): row.score for row in truth.itertuples()}, lists)
    assert dict(read_submission(data_dir / "sub.csv")) == lists
    outcome = command(
        "evaluate", "--data-dir", data_dir, "--truth", data_dir / "truth.csv", "--submission", data_dir / "sub.csv"
    )
    assert outcome.status == 0
    document = json.loads((data_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["subjects"][0]["map"] == 1
