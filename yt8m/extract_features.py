"""Extract features of films: a visual and an audio vector for each second, as shards or as arrays.

Films whose features are in DIR are skipped, so that an interrupted run resumes and films can be added. Films that fail
are listed at the end, with status 1; the others are written.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import DEFAULT_EXTRACTOR, make_parser, positive, resumable, run

if TYPE_CHECKING:
    from yt8m.common.config import FeatureContract

ARRAYS = "npy"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        (
            "python -m yt8m.extract_features film.mp4 more-films --to own",
            "python -m yt8m.extract_features films --to later --like own/cache/segment/base_0",
        ),
        "device",
        folder="--to",
    )
    parser.add_argument(
        "films",
        type=Path,
        nargs="+",
        metavar="VIDEO|FOLDER",
        help="films, in any container, or folders, searched recursively for files with film extensions",
    )
    parser.add_argument(
        "--extractor",
        metavar="NAME",
        help="efficientnet-lite0 (needs no files), yt8m, onnx:MODEL.onnx or hf:NAME_OR_FOLDER (default: that of DIR or "
        f"--like, else {DEFAULT_EXTRACTOR})",
    )
    parser.add_argument(
        "--assets",
        type=Path,
        metavar="FOLDER",
        help="files that you have downloaded, for extractors that need some (default: none)",
    )
    parser.add_argument(
        "--format",
        choices=("shards", ARRAYS),
        default="shards",
        help="DIR/segment/test/*.tfrecord, or DIR/rgb/<video id>.npy and DIR/audio/<video id>.npy for make_records "
        "(default: shards)",
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FOLDER",
        help="scale values to bytes as in this folder of features or of a model (default: as in DIR, else to fit the "
        "first films)",
    )
    parser.add_argument("--processes", type=positive, metavar="N", help="films at a time (default: one per CPU core)")
    parser.add_argument(
        "--decode-threads",
        type=positive,
        default=1,
        metavar="N",
        help="decoding threads per film; more than one may decode damaged parts differently (default: 1)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Extract, write, and print a summary. Raises `UserError`."""
    from yt8m.common.devices import resolve_device
    from yt8m.common.errors import counted
    from yt8m.films.extractors.base import Options, open_extractor
    from yt8m.films.film_files import find_films
    from yt8m.films.film_folder import Parallelism, open_film_folder, read_like

    films = find_films(args.films)
    like = None if args.like is None else read_like(args.like)
    options = Options(args.assets, resolve_device(args.device))
    parallelism = Parallelism.on(options.device, args.processes, args.decode_threads)
    with resumable(args.data_dir), open_film_folder(args.data_dir) as folder:
        name = args.extractor or _name_in(folder.contract) or _name_in(like) or DEFAULT_EXTRACTOR
        opener = partial(open_extractor, name, options)
        done = folder.fill(films, opener, parallelism, like=like, as_arrays=args.format == ARRAYS)
    if done.contract is not None:
        rgb, audio = done.contract.widths
        print(
            f"{args.data_dir}: {counted(done.films, 'film')}, {counted(done.seconds, 'second')}; for the "
            f"configuration: video_dim: {rgb}, audio_dim: {audio}"
        )
    if done.failures:
        print(f"failed, {counted(len(done.failures), 'film')}:", *done.failures, sep="\n")
        sys.exit(1)


def _name_in(contract: "FeatureContract | None") -> str | None:
    """The name of a contract's extractor, if it has one."""
    return None if contract is None or contract.extractor is None else contract.extractor.name


if __name__ == "__main__":
    run(main, build_parser())
