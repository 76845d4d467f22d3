"""Pre-train a video classifier on video-level labels: `cache/video/NAME`.

An evaluation logs, for the validation videos: loss; accuracy, recall and precision at probability 0.5; gap, the average
precision of the 20 most probable classes of each video in one list of all (GAP@20); map, the mean of the classes'
average precisions.
"""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from yt8m.cli import make_training_parser, positive, run, run_training

if TYPE_CHECKING:
    from yt8m.training.experiments import Builder


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_training_parser(
        __doc__,
        (
            "SEED=4827 python -m yt8m.train_video scripts/video_gated_dbof.yaml --name dbof-3",
            "python -m yt8m.train_video scripts/video_nextvlad.yaml --name quick --steps 20000 --window 32",
            "torchrun --nproc_per_node=2 -m yt8m.train_video scripts/video_nextvlad.yaml --name nextvlad-2",
        ),
        "cache/video/NAME",
    )
    parser.add_argument(
        "--window",
        type=positive,
        metavar="SHARDS",
        help="shuffle the videos of this many shards at a time, so that reads fit the page cache "
        "(default: shuffle all videos)",
    )
    return parser


def builder(args: argparse.Namespace) -> "Builder":
    """The builder of the experiment."""
    from yt8m.training.experiments import video_experiment

    return partial(video_experiment, config=args.config, steps=args.steps, window=args.window)


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    run_training(args, builder(args))


if __name__ == "__main__":
    run(main, build_parser())
