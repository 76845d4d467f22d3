"""Fine-tune a video classifier on rated segments alone (context-agnostic): `cache/segment/NAME_FOLD`.

An evaluation logs, of the validation shards: loss; auc, how often a segment rated 1 gets a higher probability for its
class than one rated 0; accuracy of the ratings at probability 0.5; negative_accuracy, the share of the mined negatives,
classes that are surely not in a segment's video, below 0.5.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import add_fine_tuning_options, make_parser, model_folder, run, training_options

if TYPE_CHECKING:
    from yt8m.training.experiments import Builder


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__,
        (
            "SEED=1213 python -m yt8m.train_pure_segment scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 "
            "--fold 0 --name dbof-3",
            "python -m yt8m.train_pure_segment scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 "
            "--fold none --name dbof-3 --steps 6000",
        ),
        "device",
        "seed",
        "workers",
        "on-error",
    )
    add_fine_tuning_options(parser)
    parser.add_argument("base_model", type=Path, metavar="BASE_MODEL_DIR", help="folder of the pre-trained video model")
    return parser


def builder(args: argparse.Namespace) -> "Builder":
    """What makes the experiment."""
    from yt8m.training.experiments import agnostic_experiment

    return partial(
        agnostic_experiment,
        config=args.config,
        base_model=args.base_model,
        fold=args.fold,
        steps=args.steps,
        vocabulary_file=args.vocabulary,
    )


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from yt8m.training.trainer import train

    train(model_folder(args), args.data_dir, builder(args), training_options(args))


if __name__ == "__main__":
    run(main, build_parser())
