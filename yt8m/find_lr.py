"""Sweep the learning rate in one short run, to find where the loss falls fastest.

The rate grows exponentially from step to step, until the loss explodes. The result is the rate of steepest descent:
set training.lr to it or slightly lower, as the smoothed loss lags behind. Never take the rate of the lowest
loss, where it is about to rise. Look at the plot before you trust the number. No model is kept.

The training section of CONFIG determines which of the three trainings it is.
"""

import argparse
from pathlib import Path

from yt8m.cli import add_amp, add_config, add_vocabulary, fold, make_parser, number_type, positive, run
from yt8m.data.partitions import N_FOLDS, NO_FOLD

_rate = number_type("positive number", lambda value: value > 0)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.find_lr scripts/video_gated_dbof.yaml",
            "python -m yt8m.find_lr scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 --fold 1",
        ),
        "device",
        "seed",
        "workers",
        "on-error",
    )
    add_config(parser)
    parser.add_argument(
        "base_models",
        type=Path,
        nargs="*",
        metavar="BASE_MODEL_DIR",
        help="none for video.training; the folder of the video model for pure_segment.training; those "
        "of the context model and of the segment model for segment_w_context.training",
    )
    parser.add_argument(
        "--fold",
        type=fold,
        default=0,
        metavar=f"K|{NO_FOLD}",
        help=f"for fine-tuning: the fold to leave out, 0 to {N_FOLDS - 1}; {NO_FOLD}: train on all shards (default: 0)",
    )
    parser.add_argument(
        "--from",
        type=_rate,
        default=1e-7,
        dest="start",
        metavar="LR",
        help="learning rate of the first step (default: 1e-7)",
    )
    parser.add_argument(
        "--to", type=_rate, default=1.0, dest="end", metavar="LR", help="learning rate of the last step (default: 1)"
    )
    parser.add_argument(
        "--steps", type=positive, default=100, metavar="S", help="optimizer steps, at least 10 (default: 100)"
    )
    add_amp(parser)
    add_vocabulary(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PICTURE",
        help="PNG for the plot of the loss; its data goes to a .csv beside it (default: "
        "cache/find_lr/<name of CONFIG>.png in the data folder)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the test, write table and plot, print the rate. Raises `UserError`."""
    from yt8m.training.lr_range import Rates, configured_experiment, run_range_test
    from yt8m.training.trainer import TrainingOptions

    options = TrainingOptions(
        args.seed, args.device, args.amp, args.workers, args.damage, console_level=args.console_level
    )
    picture = args.output or args.data_dir / "cache" / "find_lr" / f"{args.config.stem}.png"
    build = configured_experiment(args.config, args.base_models, args.fold, args.vocabulary)
    print(run_range_test(build, Rates(args.start, args.end, args.steps), picture, args.data_dir, options))


if __name__ == "__main__":
    run(main, build_parser())
