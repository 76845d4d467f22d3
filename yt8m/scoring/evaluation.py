"""Evaluation of several subjects (models, ensembles, submissions, baselines) on the same ratings.

Dimensions: R ratings, C rated classes.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.vocabulary import RATING_COLUMNS, Vocabulary
from yt8m.scoring.mean_average_precision import (
    NOT_LISTED,
    THRESHOLDS,
    Ranking,
    area_under_roc,
    areas_of_classes,
    at_thresholds,
    calibration,
    calibration_error,
    places_by_score,
    resampled_maps,
)
from yt8m.scoring.ratings import Ratings

LOGGER = logging.getLogger(__name__)
FORMAT_VERSION = 1
_LEVEL = 95  # percent of the resamples within an interval
_UNDEFINED = "-"
_WHY_UNDEFINED = (
    f"{_UNDEFINED}: not defined; AUC, precision and recall need probabilities, which baselines and submissions lack, "
    "AUC also ratings of both 0 and 1, intervals --resamples"
)
_RANKS = (1, 10, 100, 1_000, 10_000, 100_000)

SubjectKind = Literal["baseline", "model", "ensemble", "weighted", "submission"]


@dataclass(frozen=True)
class Subject:
    """An evaluated model, ensemble, submission or baseline: the place of each rated segment in its class's list.

    `places` (R,), -1 for a segment not among the first K; `probabilities` (R,) of the ratings if it has any, NaN
    where unknown; `duplicates`: repeated entries in its lists; `note`: a remark for readers of its scores.
    """

    name: str
    kind: SubjectKind
    places: np.ndarray
    probabilities: np.ndarray | None = None
    duplicates: int = 0
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """Settings shared by all subjects: the source of the ratings, K, and how intervals are drawn."""

    ratings_from: str
    top_k: int
    n_resamples: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """`head`: setting and size of the set; `subjects`: a dict each; `classes`: a row for each class and subject.

    `ratings`: a row each, with every subject's probability; `folds`: for out-of-fold predictions a dict for each
    subject and measure, with the values of all folds, their mean and standard deviation, else empty. `comparisons`: a
    dict for each compared pair of subjects, with the difference of their MAPs and its interval; `weights`: the best
    ones of several models, if searched for.
    """

    head: dict[str, Any]
    subjects: list[dict[str, Any]]
    classes: pd.DataFrame
    ratings: pd.DataFrame
    folds: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, Any] | None = None


def evaluate(
    ratings: Ratings,
    subjects: Sequence[Subject],
    vocabulary: Vocabulary,
    setting: Setting,
    folds: np.ndarray | None = None,
    weights: dict[str, Any] | None = None,
) -> Evaluation:
    """Measure all subjects, with `folds` (R,) also on each fold; at least one rating must be positive."""
    _check_names([subject.name for subject in subjects])
    rankings = [Ranking(ratings, subject.places) for subject in subjects]
    with Progress("resampling videos", setting.n_resamples, "resample", LOGGER) as progress:
        maps = resampled_maps(rankings, len(ratings.video_ids), setting.n_resamples, setting.seed, progress.update)
    summaries, tables = [], []
    for subject, ranking, resampled in zip(subjects, rankings, maps):
        areas = areas_of_classes(ratings, subject.places)
        low, high = _interval(resampled)
        summaries.append(
            {
                "name": subject.name,
                "kind": subject.kind,
                "note": subject.note,
                "map": ranking.mean_average_precision(),
                "map_low": low,
                "map_high": high,
                "class_auc": _mean(areas),
                "listed": int((subject.places != NOT_LISTED).sum()),
                "duplicates": subject.duplicates,
                **_of_probabilities(ratings, subject, setting.top_k),
            }
        )
        tables.append(_class_table(ratings, subject, ranking, areas, vocabulary))
    head = {
        "version": FORMAT_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "ratings_from": setting.ratings_from,
        "top_k": setting.top_k,
        "resamples": setting.n_resamples,
        "seed": setting.seed,
        "level": _LEVEL,
        "ratings": len(ratings),
        "positive": int(ratings.positive.sum()),
        "videos": len(np.unique(ratings.video)),
        "classes_that_count": int((ratings.n_positive > 0).sum()),
    }
    by_fold = [] if folds is None else _fold_by_fold(ratings, folds, subjects, setting)
    return Evaluation(
        head,
        summaries,
        pd.concat(tables, ignore_index=True),
        _rating_table(ratings, subjects, folds),
        by_fold,
        _comparisons(summaries, maps),
        weights,
    )


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    """The interval that contains `_LEVEL` percent of the resamples (N,); NaN without any."""
    tail = (100 - _LEVEL) / 2
    low, high = np.nanpercentile(resampled, [tail, 100 - tail]) if resampled.size else (np.nan, np.nan)
    return float(low), float(high)


def _comparisons(summaries: Sequence[dict[str, Any]], maps: np.ndarray) -> list[dict[str, Any]]:
    """Compare the ensemble with its best member, and the best weights with the ensemble, if present.

    `maps` (subjects, N): MAP of each subject in the same resamples.
    """
    members = [number for number, subject in enumerate(summaries) if subject["kind"] == "model"]
    places = {subject["kind"]: number for number, subject in enumerate(summaries)}
    pairs = []
    if "ensemble" in places:
        pairs.append((places["ensemble"], max(members, key=lambda number: summaries[number]["map"])))
    if "weighted" in places:
        pairs.append((places["weighted"], places["ensemble"]))
    rows = []
    for number, other in pairs:
        low, high = _interval(maps[number] - maps[other])
        rows.append(
            {
                "subject": summaries[number]["name"],
                "other": summaries[other]["name"],
                "difference": summaries[number]["map"] - summaries[other]["map"],
                "difference_low": low,
                "difference_high": high,
            }
        )
    return rows


def _check_names(names: Sequence[str]) -> None:
    """Raise `UserError` for a name that has another meaning in the tables."""
    for number, name in enumerate(names):
        if name in names[:number] or name in (*RATING_COLUMNS, "fold"):
            raise UserError(
                f"{name}: cannot be evaluated under this name, which has another meaning in the tables; rename it"
            )


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _of_probabilities(ratings: Ratings, subject: Subject, top_k: int) -> dict[str, Any]:
    """Measures that need probabilities; for lists, precision and recall at ranks instead."""
    if subject.probabilities is None:
        last = np.iinfo(np.int64).max
        ranks = np.where(subject.places == NOT_LISTED, last, subject.places + 1)
        rows = at_thresholds(ratings.positive, -ranks, [-rank for rank in _RANKS if rank < top_k] + [-top_k])
        return {"at_ranks": [{"rank": int(-row.pop("threshold")), **row} for row in rows]}
    known = ~np.isnan(subject.probabilities)
    if not known.any():
        return {}
    positive, probabilities = ratings.positive[known], subject.probabilities[known]
    bins = calibration(positive, probabilities)
    return {
        "auc": area_under_roc(positive, probabilities),
        "at_thresholds": at_thresholds(positive, probabilities, THRESHOLDS),
        "calibration": bins,
        "calibration_error": calibration_error(bins),
    }


def _class_table(
    ratings: Ratings, subject: Subject, ranking: Ranking, areas: np.ndarray, vocabulary: Vocabulary
) -> pd.DataFrame:
    """One row per class."""
    rows = vocabulary.classes(ratings.labels)
    return pd.DataFrame(
        {
            "label": ratings.labels,
            "name": [vocabulary.names[row] if row >= 0 else "(not in the vocabulary)" for row in rows],
            "subject": subject.name,
            "ratings": np.bincount(ratings.class_of),
            "positive": ratings.n_positive,
            "ap": ranking.average_precisions(),
            "auc": areas,
        }
    )


def _rating_table(ratings: Ratings, subjects: Sequence[Subject], folds: np.ndarray | None) -> pd.DataFrame:
    """One row per rating."""
    columns = dict(
        zip(
            RATING_COLUMNS,
            (ratings.video_ids[ratings.video], ratings.start, ratings.label, ratings.positive.astype(np.int64)),
        )
    )
    if folds is not None:
        columns["fold"] = folds
    return pd.DataFrame(
        columns | {subject.name: subject.probabilities for subject in subjects if subject.probabilities is not None}
    )


def _fold_by_fold(
    ratings: Ratings, folds: np.ndarray, subjects: Sequence[Subject], setting: Setting
) -> list[dict[str, Any]]:
    """MAP and AUC of each subject on each fold; baselines have only a MAP."""
    rows = []
    numbers = np.unique(folds).tolist()
    for subject in subjects:
        measured = []
        for fold in numbers:
            chosen = folds == fold
            part = ratings.subset(chosen)
            scores = (
                subject.probabilities[chosen]
                if subject.probabilities is not None
                else np.where(subject.places[chosen] == NOT_LISTED, -np.inf, -subject.places[chosen])
            )
            ranking = Ranking(part, places_by_score(part, scores, setting.top_k, setting.seed))
            measured.append((ranking.mean_average_precision(), area_under_roc(part.positive, scores)))
        for measure, values in zip(("MAP", "AUC"), np.transpose(measured)):
            if measure == "MAP" or subject.probabilities is not None:
                rows.append(
                    {
                        "subject": subject.name,
                        "measure": measure,
                        "folds": numbers,
                        "values": values.tolist(),
                        "mean": float(values.mean()),
                        "deviation": float(values.std(ddof=1)),
                    }
                )
    return rows


def write_evaluation(evaluation: Evaluation, prefix: Path) -> list[Path]:
    """Write `<prefix>.csv`, a row for each class and subject, `<prefix>-ratings.csv`, a row for each rating, and
    `<prefix>.json`, everything but the ratings; returns the paths."""
    paths = [prefix.with_name(f"{prefix.name}{ending}") for ending in (".csv", "-ratings.csv", ".json")]
    classes = [
        {
            "label": int(label),
            "name": rows["name"].iloc[0],
            "ratings": int(rows["ratings"].iloc[0]),
            "positive": int(rows["positive"].iloc[0]),
            "ap": rows["ap"].tolist(),
            "auc": rows["auc"].tolist(),
        }
        for label, rows in evaluation.classes.groupby("label")
    ]
    document = {
        **evaluation.head,
        "subjects": evaluation.subjects,
        "comparisons": evaluation.comparisons,
        "weights": evaluation.weights,
        "classes": classes,
        "folds": evaluation.folds,
    }
    for path, table in zip(paths, (evaluation.classes, evaluation.ratings)):
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)
    with replacing(paths[-1]) as temporary:
        temporary.write_text(json.dumps(_without_nan(document), indent=1) + "\n", encoding="utf-8")
    return paths


def evaluation_files(cache_dir: Path) -> list[Path]:
    """The JSON files of evaluations and cross-validations in a cache folder."""
    return [path for pattern in ("evaluation*.json", "cross-validation*.json") for path in cache_dir.glob(pattern)]


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def summary_lines(evaluation: Evaluation) -> list[str]:
    """A table for the console."""
    head = evaluation.head
    lines = [
        f"{head['ratings']} ratings of {head['ratings_from']} ({head['positive']} positive) in {head['videos']} "
        f"videos; {head['classes_that_count']} classes with a positive rating",
        "",
    ]
    rows = [["", f"MAP@{head['top_k']}", f"{head['level']} % interval", "AUC", "class AUC", "precision", "recall", ""]]
    for subject in evaluation.subjects:
        half = next(
            (row for row in subject.get("at_thresholds", ()) if row["threshold"] == 0.5),
            {"precision": float("nan"), "recall": float("nan")},
        )
        interval = (
            f"{subject['map_low']:.4f} to {subject['map_high']:.4f}"
            if not math.isnan(subject["map_low"])
            else _UNDEFINED
        )
        notes = [subject["note"]] * bool(subject["note"])
        notes += [f"{subject['duplicates']} duplicates count once"] * bool(subject["duplicates"])
        rows.append(
            [
                subject["name"],
                _shown(subject["map"]),
                interval,
                _shown(subject.get("auc", float("nan"))),
                _shown(subject["class_auc"]),
                _shown(half["precision"]),
                _shown(half["recall"]),
                "; ".join(notes),
            ]
        )
    lines += _aligned(rows)
    remarks = _remarks(evaluation)
    lines += ["", *remarks] if remarks else []
    if evaluation.folds:
        fold_rows = _fold_rows(evaluation.folds)
        lines += ["", "fold by fold", "", *_aligned(fold_rows)]
        rows += fold_rows
    if any(_UNDEFINED in row for row in rows):
        lines += ["", _WHY_UNDEFINED]
    return lines


def _remarks(evaluation: Evaluation) -> list[str]:
    """A line if the ensemble is worse than its best member, and one about the best weights."""
    lines = []
    kinds = {subject["name"]: subject["kind"] for subject in evaluation.subjects}
    for row in evaluation.comparisons:
        difference = f"{row['difference']:+.4f} MAP"
        if not math.isnan(row["difference_low"]):
            low, high = row["difference_low"], row["difference_high"]
            difference += f" ({evaluation.head['level']} % interval {low:+.4f} to {high:+.4f})"
        if kinds[row["subject"]] == "weighted":
            lines.append(
                f"{row['subject']}: found on all of these ratings; their row is the score of weights found on half of "
                f"the videos, on the other half, {difference} compared with {row['other']}"
            )
        elif row["difference"] < 0:
            lines.append(f"{row['subject']}: below its best member, {row['other']}, {difference}")
    return lines


def _fold_rows(folds: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A table of the rows of `_fold_by_fold`."""
    head = ["", "", *(f"fold {number}" for number in folds[0]["folds"]), "mean", "std. deviation"]
    return [
        head,
        *(
            [row["subject"], row["measure"], *map(_shown, row["values"]), _shown(row["mean"]), _shown(row["deviation"])]
            for row in folds
        ),
    ]


def _shown(value: float) -> str:
    return _UNDEFINED if math.isnan(value) else f"{value:.4f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns as wide as their longest entry, the first and the last flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    inner = [[text.rjust(width) for text, width in zip(row[1:-1], widths[1:-1])] for row in rows]
    return ["  ".join([row[0].ljust(widths[0]), *texts, row[-1]]).rstrip() for row, texts in zip(rows, inner)]
