"""Convert your own frame features, one array per video, to shards in the data set's format.

Each video is a file <video id>.npy of shape (seconds, width), one row per second, uint8 or floats. Labels and rated
segments come from CSVs; a label is an id, an integer of at least 0, or a name. Names get ids in DIR/vocabulary.csv,
which is created from the sorted names in the CSVs if missing, and never changed: the labels of the first call must
include every name. The meaning of the bytes goes to features.json beside the shards.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import count, make_parser, number_type, positive, run
from yt8m.data.partitions import FOLDERS

if TYPE_CHECKING:
    from yt8m.data.vocabulary import LabelIds, LabelRow, RatingRow

RATED, TEST = "segment/train", "segment/test"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(
        __doc__,
        "python -m yt8m.make_records features --partition segment/train --labels labels.csv --ratings ratings.csv",
        "seed",
    )
    parser.add_argument(
        "features",
        type=Path,
        metavar="FEATURES",
        help="folder of arrays, <video id>.npy, of visual features (rgb in the records)",
    )
    parser.add_argument(
        "--partition", required=True, choices=FOLDERS, help="partition of the shards: the folder in DIR to write to"
    )
    audio = parser.add_mutually_exclusive_group()
    audio.add_argument(
        "--audio", type=Path, metavar="FOLDER", help="folder of arrays of audio features (default: no audio)"
    )
    audio.add_argument(
        "--audio-width",
        type=positive,
        default=0,
        metavar="N",
        help="the last N columns of FEATURES are audio features (default: none, no audio)",
    )
    for option, what in (
        ("--range", "needed for float arrays (default: none)"),
        ("--audio-range", "the same for audio features (default: that of --range)"),
    ):
        parser.add_argument(
            option,
            type=number_type("number"),
            nargs=2,
            metavar=("LOW", "HIGH"),
            help=f"values from LOW to HIGH become 0 to 255, those beyond are clipped; {what}",
        )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="columns vid,label; one line per label; required except for segment/test (default: none)",
    )
    parser.add_argument(
        "--ratings",
        type=Path,
        metavar="CSV",
        help="columns vid,start,label,score: start a multiple of 5, score 0 or 1; for segment/train (default: none)",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="FILE",
        help="videos to include: a CSV with a column vid, or one id per line; other videos in the other files are "
        "ignored (default: video/train and video/valid: those of --labels, segment/train: those of --ratings, "
        "segment/test: all arrays)",
    )
    parser.add_argument(
        "--trim",
        type=count,
        nargs=2,
        default=(0, 0),
        metavar=("HEAD", "TAIL"),
        help="seconds at the beginning and the end of a video that are neither ranked nor seen by video models, "
        "multiples of 5; 30 and 10 in the challenge (default: 0 0)",
    )
    parser.add_argument(
        "--shard-videos",
        type=positive,
        metavar="N",
        help="at most N videos per shard, in an order drawn from the seed (default: 1000, or fewer to make the 8 "
        "shards that 8 folds need)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing shards")
    return parser


def _check_options(args: argparse.Namespace) -> None:
    from yt8m.common.errors import UserError
    from yt8m.data.frames import SEGMENT_SECONDS
    from yt8m.making.array_records import has_shards

    if args.partition == TEST and args.labels is not None:
        raise UserError(f"--labels: {TEST} has none; leave it out")
    if args.partition != TEST and args.labels is None:
        raise UserError(f"--labels: needed for {args.partition}, a CSV with the columns vid,label")
    if args.partition != RATED and args.ratings is not None:
        raise UserError(f"--ratings: only {RATED} has any; leave it out")
    if args.partition == RATED and args.ratings is None:
        raise UserError(f"--ratings: needed for {RATED}, a CSV with the columns vid,start,label,score")
    for option, bounds in (("--range", args.range), ("--audio-range", args.audio_range)):
        if bounds is not None and bounds[0] >= bounds[1]:
            raise UserError(f"{option} {bounds[0]:g} {bounds[1]:g}: expected LOW to be less than HIGH")
    if any(seconds % SEGMENT_SECONDS for seconds in args.trim):
        raise UserError(f"--trim {args.trim[0]} {args.trim[1]}: expected multiples of {SEGMENT_SECONDS} seconds")
    folder = args.data_dir / args.partition
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; remove it or choose another --data-dir")
    if has_shards(folder) and not args.overwrite:
        raise UserError(f"{folder}: has shards already; replace them with --overwrite, or choose another --data-dir")


def _label_ids(args: argparse.Namespace, labels: "list[LabelRow]", ratings: "list[RatingRow]") -> "LabelIds":
    from yt8m.common.errors import UserError
    from yt8m.data.partitions import NAMES_FILE, PARTITIONS
    from yt8m.data.vocabulary import LabelText, resolve_labels
    from yt8m.making.array_records import has_shards

    texts = [
        LabelText(path, row.line, row.label)
        for path, rows in ((args.labels, labels), (args.ratings, ratings))
        for row in rows
    ]
    path = args.data_dir / NAMES_FILE
    resolved = resolve_labels(texts, path)
    others = [args.data_dir / part.folder for part in PARTITIONS if part.labelled and part.folder != args.partition]
    written = next((folder for folder in others if has_shards(folder)), None)
    if resolved.new_names and written is not None:
        raise UserError(
            f"{path}: missing, but {written} already has shards with label ids; provide the file with the name of each "
            "id, or write ids instead of names"
        )
    return resolved


def _choose_videos(args: argparse.Namespace, labels: "list[LabelRow]", ratings: "list[RatingRow]") -> list[str]:
    """The sorted ids of the requested videos, all with arrays. Raises `UserError`."""
    from yt8m.data.vocabulary import read_video_ids
    from yt8m.making.feature_arrays import check_ids, list_arrays, require_arrays

    there = list_arrays(args.features)
    if args.videos is not None:
        chosen, source = read_video_ids(args.videos), args.videos
    elif args.partition == TEST:
        chosen, source = there, args.features
    elif args.partition == RATED:
        chosen, source = [row.video_id for row in ratings], args.ratings
    else:
        chosen, source = [row.video_id for row in labels], args.labels
    chosen = sorted(set(chosen))
    check_ids(chosen, source)
    require_arrays(chosen, source, [args.features, args.audio])
    return chosen


def main(args: argparse.Namespace) -> None:
    """Check everything, write the shards, then move them into place. Raises `UserError`."""
    from yt8m.data.features import Scale
    from yt8m.data.partitions import N_FOLDS, NAMES_FILE
    from yt8m.data.vocabulary import read_labels, read_ratings
    from yt8m.making import array_records
    from yt8m.making.feature_arrays import list_arrays
    from yt8m.making.shard_writing import finish_interrupted

    folder = args.data_dir / args.partition
    finish_interrupted(folder)
    _check_options(args)
    labels = [] if args.labels is None else read_labels(args.labels)
    ratings = [] if args.ratings is None else read_ratings(args.ratings)
    resolved = _label_ids(args, labels, ratings)
    videos = _choose_videos(args, labels, ratings)
    scale, audio_scale = (None if bounds is None else Scale(*bounds) for bounds in (args.range, args.audio_range))
    sources = array_records.ArraySources(args.features, args.audio, args.audio_width, scale, audio_scale)
    features = array_records.open_features(sources, videos)
    contract = array_records.contract_of(features, tuple(args.trim))
    n_frames = array_records.count_frames(features, videos)
    annotations = array_records.annotate(resolved.ids, None if args.labels is None else labels, ratings, args.ratings)
    array_records.check_ratings(annotations, n_frames)
    names = args.data_dir / NAMES_FILE
    array_records.warn_of_transposed_arrays(features)
    array_records.warn_of_names(resolved.new_names, [*labels, *ratings], names)
    array_records.warn_of_ratings(labels, ratings, videos, args.labels)
    arrays = set(list_arrays(args.features))
    for rows, source in ((labels, args.labels), (ratings, args.ratings)):
        array_records.warn_of_other_videos(rows, arrays, source, args.features)
    array_records.warn_of_shared_videos(videos, args.data_dir, args.partition)
    shards = array_records.divide(videos, args.shard_videos, args.seed)
    writer = array_records.RecordWriter(features, n_frames, annotations)
    array_records.write_partition(args.data_dir, args.partition, writer, contract, shards, resolved.new_names)
    writer.log_losses(args.labels)
    if args.partition == RATED and len(shards) < N_FOLDS:
        logging.getLogger(__name__).warning(
            "%d shards are too few for the %d folds; train with --fold none", len(shards), N_FOLDS
        )
    widths = {feature.key: feature.width for feature in features}
    print(
        f"{folder}: {len(videos)} videos, {sum(n_frames.values())} seconds, {len(shards)} shards; for the "
        f"configuration: video_dim: {widths['rgb']}, audio_dim: {widths.get('audio', 0)}"
    )


if __name__ == "__main__":
    run(main, build_parser())
