"""Check every byte of folders of shards; report contents, oddities, and which shards to download again.

The exit status is 0 if all shards are whole, 1 if any is damaged or of another kind, such as video-level features, or
if a folder segment/test has video ids that a submission cannot hold, 2 if something could not be checked.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import make_parser, run
from yt8m.common.errors import counted
from yt8m.data.partitions import FOLDERS

if TYPE_CHECKING:
    from yt8m.common.errors import RecordError


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__, ("python -m yt8m.check_data", "python -m yt8m.check_data data/video/train data/segment/train")
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help=f"folders of .tfrecord files (default: those of {', '.join(FOLDERS)} that are in the data folder)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Print tables, names and damage; exit with status 1 if there is damage, or test videos cannot be submitted.
    Raises `UserError`."""
    import pandas as pd

    from yt8m.common.errors import UserError
    from yt8m.data.records import ID_RULE
    from yt8m.data.statistics import UNFIT_IDS, report_folders
    from yt8m.data.vocabulary import VOCABULARY_FILE, load_vocabulary

    folders = args.folders or [args.data_dir / name for name in FOLDERS if (args.data_dir / name).is_dir()]
    if not folders:
        raise UserError(
            f"{args.data_dir}: none of {', '.join(FOLDERS)} is in this folder; name the folders to "
            "check, or set --data-dir"
        )
    vocabulary = load_vocabulary(args.data_dir) if (args.data_dir / VOCABULARY_FILE).is_file() else None
    reports = {str(folder): report for folder, report in report_folders(folders, vocabulary).items()}
    print(pd.DataFrame({folder: report.contents for folder, report in reports.items()}).to_string())
    oddities = pd.DataFrame({folder: report.oddities for folder, report in reports.items()})
    oddities = oddities[(oddities > 0).any(axis=1)]
    print("\noddities: none" if oddities.empty else f"\noddities:\n{oddities.to_string()}")
    remarks = [line for report in reports.values() for line in report.remarks]
    if remarks:
        print("", *remarks, sep="\n")
    if UNFIT_IDS in oddities.index:
        print(f"\n{ID_RULE}; write the records of test videos with other ids")
    _print_faults([error for report in reports.values() for error in report.errors])
    if not all(report.is_usable for report in reports.values()):
        sys.exit(1)


def _print_faults(faults: "list[RecordError]") -> None:
    """Print shards of another kind, damage, and which shards to download again."""
    from yt8m.common.errors import ForeignRecordError
    from yt8m.data.records import DOWNLOAD

    foreign = [error for error in faults if isinstance(error, ForeignRecordError)]
    damage = [error for error in faults if not isinstance(error, ForeignRecordError)]
    if foreign:
        print(f"\nof another kind, {counted(len(foreign), 'shard')}:")
        for folder in dict.fromkeys(error.path.parent for error in foreign):  # one error stands for the folder's
            first, *others = [error for error in foreign if error.path.parent == folder]
            print(first, *[f"{folder}: and {len(others):,} more"] * bool(others), sep="\n")
    if damage:
        print(f"\ndamage, {len(damage)} records or ends of shards:", *damage, sep="\n")
        shards = sorted({error.path for error in damage if DOWNLOAD in error.what})
        if shards:
            print(f"\ndownload again, {counted(len(shards), 'shard')}:", *shards, sep="\n")
    if not faults:
        print("\nno damage: all checksums are right")


if __name__ == "__main__":
    run(main, build_parser())
