"""All commands under a low limit of open files."""

import resource
import shutil
from pathlib import Path

from tests.few_files import run_with_few_files
from tests.processes import fork
from tests.small_models import CONTEXT, DBOF, TRAINING, write_config
from yt8m import make_demo_data, prepare_vocabulary

LIMIT = 64
SHARDS_OF_ONE_VIDEO = (
    "--train-videos 70 --valid-videos 8 --rated-videos 70 --test-videos 8 --classes 5 --shard-videos 1 "
    "--min-seconds 44 --max-seconds 50 --seed 3"
).split()


def commands(data_dir: Path, configs: Path) -> list[list[str]]:
    """The way from shards to scores, and a file of one's own."""
    model = data_dir / "cache" / "video" / "v"
    data = ["--data-dir", data_dir]
    common = [*data, "--device", "cpu", "--workers", 2]
    shard = min((data_dir / "segment" / "test").glob("*.tfrecord"))
    lines = [
        ["check_data", *data],
        ["train_video", configs / "video.yaml", "--name", "v", "--seed", 1, *common],
        ["train_segment_w_context", configs / "aware.yaml", model, model, "--fold", 1, "--name", "c", *common],
        ["prepare_test_meta", *data],
        ["inference_memmap", *common],
        ["create_submission_from_memmaps", *data, "--output", data_dir / "sub.csv"],
        ["evaluate", "--fold", 1, "--resamples", 0, *common],
        ["report", *data],
        ["localize", shard, *data, "--device", "cpu", "--output", data_dir / "spans.csv"],
    ]
    return [[str(part) for part in line] for line in lines]


def test_all_commands_work_with_64_open_files(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for command, arguments in ((make_demo_data, SHARDS_OF_ONE_VIDEO), (prepare_vocabulary, [])):
        command.main(command.build_parser().parse_args([*arguments, "--data-dir", str(made)]))
    training = {**TRAINING, "batch_size": 64}  # a batch of more shards than files that may be open
    write_config(tmp_path / "video.yaml", video={"model": DBOF, "training": training})
    write_config(tmp_path / "aware.yaml", segment_w_context={"model": CONTEXT, "training": training})
    results = []
    for limit in (LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        data_dir = shutil.copytree(made, tmp_path / str(limit))
        done = fork(run_with_few_files, limit, commands(data_dir, tmp_path))
        assert done.status == 0, done.err
        weights = sorted((data_dir / "cache").glob("*/*/model.pth"))
        predictions = sorted((data_dir / "cache" / "predictions").glob("*.npy"))
        results.append([path.read_bytes() for path in (*weights, *predictions, data_dir / "sub.csv")])
        results[-1].append((data_dir / "spans.csv").read_bytes())
    assert len(results[0]) == 5 and results[0] == results[1]
