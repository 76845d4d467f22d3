"""Find when classes appear in films, or in videos given as features, with trained segment models.

The whole video is searched, from the first second to the last. Neighbouring 5-second segments in which a class is
probable make a span; the table shows its start and end, class, mean probability, and the peak and its time.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import add_prediction_options, computation, make_parser, model_choice, positive, probability, run

if TYPE_CHECKING:
    from yt8m.localization.spans import Localization


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.localize film.mp4 --html watch.html",
            "python -m yt8m.localize videos.tfrecord --top 2",
            "python -m yt8m.localize videos.tfrecord --classes Guitar Drums --threshold 0.3",
            "python -m yt8m.localize videos.tfrecord --videos abcd efgh --output spans.csv",
        ),
        "device",
        "on-error",
    )
    # FILE comes first: options that take several values would swallow it.
    parser.usage = "%(prog)s FILE ... [--videos ID ...] [--classes NAME ...] [more options]"
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="films, shards (.tfrecord; labels and ratings are not needed), arrays of features (.npy), or folders of "
        "them",
    )
    parser.add_argument(
        "--videos",
        "--video-id",
        dest="video_id",
        nargs="+",
        action="extend",
        metavar="ID",
        help="ids of the videos to localize in; one that begins with two dashes as --videos=--ID (default: all)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="classes to look for: names in the vocabulary, in any case, or label ids (default: "
        "the most probable classes of each video)",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="N",
        help="without --classes, how many classes to show per video (default: 5)",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        default=0.5,
        metavar="P",
        help="segments of at least this probability make a span (default: 0.5)",
    )
    parser.add_argument(
        "--step",
        type=int,
        choices=(1, 5),
        help="seconds between the starts of segments: 5 for segments in a row; 1 for times to the second, which takes "
        "five times as long (default: 1 for films, else 5)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv", "vtt", "srt"),
        help="output format; vtt and srt are subtitles for players (default: the extension of --output, else table)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="write to this file; subtitles of several videos to this folder (default: standard output)",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="PATH",
        help="also write a page to watch the films with their spans (default: none)",
    )
    parser.add_argument(
        "--extractor",
        metavar="NAME",
        help="extractor of features, see extract_features (default: the one the models were trained with)",
    )
    parser.add_argument(
        "--assets",
        type=Path,
        metavar="FOLDER",
        help="files that you have downloaded, for extractors that need some (default: none)",
    )
    add_prediction_options(parser, "models whose probabilities to average")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the spans. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.data.frames import EVERYTHING
    from yt8m.localization.inputs import FilmExtractor, find_inputs, localize_all
    from yt8m.localization.localizer import Localizer
    from yt8m.localization.output import check_output, write_answers
    from yt8m.localization.spans import Query, find_classes
    from yt8m.reporting.watching import FilmAnswer, write_watch_page

    how = computation(args, EVERYTHING)
    inputs = find_inputs(args.files, args.damage, FilmExtractor(args.extractor, args.assets))
    places = [own.place for own in inputs]
    check_output("--output", args.output, places, args.format)
    check_output("--html", args.html, places)
    if args.html is not None and args.output is not None and args.html.resolve() == args.output.resolve():
        raise UserError(f"--html {args.html}: is --output, too; write to another file")
    folders = model_choice(args).open_all()
    classes = None if args.classes is None else find_classes(args.classes, folders[0].vocabulary())
    query = Query(classes, args.top, args.threshold, args.step)
    localizer = Localizer(folders, how, args.offset)
    n_videos, answers = localize_all(inputs, localizer, query, args.video_id)
    watched: list[FilmAnswer] = []

    def spans() -> Iterator["Localization"]:
        for answer in answers:
            if args.html is not None:
                shown = {span.label for span in (*answer.localization.spans, *answer.localization.below)}
                labels = localizer.vocabulary.labels.tolist()
                values = {label: answer.probabilities[:, labels.index(label)] for label in shown}
                watched.append(FilmAnswer(answer.localization, answer.film, values))
            yield answer.localization

    write_answers(spans(), n_videos, query, args.output, args.format)
    if args.html is not None:
        write_watch_page(args.html, watched)
        logging.getLogger(__name__).info("wrote %s", args.html)


if __name__ == "__main__":
    run(main, build_parser())
