"""Write a small synthetic data set in the official schema, to try the whole pipeline on."""

import argparse
from collections.abc import Iterator

from yt8m.cli import add_numbers, make_parser, run

_SIZES = {
    "train-videos": (1000, "videos to train on"),
    "valid-videos": (160, "videos to validate on"),
    "rated-videos": (480, "videos with rated segments"),
    "test-videos": (120, "videos with segments to rank"),
    "classes": (20, "rated classes"),
    "shard-videos": (30, "videos per shard"),
    "min-seconds": (80, "length of the shortest videos"),
    "max-seconds": (180, "length of the longest videos"),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, "python -m yt8m.make_demo_data --data-dir data/demo", "seed")
    add_numbers(parser, _SIZES)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write shards, the vocabulary, and the test set's `truth.csv` and `test_labels.csv`."""
    import csv
    import logging

    import numpy as np
    from helperbot.files import replacing

    from yt8m.common.errors import UserError
    from yt8m.common.progress import Progress
    from yt8m.data.partitions import NAME_COLUMNS, NAMES_FILE, PARTITIONS
    from yt8m.data.vocabulary import LABEL_COLUMNS, RATING_COLUMNS
    from yt8m.making.demo_data import World
    from yt8m.making.shard_writing import VideoRecord, write_shard

    if args.min_seconds > args.max_seconds:
        raise UserError(f"--min-seconds {args.min_seconds} is more than --max-seconds {args.max_seconds}")
    for name in ("video", "segment"):
        if (args.data_dir / name).exists():
            raise UserError(f"{args.data_dir / name}: exists already; remove it or choose another --data-dir")

    world = World(args.classes, args.seed)
    truth: list[tuple[str, int, int, int]] = []
    test_labels: list[tuple[str, int]] = []
    sizes = (args.train_videos, args.valid_videos, args.rated_videos, args.test_videos)
    n_videos = sum(sizes)

    def records(numbers: range, rated: bool, rng: np.random.Generator | None) -> Iterator[VideoRecord]:
        """Make the videos of a shard, rated or not; `rng` is given for a test set, whose truth is kept."""
        for number in numbers:
            video = world.video(number, (args.min_seconds, args.max_seconds))
            ratings = world.ratings(video, number) if rated else []
            labels = video.labels if rng is None else None
            yield VideoRecord(video.video_id, {"rgb": video.rgb, "audio": video.audio}, labels, ratings)
            if rng is not None:
                truth.extend(world.rate_test(video, rng))
                test_labels.extend((video.video_id, label) for label in video.labels)
            progress.update(1)

    begin = 0
    with Progress("making videos", n_videos, "video", logging.getLogger(__name__)) as progress:
        for partition, size in zip(PARTITIONS, sizes):
            rng = None if partition.labelled else np.random.default_rng((args.seed, 3, begin))
            rated = partition.folder == "segment/train"
            numbers = range(begin, begin + size)
            for shard, first in enumerate(range(0, size, args.shard_videos)):
                path = args.data_dir / partition.folder / f"{partition.stem}{shard:04d}.tfrecord"
                write_shard(path, records(numbers[first : first + args.shard_videos], rated, rng))
            begin += size
    for name, header, rows in (
        (NAMES_FILE, NAME_COLUMNS, world.vocabulary_rows()),
        ("test_labels.csv", LABEL_COLUMNS, test_labels),
        ("truth.csv", RATING_COLUMNS, truth),
    ):
        with replacing(args.data_dir / name) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    print(f"{args.data_dir}: {n_videos} videos, {args.classes} rated classes, {len(truth)} test ratings")


if __name__ == "__main__":
    run(main, build_parser())
