"""Features of other widths, data without audio, and other vocabularies, through all commands."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import Outcome
from tests.shards import (
    Video,
    bytes_feature,
    context_entries,
    context_field,
    entry,
    field,
    index_videos,
    make_video,
    write_payloads,
)
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, agnostic_folder, aware_folder, write_config
from yt8m.data.index import UNUSUAL, Index, load_index
from yt8m.data.reader import Frames, ShardReader
from yt8m.models.base import fuse
from yt8m.models.config import VideoSection
from yt8m.models.nextvlad import NextvladEncoder

Command = Callable[..., Outcome]
QUICK = {**TRAINING, "steps": 2, "ckpt_interval": 2}


def succeed(outcome: Outcome) -> Outcome:
    """The outcome of a command that had to succeed."""
    assert outcome.status == 0, outcome.err
    return outcome


# --- data sets without audio --------------------------------------------------------------------------


def silent_video(number: int, n_frames: int) -> Video:
    """A video whose record has no list of audio at all."""
    return replace(make_video(number, n_frames, (1,), [(0, 1, 1.0)]), audio=None)


def read_all(index: Index) -> list[np.ndarray]:
    """All frames of all records."""
    reader = ShardReader(index)
    found = [np.empty((count, reader.frame_dim), np.uint8) for count in index.n_frames.tolist()]
    assert reader.read([Frames(row, slice(0, len(out)), out) for row, out in enumerate(found)], whole=True).all()
    return found


def assert_frames(index: Index, videos: list[Video]) -> None:
    """The index knows the frames of these videos without audio, and they are read right, whole and in part."""
    assert index.n_frames.tolist() == [len(video.rgb) for video in videos if video.rgb is not None]
    reader = ShardReader(index)
    assert reader.widths == (8, 0) and reader.frame_dim == 8
    for row, (found, video) in enumerate(zip(read_all(index), videos, strict=True)):
        assert video.rgb is not None and np.array_equal(found, video.rgb)
        part, chosen = np.empty((3, 8), np.uint8), np.array([1, 4, 8])
        reader.read([Frames(row, chosen, part)])
        assert np.array_equal(part, video.rgb[chosen])


def test_without_any_audio_the_frames_are_the_visual_ones(tmp_path: Path) -> None:
    videos = [silent_video(0, 12), silent_video(1, 9)]
    index = index_videos(tmp_path, [videos])
    assert UNUSUAL not in index.audio_start
    assert_frames(index, videos)


def test_empty_audio_lists_count_as_no_audio(tmp_path: Path) -> None:
    videos = [make_video(0, 12, n_audio=0), make_video(1, 9, n_audio=0)]
    assert_frames(index_videos(tmp_path, [videos]), videos)


def test_a_video_without_audio_among_others_has_no_frames(tmp_path: Path) -> None:
    videos = [silent_video(0, 12), make_video(1, 9)]
    index = index_videos(tmp_path, [videos])
    assert index.n_frames.tolist() == [0, 9]
    assert np.array_equal(read_all(index)[1], videos[1].frames)


def test_an_index_that_was_kept_before_still_serves(tmp_path: Path) -> None:
    videos = [silent_video(0, 12), silent_video(1, 9)]
    index = index_videos(tmp_path, [videos])
    (cache,) = (tmp_path / "cache" / "index").glob("*.npz")
    with np.load(cache, allow_pickle=False) as file:
        arrays: dict[str, Any] = dict(file)
    arrays["audio_start"] = np.full_like(arrays["audio_start"], UNUSUAL)  # as a list that is not there was put down
    np.savez(cache, **arrays)
    kept = load_index(index.folder, tmp_path / "cache")
    assert kept.audio_start.tolist() == [UNUSUAL, UNUSUAL]
    assert_frames(kept, videos)


def test_unusual_records_without_audio_are_read_through_protobuf(tmp_path: Path) -> None:
    videos = [silent_video(0, 12), silent_video(1, 9)]
    payloads = []
    for video in videos:
        assert video.rgb is not None
        lists = b"".join(field(1, bytes_feature(frame.tobytes()), padding=1) for frame in video.rgb)
        payloads.append(context_field(context_entries(video)) + field(2, entry("rgb", lists)))
    folder = tmp_path / "segment" / "train"
    write_payloads(folder / "a.tfrecord", payloads)
    index = load_index(folder, tmp_path / "cache")
    assert index.rgb_start.tolist() == [UNUSUAL, UNUSUAL]
    assert_frames(index, videos)


# --- models without audio -----------------------------------------------------------------------------


def encoder(audio_dim: int) -> NextvladEncoder:
    """A NeXtVLAD encoder for 6 visual columns and these many of audio, in eval mode."""
    torch.manual_seed(1)
    section = VideoSection.model_validate({"model": {**NEXTVLAD, "video_dim": 6, "audio_dim": audio_dim}})
    return NextvladEncoder(section.model).eval()


def test_without_audio_nextvlad_is_its_visual_half() -> None:
    both, visual = encoder(4), encoder(0)
    state = both.state_dict()
    assert visual.state_dict().keys() == {key for key in state if not key.startswith("audio_encoder.")}
    kept = {key: state[key] for key in visual.state_dict()}
    width = visual.video_encoder.out_features
    with torch.no_grad():
        state["intermediate_fc.0.weight"][:, width:] = 0  # audio counts for nothing
    kept["intermediate_fc.0.weight"] = state["intermediate_fc.0.weight"][:, :width].clone()
    visual.load_state_dict(kept)
    frames = torch.randint(0, 256, (3, 15, 10), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    lengths = torch.tensor([15, 7, 1])
    with torch.no_grad():
        expected = both(frames, lengths)
        assert torch.allclose(visual(frames[:, :, :6], lengths), expected, atol=1e-5)
        fuse(visual)
        rows = torch.cat([video[:length, :6] for video, length in zip(frames, lengths)]).float()
        assert torch.allclose(visual.encode_whole(rows, lengths.tolist()), expected, atol=1e-4)


def test_models_and_data_must_agree_on_audio(tmp_path: Path, command: Command, data_dir: Path) -> None:
    config = write_config(tmp_path / "v.yaml", video={"model": {**DBOF, "audio_dim": 0}, "training": QUICK})
    outcome = command("train_video", config, "--name", "v", "--data-dir", data_dir, "--device", "cpu")
    assert outcome.status == 2 and "1024 and 0; set video_dim and audio_dim" in outcome.err.splitlines()[-1]


# --- from arrays to answers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Widths of the features, and how many classes are rated."""

    video_dim: int
    audio_dim: int
    n_classes: int

    @property
    def widths(self) -> dict[str, int]:
        """What a configuration says of them."""
        return {"video_dim": self.video_dim, "audio_dim": self.audio_dim}


