"""Speed from test segments to a submission: this package and the plain way, step by step.

Generates 480 test videos and four models with random weights, two context-agnostic and two context-aware ones, smaller
than the published ones. For each step, checks that both ways give the same, then times them in turn. Times are medians;
"command" is a whole process, from start to end.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, make_parser, rates
from benchmarks.plain_inference import plain_metadata, plain_model, plain_predictions, plain_submission
from yt8m import make_demo_data
from yt8m.data.candidates import load_candidates
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.features import feature_contract
from yt8m.data.frames import CANDIDATES, SEGMENT_SECONDS
from yt8m.data.index import load_index
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, build_video_model
from yt8m.models.config import BaseSection, ContextSection, PureSegmentSection, VideoSection
from yt8m.models.model_folders import copy_encoder, exported_config, load_segment_model, open_folder, save_model
from yt8m.prediction.inference import Computation, Member, Predictor
from yt8m.ranking.submission import read_submission

N_CLASSES = 1000
VOCABULARY = Vocabulary(3 * np.arange(N_CLASSES), tuple(f"class {label}" for label in range(N_CLASSES)))
FEATURES = feature_contract(1024, 128)
SIZES = (
    "--train-videos 1 --valid-videos 1 --rated-videos 1 --test-videos 480 --classes 60 --shard-videos 40 "
    "--min-seconds 126 --max-seconds 300 --seed 5"
).split()
COMMON = {"fcn_dim": 128, "p_drop": 0.5, "max_len": 150, "n_mixtures": 2}  # as in scripts/demo
DBOF = {**COMMON, "type": "dbof", "hidden_dim": 256, "frame_se_reduction": 8, "video_se_reduction": 4}
NEXTVLAD = {**COMMON, "type": "nextvlad", "n_clusters": 8, "groups": 8, "se_reduction": 4, "add_batchnorm": True}
CONTEXT = {"fcn_dim": 128, "p_drop": 0.5, "se_reduction": 4, "max_len": 150, "finetune_context": False, "n_mixture": 2}
OFFSET, GROUP = 3, 15  # videos at a time, about as with --batch-size 512
MATRIX = 3072
PLAIN_VIDEOS, PLAIN_CLASSES = 60, 100  # for the plain way to predict and rank, whose time is proportional


@torch.no_grad()
def settle(model: torch.nn.Module, *inputs: torch.Tensor | None) -> torch.nn.Module:
    """Let the batch norms of an untrained model see some data, for logits of the size of trained ones."""
    model.train()
    for _ in range(40):
        model(*inputs)
    return model.eval()


def make_models(data_dir: Path) -> None:
    """Make four model folders with seeded random weights; context and segment encoders share base models."""
    folder = data_dir / "cache" / "segment"
    videos = {
        name: VideoSection.model_validate({"model": model}) for name, model in (("dbof", DBOF), ("nextvlad", NEXTVLAD))
    }
    generator = torch.Generator().manual_seed(7)
    segments = torch.randint(0, 256, (64, SEGMENT_SECONDS + 2 * OFFSET, 1152), dtype=torch.uint8, generator=generator)
    bases = {}
    for seed, (name, section) in enumerate(videos.items()):
        torch.manual_seed(seed)
        bases[name] = settle(build_video_model(section.model, N_CLASSES), segments)
        config = exported_config(video=section, pure_segment=PureSegmentSection())
        save_model(folder / f"{name}_{seed}", config, ContextAgnosticModel(bases[name]), VOCABULARY, FEATURES)
    head = ContextSection.model_validate({"model": CONTEXT})
    for seed, (context, segment) in enumerate((("dbof", "nextvlad"), ("dbof", "dbof")), 2):
        torch.manual_seed(seed)
        sections = [BaseSection(model=videos[name].model) for name in (context, segment)]
        aware = ContextAwareModel(head.model, sections[0].model, sections[1].model, N_CLASSES)
        copy_encoder(aware.context_model, bases[context])
        copy_encoder(aware.segment_model, bases[segment])
        settle(aware, segments, segments, None, torch.arange(len(segments)))
        config = exported_config(context_base=sections[0], segment_base=sections[1], segment_w_context=head)
        save_model(folder / f"{context}-{segment}_{seed}", config, aware, VOCABULARY, FEATURES)


def make_data(data_dir: Path) -> None:
    """Make shards, vocabulary and models, unless they exist."""
    if (data_dir / "segment_vocabulary.csv").is_file():  # written last
        return
    if data_dir.exists():
        shutil.rmtree(data_dir)
    make_demo_data.main(make_demo_data.build_parser().parse_args([*SIZES, "--data-dir", str(data_dir)]))
    make_models(data_dir)
    (data_dir / "segment_vocabulary.csv").write_text(
        "Index,Name\n" + "".join(f"{label},{name}\n" for label, name in zip(VOCABULARY.labels, VOCABULARY.names)),
        encoding="utf-8",
    )


def command(module: str, data_dir: Path, *options: str, remove: tuple[str, ...] = ()) -> float:
    """Run a command after removing the named files from the cache folder; returns runs per second."""
    for name in remove:
        shutil.rmtree(data_dir / "cache" / name, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"yt8m.{module}", "--data-dir", str(data_dir), *options],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return 1 / (time.perf_counter() - start)


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Call a function; returns calls per second."""
    start = time.perf_counter()
    function(*arguments)
    return 1 / (time.perf_counter() - start)


