"""Download the YouTube-8M data set, or a part of it: shards are fetched, verified and put where the commands look.

Existing shards are kept and interrupted downloads resume: type the same command again. Shards get their official names,
such as validate3227.tfrecord; one stored under its server's name, such as validate0d.tfrecord, is recognized. A file
with a shard's name but other content is not lost: it is renamed NAME.replaced once the right one has arrived. Proxies
and passwords are configured as for curl, in http_proxy and ~/.netrc.

The exit status is 0 if all shards are there, 1 if any could not be fetched, 2 for any other error.
"""

import argparse
import logging
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING

from helperbot.files import locked

from yt8m.cli import Distinct, count, make_parser, number_type, positive, run
from yt8m.common.errors import UserError
from yt8m.data.partitions import N_SHARDS, NAME_COLUMNS, NAMES_FILE, PARTITIONS, server_name, shard_number

if TYPE_CHECKING:
    from yt8m.data.downloads import Fetcher, ShardDownloads

LOGGER = logging.getLogger(__name__)
VOCABULARY_URL = "https://research.google.com/youtube8m/csv/"
VOCABULARIES = {  # files in the data folder: path below that URL, and columns
    NAMES_FILE: ("2/vocabulary.csv", NAME_COLUMNS),
    "segment_vocabulary.csv": ("segments/vocabulary.csv", NAME_COLUMNS[:1]),
}


@dataclass(frozen=True)
class ShardSelection:
    """A choice of shards, by number and server's file name; `last`: the highest number named."""

    chooses: Callable[[int, str], bool]
    last: int = 0

    def of(self, names: Sequence[str], source: str) -> list[str]:
        """The chosen ones of a plan's sorted names, by official number or, unless each has its own, by position.

        Raises `UserError` for a number that no shard of the plan can have.
        """
        places = {name: number for name in names if (number := shard_number(name)) is not None}
        n_places = N_SHARDS
        if len(set(places.values())) < len(names):
            places, n_places = {name: place for place, name in enumerate(names)}, len(names)
        if self.last >= n_places:
            raise UserError(f"--shards: the shards of {source} are numbered 0 to {n_places - 1}; found {self.last}")
        return sorted((name for name in names if self.chooses(places[name], server_name(name))), key=places.__getitem__)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, "python -m yt8m.download --plan 2/frame/validate 3/frame/validate --shards 0-99")
    folders = ", ".join(f"{partition.published} goes to DIR/{partition.folder}" for partition in PARTITIONS)
    parser.add_argument(
        "--plan",
        nargs="+",
        default=[],
        action=Distinct,
        metavar="PLAN",
        help=f"partitions of the data set ({folders}; others need --to), or the URL or path of a plan file "
        "(default: none)",
    )
    parser.add_argument(
        "--shards",
        type=parse_selection,
        default=ShardSelection(lambda number, name: True),
        metavar="RANGES|M/N|i,n",
        help=f"shards of each plan, by official number, 0 to {N_SHARDS - 1}: ranges such as 0-99 or 5 or "
        "0-9,20-29; every N-th from M, such as 3/100; or, as in the organizers' script, the i-th of n parts, such "
        "as 1,100 (default: all)",
    )
    parser.add_argument(
        "--mirror", choices=("us", "eu", "asia"), default="us", help="mirror to download from (default: us)"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="folder for the shards of a single plan (default: the partition's folder)",
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="URL above the shards of a single plan (default: the plan's own)"
    )
    parser.add_argument(
        "--vocabulary",
        action="store_true",
        help=f"fetch {' and '.join(VOCABULARIES)} from {VOCABULARY_URL}, unless they are in DIR",
    )
    parser.add_argument("--list", action="store_true", help="only list what would be fetched, and count what is there")
    parser.add_argument(
        "--verify", action="store_true", help="read all existing files again, even those already verified"
    )
    parser.add_argument("--jobs", type=positive, default=4, metavar="N", help="parallel downloads (default: 4)")
    parser.add_argument(
        "--retries",
        type=count,
        default=5,
        metavar="N",
        help="attempts after the first failure, with increasing waits (default: 5)",
    )
    parser.add_argument(
        "--timeout",
        type=number_type("number of seconds above 0, at most 86400", lambda value: 0 < value <= 86_400),
        default=60.0,
        metavar="S",
        help="seconds to wait for a server that sends nothing (default: 60)",
    )
    return parser


