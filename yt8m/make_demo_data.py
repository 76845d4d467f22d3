"""Write a small made-up data set in the official schema, to try the whole pipeline on."""

import argparse
from types import ModuleType
from typing import TYPE_CHECKING

from yt8m.cli import make_parser, positive, run

if TYPE_CHECKING:
    from yt8m.data.demo_data import Rating, Video

_SIZES = {
    "train-videos": 1000,
    "valid-videos": 160,
    "rated-videos": 480,
    "test-videos": 120,
    "classes": 20,
    "shard-videos": 30,
    "min-seconds": 80,
    "max-seconds": 180,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, "python -m yt8m.make_demo_data --data-dir data/demo", "seed")
    for name, default in _SIZES.items():
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=f"(default: {default})")
    return parser


def _serialize(train: ModuleType, video: "Video", labelled: bool, ratings: list["Rating"]) -> bytes:
    """A video as a SequenceExample of the official schema; `train` is `tensorflow.train`."""

    def integers(values: list[int]):
        return train.Feature(int64_list=train.Int64List(value=values))

    def strings(value: bytes):
        return train.Feature(bytes_list=train.BytesList(value=[value]))

    context = {"id": strings(video.video_id.encode())}
    if labelled:
        context["labels"] = integers(video.labels)
    if ratings:
        scores = train.FloatList(value=[rating.score for rating in ratings])
        context |= {
            "segment_start_times": integers([rating.start for rating in ratings]),
            "segment_end_times": integers([rating.end for rating in ratings]),
            "segment_labels": integers([rating.label for rating in ratings]),
            "segment_scores": train.Feature(float_list=scores),
        }
    lists = {
        key: train.FeatureList(feature=[strings(frame.tobytes()) for frame in frames])
        for key, frames in (("rgb", video.rgb), ("audio", video.audio))
    }
    example = train.SequenceExample(
        context=train.Features(feature=context), feature_lists=train.FeatureLists(feature_list=lists)
    )
    return example.SerializeToString(deterministic=True)


def main(args: argparse.Namespace) -> None:
    """Write shards, the official vocabulary, and what a scorer needs: `truth.csv`, `test_labels.csv`."""
    import csv

    import numpy as np
    from tqdm import tqdm

    from yt8m.common.errors import UserError
    from yt8m.common.files import replacing
    from yt8m.data.demo_data import World
    from yt8m.data.tensorflow_import import import_tensorflow

    if args.min_seconds > args.max_seconds:
        raise UserError(f"--min-seconds {args.min_seconds} is more than --max-seconds {args.max_seconds}")
    for name in ("video", "segment"):
        if (args.data_dir / name).exists():
            raise UserError(f"{args.data_dir / name}: exists already; remove it or choose another --data-dir")

    tensorflow = import_tensorflow()

    world = World(args.classes, args.seed)
    truth, test_labels = [], []
    number = 0
    parts = (
        ("video", "train", "train", args.train_videos),
        ("video", "valid", "validate", args.valid_videos),
        ("segment", "train", "validate", args.rated_videos),
        ("segment", "test", "test", args.test_videos),
    )
    with tqdm(total=sum(part[-1] for part in parts), desc="making videos", unit="video", disable=None) as progress:
        for kind, partition, stem, n_videos in parts:
            rng = np.random.default_rng((args.seed, 3, number))
            for shard, first in enumerate(range(0, n_videos, args.shard_videos)):
                with (
                    replacing(args.data_dir / kind / partition / f"{stem}{shard:04d}.tfrecord") as path,
                    tensorflow.io.TFRecordWriter(str(path)) as writer,
                ):
                    for _ in range(first, min(first + args.shard_videos, n_videos)):
                        video = world.video(number, (args.min_seconds, args.max_seconds))
                        ratings = world.ratings(video, number) if (kind, partition) == ("segment", "train") else []
                        writer.write(_serialize(tensorflow.train, video, partition != "test", ratings))
                        if partition == "test":
                            truth += world.rate_test(video, rng)
                            test_labels += [(video.video_id, label) for label in video.labels]
                        number += 1
                        progress.update()
    for name, header, rows in (
        ("vocabulary.csv", ("Index", "KnowledgeGraphId", "Name"), world.vocabulary_rows()),
        ("test_labels.csv", ("vid", "label"), test_labels),
        ("truth.csv", ("vid", "start", "label", "score"), truth),
    ):
        with replacing(args.data_dir / name) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    print(f"{args.data_dir}: {number} videos, {args.classes} rated classes, {len(truth)} test ratings")


if __name__ == "__main__":
    run(main, build_parser())