def print_seconds(title: str, plain: float, ours: dict[str, float]) -> None:
    """Print a table of seconds."""
    print(f"\n{title}\n  {'plain way':<50}{plain:>9.2f} s", flush=True)
    for name, seconds in ours.items():
        print(f"  {name:<50}{seconds:>9.2f} s{plain / seconds:>8.1f} x", flush=True)


def time_metadata(data_dir: Path, repeats: int) -> None:
    """Time the test metadata."""
    folder = data_dir / "segment" / "test"
    command("prepare_test_meta", data_dir, remove=("index",))
    candidates = load_candidates(data_dir / "cache")
    assert plain_metadata(folder) == list(zip(candidates.row_videos().tolist(), candidates.row_segments().tolist()))
    script = (
        "import sys; from pathlib import Path; from benchmarks.plain_inference import plain_metadata; "
        "plain_metadata(Path(sys.argv[1]))"
    )
    plain = [sys.executable, "-c", script, str(folder)]
    found = rates(
        {
            "plain": partial(timed, partial(subprocess.run, plain, check=True, cwd=ROOT, capture_output=True)),
            "ours": partial(command, "prepare_test_meta", data_dir, remove=("index",)),
            "again": partial(command, "prepare_test_meta", data_dir),
        },
        repeats,
    )
    print_seconds(
        f"metadata of {len(candidates.records)} videos, {candidates.n_rows} segments, commands",
        1 / found["plain"],
        {"ours": 1 / found["ours"], "ours, shards already indexed": 1 / found["again"]},
    )


