"""Predict every test segment with every model: `cache/predictions/<model>.npy`."""
import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.cli import add_model_names, count, make_parser, positive, run

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

    from yt8m.memmaps import TestMeta


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, "python -m yt8m.inference_memmap --model-names dbof-3_0 nextvlad-2_1",
                         "device", "workers", "on-error")
    parser.add_argument("--model-dir", type=Path, metavar="D",
                        help="folder of segment models (default: cache/segment of the data folder)")
    add_model_names(parser, "which of them to predict with")
    parser.add_argument("--offset", type=count, metavar="N",
                        help="frames on either side of a segment (default: what each model was trained with)")
    parser.add_argument("--batch-size", type=positive, default=512, metavar="N",
                        help="segments at a time (default: 512)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the predictions of those models that have none yet, or old ones. Raises `UserError`."""
    from contextlib import ExitStack
    from itertools import chain

    from helperbot import get_logger
    from tqdm import tqdm

    from yt8m.artifacts import list_folders, load_segment_model, open_folder
    from yt8m.cli import resolve_device, resolve_workers
    from yt8m.dataloader import BatchLoader
    from yt8m.datasets import WholeVideoDataset
    from yt8m.errors import UserError
    from yt8m.index import load_index
    from yt8m.inference import Member, predict
    from yt8m.memmaps import PREDICTIONS_NAME, PredictionFile, load_test_meta, make_test_meta
    from yt8m.sampling import SequentialBatches
    from yt8m.vocabulary import load_vocabulary

    cache = args.data_dir / "cache"
    device = resolve_device(args.device)
    n_classes = len(load_vocabulary(args.data_dir))
    meta = load_test_meta(cache)
    index = load_index(args.data_dir / "segment" / "test", cache, args.damage)
    if make_test_meta(index).digest() != meta.digest():
        raise UserError(f"{index.folder}: not the shards that the test metadata was made from; "
                        "run `python -m yt8m.prepare_test_meta` again")
    directory = args.model_dir or cache / "segment"
    paths = [directory / name for name in args.model_names] if args.model_names else list_folders(directory)
    logger = get_logger("yt8m", cache / "inference" / "inference.log")
    dataset = WholeVideoDataset(index, meta.records, args.damage)
    members, files = [], []
    for folder in map(open_folder, paths):
        offset = folder.offset if args.offset is None else args.offset
        file = PredictionFile(cache / PREDICTIONS_NAME / f"{folder.name}.npy")
        origin = {"model": folder.digest(), "test_meta": meta.digest(), "offset": offset}
        if file.is_current(origin):
            logger.info("%s: up to date", file.path)
            continue
        model = load_segment_model(folder, n_classes).to(device).eval()
        dataset.reader.require_widths(model.base_config.video_dim, model.base_config.audio_dim)
        members.append(Member(folder.name, model, offset))
        files.append((file, origin))
    if not members:
        return
    logger.info("predicting %d segments with %s on %s", meta.n_rows, ", ".join(m.name for m in members), device)
    workers = resolve_workers(args.workers, device)
    loader = BatchLoader[list](dataset, SequentialBatches(len(dataset), 1), workers, device)
    with ExitStack() as stack:
        maps = [stack.enter_context(file.writing(meta.n_rows, n_classes, origin)) for file, origin in files]
        progress = stack.enter_context(tqdm(total=meta.n_rows, desc="predicting", unit="segment", disable=None))
        groups = predict(chain.from_iterable(loader), members, args.batch_size, device)
        left_out = meta.n_rows - _fill(maps, groups, meta, progress)
        if left_out:  # those of damaged videos stay 0, and the files will not count as up to date
            logger.warning("%d segments of damaged videos have probability 0", left_out)
            for _, origin in files:
                origin["left_out"] = left_out
    logger.info("wrote %s", ", ".join(str(file.path) for file, _ in files))


def _fill(maps: list["np.memmap"], groups: Iterable[tuple[list[int], list["np.ndarray"]]], meta: "TestMeta",
          progress: "tqdm") -> int:
    """Write the predictions of groups of videos into their rows, one map a model. Returns how many rows."""
    import numpy as np

    from yt8m.memmaps import quantize

    n_rows = 0
    for videos, results in groups:
        rows = np.concatenate([np.arange(meta.row_starts[video], meta.row_ends[video]) for video in videos])
        for values, probabilities in zip(maps, results):
            values[rows] = quantize(probabilities)
        n_rows += len(rows)
        progress.update(len(rows))
    return n_rows


if __name__ == "__main__":
    run(main, build_parser())
