"""Train a localization model on films or features, labels and a few ratings, in one command, without configurations.

It holds out a fifth of the videos, chooses sizes and steps, pre-trains on the labels, fine-tunes on the ratings, and
reports scores on the held-out videos. Without ratings it learns from the labels alone.
"""

import argparse
import textwrap
from pathlib import Path

from yt8m.cli import DEFAULT_EXTRACTOR, as_typed, folder_name, make_parser, positive, resumable, run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from yt8m.fitting.minimum import minimum_text

    parser = make_parser(
        f"{__doc__}\n{textwrap.fill(f'It needs {minimum_text(True)}.', 120)}",
        (
            "python -m yt8m.fit --videos films --labels labels.csv --ratings ratings.csv --name mine",
            "python -m yt8m.fit --features features --labels labels.csv --name mine",
        ),
        "device",
        "seed",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--videos", type=Path, metavar="FOLDER", help="films; a film's id is its name without the extension"
    )
    what.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="arrays, <video id>.npy of shape (seconds, width), one row a second, uint8 or floats; or their folders "
        "rgb and audio, as extract_features --format npy makes them",
    )
    parser.add_argument(
        "--audio", type=Path, metavar="FOLDER", help="with --features, arrays of audio features (default: no audio)"
    )
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="CSV", help="columns vid,label; one line per label of a video"
    )
    parser.add_argument(
        "--ratings",
        type=Path,
        metavar="CSV",
        help="columns vid,start,label,score: score is 1 if the label appears in the 5 seconds from start, a multiple "
        "of 5, else 0 (default: none, learn from labels alone)",
    )
    parser.add_argument(
        "--name", required=True, type=folder_name, help="everything goes to DIR/NAME, a data folder for all commands"
    )
    parser.add_argument(
        "--extractor",
        metavar="NAME",
        help=f"with --videos, the extractor of features (default: {DEFAULT_EXTRACTOR}; see extract_features)",
    )
    parser.add_argument(
        "--assets", type=Path, metavar="FOLDER", help="with --extractor, its files, if it needs any (default: none)"
    )
    parser.add_argument("--processes", type=positive, metavar="N", help="films at a time (default: one per CPU core)")
    parser.add_argument("--skip-short", action="store_true", help="leave out classes with too few labels or ratings")
    parser.add_argument("--restart", action="store_true", help="start over, even if there is a model of this name")
    return parser


def main(args: argparse.Namespace) -> None:
    """Fit and print the outcome. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.fitting.fitting import Request, fit

    for option in ("extractor", "assets", "processes"):
        if args.videos is None and getattr(args, option) is not None:
            raise UserError(f"--{option}: needs --videos; --features are made already")
    if args.features is None and args.audio is not None:
        raise UserError("--audio: needs --features; films have their own sound")
    request = Request(
        data_dir=args.data_dir,
        name=args.name,
        labels=args.labels,
        ratings=args.ratings,
        features=args.features,
        audio=args.audio,
        videos=args.videos,
        extractor=args.extractor or DEFAULT_EXTRACTOR,
        assets=args.assets,
        processes=args.processes,
        seed=args.seed,
        device=args.device,
        skip_short=args.skip_short,
        restart=args.restart,
        console_level=args.console_level,
    )
    with resumable(args.data_dir / args.name):
        outcome = fit(request)
    print(as_typed("\n".join(outcome.lines()), args.prog))


if __name__ == "__main__":
    run(main, build_parser())
