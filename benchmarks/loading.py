"""Speed of loading batches: this package, the plain way, and the machine's memory and files.

Generates data, checks that both ways give equal batches, times them in turn with everything in the page cache, and
finally reads from disk what has been dropped from it. Rates are medians.
"""

import mmap
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, drop_from_page_cache, make_data, make_parser, print_rates, rates
from benchmarks.plain_loading import PlainSegments, PlainTestSegments, PlainVideos, pad_segments, pad_videos
from yt8m.data.dataloader import BatchLoader
from yt8m.data.datasets import RatedSegmentDataset, VideoDataset, WholeVideoDataset
from yt8m.data.frames import CANDIDATES, SEGMENT_SECONDS, sample_frames
from yt8m.data.index import Index, load_index
from yt8m.data.order import SequentialBatches, TrainingBatches
from yt8m.data.reader import Rows, ShardReader
from yt8m.data.records import HEADER_BYTES
from yt8m.data.sequence_example import FrameBlock, read_frames
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.packing import Windows
from yt8m.prediction.inference import Strip

OFFSET, MAX_LEN = 3, 150
VIDEO_BATCH, SEGMENT_BATCH = 32, 128


class Data:
    """The benchmark's data sets, ours and the plain way's."""

    def __init__(self, data_dir: Path) -> None:
        self.folders = {name: data_dir / name for name in ("video/train", "segment/train", "segment/test")}
        self.indexes: dict[str, Index] = {
            name: load_index(folder, data_dir / "cache") for name, folder in self.folders.items()
        }
        labels = np.unique(self.indexes["video/train"].labels)  # the plain way leaves no video out
        self.vocabulary = Vocabulary(labels, tuple(map(str, labels)))

    def videos(self, seed: int | None) -> VideoDataset:
        """Training videos, sampled if there is a seed."""
        return VideoDataset(self.indexes["video/train"], self.vocabulary, MAX_LEN, seed)

    def segments(self, context: bool, seed: int | None) -> RatedSegmentDataset:
        """All rated segments."""
        index = self.indexes["segment/train"]
        return RatedSegmentDataset(index, self.vocabulary, np.arange(len(index.shards)), OFFSET, context, MAX_LEN, seed)

    def tests(self) -> WholeVideoDataset:
        """All test videos."""
        index = self.indexes["segment/test"]
        return WholeVideoDataset(index, np.arange(len(index)))

    def plain(self, name: str, processes: int) -> DataLoader:
        """The plain way's loader of the same."""
        dataset, size, collate = {
            "videos": (PlainVideos(self.folders["video/train"]), VIDEO_BATCH, pad_videos),
            "segments": (PlainSegments(self.folders["segment/train"], OFFSET, False), SEGMENT_BATCH, pad_segments),
            "context": (PlainSegments(self.folders["segment/train"], OFFSET, True), SEGMENT_BATCH, pad_segments),
            "tests": (PlainTestSegments(self.folders["segment/test"], OFFSET), None, None),
        }[name]
        return DataLoader(
            dataset,
            size,
            num_workers=processes,
            collate_fn=collate,
            persistent_workers=processes > 0,
            multiprocessing_context="spawn" if processes else None,
        )


def check_equal(data: Data) -> None:
    """Compare both ways' batches over all data byte by byte, in the order of the shards."""
    ours = BatchLoader(data.videos(None), SequentialBatches(len(data.videos(None)), VIDEO_BATCH), 0)
    for batch, plain in zip(ours, data.plain("videos", 0), strict=True):
        assert torch.equal(batch.videos.padded().float(), plain)
    for context in (False, True):
        dataset = data.segments(context, None)
        ours = BatchLoader(dataset, SequentialBatches(len(dataset), SEGMENT_BATCH), 0)
        for batch, (segments, videos) in zip(ours, data.plain("context" if context else "segments", 0), strict=True):
            assert torch.equal(batch.segments.float(), segments)
            assert batch.videos is None or torch.equal(batch.videos.padded().float()[batch.video_index], videos)
    videos = BatchLoader[list](data.tests(), SequentialBatches(len(data.tests()), 1), 0)
    for (_, frames), plain in zip(chain.from_iterable(videos), data.plain("tests", 0), strict=True):
        strip = Strip([frames], OFFSET)
        windows = Windows(SEGMENT_SECONDS + 2 * OFFSET, SEGMENT_SECONDS).unpack(strip.frames)
        assert torch.equal(windows[strip.segments], plain)


def n_segments(batch: list[tuple[int, torch.Tensor]]) -> int:
    """Candidate segments of a batch of test videos."""
    return sum(int(CANDIDATES.count_left(np.array(len(frames)))) for _, frames in batch)