def time_predictions(data_dir: Path, repeats: int) -> None:
    """Time the predictions of four models."""
    folders = [open_folder(path) for path in sorted((data_dir / "cache" / "segment").iterdir())]
    index = load_index(data_dir / "segment" / "test", data_dir / "cache")
    candidates = load_candidates(data_dir / "cache")
    dataset = WholeVideoDataset(index, candidates.records)
    videos = [frames for _, frames in dataset.__getitems__([(0, row) for row in range(len(dataset))])]
    members = [Member(folder.name, load_segment_model(folder).eval(), OFFSET) for folder in folders]
    predictor = Predictor(members, Computation(torch.device("cpu")))
    plain_models = [plain_model(folder, N_CLASSES) for folder in folders]

    def n_segments(some: list[torch.Tensor]) -> int:
        return int(CANDIDATES.count_left(np.array([len(video) for video in some])).sum())

    def ours() -> float:
        start = time.perf_counter()
        for first in range(0, len(videos), GROUP):
            predictor(videos[first : first + GROUP], range(len(members)))
        return n_segments(videos) / (time.perf_counter() - start)

    def plain(model: torch.nn.Module) -> float:
        start = time.perf_counter()
        plain_predictions(model, videos[:PLAIN_VIDEOS], OFFSET)
        return n_segments(videos[:PLAIN_VIDEOS]) / (time.perf_counter() - start)

    found = [values.numpy() for values in predictor(videos[:PLAIN_VIDEOS], range(len(members)))]
    for folder, model, values in zip(folders, plain_models, found):
        difference = np.abs(plain_predictions(model, videos[:PLAIN_VIDEOS], OFFSET) - values)
        share = (difference > 1).mean()
        assert difference.max() <= 5 and share < 1e-3, (folder.name, difference.max(), share)
        print(
            f"{folder.name}: both ways' predictions differ by {difference.max()} of 9999 at most, by more than 1 in "
            f"{share:.1e} of the cases"
        )
    matrix = torch.rand(MATRIX, MATRIX)
    torch.mm(matrix, matrix)
    with FlopCounterMode(display=False) as counter:
        predictor(videos[:GROUP], range(len(members)))
    flops = counter.get_total_flops() / n_segments(videos[:GROUP])
    measured = rates(
        {
            **{folder.name: partial(plain, model) for folder, model in zip(folders, plain_models)},
            "ours": ours,
            "matrix": partial(timed, torch.mm, matrix, matrix),
            "command": partial(command, "inference_memmap", data_dir, "--device", "cpu", remove=("predictions",)),
        },
        repeats,
    )
    seconds = candidates.n_rows * sum(1 / measured[folder.name] for folder in folders)
    print_seconds(
        f"predictions of {len(folders)} models for {candidates.n_rows} segments, float32",
        seconds,
        {"ours": candidates.n_rows / measured["ours"], "ours, command": 1 / measured["command"]},
    )
    print(f"  the plain way's time is that of {PLAIN_VIDEOS} videos times {len(videos) / PLAIN_VIDEOS:g}")
    arithmetic = candidates.n_rows * flops / (2 * MATRIX**3 * measured["matrix"])
    print(f"  {'ours, matrix products at the rate of a large one':<50}{arithmetic:>9.2f} s")


def time_submission(data_dir: Path, repeats: int) -> None:
    """Time the submission from the predictions of four models."""
    candidates = load_candidates(data_dir / "cache")
    paths = sorted((data_dir / "cache" / "predictions").glob("*.npy"))
    maps = [np.load(path, mmap_mode="r") for path in paths]
    names, labels = candidates.row_names().astype(str).tolist(), [3 * label for label in range(N_CLASSES)]
    ours, plain = data_dir / "ours.csv", data_dir / "plain.csv"
    command("create_submission_from_memmaps", data_dir, "--output", str(ours))
    some = labels[:PLAIN_CLASSES]
    plain_submission(maps, names, some, candidates.n_rows, plain)
    total = np.sum(maps, axis=0, dtype=np.int32)
    rows = {name: row for row, name in enumerate(names)}
    lists = dict(read_submission(ours))
    for column, (label, segments) in enumerate(read_submission(plain)):
        scores = [total[[rows[name] for name in chosen], column] for chosen in (segments, lists[label])]
        assert (scores[0] == scores[1]).all() and sorted(segments) == sorted(lists[label])
    found = rates(
        {
            "plain": partial(timed, plain_submission, maps, names, some, candidates.n_rows, plain),
            "ours": partial(command, "create_submission_from_memmaps", data_dir, "--output", str(ours)),
        },
        repeats,
    )
    print_seconds(
        f"submission of {candidates.n_rows} rows and {N_CLASSES} classes from {len(maps)} models",
        N_CLASSES / PLAIN_CLASSES / found["plain"],
        {"ours, command": 1 / found["ours"]},
    )
    print(f"  the plain way's time is that of {PLAIN_CLASSES} classes times {N_CLASSES / PLAIN_CLASSES:.0f}")


def main() -> None:
    """Print the tables."""
    parser = make_parser(__doc__, Path("data/benchmark-inference"), "the generated data is kept, 700 MB")
    add_repeats(parser, 3)
    args = parser.parse_args()
    make_data(args.data_dir)
    time_metadata(args.data_dir, args.repeats)
    time_predictions(args.data_dir, args.repeats)
    time_submission(args.data_dir, args.repeats)


if __name__ == "__main__":
    main()
