"""Average the models' predictions and list the best test segments of each class: `sub.csv`."""
import argparse
from pathlib import Path

from yt8m.cli import add_model_names, make_parser, positive, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, "python -m yt8m.create_submission_from_memmaps --output sub.csv", "seed")
    add_model_names(parser, "which models' predictions in cache/predictions to average")
    parser.add_argument("--output", type=Path, default=Path("sub.csv"), metavar="CSV",
                        help="the submission (default: sub.csv)")
    parser.add_argument("--top-k", type=positive, default=100_000, metavar="K",
                        help="segments a class (default: 100000)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the submission. Raises `UserError`."""
    from tqdm import tqdm

    from yt8m.memmaps import load_test_meta, prediction_files
    from yt8m.ranking import top_rows
    from yt8m.submission import write_submission
    from yt8m.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(args.data_dir)
    cache = args.data_dir / "cache"
    meta = load_test_meta(cache)
    files = prediction_files(cache, args.model_names)
    maps = [file.read(meta, len(vocabulary)) for file in files]
    names = meta.row_names()
    ranked = tqdm(top_rows(maps, args.top_k, args.seed), "ranking", len(vocabulary), unit="class", disable=None)
    write_submission(args.output, vocabulary.labels, (names[rows] for rows in ranked))
    print(f"{args.output}: {len(vocabulary)} classes, the best {min(args.top_k, meta.n_rows)} of {meta.n_rows} "
          f"segments each, mean of {', '.join(file.path.stem for file in files)}")


if __name__ == "__main__":
    run(main, build_parser())
