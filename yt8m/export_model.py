"""Export a model folder to one ONNX file, which other programs can run.

An exported model takes features as stored in shards: uint8, one row per second, visual and audio features side by side
(D in all). It returns float32 probabilities of the vocabulary's C classes:

    video model        frames (L, D)                              -> probabilities (C,)
    context-agnostic   segments (S, 5 + 2 * offset, D)            -> probabilities (S, C)
    context-aware      segments (S, 5 + 2 * offset, D) and
                       frames (L, D) of the video they are from   -> probabilities (S, C)

`frames` is one whole video: the model itself drops the first 30 and last 10 seconds if others remain. A segment that
starts at T consists of seconds T - offset to T + 5 + offset (exclusive), with zeros beyond either end of the video. S
and L are dynamic, at least 1. The file also names the model, its offset, and the labels and names of the classes. It is
put in place only after a run of it has matched PyTorch.
"""

import argparse
from pathlib import Path

from yt8m.cli import add_vocabulary, make_parser, run

FILE_NAME = "model.onnx"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.export_model data/cache/segment/dbof-3_0",
            "python -m yt8m.export_model data/cache/video/dbof-3 --output dbof-3.onnx",
        ),
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="folder of a video model or a segment model")
    parser.add_argument(
        "--format",
        choices=("onnx",),
        default="onnx",
        help="needs the packages onnx, onnxscript and onnxruntime (default: onnx, the only one)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"the file to write (default: {FILE_NAME} in MODEL_DIR)"
    )
    add_vocabulary(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Export, compare with PyTorch, and print a summary. Raises `UserError`."""
    from yt8m.data.vocabulary import named_vocabulary
    from yt8m.models.model_folders import open_folder
    from yt8m.prediction.onnx_export import export_folder

    folder = open_folder(args.model, named_vocabulary(args.vocabulary))
    output = args.output or folder.path / FILE_NAME
    interface, comparison = export_folder(folder, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; {interface}; differs from PyTorch by at most {comparison}")


if __name__ == "__main__":
    run(main, build_parser())
