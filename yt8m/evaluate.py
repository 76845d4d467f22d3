"""Score submissions, predictions and models: MAP@K as the challenge defines it, with intervals.

For several models it also finds the weights whose mean scores best on ratings that none was trained on.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import (
    Distinct,
    add_model_dir,
    add_model_names,
    add_shared,
    add_top_k,
    add_truth,
    add_vocabulary,
    count,
    make_parser,
    model_choice,
    positive,
    run,
)
from yt8m.data.partitions import N_FOLDS

if TYPE_CHECKING:
    from yt8m.data.vocabulary import Vocabulary
    from yt8m.scoring.trials import Counting, Trial

_COLUMNS = """Columns of the table, from 0 to 1: MAP@K, with its interval; AUC, how often a segment rated 1 gets a
higher probability than one rated 0, over all ratings; class AUC, the mean of that within each class, by rank;
precision and recall at probability 0.5."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        f"{__doc__}\n{_COLUMNS}",
        (
            "python -m yt8m.evaluate --truth truth.csv --submission sub.csv",
            "python -m yt8m.evaluate --truth truth.csv --model-names dbof-3_0 nextvlad-2_1",
            "python -m yt8m.evaluate --fold 0 --model-names dbof-3_0 nextvlad-2_0",
            "python -m yt8m.evaluate --out-of-fold dbof-cv --output data/cache/cross-validation-dbof-cv",
            "python -m yt8m.evaluate --out-of-fold dbof-cv nextvlad-cv",
        ),
        "seed",
    )
    what = parser.add_argument_group("what to measure on, one of").add_mutually_exclusive_group(required=True)
    add_truth(
        what,
        ": for a --submission, for the predictions of --model-names in cache/predictions and their mean, or for both",
    )
    what.add_argument(
        "--fold",
        type=int,
        choices=range(N_FOLDS),
        metavar="K",
        help="the rated shards that fold K holds out, predicted by the models trained without them, and by their mean",
    )
    what.add_argument(
        "--out-of-fold",
        nargs="+",
        metavar="NAME",
        action=Distinct,
        help="all rated shards, each predicted by the one of the models NAME_0 to NAME_7 that was "
        "trained without it; several NAMEs are also averaged",
    )
    add_model_names(parser, "the models to measure with --truth or --fold", "all; none with --submission")
    parser.add_argument("--submission", type=Path, metavar="CSV", help="with --truth, the submission (default: none)")
    parser.add_argument(
        "--video-labels",
        type=Path,
        metavar="CSV",
        help="with --truth, labels of the test videos, columns vid,label (label: likewise), for the baseline that "
        "knows only these (default: none)",
    )
    parser.add_argument(
        "--include-trained",
        action="store_true",
        help="with --fold, also measure models on shards that they were, or may have been, trained on",
    )
    add_top_k(parser, "segments per class that count")
    parser.add_argument(
        "--resamples",
        type=count,
        default=1000,
        metavar="N",
        help="bootstrap samples of the videos, for the intervals (default: 1000)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="write PREFIX.csv, PREFIX-ratings.csv and PREFIX.json (default: cache/evaluation in the data folder)",
    )
    predicting = parser.add_argument_group(
        "predicting", "For --fold and --out-of-fold, where models predict; --truth measures existing predictions."
    )
    add_model_dir(predicting)
    add_vocabulary(predicting)
    predicting.add_argument(
        "--batch-size", type=positive, default=128, metavar="N", help="ratings at a time (default: 128)"
    )
    add_shared(predicting, "device", "workers", "on-error")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print a table and write it with all details. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.data.vocabulary import load_vocabulary
    from yt8m.scoring.evaluation import Setting, evaluate, summary_lines, write_evaluation
    from yt8m.scoring.trials import Counting

    _check_options(args)
    vocabulary = load_vocabulary(args.data_dir)
    trial = _trial(args, vocabulary, Counting(args.top_k, args.seed))
    if not trial.ratings.positive.any():
        raise UserError(
            f"{trial.source}: none of {len(trial.ratings)} ratings is positive; there is nothing to measure"
        )
    setting = Setting(trial.source, args.top_k, args.resamples, args.seed)
    evaluation = evaluate(trial.ratings, trial.subjects, vocabulary, setting, trial.folds, trial.weights)
    print("\n".join(summary_lines(evaluation)))
    paths = write_evaluation(evaluation, args.output or args.data_dir / "cache" / "evaluation")
    print(f"\nwrote {', '.join(map(str, paths))}")


def _trial(args: argparse.Namespace, vocabulary: "Vocabulary", counting: "Counting") -> "Trial":
    """The trial that the command line asks for. Raises `UserError`."""
    from yt8m.common.devices import resolve_device, resolve_workers
    from yt8m.scoring.trials import Loading, on_fold, on_test_set, on_unseen_shards

    if args.truth is not None:
        return on_test_set(
            args.data_dir,
            vocabulary,
            counting,
            args.truth,
            submission=args.submission,
            model_names=args.model_names,
            video_labels=args.video_labels,
        )
    device = resolve_device(args.device)
    loading = Loading(device, args.batch_size, resolve_workers(args.workers, device), args.damage)
    models = model_choice(args)
    if args.fold is not None:
        return on_fold(
            args.data_dir, vocabulary, counting, models, args.fold, loading, include_trained=args.include_trained
        )
    return on_unseen_shards(args.data_dir, vocabulary, counting, replace(models, names=args.out_of_fold), loading)


def _check_options(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    from yt8m.common.errors import UserError

    if args.truth is None:
        for option in ("submission", "video_labels"):
            if getattr(args, option) is not None:
                raise UserError(f"--{option.replace('_', '-')}: needs --truth")
    elif args.model_dir is not None:
        raise UserError("--model-dir: --truth measures existing predictions")
    if args.include_trained and args.fold is None:
        raise UserError("--include-trained: needs --fold")
    if args.out_of_fold is not None and args.model_names is not None:
        raise UserError("--model-names: --out-of-fold names the models already")


if __name__ == "__main__":
    run(main, build_parser())
