"""Fine-tune a segment classifier that sees the video around the segment (context-aware): `cache/segment/NAME_FOLD`."""

import argparse
from pathlib import Path

from yt8m.cli import add_fold, add_training_options, add_vocabulary, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__,
        "SEED=4055 python -m yt8m.train_segment_w_context scripts/segment_with_context.yaml "
        "data/cache/video/dbof-3 data/cache/video/nextvlad-2 --fold 3 --name dbof-3-nextvlad-2",
        "device",
        "seed",
        "workers",
        "on-error",
    )
    add_training_options(parser, "cache/segment/NAME_FOLD")
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
    add_fold(parser)
    add_vocabulary(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from yt8m.training.experiments import aware_experiment
    from yt8m.training.trainer import run_training

    run_training(args, args.data_dir / "cache" / "segment" / f"{args.name}_{args.fold}", aware_experiment)


if __name__ == "__main__":
    run(main, build_parser())
