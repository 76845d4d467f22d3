"""Check a submission against the vocabulary and the test metadata; status 0: valid, 1: not valid."""

import argparse
import sys
from pathlib import Path

from yt8m.cli import add_top_k, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__,
        ("python -m yt8m.check_submission sub.csv", "python -m yt8m.check_submission sub.csv.gz --data-dir data/demo"),
    )
    parser.add_argument("submission", type=Path, metavar="CSV", help="the submission; uncompressed if it ends in .gz")
    add_top_k(parser, "the most segments that a class may list")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print what is wrong, and a verdict. Raises `UserError` where the file cannot be read."""
    from yt8m.data.test_meta import load_test_meta
    from yt8m.data.vocabulary import load_vocabulary
    from yt8m.ranking.submission_check import SubmissionCheck

    vocabulary = load_vocabulary(args.data_dir)
    meta = load_test_meta(args.data_dir / "cache")
    findings = SubmissionCheck(meta, vocabulary, args.top_k).check(args.submission)
    print(
        f"{args.submission}: {findings.n_lines:,} classes of {len(vocabulary):,}, {findings.n_entries:,} segments "
        f"listed, of {meta.n_rows:,} in {len(meta.records):,} videos"
    )
    if findings.n_short:
        print(
            f"  {findings.n_short:,} classes list fewer than they may, {findings.n_empty:,} of them none; that is "
            "allowed"
        )
    for problem, (count, example) in findings.problems.items():
        print(f"  {count:,} {problem}; the first: {example}")
    print("NOT VALID" if findings.problems else "valid")
    if findings.problems:
        sys.exit(1)


if __name__ == "__main__":
    run(main, build_parser())
