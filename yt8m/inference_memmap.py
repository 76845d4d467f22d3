"""Predict every test segment with every model: `cache/predictions/<model>.npy`."""

import argparse
import logging

from yt8m.cli import add_prediction_options, computation, make_parser, model_choice, positive, run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.inference_memmap",
            "python -m yt8m.inference_memmap --model-names dbof-3_0 nextvlad-2_1 --shifts -1 0 1",
            "torchrun --nproc_per_node=2 -m yt8m.inference_memmap",
        ),
        "device",
        "workers",
        "on-error",
    )
    add_prediction_options(parser, "models to predict with")
    parser.add_argument(
        "--batch-size", type=positive, default=512, metavar="N", help="segments at a time (default: 512)"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the predictions of models that have none or outdated ones. Raises `UserError`."""
    from helperbot import get_logger

    from yt8m.prediction.test_set import predict_test_set

    get_logger("yt8m", level=min(args.console_level, logging.INFO), console_level=args.console_level)
    predict_test_set(
        args.data_dir,
        model_choice(args),
        computation(args),
        offset=args.offset,
        batch_size=args.batch_size,
        workers=args.workers,
        damage=args.damage,
    )


if __name__ == "__main__":
    run(main, build_parser())
