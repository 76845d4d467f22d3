"""Write an HTML page to open from disk: timelines of videos, scores, classes, calibration, and curves."""

import argparse
from pathlib import Path

from yt8m.cli import (
    Distinct,
    add_model_dir,
    add_model_names,
    add_truth,
    add_vocabulary,
    make_parser,
    model_choice,
    positive,
    run,
)
from yt8m.common.errors import counted


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        ("python -m yt8m.report", "python -m yt8m.report --videos abcd efgh --truth truth.csv --output videos.html"),
        "device",
        "on-error",
    )
    parser.add_argument(
        "--videos",
        nargs="+",
        metavar="ID",
        action=Distinct,
        help="show only these test or rated videos; one whose id begins with two dashes as --videos=--ID (default: all "
        "test videos, first those of which the models are most and least certain)",
    )
    parser.add_argument(
        "--films",
        type=Path,
        metavar="DIR",
        help="folder of films named by video id, such as ID.mp4, to play above the timelines (default: none)",
    )
    parser.add_argument(
        "--youtube",
        action="store_true",
        help="embed YouTube's player for ids that YouTube may have; works only if the page is served, not opened from "
        "disk (default: a link)",
    )
    add_model_names(parser, "the models whose mean the timelines show")
    add_model_dir(parser)
    add_vocabulary(parser)
    add_truth(parser, ", marked in the timelines (default: none)")
    parser.add_argument(
        "--evaluations",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="files from `evaluate` (default: evaluation*.json and cross-validation*.json in the cache folder)",
    )
    parser.add_argument(
        "--n-videos",
        type=positive,
        default=6,
        metavar="N",
        help="start with the N most and the N least certain videos (default: 6)",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=8,
        metavar="N",
        help="show a video's N strongest classes and its rated ones (default: 8)",
    )
    parser.add_argument(
        "--title", default="When concepts appear", metavar="TEXT", help="headline of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="HTML", help="the page (default: cache/report.html in the data folder)"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the page. Raises `UserError`."""
    from datetime import UTC, datetime

    from yt8m import __version__
    from yt8m.data.vocabulary import load_vocabulary
    from yt8m.reporting.pages import write_page
    from yt8m.reporting.report import describe_models, read_evaluations, render_page
    from yt8m.reporting.timelines import films_of, page_values, select_videos
    from yt8m.scoring.evaluation import evaluation_files

    cache = args.data_dir / "cache"
    vocabulary = load_vocabulary(args.data_dir)
    output = args.output or cache / "report.html"
    selection = select_videos(
        args.data_dir,
        vocabulary,
        model_choice(args),
        video_ids=args.videos,
        n_videos=args.n_videos,
        top=args.top,
        truth=args.truth,
        device=args.device,
        damage=args.damage,
    )
    films = {} if args.films is None else films_of(selection, args.films, output)
    evaluations = args.evaluations or evaluation_files(cache)
    data = {
        "title": args.title,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "data_dir": str(args.data_dir),
        "evaluations": read_evaluations(evaluations),
        "models": describe_models(cache),
        "youtube": args.youtube,
        "timelines": page_values(selection, vocabulary, films),
    }
    write_page(output, render_page(data, youtube=args.youtube))
    print(
        f"{output}: {counted(len(data['evaluations']), 'evaluation')}, {counted(len(data['models']), 'model')}, "
        f"{counted(len(selection.videos), 'timeline')}; open it in a browser: {output.absolute().as_uri()}"
    )


if __name__ == "__main__":
    run(main, build_parser())
