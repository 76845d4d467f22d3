"""Rate segments of films in the browser, to train on them.

Serves a page to this machine only, and prints its address, which contains a random token. The page loops a segment and
asks whether a class appears in it. Keys: y, n, s to skip, u to undo. Each answer is written at once to a CSV,
vid,start,label,score, for `make_records --ratings`. The next segment is the one that teaches the model most or, without
a model, a random one. A restart resumes. Ctrl-C ends it.
"""

import argparse
import shlex
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import as_typed, folder_name, integer_type, make_parser, run

if TYPE_CHECKING:
    from yt8m.rating.server import RatingServer

_port = integer_type("port from 0 to 65535", 0, 2**16)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.rate --videos films --name first --labels labels.csv",
            "python -m yt8m.rate --videos films --name first --classes dog guitar --open",
            "python -m yt8m.rate --videos films --name second --labels labels.csv --model data/cache/video/base "
            "--features features",
        ),
        "device",
        "seed",
    )
    parser.add_argument(
        "--videos", type=Path, required=True, metavar="FOLDER", help="folder of films, searched recursively"
    )
    parser.add_argument(
        "--name",
        type=folder_name,
        required=True,
        help="name of the ratings: they go to ratings/NAME/ratings.csv of the data folder",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="columns vid,label: rate each film only for its own labels (default: none, for all --classes)",
    )
    parser.add_argument(
        "--classes", nargs="+", action="extend", metavar="NAME", help="classes to ask about (default: all in --labels)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="folder of a trained segment or video model that chooses the segments (default: none, random segments)",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="the films' features for --model, in shards from extract_features, whose films.csv has the films' ids "
        "(default: none, ids are file names)",
    )
    parser.add_argument("--ratings", type=Path, metavar="CSV", help="file of the ratings (default: set by --name)")
    parser.add_argument(
        "--port", type=_port, default=0, metavar="P", help="port of the page (default: 0, any free one)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def _next_command(args: argparse.Namespace, ratings: Path) -> str:
    """The command to run when enough is rated."""
    labels = "LABELS.csv" if args.labels is None else str(args.labels)
    options = {"--videos": str(args.videos), "--labels": labels, "--ratings": str(ratings), "--name": args.name}
    return shlex.join(("python", "-m", "yt8m.fit", *chain.from_iterable(options.items())))


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C. Raises `UserError`."""
    from helperbot.files import locked

    from yt8m.common.errors import UserError, counted
    from yt8m.data.vocabulary import read_labels
    from yt8m.films.film_files import ids_by_name
    from yt8m.films.film_folder import FILMS_TABLE
    from yt8m.rating.choice import Chooser
    from yt8m.rating.film_list import list_films
    from yt8m.rating.questions import check_other_ratings, classes_of_films, list_questions, shown_names
    from yt8m.rating.ratings_file import RatingsFile
    from yt8m.rating.server import RatingServer
    from yt8m.rating.windows import RatingWindows

    if args.labels is None and args.classes is None:
        raise UserError("nothing to rate; name --labels CSV or --classes")
    if args.model is not None and args.features is None:
        raise UserError("--model: needs --features, the folder of the films' features")
    if args.labels is not None:
        read_labels(args.labels)  # its faults before all films are looked at
    listing = None if args.features is None else args.features / FILMS_TABLE
    films = list_films(args.videos, listing if listing is not None and listing.exists() else None)
    ids = ids_by_name({film.path: film.video_id for film in films})
    rows = None if args.labels is None else read_labels(args.labels, ids)
    classes = classes_of_films(films, rows, args.classes, args.labels)
    judgement = None
    if args.model is not None:
        from yt8m.rating.predicting import SegmentJudge

        judge = SegmentJudge(args.model, args.device)
        judgement = judge.judge_folder(args.features, {film.video_id for film in films})
    questions, labels = list_questions(films, classes, judgement)
    names = shown_names(labels, None if judgement is None else judgement.vocabulary)
    path = args.ratings or args.data_dir / "ratings" / args.name / "ratings.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    occupied = f"{path}: another process is writing ratings there; open its address in a second window instead"
    with locked(lock, UserError(occupied)):
        try:
            command = as_typed(_next_command(args, path), args.prog)
            file = RatingsFile(path, ids)
            check_other_ratings(file.scores.keys(), labels, films, path)
            windows = RatingWindows(films, labels, names, Chooser(questions, args.seed), file, command)
            server = RatingServer(windows, args.videos, args.name, args.port)
            print(
                f"{counted(len(films), 'film')}, {counted(len(questions), 'question')}; {path} has "
                f"{counted(len(file.scores), 'rating')}\nopen this in a browser on this machine, Ctrl-C ends it:\n"
                f"{server.address}",
                flush=True,
            )
            try:
                _serve(server, args.open)
            finally:
                print(f"{path}: {counted(len(file.scores), 'rating')}; next: {command}")
        finally:
            lock.unlink()


def _serve(server: "RatingServer", opens_browser: bool) -> None:
    """Serve the page until Ctrl-C, and open it in the browser if wanted."""
    try:
        if opens_browser:
            import webbrowser

            webbrowser.open(server.address)
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    run(main, build_parser())
