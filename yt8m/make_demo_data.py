"""Write a small synthetic data set in the official schema, to try the whole pipeline on."""

import argparse

from yt8m.cli import add_numbers, make_parser, run

_SIZES = {
    "train-videos": (1000, "videos to train on"),
    "valid-videos": (160, "videos to validate on"),
    "rated-videos": (480, "videos with rated segments"),
    "test-videos": (120, "videos with segments to rank"),
    "classes": (20, "rated classes"),
    "shard-videos": (30, "videos per shard"),
    "min-seconds": (80, "length of the shortest videos"),
    "max-seconds": (180, "length of the longest videos"),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, "python -m yt8m.make_demo_data --data-dir data/demo", "seed")
    add_numbers(parser, _SIZES)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write shards, the vocabulary, and the test set's `truth.csv` and `test_labels.csv`. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.making.demo_data import DemoSizes, World, write_demo_data

    if args.min_seconds > args.max_seconds:
        raise UserError(f"--min-seconds {args.min_seconds} is more than --max-seconds {args.max_seconds}")
    for name in ("video", "segment"):
        if (args.data_dir / name).exists():
            raise UserError(f"{args.data_dir / name}: exists already; remove it or choose another --data-dir")
    videos = args.train_videos, args.valid_videos, args.rated_videos, args.test_videos
    sizes = DemoSizes(videos, args.shard_videos, (args.min_seconds, args.max_seconds))
    n_ratings = write_demo_data(args.data_dir, World(args.classes, args.seed), sizes)
    print(f"{args.data_dir}: {sum(videos)} videos, {args.classes} rated classes, {n_ratings} test ratings")


if __name__ == "__main__":
    run(main, build_parser())
