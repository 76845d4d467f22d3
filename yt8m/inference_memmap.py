"""Predict every test segment with every model: `cache/predictions/<model>.npy`."""
import argparse
from pathlib import Path

from yt8m.cli import Distinct, add_amp, add_model_names, count, make_parser, positive, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, "python -m yt8m.inference_memmap --model-names dbof-3_0 nextvlad-2_1",
                         "device", "workers", "on-error")
    parser.add_argument("--model-dir", type=Path, metavar="D",
                        help="folder of segment models (default: cache/segment of the data folder)")
    add_model_names(parser, "which of them to predict with")
    parser.add_argument("--offset", type=count, metavar="N",
                        help="frames on either side of a segment (default: what each model was trained with)")
    parser.add_argument("--shifts", type=int, nargs="+", default=[0], metavar="S", action=Distinct,
                        help="average the predictions for segments so many seconds later, or earlier, such as "
                             "-2 -1 0 1 2 (default: 0, the segments alone)")
    parser.add_argument("--batch-size", type=positive, default=512, metavar="N",
                        help="segments at a time (default: 512)")
    add_amp(parser, "off", "off, float32; auto is bf16 or else fp16 on a GPU")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the predictions of those models that have none yet, or old ones. Raises `UserError`."""
    from yt8m.prediction import run_predictions

    run_predictions(args)


if __name__ == "__main__":
    run(main, build_parser())
