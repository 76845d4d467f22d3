"""Average the models' predictions and list the best test segments of each class: `sub.csv`."""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import (
    add_model_names,
    add_shared,
    add_top_k,
    add_vocabulary,
    make_parser,
    nonnegative,
    positive,
    probability,
    run,
)

if TYPE_CHECKING:
    import numpy as np

    from yt8m.data.candidates import Candidates
    from yt8m.data.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)
FUSIONS = ("mean", "geometric", "rank", "reciprocal-rank")
AUTO = "auto"


def _weight(text: str) -> float | str:
    return text if text == AUTO else nonnegative(text)


_weight.__name__ = f"number of at least 0, or {AUTO}"  # argparse names the type in its message


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.create_submission_from_memmaps --output sub.csv",
            "python -m yt8m.create_submission_from_memmaps --model-names dbof-3_0 nextvlad-2_1 --weights 1 2",
            "python -m yt8m.create_submission_from_memmaps --weights auto",
            "python -m yt8m.create_submission_from_memmaps --video-model data/cache/video/dbof-3 --video-top-k 20",
        ),
        "seed",
    )
    add_model_names(parser, "models whose predictions in cache/predictions to average")
    parser.add_argument(
        "--weights",
        type=_weight,
        nargs="+",
        metavar="W",
        help=f"weight of each model, in the order of --model-names; or {AUTO}: those found by the newest evaluation of "
        "exactly these models, among evaluation*.json and cross-validation*.json in the cache folder (default: equal "
        "weights)",
    )
    parser.add_argument(
        "--fusion",
        choices=FUSIONS,
        default="mean",
        help="how to combine scores: the mean, as published; the geometric mean; the mean rank among a "
        "class's segments; the mean of 1 / (60 + rank) (default: mean)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("sub.csv"),
        metavar="CSV",
        help="the submission; compressed if it ends in .gz (default: sub.csv)",
    )
    add_top_k(parser, "segments per class")
    video = parser.add_argument_group(
        "candidates",
        "A video model can restrict each class to probable videos. --device, --workers and --on-error apply only to "
        "its predictions, which are kept in cache/video_predictions.",
    )
    video.add_argument(
        "--video-model",
        type=Path,
        metavar="DIR",
        help="folder of a video model, such as data/cache/video/dbof-3 (default: none)",
    )
    video.add_argument(
        "--video-top-k",
        type=positive,
        metavar="N",
        help="rank a video's segments only for its N most probable classes (default: all)",
    )
    video.add_argument(
        "--video-threshold",
        type=probability,
        metavar="P",
        help="rank a video's segments only for classes of at least this probability (default: all)",
    )
    video.add_argument(
        "--video-cap", type=positive, metavar="N", help="rank only a class's N most probable videos (default: all)"
    )
    video.add_argument(
        "--video-weight",
        type=nonnegative,
        default=0.0,
        metavar="B",
        help="multiply scores by the video's probability to the power of B (default: 0)",
    )
    add_vocabulary(video)
    add_shared(video, "device", "workers", "on-error")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the submission. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.common.progress import Progress
    from yt8m.data.candidates import load_candidates
    from yt8m.data.vocabulary import load_vocabulary
    from yt8m.prediction.prediction_files import prediction_files
    from yt8m.ranking.fusion import Fusion, weights_text
    from yt8m.ranking.submission import write_submission
    from yt8m.ranking.top_k import top_rows

    weights = args.weights
    if weights == [AUTO]:
        if args.fusion != "mean":
            raise UserError(f"--weights {AUTO}: has weights only for --fusion mean, not for {args.fusion}")
    elif weights is not None and (AUTO in weights or len(weights) != len(args.model_names or ()) or not any(weights)):
        raise UserError(
            f"--weights: expected {AUTO}, or one for each of the --model-names, not all 0, found "
            f"{len(weights)} for {len(args.model_names or ())}"
        )
    if args.output.is_dir() or not os.access(_nearest_folder(args.output), os.W_OK):
        raise UserError(f"--output {args.output}: is a folder, or in a folder that cannot be written to")
    vocabulary = load_vocabulary(args.data_dir)
    cache = args.data_dir / "cache"
    candidates = load_candidates(cache)
    files = prediction_files(cache, args.model_names)
    scores = [file.read(candidates, vocabulary) for file in files]
    names = [file.path.stem for file in files]
    if weights == [AUTO]:
        from yt8m.scoring.weights import newest_weights

        found = newest_weights(args.data_dir, files)
        weights = found.weights
        print(f"--weights {AUTO}: {weights_text(names, weights)}, {found.origin}")
    factors = _factors(args, candidates, vocabulary)
    fusion = Fusion(scores, args.fusion, weights, factors, None if factors is None else candidates.row_videos())
    with Progress("ranking", candidates.n_rows, "row", LOGGER) as progress:
        ranked = top_rows(fusion, args.top_k, args.seed, progress.update)
    with Progress("writing", len(vocabulary), "class", LOGGER) as progress:
        write_submission(args.output, vocabulary.labels.tolist(), candidates.row_names(), ranked, progress.update)
    print(
        f"{args.output}: {len(vocabulary)} classes, the best {min(args.top_k, candidates.n_rows)} of "
        f"{candidates.n_rows} segments each"
        f"{' of the selected videos' if factors is not None else ''}, {args.fusion} of "
        f"{', '.join(names) if weights is None else weights_text(names, weights)}"
    )


def _nearest_folder(path: Path) -> Path:
    """The closest existing folder above a path."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _factors(args: argparse.Namespace, candidates: "Candidates", vocabulary: "Vocabulary") -> "np.ndarray | None":
    """The video model's factors of the scores, (videos, classes) float32; None without such a model."""
    from yt8m.common.errors import UserError

    rules = {
        "--video-top-k": args.video_top_k,
        "--video-threshold": args.video_threshold,
        "--video-cap": args.video_cap,
        "--video-weight": args.video_weight or None,
    }
    given = [option for option, value in rules.items() if value is not None]
    if args.video_model is None:
        if given:
            raise UserError(f"{given[0]}: needs a --video-model")
        return None
    if not given:
        raise UserError(f"--video-model {args.video_model}: has no effect without one of {', '.join(rules)}")

    from yt8m.common.devices import resolve_device, resolve_workers
    from yt8m.data.candidates import load_test_index
    from yt8m.data.vocabulary import named_vocabulary
    from yt8m.models.model_folders import open_folder
    from yt8m.prediction.test_set import CandidateRules, video_scores

    device = resolve_device(args.device)
    scores = video_scores(
        open_folder(args.video_model, named_vocabulary(args.vocabulary)),
        load_test_index(args.data_dir, candidates, args.damage),
        candidates,
        vocabulary,
        args.data_dir / "cache",
        resolve_workers(args.workers, device),
        device,
        args.damage,
    )
    return CandidateRules(args.video_top_k, args.video_threshold, args.video_cap, args.video_weight).factors(
        scores, args.seed
    )


if __name__ == "__main__":
    run(main, build_parser())
