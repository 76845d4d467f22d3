"""Fine-tune a video classifier on rated segments alone (context-agnostic): `cache/segment/NAME_FOLD`."""

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
        (
            "SEED=1213 python -m yt8m.train_pure_segment scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 "
            "--fold 0 --name dbof-3",
            "python -m yt8m.train_pure_segment scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 "
            "--fold none --name dbof-3 --steps 6000",
        ),
    )
    parser.add_argument("base_model", type=Path, metavar="BASE_MODEL_DIR", help="folder of the pre-trained video model")
    return parser


def builder(args: argparse.Namespace) -> "Builder":
    """The builder of the experiment."""
    from yt8m.training.experiments import agnostic_experiment

    return partial(agnostic_experiment, base_model=args.base_model, **fine_tuning_options(args))


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    run_training(args, builder(args))


if __name__ == "__main__":
    run(main, build_parser())
