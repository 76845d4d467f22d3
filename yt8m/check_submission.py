"""Check a submission against the vocabulary and the test metadata; status 0: valid, 1: not valid."""

import argparse
import sys
from pathlib import Path

from yt8m.cli import add_top_k, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        ("python -m yt8m.check_submission sub.csv", "python -m yt8m.check_submission sub.csv.gz --data-dir data/demo"),
    )
    parser.add_argument("submission", type=Path, metavar="CSV", help="the submission; decompressed if it ends in .gz")
    add_top_k(parser, "maximum number of segments per class")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the faults and a verdict. Raises `UserError` if the file cannot be read."""
    from yt8m.data.candidates import load_candidates
    from yt8m.data.vocabulary import load_vocabulary
    from yt8m.ranking.submission import SubmissionCheck

    vocabulary = load_vocabulary(args.data_dir)
    candidates = load_candidates(args.data_dir / "cache")
    findings = SubmissionCheck(candidates, vocabulary, args.top_k).check(args.submission)
    print(
        f"{args.submission}: {findings.n_lines:,} classes of {len(vocabulary):,}, {findings.n_entries:,} segments "
        f"listed, of {candidates.n_rows:,} in {len(candidates.records):,} videos"
    )
    if findings.n_short:
        print(
            f"  {findings.n_short:,} classes list fewer than they may, {findings.n_empty:,} of them none; that is "
            "allowed"
        )
    for problem, (count, example) in findings.faults.items():
        print(f"  {count:,} {problem}; the first: {example}")
    print("NOT VALID" if findings.faults else "valid")
    if findings.faults:
        sys.exit(1)


if __name__ == "__main__":
    run(main, build_parser())
