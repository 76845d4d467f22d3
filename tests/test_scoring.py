"""MAP@K and other measures, against literal definitions."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from yt8m.scoring.mean_average_precision import (
    NOT_LISTED,
    Ranking,
    area_under_roc,
    areas_of_classes,
    at_thresholds,
    calibration,
    calibration_error,
    places_by_score,
    resampled_maps,
)
from yt8m.scoring.ratings import Ratings, ratings_of_table

Key = tuple[str, int, int]  # video, start, label
KEYS = [(vid, start, label) for label in (3, 7, 12) for vid in ("aB3-", "0012", "NA") for start in (30, 35, 60)]
SCORES = st.lists(st.sampled_from([None, 0, 1]), min_size=len(KEYS), max_size=len(KEYS))


def ratings_from(scores: Mapping[Key, int]) -> Ratings:
    """Ratings by segment and label."""
    return ratings_of_table(
        pd.DataFrame([(*key, score) for key, score in scores.items()], columns=["vid", "start", "label", "score"])
    )


def keys_of(ratings: Ratings) -> list[Key]:
    """Segment and label of each rating."""
    return list(zip(ratings.video_ids[ratings.video].tolist(), ratings.start.tolist(), ratings.label.tolist()))


def slow_map(scores: Mapping[Key, int], lists: Mapping[int, Sequence[str]], top_k: int) -> tuple[dict, float]:
    """Label → AP, and MAP, as the challenge defines them."""
    aps = {}
    for label in {label for _, _, label in scores}:
        rated = {f"{vid}:{start}": score for (vid, start, other), score in scores.items() if other == label}
        seen: set[str] = set()
        rank = hits = 0
        total = 0.0
        for segment in lists.get(label, [])[:top_k]:
            if segment in rated and segment not in seen:
                seen.add(segment)
                rank += 1
                if rated[segment]:
                    hits += 1
                    total += hits / rank
        positives = sum(rated.values())
        aps[label] = total / positives if positives else float("nan")
    defined = [ap for ap in aps.values() if not math.isnan(ap)]
    return aps, sum(defined) / len(defined) if defined else float("nan")


@settings(deadline=None, derandomize=True, max_examples=150)
@given(SCORES.filter(any), st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_ranking_by_score_has_the_map_of_its_lists(scores: list[int | None], seed: int, top_k: int) -> None:
    rated = {key: score for key, score in zip(KEYS, scores) if score is not None}
    ratings = ratings_from(rated)
    values = np.random.default_rng(seed).permutation(len(ratings)).astype(float)
    places = places_by_score(ratings, values, top_k, 0)
    lists: dict[int, list[str]] = {}
    for _, (vid, start, label) in sorted(zip(-values, keys_of(ratings))):
        lists.setdefault(label, []).append(f"{vid}:{start}")
    aps, mean = slow_map(rated, lists, top_k)
    ranking = Ranking(ratings, places)
    found = dict(zip(ratings.labels.tolist(), ranking.average_precisions()))
    assert found == pytest.approx(aps, rel=0, abs=1e-12, nan_ok=True)
    assert ranking.mean_average_precision() == pytest.approx(mean, rel=0, abs=1e-12, nan_ok=True)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    SCORES.filter(lambda scores: 1 in scores),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_a_video_drawn_twice_is_two_videos(scores: list[int | None], draws: list[int], seed: int) -> None:
    rated = {key: score for key, score in zip(KEYS, scores) if score is not None}
    ratings = ratings_from(rated)
    values = dict(zip(keys_of(ratings), np.random.default_rng(seed).permutation(len(ratings)).tolist()))
    drawn = dict(zip(ratings.video_ids.tolist(), draws))
    copies = {
        (f"{vid}#{copy}", start, label): (score, values[vid, start, label])
        for (vid, start, label), score in rated.items()
        for copy in range(drawn[vid])
    }
    lists: dict[int, list[str]] = {}
    for (vid, start, label), _ in sorted(copies.items(), key=lambda item: -item[1][1]):
        lists.setdefault(label, []).append(f"{vid}:{start}")
    _, expected = slow_map({key: score for key, (score, _) in copies.items()}, lists, 10**9)
    places = places_by_score(ratings, np.array([values[key] for key in keys_of(ratings)], float), 10**9, 0)
    counts = np.array([drawn[vid] for vid in ratings.video_ids.tolist()])
    found = Ranking(ratings, places).mean_average_precision(counts)
    assert found == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)


def test_intervals_are_drawn_from_a_seed_and_shared_by_the_rankings() -> None:
    rng = np.random.default_rng(5)
    ratings = ratings_from({(f"v{video}", 30, 4): int(rng.random() < 0.4) for video in range(60)})
    good = Ranking(ratings, places_by_score(ratings, ratings.positive + rng.normal(0, 0.6, 60), 60, 0))
    poor = Ranking(ratings, places_by_score(ratings, ratings.positive + rng.normal(0, 2.0, 60), 60, 0))
    maps = resampled_maps([good, poor, good], 60, 200, seed=3)
    assert maps.shape == (3, 200)
    assert np.array_equal(maps[0], maps[2])
    assert np.array_equal(maps, resampled_maps([good, poor, good], 60, 200, seed=3))
    low, high = np.percentile(maps[0], [2.5, 97.5])
    assert low < good.mean_average_precision() < high
    assert (maps[0] > maps[1]).mean() > 0.9
    alone = resampled_maps([Ranking(ratings, np.arange(60))], 60, 5, seed=3)
    assert len(set(alone[0].tolist())) > 1


def test_places_of_equal_scores_are_random_but_of_a_seed() -> None:
    ratings = ratings_from({(f"v{video:02d}", 30, label): 1 for video in range(40) for label in (4, 5)})
    first, again, other = (places_by_score(ratings, np.zeros(80), 40, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    for part in (first[:40], first[40:]):
        assert sorted(part.tolist()) == list(range(40))
        assert part.tolist() != list(range(40))
    ranked = places_by_score(ratings, np.arange(80.0), 40, 1)
    assert ranked[:40].tolist() == ranked[40:].tolist() == list(range(39, -1, -1))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(SCORES.filter(any), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_areas_are_scikit_learns_with_what_is_not_listed_last(scores: list[int | None], seed: int, top_k: int) -> None:
    rated = {key: score for key, score in zip(KEYS, scores) if score is not None}
    ratings = ratings_from(rated)
    places = places_by_score(ratings, np.random.default_rng(seed).random(len(ratings)), top_k, 0)
    expected = []
    for row in range(len(ratings.labels)):
        own = ratings.of_class(row)
        values = np.where(places[own] == NOT_LISTED, -100, -places[own])
        expected.append(area_under_roc(ratings.positive[own], values))
    assert areas_of_classes(ratings, places) == pytest.approx(expected, nan_ok=True)


def test_areas_by_hand_and_where_all_ratings_agree() -> None:
    ratings = ratings_from(
        {("a", 30, 1): 1, ("a", 35, 1): 0, ("b", 30, 1): 1, ("b", 35, 1): 0, ("a", 30, 2): 1, ("b", 30, 2): 1}
    )
    # Class 1 in the order a:30 a:35 b:30 b:35: listed at 0, 1, nowhere, nowhere. Of the four pairs one is even.
    areas = areas_of_classes(ratings, np.array([0, 1, NOT_LISTED, NOT_LISTED, 0, 1]))
    assert areas[0] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert np.isnan(areas[1])
    assert np.isnan(area_under_roc(np.ones(3, bool), np.arange(3.0)))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_thresholds_are_scikit_learns(items: list[tuple[bool, float]]) -> None:
    positive, probabilities = (np.array(column) for column in zip(*items))
    for row in at_thresholds(positive, probabilities, (0.2, 0.5, 0.9)):
        taken = probabilities >= row["threshold"]
        expected = {
            "taken": taken.sum(),
            "threshold": row["threshold"],
            "precision": precision_score(positive, taken, zero_division=np.nan),
            "recall": recall_score(positive, taken, zero_division=np.nan),
        }
        assert row == pytest.approx(expected, nan_ok=True)
    if 0 < positive.sum() < len(positive):
        assert area_under_roc(positive, probabilities) == pytest.approx(roc_auc_score(positive, probabilities))


def test_calibration_by_hand() -> None:
    bins = calibration(np.array([1, 0, 1, 1, 0], bool), np.array([0.1, 0.12, 0.95, 1.0, 0.0]))
    assert [(row["from"], row["to"], row["ratings"]) for row in bins] == [(0, 0.1, 1), (0.1, 0.2, 2), (0.9, 1, 2)]
    assert [row["mean"] for row in bins] == pytest.approx([0, 0.11, 0.975])
    assert [row["positive"] for row in bins] == pytest.approx([0, 0.5, 1])
    assert calibration_error(bins) == pytest.approx((0 + 2 * 0.39 + 2 * 0.025) / 5)