def make_own_data(folder: Path, case: Case, command: Command) -> Path:
    """A data folder made of arrays by `make_records`: 8 videos with labels, ratings of all classes, 3 test videos."""
    rng = np.random.default_rng(0)
    features, ids = folder / "features", [f"own-{number:02d}" for number in range(11)]
    features.mkdir()
    for video_id in ids:
        array = rng.integers(0, 256, (int(rng.integers(46, 60)), case.video_dim + case.audio_dim), np.uint8)
        np.save(features / f"{video_id}.npy", array)
    names = [f"class {number:02d}" for number in range(case.n_classes)]
    tables: dict[str, list[tuple[object, ...]]] = {
        "labels.csv": [("vid", "label"), *((ids[row % 8], name) for row, name in enumerate(names * 3))],
        "ratings.csv": [
            ("vid", "start", "label", "score"),
            *(
                (video_id, start, name, (video + row + start // 5) % 2)
                for video, video_id in enumerate(ids[:8])
                for row, name in enumerate(names)
                for start in (30, 35)
            ),
        ],
        "test.csv": [("vid",), *((video_id,) for video_id in ids[8:])],
    }
    for name, rows in tables.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(dict.fromkeys(rows))  # the labels come around to the same videos
    data_dir = folder / "own"
    options: tuple[object, ...] = ("--data-dir", data_dir)
    if case.audio_dim:
        options += ("--audio-width", case.audio_dim)
    labels = ("--labels", folder / "labels.csv")
    for partition, given in (
        ("video/train", labels),
        ("video/valid", labels),
        ("segment/train", (*labels, "--ratings", folder / "ratings.csv")),
        ("segment/test", ("--videos", folder / "test.csv")),
    ):
        made = succeed(command("make_records", features, "--partition", partition, *given, *options))
        assert f"video_dim: {case.video_dim}, audio_dim: {case.audio_dim}" in made.out
    succeed(command("prepare_vocabulary", "--data-dir", data_dir))
    return data_dir


@pytest.mark.parametrize(
    "case", [Case(24, 8, 3), Case(50, 0, 40), Case(512, 0, 3)], ids=lambda case: f"{case.video_dim}+{case.audio_dim}"
)
def test_from_arrays_to_answers(tmp_path: Path, command: Command, case: Case) -> None:
    data_dir = make_own_data(tmp_path, case, command)
    where = ("--data-dir", data_dir, "--device", "cpu")
    models = {"nextvlad": {**NEXTVLAD, **case.widths}, "dbof": {**DBOF, **case.widths}}
    aware = write_config(tmp_path / "aware.yaml", segment_w_context={"model": CONTEXT, "training": QUICK})
    bases = data_dir / "cache" / "video"
    whole = case.n_classes == 40  # train all kinds of models; the other cases predict with untrained ones
    for name, model in models.items() if whole else [("nextvlad", models["nextvlad"])]:
        config = write_config(tmp_path / f"{name}.yaml", video={"model": model, "training": QUICK})
        succeed(command("train_video", config, "--name", name, *where))
    state = torch.load(bases / "nextvlad" / "model.pth", weights_only=True)
    assert state["model.video_encoder.expansion_mapper.weight"].shape == (2 * case.video_dim, case.video_dim)
    assert any("audio_encoder" in key for key in state) == bool(case.audio_dim)
    written = yaml.safe_load((bases / "nextvlad" / "config.yaml").read_text(encoding="utf-8"))["video"]["model"]
    assert case.widths.items() <= written.items()

    segments = data_dir / "cache" / "segment"
    if not whole:
        agnostic_folder(segments / "agnostic_0", models["nextvlad"], data_dir)
        agnostic_folder(segments / "bag_0", models["dbof"], data_dir)
        aware_folder(segments / "aware_0", models["nextvlad"], models["dbof"], data_dir)
    else:
        pure = write_config(tmp_path / "pure.yaml", pure_segment={"training": QUICK})
        succeed(command("train_pure_segment", pure, bases / "nextvlad", "--fold", 0, "--name", "agnostic", *where))
        pair = (bases / "dbof", bases / "nextvlad")
        succeed(command("train_segment_w_context", aware, *pair, "--fold", 0, "--name", "aware", *where))
    succeed(command("prepare_test_meta", "--data-dir", data_dir))
    succeed(command("inference_memmap", *where))
    for path in (data_dir / "cache" / "predictions").glob("*.npy"):
        assert np.load(path).shape[1] == case.n_classes
    submission = tmp_path / "sub.csv"
    succeed(command("create_submission_from_memmaps", "--data-dir", data_dir, "--output", submission))
    succeed(command("check_submission", submission, "--data-dir", data_dir))
    with submission.open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + case.n_classes
    if whole:
        succeed(command("evaluate", "--fold", 0, "--include-trained", *where))
    shard = next((data_dir / "segment" / "test").glob("*.tfrecord"))
    found = json.loads(succeed(command("localize", shard, "--format", "json", "--threshold", 0, *where)).out)
    assert "class " in json.dumps(found)
    for folder in (bases / "nextvlad", segments / "agnostic_0", segments / "aware_0")[0 if whole else 2 :]:
        output = tmp_path / f"{folder.parent.name}-{folder.name}.onnx"
        succeed(command("export_model", folder, "--output", output, "--data-dir", data_dir))
        assert output.is_file()
