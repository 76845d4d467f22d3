"""Say when classes appear in a video, from its features and trained segment models.

All of a video is looked at, from the first second to the last. Neighbouring segments of 5 seconds in which a class is
probable make a span; the table shows from when to when, the class, the mean probability, and the highest and where.
"""

import argparse
from pathlib import Path

from yt8m.cli import add_prediction_options, computation, make_parser, model_choice, positive, probability, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.localize videos.tfrecord --top 2",
            "python -m yt8m.localize videos.tfrecord --classes Guitar Drums --threshold 0.3",
            "python -m yt8m.localize videos.tfrecord --videos abcd efgh --output spans.csv",
        ),
        "device",
        "on-error",
    )
    # FILE comes first: options that take several values would take it for one of them.
    parser.usage = "%(prog)s FILE [--videos ID ...] [--classes NAME ...] [more options]"
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a .tfrecord file of frame features, wherever it lies; labels and ratings are not needed",
    )
    parser.add_argument(
        "--videos",
        "--video-id",
        dest="video_id",
        nargs="+",
        action="extend",
        metavar="ID",
        help="videos of the file; one whose id begins with two dashes as --videos=--ID (default: all)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="what to look for: names of the vocabulary, in capitals or not, or label ids (default: "
        "the most probable classes of each video)",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="N",
        help="without --classes, how many classes of a video count (default: 5)",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        default=0.5,
        metavar="P",
        help="segments of at least this probability make a span (default: 0.5)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        help="how to print it (default: json or csv if --output ends so, else table)",
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help="write to this file (default: standard output)")
    add_prediction_options(parser, "which of them to predict with; the mean of their probabilities counts")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the spans. Raises `UserError`."""
    from yt8m.data.frames import EVERYTHING
    from yt8m.localization.shard_answers import check_output, localize_file, write_answers
    from yt8m.localization.spans import Query, find_classes

    check_output(args.output, args.file)
    how = computation(args, EVERYTHING)
    folders = model_choice(args).open_all()
    classes = None if args.classes is None else find_classes(args.classes, folders[0].vocabulary())
    query = Query(classes, args.top, args.threshold)
    n_videos, answers = localize_file(
        args.file, folders, how, query, offset=args.offset, video_ids=args.video_id, damage=args.damage
    )
    write_answers(answers, n_videos, query, args.output, args.format)


if __name__ == "__main__":
    run(main, build_parser())
