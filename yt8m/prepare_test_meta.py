"""List the test segments to be ranked: `cache/test_meta.npz`."""

import argparse

from yt8m.cli import counted, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    return make_parser(
        __doc__,
        ("python -m yt8m.prepare_test_meta", "python -m yt8m.prepare_test_meta --data-dir data/demo"),
        "on-error",
    )


def main(args: argparse.Namespace) -> None:
    """Write the metadata. Raises `UserError`."""
    from yt8m.data.index import load_index
    from yt8m.data.test_meta import make_test_meta, save_test_meta

    cache = args.data_dir / "cache"
    index = load_index(args.data_dir / "segment" / "test", cache, args.damage)
    meta = make_test_meta(index)
    path = save_test_meta(meta, cache)
    print(
        f"{path}: {counted(meta.n_rows, 'segment')} of {counted(len(meta.records), 'video')} "
        f"({counted(len(index), 'record')} in {counted(len(index.shards), 'shard')})"
    )


if __name__ == "__main__":
    run(main, build_parser())
