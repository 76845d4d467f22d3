"""Derive `segment_vocabulary.csv` from the rated shards of your own data.

The challenge's file comes with the software (data/segment_vocabulary.csv) and need not be derived.
"""

import argparse
from pathlib import Path

from yt8m.cli import make_parser, run
from yt8m.common.errors import counted


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        ("python -m yt8m.prepare_vocabulary", "python -m yt8m.prepare_vocabulary --names vocabulary.csv --overwrite"),
        "on-error",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="CSV",
        help="the data set's official vocabulary.csv, for the names of the classes "
        "(default: vocabulary.csv in the data folder, if present)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a segment_vocabulary.csv that differs")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the vocabulary. Raises `UserError`."""
    import numpy as np

    from yt8m.common.errors import UserError
    from yt8m.data.index import load_index
    from yt8m.data.partitions import NAMES_FILE
    from yt8m.data.vocabulary import VOCABULARY_FILE, Vocabulary, derive_vocabulary, load_vocabulary, save_vocabulary

    names = args.names
    if names is None and (args.data_dir / NAMES_FILE).is_file():
        names = args.data_dir / NAMES_FILE
    index = load_index(args.data_dir / "segment" / "train", args.data_dir / "cache", args.damage)
    table = derive_vocabulary(index, names)
    path = args.data_dir / VOCABULARY_FILE
    if path.exists() and not args.overwrite:
        known = load_vocabulary(args.data_dir)  # raises if no command would accept it
        derived = Vocabulary(table["Index"].to_numpy(np.int64), tuple(table["Name"]), str(index.folder))
        try:
            rows = derived.rows_in(known)
        except UserError as error:
            raise UserError(f"{error}; use it as it is, or replace it with --overwrite") from None
        order = "" if (np.diff(rows) == 1).all() else ", in another order, which models trained with it share"
        print(f"{path}: exists and has the same {len(table)} classes{order}; left as it is")
        return
    save_vocabulary(table, args.data_dir)
    print(f"{path}: {len(table)} classes, {counted(table['TotalSegmentCount'].sum(), 'rating')}")


if __name__ == "__main__":
    run(main, build_parser())
