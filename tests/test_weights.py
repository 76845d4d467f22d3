"""The best weights of an ensemble: search by `evaluate`, and use by `--weights auto`."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.small_models import DBOF, agnostic_folder
from tests.test_evaluate import evaluated, trained_without
from tests.test_scoring import KEYS, Key, keys_of, ratings_from, slow_map
from yt8m.data.candidates import Candidates, load_candidates, save_candidates
from yt8m.data.index import load_index
from yt8m.data.vocabulary import load_vocabulary
from yt8m.ranking.fusion import weights_text
from yt8m.scoring import weights as searching
from yt8m.scoring.mean_average_precision import Ranking, places_by_score, resampled_maps
from yt8m.scoring.weights import best_weights

Command = Callable[..., Outcome]


def lists_by(keys: Sequence[Key], scores: Sequence[float]) -> dict[int, list[str]]:
    """The segments of each class by falling score; those without a score are not listed."""
    lists: dict[int, list[str]] = {}
    known = [(-score, key) for key, score in zip(keys, scores) if not math.isnan(score)]
    for _, (vid, start, label) in sorted(known):
        lists.setdefault(label, []).append(f"{vid}:{start}")
    return lists


def slow_search(rated: dict[Key, int], keys: list[Key], probabilities: np.ndarray, top_k: int, steps: int) -> list[int]:
    """Ensemble selection, literally: every weighted mean is a list, scored by the definition of MAP."""

    def measure(weights: list[int]) -> float:
        means = [sum(weight * p for weight, p in zip(weights, own)) for own in probabilities.T]
        return round(slow_map(rated, lists_by(keys, means), top_k)[1], 12)

    n_models = len(probabilities)
    best = [1] * n_models
    best_map = measure(best)
    for weights in ([0] * n_models, [1] * n_models):
        for _ in range(steps):
            more = [[weight + (number == add) for number, weight in enumerate(weights)] for add in range(n_models)]
            maps = [measure(candidate) for candidate in more]
            weights = more[maps.index(max(maps))]
            if max(maps) > best_map:
                best, best_map = weights, max(maps)
    return [weight // math.gcd(*best) for weight in best]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.sampled_from([None, 0, 1]), min_size=len(KEYS), max_size=len(KEYS)).filter(any),
    st.integers(2, 4),
    st.integers(1, 10),
    st.floats(0, 0.3),
    st.integers(0, 2**32 - 1),
)
def test_the_search_is_a_greedy_selection_by_the_definition_of_map(
    scores: list[int | None], n_models: int, top_k: int, unknown: float, seed: int
) -> None:
    rated = {key: score for key, score in zip(KEYS, scores) if score is not None}
    ratings, rng = ratings_from(rated), np.random.default_rng(seed)
    probabilities = rng.random((n_models, len(ratings)))
    probabilities[:, rng.random(len(ratings)) < unknown] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "STEPS", 4)
        found = best_weights(ratings, probabilities, top_k, seed)
    for part, weights in (
        (np.ones(len(ratings), bool), found.on_all),
        (found.in_first, found.on_halves[0]),
        (~found.in_first, found.on_halves[1]),
    ):
        keys = [key for key, chosen in zip(keys_of(ratings), part) if chosen]
        own = {key: rated[key] for key in keys}
        if any(own.values()):
            assert weights == slow_search(own, keys, probabilities[:, part], top_k, 4)
        else:
            assert weights == [1] * n_models  # nothing says otherwise
    n_videos = len({vid for vid, _, _ in rated})
    first = {vid for (vid, _, _), chosen in zip(keys_of(ratings), found.in_first) if chosen}
    assert len(first) == -(-n_videos // 2)
    assert not first & {vid for (vid, _, _), chosen in zip(keys_of(ratings), found.in_first) if not chosen}


@pytest.mark.parametrize("start", [0, 1])
def test_a_model_that_knows_everything_gets_all_the_weight_that_matters(start: int) -> None:
    rng = np.random.default_rng(start)
    ratings = ratings_from(
        {(f"v{video}", 30, label): int(rng.random() < 0.4) for video in range(40) for label in (1, 2)}
    )
    sure = np.where(ratings.positive, 0.6, 0.4)
    noise = rng.random((2, len(ratings)))
    found = best_weights(ratings, np.stack([noise[0], sure, noise[1]]), 100, 0)
    for weights in (found.on_all, *found.on_halves):
        fused = np.average(np.stack([noise[0], sure, noise[1]]), axis=0, weights=weights)
        assert Ranking(ratings, places_by_score(ratings, fused, 100, 0)).mean_average_precision() == 1


def test_equal_models_keep_the_plain_mean() -> None:
    ratings = ratings_from({(f"v{video}", 30, 1): video % 2 for video in range(10)})
    own = np.random.default_rng(0).random(10)
    assert best_weights(ratings, np.stack([own, own, own]), 10, 0).on_all == [1, 1, 1]


def test_weights_are_read_the_heaviest_first() -> None:
    assert weights_text(["a", "b", "c", "d"], [1, 3, 0, 0.5]) == "3 b, 1 a, 0.5 d"


# --- predictions of test segments ----------------------------------------------------------------------

N_VIDEOS, N_SEGMENTS = 40, 3
LABELS = (3, 7)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    """A data folder with predictions of three models, of which "good" is better than their mean, and ratings of all
    segments."""
    (tmp_path / "segment_vocabulary.csv").write_text("Index,Name\n3,Three\n7,Seven\n", encoding="utf-8")
    ids = np.array([f"v{number:03d}" for number in range(N_VIDEOS)], np.bytes_)
    candidates = Candidates(np.arange(N_VIDEOS), ids, N_SEGMENTS * np.arange(1, N_VIDEOS + 1))
    save_candidates(candidates, tmp_path / "cache")
    rng = np.random.default_rng(4)
    positive = rng.random((candidates.n_rows, len(LABELS))) < 0.4
    for name, noise in (("poor_0", 4.0), ("good_1", 0.9), ("fair_2", 1.5)):
        logits = np.where(positive, 1, -1) + rng.normal(0, noise, positive.shape)
        write_predictions(tmp_path, name, np.rint(9999 / (1 + np.exp(-logits))).astype(np.int16))
    rows = [
        f"{segment.rpartition(':')[0]},{segment.rpartition(':')[2]},{label},{int(positive[row, column])}"
        for row, segment in enumerate(candidates.row_names().astype(str).tolist())
        for column, label in enumerate(LABELS)
    ]
    (tmp_path / "truth.csv").write_text("\n".join(["vid,start,label,score", *rows]) + "\n", encoding="utf-8")
    return tmp_path


def write_predictions(folder: Path, name: str, values: np.ndarray, model: str = "first") -> None:
    """A prediction file and what it was made from."""
    path = folder / "cache" / "predictions" / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
    candidates, vocabulary = load_candidates(folder / "cache"), load_vocabulary(folder)
    origin = {"test_meta": candidates.digest, "vocabulary": vocabulary.digest, "model": f"{name}, {model}"}
    path.with_suffix(".json").write_text(json.dumps(origin), encoding="utf-8")


def by_name(document: dict) -> dict[str, dict]:
    """The subjects of an evaluation."""
    return {subject["name"]: subject for subject in document["subjects"]}


def table_of(folder: Path, prefix: str = "evaluation") -> pd.DataFrame:
    """The ratings that an evaluation has written."""
    return pd.read_csv(folder / "cache" / f"{prefix}-ratings.csv", dtype={"vid": str}, keep_default_na=False)


def rated_of(table: pd.DataFrame) -> dict[Key, int]:
    """Ratings by segment and label."""
    return {(row.vid, row.start, row.label): row.score for row in table.itertuples()}


@pytest.mark.parametrize("top_k", [25, 100_000])
def test_the_row_of_the_best_weights_is_cross_fitted(folder: Path, top_k: int) -> None:
    document = evaluated(folder, "--truth", folder / "truth.csv", "--top-k", top_k, "--resamples", 0)
    assert list(by_name(document)) == ["random order", "fair_2", "good_1", "poor_0", "ensemble", "best weights"]
    found, names = document["weights"], ["fair_2", "good_1", "poor_0"]
    assert list(found["models"]) == names and not found["out_of_fold"]
    assert found["digests"] == {name: f"{name}, first" for name in names}
    table = table_of(folder)
    rated, keys = rated_of(table), list(rated_of(table))
    probabilities = np.stack([table[name].to_numpy() for name in names])
    steps = searching.STEPS
    assert list(found["models"].values()) == slow_search(rated, keys, probabilities, 10**9, steps)
    means = [np.average(probabilities, axis=0, weights=list(half.values())) for half in found["halves"]]
    assert found["halves"][0] != found["halves"][1]
    # The half of a rating's video is the one whose weights were not used for it.
    own = table["best weights"].to_numpy()
    in_first = np.isclose(own, means[1], rtol=0, atol=1e-12) & ~np.isclose(own, means[0], rtol=0, atol=1e-12)
    halves = table.assign(first=in_first).groupby("vid")["first"].max()
    assert halves.sum() == N_VIDEOS / 2
    in_first = table["vid"].map(halves).to_numpy()
    np.testing.assert_allclose(own, np.where(in_first, means[1], means[0]), rtol=0, atol=1e-12)
    for number, part in enumerate((in_first, ~in_first)):
        chosen = [key for key, inside in zip(keys, part) if inside]
        assert list(found["halves"][number].values()) == slow_search(
            {key: rated[key] for key in chosen}, chosen, probabilities[:, part], 10**9, steps
        )
    # Either half is where the list of all segments by the other half's weights has it.
    places = [{}, {}]
    for number, scores in enumerate(means):
        for label, segments in lists_by(keys, scores.tolist()).items():
            places[number] |= {(segment, label): place for place, segment in enumerate(segments[:top_k])}
    crossed: dict[int, list[tuple[int, str]]] = {label: [] for label in LABELS}
    for (vid, start, label), first in zip(keys, in_first):
        place = places[1 if first else 0].get((f"{vid}:{start}", label))
        if place is not None:
            crossed[label].append((place, f"{vid}:{start}"))
    order = {f"{vid}:{start}": number for number, (vid, start, _) in enumerate(keys)}
    lists = {
        label: [segment for _, segment in sorted(pairs, key=lambda pair: (pair[0], order[pair[1]]))]
        for label, pairs in crossed.items()
    }
    assert by_name(document)["best weights"]["map"] == pytest.approx(slow_map(rated, lists, 10**9)[1], abs=1e-12)


def test_an_ensemble_below_its_best_member_is_told_with_an_interval(folder: Path, command: Command) -> None:
    outcome = command(
        "evaluate", "--data-dir", folder, "--truth", folder / "truth.csv", "--seed", 5, "--resamples", 200
    )
    assert outcome.status == 0, outcome.err
    document = json.loads((folder / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    table = table_of(folder)
    ratings = ratings_from(rated_of(table))
    order = {key: number for number, key in enumerate(rated_of(table))}
    sorted_rows = [order[key] for key in keys_of(ratings)]
    names = ["good_1", "ensemble"]
    rankings = [
        Ranking(ratings, places_by_score(ratings, table[name].to_numpy()[sorted_rows], 10**9, 0)) for name in names
    ]
    maps = resampled_maps(rankings, N_VIDEOS, 200, 5)
    low, high = np.percentile(maps[1] - maps[0], [2.5, 97.5])
    subjects = by_name(document)
    below, weighted = document["comparisons"]
    assert (below["subject"], below["other"]) == ("ensemble", "good_1")
    assert below["difference"] == subjects["ensemble"]["map"] - subjects["good_1"]["map"] < 0
    assert [below["difference_low"], below["difference_high"]] == pytest.approx([low, high])
    assert (weighted["subject"], weighted["other"]) == ("best weights", "ensemble")
    assert weighted["difference"] == subjects["best weights"]["map"] - subjects["ensemble"]["map"]
    assert weighted["difference_low"] < weighted["difference"] < weighted["difference_high"]
    lines = outcome.out.splitlines()
    interval = f"(95 % interval {low:+.4f} to {high:+.4f})"
    assert f"ensemble: below its best member, good_1, {below['difference']:+.4f} MAP {interval}" in lines
    (row, remark) = [line for line in lines if line.startswith("best weights")]
    assert row.endswith("; by cross-fitting") and weights_text(*zip(*document["weights"]["models"].items())) in row
    assert f"on the other half, {weighted['difference']:+.4f} MAP (95 % interval" in remark


def test_a_good_ensemble_gets_no_remark(folder: Path, command: Command) -> None:
    how = "--data-dir", folder, "--truth", folder / "truth.csv", "--resamples", 0
    outcome = command("evaluate", *how, "--model-names", "fair_2", "good_1")
    assert "below" not in outcome.out and "best weights" in outcome.out and "(95 % interval" not in outcome.out
    outcome = command("evaluate", *how, "--model-names", "good_1")
    assert outcome.status == 0 and "best weights" not in outcome.out
    document = json.loads((folder / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["weights"] is None and document["comparisons"] == []


# --- --weights auto --------------------------------------------------------------------------------------


def created(command: Command, folder: Path, *options: object) -> Outcome:
    """A submission with the weights that were found."""
    output = folder / "sub.csv"
    return command(
        "create_submission_from_memmaps", "--data-dir", folder, "--seed", 0, "--output", output, "--weights", *options
    )


def rewrite(path: Path, **changes: object) -> None:
    """Change what an evaluation says."""
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(document), encoding="utf-8")


def test_auto_takes_the_newest_weights_for_exactly_these_models(folder: Path, command: Command) -> None:
    how = "--data-dir", folder, "--truth", folder / "truth.csv", "--resamples", 0
    cache = folder / "cache"
    names = "fair_2", "good_1", "poor_0"
    assert command("evaluate", *how).status == 0
    found = json.loads((cache / "evaluation.json").read_text(encoding="utf-8"))
    weights = list(found["weights"]["models"].values())
    assert len(set(weights)) > 1
    outcome = created(command, folder, "auto")
    assert outcome.status == 0, outcome.err
    told = outcome.out.splitlines()[0]
    shown = weights_text(names, weights)
    assert told.startswith(f"--weights auto: {shown}, found in {cache}/evaluation.json on {folder}/truth.csv, 20")
    maps = {subject["kind"]: subject["map"] for subject in found["subjects"]}
    assert f"by cross-fitting MAP@100000 {maps['weighted']:.4f}, the plain mean {maps['ensemble']:.4f}" in told
    assert outcome.out.splitlines()[1].endswith(f"mean of {shown}")
    best = (folder / "sub.csv").read_bytes()
    assert created(command, folder, *weights, "--model-names", *names).status == 0
    assert (folder / "sub.csv").read_bytes() == best
    # In another order of the models, and with files beside it that are for others, older, or no evaluations at all.
    two = {**found["weights"], "models": {"good_1": 1, "fair_2": 5}}
    shutil.copy(cache / "evaluation.json", cache / "evaluation-two.json")
    rewrite(cache / "evaluation-two.json", weights=two, time="2999-01-01T00:00:00+00:00")
    shutil.copy(cache / "evaluation.json", cache / "cross-validation-old.json")
    old = {**found["weights"], "models": dict.fromkeys(names, 1)}
    rewrite(cache / "cross-validation-old.json", weights=old, time="2001-01-01T00:00:00+00:00")
    shutil.copy(cache / "evaluation.json", cache / "evaluation-none.json")
    rewrite(cache / "evaluation-none.json", weights=None, time="2999-01-01T00:00:00+00:00")
    (cache / "evaluation-odd.json").write_text("[]", encoding="utf-8")
    assert created(command, folder, "auto", "--model-names", *reversed(names)).status == 0
    assert (folder / "sub.csv").read_bytes() == best
    outcome = created(command, folder, "auto", "--model-names", "good_1", "fair_2")
    assert outcome.out.startswith(f"--weights auto: 5 fair_2, 1 good_1, found in {cache}/evaluation-two.json")
    rewrite(cache / "cross-validation-old.json", time="2998-01-01T00:00:00+00:00")
    assert "cross-validation-old.json on" in created(command, folder, "auto").out


def test_auto_refuses_weights_of_other_models(folder: Path, command: Command) -> None:
    outcome = created(command, folder, "auto")
    assert outcome.status == 2
    assert (
        f"--weights auto: no evaluation in {folder}/cache has found weights for exactly fair_2, good_1, poor_0; run "
        f"`python -m yt8m.evaluate --data-dir {folder} --truth RATINGS.csv --model-names fair_2 good_1 poor_0`, with "
        "ratings of test segments, since no rated shard is unseen by all of these models"
    ) in outcome.err
    assert command("evaluate", "--data-dir", folder, "--truth", folder / "truth.csv", "--resamples", 0).status == 0
    assert created(command, folder, "auto").status == 0
    before = (folder / "sub.csv").read_bytes()
    values = np.load(folder / "cache" / "predictions" / "good_1.npy")
    write_predictions(folder, "good_1", values, "trained anew")
    outcome = created(command, folder, "auto")
    assert outcome.status == 2 and "evaluation.json measured another good_1; run" in outcome.err
    assert "1 of" not in outcome.err and (folder / "sub.csv").read_bytes() == before
    (folder / "cache" / "predictions" / "good_1.json").unlink()  # nothing says that it is another
    assert created(command, folder, "auto").status == 0
    for options, problem in (
        (("auto", "--model-names", "good_1"), "--weights auto: there is only one model, good_1, which needs no weight"),
        (("auto", "--fusion", "rank"), "--weights auto: has weights only for --fusion mean, not for rank"),
        (("automatic",), "argument --weights: invalid number of at least 0, or auto value: 'automatic'"),
        (("-1",), "argument --weights"),
    ):
        outcome = created(command, folder, *options)
        assert outcome.status == 2 and problem in outcome.err


@pytest.mark.parametrize(
    "names, remedy",
    [
        (["a_3", "b_3"], "--fold 3 --model-names a_3 b_3`"),
        (
            ["a_3", "b_4"],
            "--truth RATINGS.csv --model-names a_3 b_4`, with ratings of test segments, since no rated shard",
        ),
        (["a", "b"], "--truth RATINGS.csv --model-names a b`"),
        (["a_none", "b_none"], "--out-of-fold a b`, each rated shard by the models that have not seen it"),
        ([f"{kind}_{fold}" for kind in "ab" for fold in range(8)], "--out-of-fold a b`, each rated shard by"),
        (
            [f"a_{fold}" for fold in range(8)],
            "--truth RATINGS.csv --model-names a_0 a_1 a_2 a_3 a_4 a_5 a_6 a_7`, with",
        ),
    ],
)
def test_the_remedy_fits_the_folds_of_the_models(names: list[str], remedy: str, folder: Path, command: Command) -> None:
    for name in names:
        shutil.copy(folder / "cache" / "predictions" / "good_1.npy", folder / "cache" / "predictions" / f"{name}.npy")
    outcome = created(command, folder, "auto", "--model-names", *names)
    assert outcome.status == 2
    assert f"run `python -m yt8m.evaluate --data-dir {folder} {remedy}" in outcome.err.splitlines()[-1]


# --- rated shards ----------------------------------------------------------------------------------------


def test_weights_of_models_that_held_out_the_same_fold(data_dir: Path, command: Command) -> None:
    models, index = data_dir / "cache" / "segment", load_index(data_dir / "segment" / "train", data_dir / "cache")
    for seed, name in enumerate(("a_2", "b_2")):
        trained_without(agnostic_folder(models / name, DBOF, data_dir, seed=seed), index, 2)
    trained_without(agnostic_folder(models / "c_3", DBOF, data_dir, seed=7), index, 3)
    for module in ("prepare_test_meta", "inference_memmap"):
        assert command(module, "--data-dir", data_dir).status == 0
    document = evaluated(data_dir, "--fold", 2, "--resamples", 0)
    assert list(document["weights"]["models"]) == ["a_2", "b_2"]
    outcome = created(command, data_dir, "auto", "--model-names", "a_2", "b_2")
    assert outcome.status == 0, outcome.err
    assert f"on fold 2 of {data_dir}/segment/train" in outcome.out
    outcome = created(command, data_dir, "auto")
    assert outcome.status == 2 and "for exactly a_2, b_2, c_3; run" in outcome.err
    agnostic_folder(models / "b_2", DBOF, data_dir, seed=9)
    assert command("inference_memmap", "--data-dir", data_dir).status == 0
    outcome = created(command, data_dir, "auto", "--model-names", "a_2", "b_2")
    assert outcome.status == 2 and "evaluation.json measured another b_2" in outcome.err


def test_no_weights_are_found_on_what_a_model_was_trained_on(
    data_dir: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    models, index = data_dir / "cache" / "segment", load_index(data_dir / "segment" / "train", data_dir / "cache")
    for name, fold in (("a_2", 2), ("b_3", 3)):
        trained_without(agnostic_folder(models / name, DBOF, data_dir, seed=fold), index, fold)
    outcome = command("evaluate", "--data-dir", data_dir, "--fold", 2, "--include-trained", "--resamples", 0)
    assert outcome.status == 0 and "best weights" not in outcome.out
    assert (
        "no weights are searched for: some of the models were, or may have been, trained on these shards" in caplog.text
    )
    document = json.loads((data_dir / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["weights"] is None and document["subjects"][-1]["name"] == "ensemble"


def test_weights_of_kinds_of_models_found_out_of_fold(data_dir: Path, command: Command) -> None:
    models, index = data_dir / "cache" / "segment", load_index(data_dir / "segment" / "train", data_dir / "cache")
    for fold in range(8):
        for seed, kind in enumerate(("x-cv", "y-cv")):
            trained_without(
                agnostic_folder(models / f"{kind}_{fold}", DBOF, data_dir, seed=10 * seed + fold), index, fold
            )
    cache = data_dir / "cache"
    options = "--out-of-fold", "x-cv", "y-cv", "--resamples", 0, "--output", cache / "cross-validation-both"
    outcome = command("evaluate", "--data-dir", data_dir, *options)
    assert outcome.status == 0, outcome.err
    path = cache / "cross-validation-both.json"
    found = json.loads(path.read_text(encoding="utf-8"))["weights"]
    assert list(found["models"]) == ["x-cv", "y-cv"] and found["out_of_fold"]
    assert set(found["digests"]) == {f"{kind}_{fold}" for kind in ("x-cv", "y-cv") for fold in range(8)}
    table = table_of(data_dir, "cross-validation-both")
    literal = slow_search(
        rated_of(table), list(rated_of(table)), table[["x-cv", "y-cv"]].to_numpy().T, 10**9, searching.STEPS
    )
    assert list(found["models"].values()) == literal
    assert any(line.split()[:3] == ["best", "weights", "MAP"] for line in outcome.out.splitlines())  # fold by fold
    assert command("prepare_test_meta", "--data-dir", data_dir).status == 0
    (cache / "predictions").mkdir()
    n_rows = load_candidates(cache).n_rows
    rewrite(path, weights={**found, "models": {"x-cv": 3, "y-cv": 2}})
    for name in ("x-cv_0", "x-cv_1", "x-cv_none", "y-cv_none", "y-cv_5", "y-cv"):
        np.save(cache / "predictions" / f"{name}.npy", np.zeros((n_rows, 5), np.int16))
    for names, shown in (
        (["x-cv_none", "y-cv_none"], "3 x-cv_none, 2 y-cv_none"),
        (["x-cv_0", "x-cv_1", "y-cv_5"], "4 y-cv_5, 3 x-cv_0, 3 x-cv_1"),  # 3 : 2, and x-cv has two models
    ):
        outcome = created(command, data_dir, "auto", "--model-names", *names)
        assert outcome.out.startswith(f"--weights auto: {shown}, found in {path}"), outcome
    for names in (["x-cv_0", "x-cv_1"], ["x-cv_0", "y-cv"]):
        assert created(command, data_dir, "auto", "--model-names", *names).status == 2
