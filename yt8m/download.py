"""Download the YouTube-8M data set, or a part of it: shards are fetched, verified and put where the commands look.

What is there already is left alone, what was broken off is gone on with: type the same command again. A file of a
shard's name with other content is not lost: it is called NAME.replaced once the right one has come. Proxies and
passwords come from where curl has them, http_proxy and ~/.netrc.

The exit status is 0 if all shards are there, 1 if any is not to be had, 2 if something else is wrong.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import Distinct, count, make_parser, number_type, positive, run
from yt8m.data.partitions import NAMES_FILE, PARTITIONS
from yt8m.downloading.plan import MIRRORS, VOCABULARY_URL, Selection, parse_selection

if TYPE_CHECKING:
    from yt8m.downloading.fetching import Batch, Outcome
    from yt8m.downloading.transfers import Patience


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, "python -m yt8m.download --plan 2/frame/validate 3/frame/validate --shards 0-99")
    folders = ", ".join(f"{partition.published} goes to DIR/{partition.folder}" for partition in PARTITIONS)
    parser.add_argument(
        "--plan",
        nargs="+",
        default=[],
        action=Distinct,
        metavar="PLAN",
        help=f"partitions of the data set ({folders}), or the URL or path of a plan file (default: none)",
    )
    parser.add_argument(
        "--shards",
        type=_selection,
        default=Selection(),
        metavar="RANGES|M/N",
        help="which shards of each plan, sorted by name: ranges such as 0-99 or 5 or 0-9,20-29, counted from 0, or "
        "every N-th from M, such as 3/100 (default: all)",
    )
    parser.add_argument("--mirror", choices=MIRRORS, default="us", help="where to download from (default: us)")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where the shards of a single plan go to (default: the partition's folder)",
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="folder of the shards of a single plan (default: the plan's own)"
    )
    parser.add_argument(
        "--vocabulary", action="store_true", help=f"fetch {VOCABULARY_URL} to DIR/{NAMES_FILE}, if it is not there"
    )
    parser.add_argument("--list", action="store_true", help="only say what would be fetched, and how many are there")
    parser.add_argument(
        "--verify", action="store_true", help="read all files that are there again, also those known to be right"
    )
    parser.add_argument("--jobs", type=positive, default=4, metavar="N", help="files at the same time (default: 4)")
    parser.add_argument(
        "--retries",
        type=count,
        default=5,
        metavar="N",
        help="attempts after the first that fails, with longer and longer waits between them (default: 5)",
    )
    parser.add_argument(
        "--timeout",
        type=number_type("number of seconds above 0, at most 86400", lambda value: 0 < value <= 86_400),
        default=60.0,
        metavar="S",
        help="seconds to wait for a server that sends nothing (default: 60)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Fetch what is missing and say what came of it; ends with status 1 if not all is there. Raises `UserError`."""
    from yt8m.common.errors import UserError
    from yt8m.downloading.fetching import read_batch
    from yt8m.downloading.plan import plan_sources
    from yt8m.downloading.transfers import Patience

    if not args.plan and not args.vocabulary:
        raise UserError("nothing to download: name a --plan or --vocabulary")
    patience = Patience(args.retries, args.timeout)
    sources = plan_sources(args.plan, args.mirror, args.data_dir, args.to, args.base_url)
    batches = [read_batch(source, args.shards, patience) for source in sources]
    if args.vocabulary:
        _vocabulary(args, patience)
    if args.list:
        for batch in batches:
            _list(batch, args.data_dir, patience)
    elif batches:
        _report(batches, _download(batches, args, patience))


def _vocabulary(args: argparse.Namespace, patience: "Patience") -> None:
    from yt8m.common.files import replacing
    from yt8m.downloading.fetching import fetch_vocabulary

    path = args.data_dir / NAMES_FILE
    if path.exists():
        print(f"{path}: exists; left as it is")
    elif args.list:
        print(f"{VOCABULARY_URL} -> {path}: to fetch")
    else:
        text = fetch_vocabulary(patience)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
        print(f"{VOCABULARY_URL} -> {path}: fetched")


def _list(batch: "Batch", data_dir: Path, patience: "Patience") -> None:
    """Print what a download would do."""
    from yt8m.downloading.fetching import Task, estimate, in_gigabytes, states

    state = states(batch, data_dir)
    numbers = {kind: list(state.values()).count(kind) for kind in ("verified", "unread", "begun", "missing")}
    missing = [Task(batch, shard) for shard in batch.shards if state[shard.name] in ("begun", "missing")]
    expected = estimate(missing, patience)
    size = f", about {in_gigabytes(expected.n_bytes)}" if expected is not None and missing else ""
    print(
        f"{batch.title} -> {batch.folder}: {len(batch.shards)} shards; {numbers['verified']} are there, "
        f"{numbers['unread']} are there and to be verified, {len(missing)} are to fetch{size}, "
        f"{numbers['begun']} of them begun"
    )
    for task in missing:
        print(f"  {task.shard.url}")


def _download(batches: "list[Batch]", args: argparse.Namespace, patience: "Patience") -> "Outcome":
    from yt8m.downloading.fetching import Download, claimed, estimate, warn_of_little_space

    with ExitStack() as stack:
        for batch in batches:
            stack.enter_context(claimed(batch.folder))
        download = Download(batches, args.data_dir, patience, args.jobs)
        missing = download.look(args.verify)
        expected = estimate(missing, patience)
        if expected is not None:
            warn_of_little_space(missing, expected)
        return download.fetch(missing, expected)


def _report(batches: "list[Batch]", outcome: "Outcome") -> None:
    """Print what has been done and what has not; ends with status 1 if not all is there."""
    for batch in batches:
        there, fetched = outcome.n_there[batch.title], outcome.n_fetched[batch.title]
        failed = len(batch.shards) - there - fetched
        print(
            f"{batch.title} -> {batch.folder}: {len(batch.shards)} shards, {there} were there, {fetched} fetched"
            f"{f', {failed} failed' if failed else ''}"
        )
    if outcome.set_aside:
        print(f"\nhad another MD5 and are kept under other names, {len(outcome.set_aside)} files; delete them at will:")
        print(*outcome.set_aside, sep="\n")
    if outcome.failed:
        print(f"\nfailed, {len(outcome.failed)} shards; the same command tries again and goes on where they are:")
        print(*outcome.failed, sep="\n")
        sys.exit(1)


def _selection(text: str) -> Selection:
    try:
        return parse_selection(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    run(main, build_parser())
