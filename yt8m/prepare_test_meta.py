"""List the test segments to rank: `cache/test_meta.npz`."""

import argparse

from yt8m.cli import make_parser, run
from yt8m.common.errors import counted


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    return make_parser(
        __doc__,
        ("python -m yt8m.prepare_test_meta", "python -m yt8m.prepare_test_meta --data-dir data/demo"),
        "on-error",
    )


def main(args: argparse.Namespace) -> None:
    """Write the metadata. Raises `UserError`."""
    from yt8m.data.candidates import find_candidates, save_candidates
    from yt8m.data.features import read_trim
    from yt8m.data.index import load_index

    cache = args.data_dir / "cache"
    index = load_index(args.data_dir / "segment" / "test", cache, args.damage)
    candidates = find_candidates(index, read_trim(index.folder))
    path = save_candidates(candidates, cache)
    print(
        f"{path}: {counted(candidates.n_rows, 'segment')} of {counted(len(candidates.records), 'video')} "
        f"({counted(len(index), 'record')} in {counted(len(index.shards), 'shard')})"
    )


if __name__ == "__main__":
    run(main, build_parser())