def parse_selection(text: str) -> ShardSelection:
    """Parse `0-9,20-29` or `5`, ranges; `M/N`, every N-th from M on; `i,n`, the i-th of n parts."""
    if share := re.fullmatch(r"(\d{1,9})([/,])(\d{1,9})", text, re.ASCII):
        i, n = int(share[1]), int(share[3])
        if share[2] == "/" and i < n:
            return ShardSelection(lambda number, name: number % n == i)
        if share[2] == "," and 1 <= i <= n:
            return ShardSelection(
                lambda number, name: int(md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % n == i - 1
            )
        parts = f"i,n, the i-th of n parts, with i from 1 to n, or the shards {i}-{i},{n}-{n}"
        what = parts if share[2] == "," else "M/N with M from 0 to N - 1"
        raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}")
    ranges = []
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if bounds is None or int(bounds[2] or bounds[1]) < int(bounds[1]):
            what = "ranges such as 0-99 or 0-9,20-29, or M/N, or i,n"
            raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}")
        ranges.append(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return ShardSelection(lambda number, name: any(number in part for part in ranges), max(part[-1] for part in ranges))


def main(args: argparse.Namespace) -> None:
    """Fetch what is missing and print a summary; exit with status 1 if any fails. Raises `UserError`."""
    from yt8m.data.downloads import Fetcher, open_plan

    if not args.plan and not args.vocabulary:
        raise UserError("nothing to download: name a --plan or --vocabulary")
    if len(args.plan) > 1 and (args.to is not None or args.base_url is not None):
        raise UserError("--to and --base-url are for a single --plan; download one after the other")
    fetcher = Fetcher(args.retries, args.timeout)
    open_one = partial(open_plan, mirror=args.mirror, folder=args.to, base_url=args.base_url)
    downloads = [open_one(plan, args.data_dir, args.shards.of, fetcher) for plan in args.plan]
    for name in VOCABULARIES if args.vocabulary else ():
        _vocabulary(name, args.data_dir, args.list, fetcher)
    for download in downloads:
        if not download.shards:
            print(
                f"{download.title}: nothing left to fetch; give the partition as --plan for --list to count what is "
                "there"
            )
    downloads = [download for download in downloads if download.shards]
    if args.list:
        for download in downloads:
            _list(download, fetcher)
    else:
        _download(downloads, fetcher, args.verify, args.jobs)


def _vocabulary(name: str, data_dir: Path, only_list: bool, fetcher: "Fetcher") -> None:
    """Fetch a vocabulary, unless it exists."""
    from yt8m.data.downloads import fetch_vocabulary

    path, (where, columns) = data_dir / name, VOCABULARIES[name]
    url = VOCABULARY_URL + where
    if path.exists():
        print(f"{path}: exists; left as it is")
    elif only_list:
        print(f"{url} -> {path}: to fetch")
    else:
        fetch_vocabulary(url, columns, path, fetcher)
        print(f"{url} -> {path}: fetched")


def _list(download: "ShardDownloads", fetcher: "Fetcher") -> None:
    """Print what a download would do."""
    states = {shard: download.state(shard) for shard in download.shards}
    numbers = Counter(states.values())
    missing = [shard for shard, state in states.items() if state in ("begun", "missing")]
    size = fetcher.size_of(missing[0].url) if missing else 0
    print(
        f"{download.title} -> {download.folder}: {len(download.shards)} shards; {numbers['verified']} are there, "
        f"{numbers['unread']} are there and to be verified, {len(missing)} are to fetch"
        f"{f', about {_gigabytes(len(missing) * size)}' if size else ''}, {numbers['begun']} of them begun"
    )
    for shard in missing:
        print(f"  {shard.url} -> {shard.name}")


def _download(downloads: "list[ShardDownloads]", fetcher: "Fetcher", verify: bool, jobs: int) -> None:
    """Fetch what is missing and print a summary; exit with status 1 if any fails."""
    failed, aside = [], []
    with ExitStack() as stack:
        for download in downloads:
            download.folder.mkdir(parents=True, exist_ok=True)
            occupied = f"{download.folder}: another download into this folder is running; wait until it has ended"
            stack.enter_context(locked(download.folder / ".download.lock", UserError(occupied)))
        missing = [download.look(verify, jobs) for download in downloads]
        sizes = [fetcher.size_of(shards[0].url) if shards else 0 for shards in missing]
        _warn_of_little_space([download.folder for download in downloads], [len(a) * b for a, b in zip(missing, sizes)])
        for download, shards, size in zip(downloads, missing, sizes):
            reasons = download.fetch(shards, size, fetcher, jobs) if shards else []
            n_shards = len(download.shards)
            print(
                f"{download.title} -> {download.folder}: {n_shards} shards, {n_shards - len(shards)} were there, "
                f"{len(shards) - len(reasons)} fetched{f', {len(reasons)} failed' if reasons else ''}"
            )
            failed += reasons
            aside += download.set_aside
    if aside:
        print(f"\nrenamed for a wrong MD5, {len(aside)} files; they can be deleted:")
        print(*sorted(aside), sep="\n")
    if failed:
        print(f"\nfailed, {len(failed)} shards; the same command retries and resumes them:")
        print(*failed, sep="\n")
        sys.exit(1)


def _warn_of_little_space(folders: list[Path], sizes: list[int]) -> None:
    """Warn of each disk with less space than the folders on it need; `sizes`: bytes to come in each folder."""
    to_come: Counter[int] = Counter()
    for folder, size in zip(folders, sizes):
        to_come[folder.stat().st_dev] += size
    for device, folder in {folder.stat().st_dev: folder for folder in folders}.items():
        if to_come[device] > (free := shutil.disk_usage(folder).free):
            what = "%s: needs about %s, but only %s are free"
            LOGGER.warning(what, folder, _gigabytes(to_come[device]), _gigabytes(free))


def _gigabytes(n_bytes: int) -> str:
    """A number of bytes in GB or MB."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"


if __name__ == "__main__":
    run(main, build_parser())
