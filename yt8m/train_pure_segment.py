"""Fine-tune a video classifier on rated segments alone (context-agnostic): `cache/segment/NAME_FOLD`."""

import argparse
from pathlib import Path

from yt8m.cli import add_fold, add_training_options, add_vocabulary, make_parser, run


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
    add_training_options(parser, "cache/segment/NAME_FOLD")
    parser.add_argument("base_model", type=Path, metavar="BASE_MODEL_DIR", help="folder of the pre-trained video model")
    add_fold(parser)
    add_vocabulary(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from yt8m.training.experiments import agnostic_experiment
    from yt8m.training.trainer import run_training

    run_training(args, args.data_dir / "cache" / "segment" / f"{args.name}_{args.fold}", agnostic_experiment)


if __name__ == "__main__":
    run(main, build_parser())