def stream(batches: Iterable, size: Callable[[Any], int], n_batches: int | None = None) -> float:
    """Items per second of a loader's batches. The first batch, with the workers' start, does not count."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    n_items = sum(map(size, islice(iterator, n_batches)))
    return n_items / (time.perf_counter() - start)


def time_loaders(data: Data, repeats: int) -> dict[str, float]:
    """Print a table for each loader; returns the rates of ours in items per second, without workers."""
    ours_alone = {}
    tests = data.tests()
    for name, title, dataset, batch_size in (
        ("videos", f"videos, batches of {VIDEO_BATCH}, {MAX_LEN} frames sampled", data.videos(1), VIDEO_BATCH),
        ("segments", f"rated segments, batches of {SEGMENT_BATCH}", data.segments(False, 1), SEGMENT_BATCH),
        (
            "context",
            f"rated segments with their video, batches of {SEGMENT_BATCH}",
            data.segments(True, 1),
            SEGMENT_BATCH,
        ),
        ("tests", "test segments, whole videos with their checksums", tests, 1),
    ):
        ways: dict[str, Callable[[], float]] = {}
        for processes in (0, 2):
            loader = data.plain(name, processes)
            ways[f"plain way, {processes or 1} process{'es' * (processes > 1)}"] = partial(
                stream, loader, len if name in ("videos", "tests") else lambda batch: len(batch[0])
            )
        for workers in (0, 1, 2):
            if name == "tests":
                loader = BatchLoader[list](tests, SequentialBatches(len(tests), 1), workers)
                ways[f"ours, {workers} workers"] = partial(stream, loader, n_segments)
            else:
                loader = BatchLoader(dataset, TrainingBatches(dataset.shards, batch_size, 1), workers)
                ways[f"ours, {workers} workers"] = partial(
                    stream, loader, lambda batch: len(batch.examples), 6400 // batch_size
                )
        found = rates(ways, repeats)
        print_rates(title, "videos" if name == "videos" else "segments", found, "plain way")
        ours_alone[name] = found["ours, 0 workers"]
    return ours_alone


def time_machine(data: Data, repeats: int, videos_per_second: float) -> None:
    """Print the bytes per second of the video loader, and those of memory and files."""
    batch = next(iter(BatchLoader(data.videos(1), TrainingBatches(data.videos(1).shards, VIDEO_BATCH, 1), 0)))
    source = batch.videos.frames.numpy()
    target = np.empty_like(source)
    paths = sorted(data.folders["video/train"].glob("*.tfrecord"))

    def copy() -> float:
        start = time.perf_counter()
        for _ in range(200):
            np.copyto(target, source)
        return 200 * source.nbytes / 1e6 / (time.perf_counter() - start)

    def read() -> float:
        buffer = bytearray(1 << 20)
        n_bytes = 0
        start = time.perf_counter()
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    n_bytes += count
        return n_bytes / 1e6 / (time.perf_counter() - start)

    found = rates({"copying a batch in memory": copy, "reading shards from the page cache": read}, repeats)
    found["batches of sampled videos, 0 workers"] = videos_per_second * source.size / VIDEO_BATCH / 1e6
    print_rates("bytes delivered by the video loader, beside the machine", "MB", found, "copying a batch in memory")


def drop_folder(folder: Path) -> None:
    """Make the next reads of these shards come from disk."""
    for path in folder.glob("*.tfrecord"):
        drop_from_page_cache(path)


def bytes_from_disk() -> int:
    """Bytes that this process has read from disks."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    return int(counters["read_bytes"])


def time_index(data: Data, repeats: int) -> None:
    """Print the cost of an index."""
    folder = data.folders["video/train"]
    n_records = len(data.indexes["video/train"])

    def build() -> float:
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            load_index(folder, Path(cache))
            return n_records / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as cache:
        load_index(folder, Path(cache))
        kept = sum(path.stat().st_size for path in Path(cache).rglob("*.npz"))
        recall = partial(_recall, folder, Path(cache), n_records)
        found = rates({"shards in the page cache": build, "from the index's own cache": recall}, repeats)
    drop_folder(folder)
    before = bytes_from_disk()
    found["shards on disk, once"] = build()
    n_bytes = bytes_from_disk() - before
    print_rates(f"index of {n_records} records, 1 process", "records", found, "shards in the page cache")
    size = sum(path.stat().st_size for path in folder.glob("*.tfrecord"))
    print(
        f"  a record has {size / n_records:,.0f} bytes; for the index {n_bytes / n_records:,.0f} of them were read "
        f"from disk, and {kept / n_records:.0f} bytes are kept"
    )


def _recall(folder: Path, cache: Path, n_records: int) -> float:
    start = time.perf_counter()
    load_index(folder, cache)
    return n_records / (time.perf_counter() - start)


