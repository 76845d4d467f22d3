"""Fine-tune a segment classifier that sees the video around the segment (context-aware): `cache/segment/NAME_FOLD`."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import fine_tuning_options, make_fine_tuning_parser, run, run_training

if TYPE_CHECKING:
    from yt8m.training.experiments import Builder


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_fine_tuning_parser(
        __doc__,
        "SEED=4055 python -m yt8m.train_segment_w_context scripts/segment_with_context.yaml "
        "data/cache/video/dbof-3 data/cache/video/nextvlad-2 --fold 3 --name dbof-3-nextvlad-2",
    )
    parser.add_argument(
        "context_model",
        type=Path,
        metavar="CONTEXT_MODEL_DIR",
        help="folder of the video model that becomes the context encoder",
    )
    parser.add_argument(
        "segment_model",
        type=Path,
        metavar="SEGMENT_MODEL_DIR",
        help="folder of the video model that becomes the segment encoder",
    )
    return parser


def builder(args: argparse.Namespace) -> "Builder":
    """The builder of the experiment."""
    from yt8m.training.experiments import aware_experiment

    return partial(
        aware_experiment,
        context_model=args.context_model,
        segment_model=args.segment_model,
        **fine_tuning_options(args),
    )


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    run_training(args, builder(args))


if __name__ == "__main__":
    run(main, build_parser())
