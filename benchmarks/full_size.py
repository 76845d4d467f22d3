"""Ranking at full challenge size: 7 models, 1,704,348 segments, 1,000 classes, on generated prediction files.

Checks first, on the first rows, that a plain full sort gives the same; then makes the files (24 GB, kept in the data
folder for the next run), and in turn reads them once as fast as the disk allows and makes the submission in its own
process, each time with none of the files in the page cache. Prints the times, their ratio and peak memory.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, drop_from_page_cache, make_parser
from yt8m.data.candidates import Candidates, save_candidates
from yt8m.data.vocabulary import load_vocabulary
from yt8m.prediction.prediction_files import SCALE
from yt8m.ranking.fusion import Fusion
from yt8m.ranking.top_k import top_rows

N_MODELS, N_CLASSES, TOP_K = 7, 1000, 100_000
N_VIDEOS, N_ROWS = 44_739, 1_704_348
CHECKED_ROWS, CHECKED_TOP_K = 30_000, 2_000
BLOCK_ROWS = 8192
# Runs the command, then prints "VmHWM: N kB". Not getrusage, whose peak is at least that of the parent process.
WITH_PEAK_MEMORY = """
from yt8m.cli import run
from yt8m.create_submission_from_memmaps import build_parser, main
run(main, build_parser())
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make_meta() -> Candidates:
    """Metadata with the challenge's numbers of videos and segments; ids of four letters."""
    counts = np.full(N_VIDEOS, N_ROWS // N_VIDEOS)
    counts[: N_ROWS % N_VIDEOS] += 1
    ids = np.array([f"{number:04x}" for number in range(N_VIDEOS)], np.bytes_)
    return Candidates(np.arange(N_VIDEOS), ids, np.cumsum(counts))


def score_table() -> np.ndarray:
    """Scores 0..9999 at 65,536 quantiles: most near 0, few near 9999, as for a trained model."""
    random = np.random.default_rng(1)
    logits = np.sort(random.normal(-7.5, 2.5, 1 << 16))
    return np.rint(SCALE / (1 + np.exp(-logits))).astype(np.int16)


def make_files(data_dir: Path) -> list[Path]:
    """Write vocabulary, metadata and prediction files, unless they exist; returns the paths of the latter."""
    folder = data_dir / "cache" / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    (data_dir / "segment_vocabulary.csv").write_text(
        "Index,Name\n" + "".join(f"{3 * label},class {label}\n" for label in range(N_CLASSES)), encoding="utf-8"
    )
    candidates = make_meta()
    save_candidates(candidates, data_dir / "cache")
    origin = json.dumps({"test_meta": candidates.digest, "vocabulary": load_vocabulary(data_dir).digest})
    table = score_table()
    paths = [folder / f"model_{number}.npy" for number in range(N_MODELS)]
    for number, path in enumerate(paths):
        path.with_suffix(".json").write_text(origin, encoding="utf-8")
        if path.is_file():
            continue
        partial = path.with_suffix(".making")
        values = np.lib.format.open_memmap(partial, "w+", np.int16, (N_ROWS, N_CLASSES))
        random = np.random.default_rng((2, number))
        for start in range(0, N_ROWS, BLOCK_ROWS):
            block = values[start : start + BLOCK_ROWS]
            block[:] = table[random.integers(0, 1 << 16, block.shape, np.uint16)]
            print(f"\rmaking {path.name}: {start / N_ROWS:4.0%}", end="", file=sys.stderr, flush=True)
        values.flush()
        os.replace(partial, path)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return paths


def check_equal(paths: list[Path]) -> None:
    """Compare the scores of the ranked rows with those of a full sort, on the first rows."""
    maps = [np.load(path, mmap_mode="r")[:CHECKED_ROWS] for path in paths]
    total = np.sum(maps, axis=0, dtype=np.int32)
    for label, rows in enumerate(ranked() for ranked in top_rows(Fusion(maps), CHECKED_TOP_K, 0)):
        assert len(set(rows.tolist())) == CHECKED_TOP_K
        assert (total[rows, label] == np.sort(total[:, label])[::-1][:CHECKED_TOP_K]).all()
    print(f"the best {CHECKED_TOP_K} of the first {CHECKED_ROWS} rows are those of a full sort, in all classes")


def read_once(paths: list[Path]) -> float:
    """Read all files from disk, two at a time; returns the seconds taken."""
    for path in paths:
        drop_from_page_cache(path)
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_read, paths))
    return time.perf_counter() - start


def _read(path: Path) -> None:
    buffer = bytearray(16 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def make_submission(paths: list[Path], data_dir: Path) -> tuple[float, float]:
    """Run the command; returns seconds and peak memory in GB."""
    for path in paths:
        drop_from_page_cache(path)
    command = [
        sys.executable,
        "-c",
        WITH_PEAK_MEMORY,
        "--data-dir",
        str(data_dir),
        "--output",
        str(data_dir / "sub.csv"),
    ]
    start = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - start, int(output.split()[-2]) * 1024 / 1e9


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__, Path("data/full-size"), "the files are kept, 25 GB")
    add_repeats(parser, 3)
    args = parser.parse_args()
    paths = make_files(args.data_dir)
    check_equal(paths)
    reading, making, memory = [], [], []
    for turn in range(args.repeats):
        print(f"turn {turn + 1} of {args.repeats}", file=sys.stderr)
        reading.append(read_once(paths))
        seconds, peak = make_submission(paths, args.data_dir)
        making.append(seconds)
        memory.append(peak)
    n_bytes = sum(path.stat().st_size for path in paths)
    once, ours = statistics.median(reading), statistics.median(making)
    print(f"{N_MODELS} prediction files of {N_ROWS:,} rows and {N_CLASSES} classes, {n_bytes / 1e9:.1f} GB")
    print(f"  {'reading the files once':<40}{once:>8.1f} s  {n_bytes / 1e9 / once:.2f} GB/s")
    print(f"  {'submission, top ' + format(TOP_K, ','):<40}{ours:>8.1f} s  {ours / once:.2f} times that")
    print(f"  {'peak memory of the process':<40}{max(memory):>8.2f} GB")
    size = (args.data_dir / "sub.csv").stat().st_size
    print(f"  {'size of the submission':<40}{size / 1e9:>8.2f} GB")


if __name__ == "__main__":
    main()
