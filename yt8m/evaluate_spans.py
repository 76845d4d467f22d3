"""Compare found spans with true ones: temporal IoU of each class in each video, and the mean."""

import argparse
from pathlib import Path

from yt8m.cli import make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, "python -m yt8m.evaluate_spans spans.csv truth.csv")
    parser.add_argument("found", type=Path, metavar="FOUND", help="CSV of spans, as `localize --format csv` writes it")
    parser.add_argument("true", type=Path, metavar="TRUE", help="CSV of true spans: vid,label,start,end in seconds")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print a table of the spans and the mean IoU. Raises `UserError`."""
    from yt8m.common.errors import counted
    from yt8m.scoring.span_overlap import compare_spans, mean_iou, overlap_table

    overlaps = compare_spans(args.found, args.true)
    print(overlap_table(overlaps).to_string(index=False, float_format="{:.2f}".format))
    print(f"mean temporal IoU of {counted(len(overlaps), 'pair')} of a video and a class: {mean_iou(overlaps):.3f}")


if __name__ == "__main__":
    run(main, build_parser())