def frame_requests(data: Data, name: str) -> list[tuple[Rows, np.ndarray]]:
    """Batches of frames to read in random order, sampled videos or segments, and their target arrays."""
    index = data.indexes[name]
    dim = ShardReader(index).frame_dim
    rng = np.random.default_rng(1)
    batches = []
    for _ in range(8):
        records = rng.integers(0, len(index), 64)
        if name == "video/train":
            lengths, seconds = sample_frames(records, index.n_frames[records], MAX_LEN, 1, np.zeros(64, np.int64))
        else:
            lengths = np.full(64, SEGMENT_SECONDS + 2 * OFFSET)
            firsts = rng.integers(0, index.n_frames[records] - lengths)
            seconds = (firsts[:, None] + np.arange(lengths[0])).ravel()
        ends = np.cumsum(lengths)
        rows = Rows(records, seconds, ends - lengths, ends, ends - lengths)
        batches.append((rows, np.empty((len(seconds), dim), np.uint8)))
    return batches


def read_without_advice(index: Index, batches: list[tuple[Rows, np.ndarray]]) -> None:
    """Copy frames from mapped shards and leave reading ahead to the system."""
    maps = {}
    for rows, out in batches:
        for record, begin, end in zip(rows.records.tolist(), rows.begins.tolist(), rows.ends.tolist()):
            path = index.path(record)
            if path not in maps:
                with path.open("rb") as file:
                    maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            column, payload = 0, int(index.offset[record]) + HEADER_BYTES
            for key in ("rgb", "audio"):
                block = FrameBlock(
                    *(int(getattr(index, f"{key}_{part}")[record]) for part in ("start", "count", "width"))
                )
                target = out[begin:end, column : column + block.width]
                assert read_frames(maps[path], payload, block, rows.seconds[begin:end], target)
                column += block.width


def time_disk(data: Data, name: str, repeats: int) -> None:
    """Print the cost of reading a folder in random order with none of it in the page cache."""
    index, batches = data.indexes[name], frame_requests(data, name)
    read_bytes: dict[str, int] = {}
    results: dict[str, list[np.ndarray]] = {}

    def measure(way: str, read: Callable[[], None]) -> float:
        for _, out in batches:
            out.fill(0)
        drop_folder(index.folder)
        before, start = bytes_from_disk(), time.perf_counter()
        read()
        seconds = time.perf_counter() - start
        read_bytes[way] = bytes_from_disk() - before
        results[way] = [out.copy() for _, out in batches]
        return sum(len(rows.records) for rows, _ in batches) / seconds

    def ours() -> None:
        reader = ShardReader(index)
        assert all(reader.read_rows(*batch).all() for batch in batches)

    ways = {"mapped, without advice": partial(read_without_advice, index, batches), "ours": ours}
    found = rates({way: partial(measure, way, read) for way, read in ways.items()}, repeats)
    assert all(map(np.array_equal, *results.values()))
    if not all(read_bytes.values()):
        print(f"\n{name}: the page cache cannot be emptied here, so reading from disk is not measured")
        return
    print_rates(f"{name} from disk, batches of 64 in random order", "reads", found, "mapped, without advice")
    used = sum(out.nbytes for _, out in batches)
    for way, n_bytes in read_bytes.items():
        print(f"  {way:<40}{n_bytes / used:>12.1f} bytes from disk for each byte used")


def time_lock(data: Data, repeats: int) -> None:
    """Print how far a Python thread counts beside threads that load videos, and how many videos these load meanwhile.

    They compete for the same lock, and on two cores also for the cores.
    """
    dataset = data.videos(1)
    loaded: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def count(workers: int, seconds: float = 1.0) -> float:
        n_videos, ended = 0, threading.Event()

        def load() -> None:
            nonlocal n_videos
            for batch in BatchLoader(dataset, TrainingBatches(dataset.shards, VIDEO_BATCH, 1), workers):
                n_videos += len(batch.examples)
                if ended.is_set():
                    break

        loading = threading.Thread(target=load)
        if workers:
            loading.start()
        number, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(1000):
                number += 1
        loaded[workers].append(n_videos / seconds)
        ended.set()
        if workers:
            loading.join()
        return number / 1e6 / seconds

    found = rates(
        {"alone": partial(count, 0), **{f"beside {workers} that load": partial(count, workers) for workers in (1, 2)}},
        repeats,
    )
    print_rates("a thread that counts in Python", "million", found, "alone")
    for workers in (1, 2):
        print(f"  meanwhile {workers} loaded {statistics.median(loaded[workers]):>31,.0f} videos/s")


def main() -> None:
    """Print the tables."""
    parser = make_parser(__doc__, Path("data/benchmark"), "the generated data is kept, 650 MB")
    add_repeats(parser, 5)
    args = parser.parse_args()
    make_data(args.data_dir)
    data = Data(args.data_dir)
    print("checking that both ways give the same batches ...", file=sys.stderr)
    check_equal(data)
    print("batches of both ways are equal, byte for byte")
    found = time_loaders(data, args.repeats)
    time_machine(data, args.repeats, found["videos"])
    time_lock(data, args.repeats)
    time_index(data, args.repeats)
    for name in ("video/train", "segment/train"):
        time_disk(data, name, args.repeats)


if __name__ == "__main__":
    main()
