"""`localize`: spans equal those of literal predictions segment by segment; output formats."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from helperbot.files import replacing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import Outcome, fork, run_command
from tests.shards import AUDIO, RGB, Video, make_video, write_videos
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, group_sizes
from yt8m.data.candidates import load_candidates
from yt8m.data.frames import context_frames
from yt8m.data.vocabulary import Vocabulary
from yt8m.localization import inputs
from yt8m.localization.spans import (
    CSV_COLUMNS,
    Localization,
    Query,
    clock,
    digits,
    find_classes,
    find_spans,
    runs,
    table_lines,
    write_json,
)
from yt8m.models.model_folders import load_segment_model, open_folder
from yt8m.prediction.prediction_files import SCALE

Command = Callable[..., Outcome]
WIDTHS = {"video_dim": RGB, "audio_dim": AUDIO}
NAMES = ("Guitar", "Drums", "Acoustic guitar", "Pokémon, the film")
LABELS = (7, 20, 21, 3000)
N_CLASSES = len(NAMES)
MODELS = ("a_0", "b_1", "c_2")
OFFSETS = (3, 3, 3)
VIDEOS = [
    make_video(0, 77, (7,), ((30, 7, 1.0),)),
    make_video(1, 3),
    make_video(2, 11),
    make_video(3, 45, n_audio=42),
    make_video(4, 130, (20,)),
    make_video(5, 40),
]
VOCABULARY = Vocabulary(np.array(LABELS), tuple(NAMES))
TOLERANCE = 2e-4  # of means of probabilities that are predicted to 1e-4


@pytest.fixture(name="data_dir", scope="module")
def fixture_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a vocabulary and models of all kinds; without any shards. Not to be written to."""
    path = tmp_path_factory.mktemp("models") / "data"
    models = path / "cache" / "segment"
    dbof, nextvlad = {**DBOF, **WIDTHS}, {**NEXTVLAD, **WIDTHS, "groups": 2}
    for folder in (
        agnostic_folder(models / MODELS[0], dbof, VOCABULARY, 1),
        aware_folder(models / MODELS[1], nextvlad, dbof, VOCABULARY, 2),
        aware_folder(models / MODELS[2], dbof, nextvlad, VOCABULARY, 3),
    ):
        see_videos(folder)
    table = pd.DataFrame({"Index": LABELS, "KnowledgeGraphId": "", "Name": NAMES})
    table.to_csv(path / "segment_vocabulary.csv", index=False)
    return path


def see_videos(folder: Path) -> None:
    """Give the batch norms of an untrained model the statistics of the videos, so that it tells segments apart."""
    model = load_segment_model(open_folder(folder)).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.momentum = 1.0  # the statistics of the only batch
    frames = torch.from_numpy(VIDEOS[4].frames)
    segments = torch.stack([frames[start : start + 11] for start in range(0, 110, 5)])
    with torch.no_grad():
        if model.needs_context:
            model.context_model.train()
            model(segments, segments.flip(0)[:, :9], None, torch.arange(len(segments)))
        else:
            model(segments)
    state = model.state_dict()
    for key, value in state.items():
        if "expert_fc.2" in key:
            value.mul_(5)  # far apart
    torch.save(state, folder / "model.pth")


@pytest.fixture(name="features", scope="module")
def fixture_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of videos, with and without labels and ratings, in a folder of its own. Not to be written to."""
    folder = tmp_path_factory.mktemp("somewhere")
    return write_videos(folder / "mine.tfrecord", VIDEOS)


@pytest.fixture(name="localize")
def fixture_localize(command: Command, data_dir: Path, features: Path) -> Command:
    """Run the command on the videos."""

    def call(*options: object, file: Path = features) -> Outcome:
        return command("localize", file, "--data-dir", data_dir, "--device", "cpu", *options)

    return call


def answers_of(outcome: Outcome) -> dict[str, dict]:
    """What was printed as JSON, by video id."""
    assert outcome.status == 0, outcome
    return {answer["video_id"]: answer for answer in json.loads(outcome.out)}


def plain_probabilities(
    data_dir: Path, video: Video, shifts: tuple[int, ...] = (0,), offsets: tuple[int, ...] = OFFSETS
) -> np.ndarray:
    """The models themselves on each expanded segment of a video, from its first to its last second: means, (S, C)."""
    frames = torch.from_numpy(video.frames)
    n_frames = len(frames)
    context = frames[None, slice(*context_frames(n_frames))]
    total = np.zeros((-(-n_frames // 5), N_CLASSES))
    for name, offset in zip(MODELS, offsets):
        model = load_segment_model(open_folder(data_dir / "cache" / "segment" / name)).eval()
        for segment, sums in enumerate(total):
            for shift in shifts:
                rows = torch.zeros(1, 5 + 2 * offset, RGB + AUDIO, dtype=torch.uint8)
                for place in range(rows.shape[1]):
                    second = 5 * segment - offset + shift + place
                    if 0 <= second < n_frames:
                        rows[0, place] = frames[second]
                with torch.no_grad():
                    logits = model(rows, context, None, torch.tensor([0])) if model.needs_context else model(rows)
                sums += logits[0].sigmoid().numpy()
    return total / len(MODELS) / len(shifts)


def plain_spans(values: np.ndarray, n_frames: int, threshold: float) -> list[tuple[int, int, float, float, int]]:
    """Spans of one class from its probabilities (S,), segment by segment: start, end, mean, highest, highest_at."""
    spans: list[tuple[int, int, float, float, int]] = []
    current: list[int] = []
    for segment, value in enumerate([*values, -1]):
        if value >= threshold:
            current.append(segment)
        elif current:
            own = [values[number] for number in current]
            end = min(5 * (current[-1] + 1), n_frames)
            spans.append((5 * current[0], end, sum(own) / len(own), max(own), 5 * current[own.index(max(own))]))
            current = []
    return spans


def threshold_between(values: list[np.ndarray], share: float) -> float:
    """A threshold that about this share of the values lies below, in the widest gap that is near."""
    everything = np.sort(np.concatenate([part.ravel() for part in values]))
    first = int(len(everything) * share)
    gaps = np.diff(everything[first : first + 60])
    assert gaps.max() > 2 * TOLERANCE
    return float(everything[first + gaps.argmax() :][:2].mean())


# --- the numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shifts", "offsets"), [((), (0,), OFFSETS), (("--shifts", -2, 3, "--offset", 1), (-2, 3), (1, 1, 1))]
)
def test_spans_are_those_of_the_models_on_each_segment(
    localize: Command, data_dir: Path, options: tuple, shifts: tuple[int, ...], offsets: tuple[int, ...]
) -> None:
    values = [plain_probabilities(data_dir, video, shifts, offsets) for video in VIDEOS]
    threshold = threshold_between(values, 0.55)
    answers = answers_of(localize("--format", "json", "--threshold", threshold, "--classes", *LABELS, *options))
    assert list(answers) == ["v000", "v001", "v002", "v003", "v004", "v005"]
    n_spans = 0
    for video, probabilities in zip(VIDEOS, values):
        answer, n_frames = answers[video.video_id.decode()], len(video.frames)
        assert answer["seconds"] == n_frames and answer["threshold"] == threshold
        expected = {
            label: plain_spans(probabilities[:, number], n_frames, threshold) for number, label in enumerate(LABELS)
        }
        found: dict[int, list[tuple]] = {label: [] for label in LABELS}
        for span in answer["spans"]:
            assert span["class"] == NAMES[LABELS.index(span["label"])] and span["video_id"] == answer["video_id"]
            found[span["label"]].append(tuple(span.values())[3:])
        for label, spans in expected.items():
            assert [span[:2] + span[4:] for span in found[label]] == [span[:2] + span[4:] for span in spans]
            np.testing.assert_allclose(
                [span[2:4] for span in found[label]], [span[2:4] for span in spans], atol=TOLERANCE
            )
        assert {span["label"] for span in answer["below_threshold"]} == {
            label for label, spans in expected.items() if not spans
        }
        n_spans += len(answer["spans"])
    assert n_spans > 15


def test_all_of_a_video_is_looked_at(localize: Command) -> None:
    answers = answers_of(localize("--format", "json", "--threshold", 0, "--top", 2))
    assert {name: answer["seconds"] for name, answer in answers.items()} == {
        "v000": 77,
        "v001": 3,
        "v002": 11,
        "v003": 42,
        "v004": 130,
        "v005": 40,
    }
    for answer in answers.values():
        assert [(span["start"], span["end"]) for span in answer["spans"]] == [(0, answer["seconds"])] * 2


def test_candidate_segments_have_the_numbers_of_inference_memmap(
    command: Command, localize: Command, data_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "data"
    other.mkdir()
    (other / "segment_vocabulary.csv").symlink_to(data_dir / "segment_vocabulary.csv")
    shard = write_videos(other / "segment" / "test" / "test00.tfrecord", VIDEOS)
    models = ("--model-dir", data_dir / "cache" / "segment")
    for arguments in (("prepare_test_meta",), ("inference_memmap", "--device", "cpu", *models)):
        assert command(*arguments, "--data-dir", other).status == 0
    maps = [np.load(other / "cache" / "predictions" / f"{name}.npy") for name in MODELS]
    means = np.mean(maps, axis=0) / SCALE
    candidates = load_candidates(other / "cache")
    threshold = threshold_between([means], 0.3)
    answers = answers_of(localize("--format", "json", "--threshold", threshold, "--top", N_CLASSES, file=shard))
    covered = 0
    for start, end, video in zip(candidates.row_starts, candidates.row_ends, candidates.video_ids.tolist()):
        seconds = 5 * candidates.row_segments()[start:end]
        for number, label in enumerate(LABELS):
            inside = np.zeros(len(seconds), bool)
            for span in answers[video.decode()]["spans"]:
                if span["label"] == label:
                    own = (seconds >= span["start"]) & (seconds < span["end"])
                    inside |= own
                    if own.sum() == -(-(span["end"] - span["start"]) // 5):
                        assert abs(means[start:end][own, number].mean() - span["mean"]) < TOLERANCE
                        covered += 1
            np.testing.assert_array_equal(inside, means[start:end, number] >= threshold)
    assert covered > 3


def test_groups_change_nothing(localize: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = group_sizes(monkeypatch)
    together = localize("--threshold", 0, "--format", "csv").out
    assert sizes == [len(VIDEOS)]
    monkeypatch.setattr(inputs, "SEGMENTS_AT_A_TIME", 15)
    apart = localize("--threshold", 0, "--format", "csv").out
    assert sizes[1:] == [1, 4, 1]  # segments: 16, then 1 + 3 + 9 + 26, then 8
    first, second = (pd.read_csv(io.StringIO(text)) for text in (together, apart))
    assert (first["highest"] - second["highest"]).abs().max() < TOLERANCE


# --- merging ------------------------------------------------------------------------------------------


THREE = Vocabulary(np.array([5, 8, 9]), ("five", "eight", ""))
PROBABILITIES = st.integers(1, 12).flatmap(
    lambda n_segments: st.lists(
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0]), min_size=3, max_size=3),
        min_size=n_segments,
        max_size=n_segments,
    )
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    rows=PROBABILITIES,
    missing=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    top=st.integers(1, 4),
)
def test_neighbouring_segments_merge_as_in_a_plain_loop(
    rows: list[list[float]], missing: int, threshold: float, top: int
) -> None:
    probabilities = np.array(rows)
    n_frames = 5 * len(rows) - missing
    order = sorted(range(3), key=lambda number: -probabilities[:, number].max())
    for classes in (None, [2, 0]):
        chosen = order[:top] if classes is None else [number for number in order if number in classes]
        answer = find_spans("x", n_frames, probabilities, THREE, Query(classes, top, threshold))
        assert (answer.video_id, answer.seconds) == ("x", n_frames)
        expected = [
            (int(THREE.labels[number]), *span)
            for number in chosen
            for span in plain_spans(probabilities[:, number], n_frames, threshold)
        ]
        assert [
            (span.label, span.start, span.end, pytest.approx(span.mean), span.highest, span.highest_at)
            for span in answer.spans
        ] == expected
        lacking = [number for number in chosen if probabilities[:, number].max() < threshold]
        if classes is None:
            lacking = [] if expected else lacking[:1]
        assert [(span.label, span.start, span.mean) for span in answer.below] == [
            (THREE.labels[number], 5 * probabilities[:, number].argmax(), probabilities[:, number].max())
            for number in lacking
        ]
        assert all(span.end == min(span.start + 5, n_frames) for span in answer.below)
        assert all(
            span.name == (THREE.names[:2] + ("label 9",))[THREE.labels.tolist().index(span.label)]
            for span in answer.spans + answer.below
        )  # a class without a name is called by its label


def test_runs() -> None:
    assert runs(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    assert not runs(np.zeros(3, bool)) and not runs(np.empty(0, bool))


# --- what is asked for --------------------------------------------------------------------------------


def test_classes_by_name_or_label_in_any_case(localize: Command) -> None:
    for names, expected in (
        (["guitar", "DRUMS"], {7, 20}),
        (["21"], {21}),
        (["pokémon, THE film", "7", "Guitar"], {3000, 7}),
    ):
        answers = answers_of(localize("--classes", *names, "--top", 1, "--threshold", 0, "--format", "json"))
        assert {span["label"] for span in answers["v004"]["spans"]} == expected


def test_a_name_of_several_classes_is_all_of_them() -> None:
    vocabulary = Vocabulary(np.array([1, 2, 3]), ("Game", "Car", "game"))
    assert find_classes(["GAME", "3"], vocabulary) == [0, 2]


def test_the_best_classes_of_each_video_unless_named(localize: Command) -> None:
    everything = answers_of(localize("--top", N_CLASSES, "--threshold", 0, "--format", "json"))
    best = answers_of(localize("--top", 1, "--threshold", 0, "--format", "json"))
    for name, answer in everything.items():
        highest = [span["highest"] for span in answer["spans"]]
        assert len(highest) == N_CLASSES and highest == sorted(highest, reverse=True)
        assert best[name]["spans"] == answer["spans"][:1]


def test_videos_by_id_in_the_order_asked_for(localize: Command) -> None:
    assert list(answers_of(localize("--format", "json", "--video-id", "v004", "v001", "v004"))) == ["v004", "v001"]


@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_ids_with_accents_in_one_piece_and_in_two(
    asked: Literal["NFC", "NFD"], localize: Command, tmp_path: Path
) -> None:
    names = [unicodedata.normalize(form, text) for text in ("Café", "Übung") for form in ("NFC", "NFD")]
    shard = write_videos(tmp_path / "videos.tfrecord", [replace(VIDEOS[4], video_id=names[1].encode())])
    np.save(tmp_path / f"{names[3]}.npy", VIDEOS[4].frames)
    for file, name in ((shard, names[0]), (tmp_path / f"{names[3]}.npy", names[2])):
        outcome = localize("--format", "json", "--videos", unicodedata.normalize(asked, name), file=file)
        assert list(answers_of(outcome)) == [name]


def test_models_by_name_count_with_their_mean(localize: Command) -> None:
    def highest(*models: str) -> np.ndarray:
        outcome = localize("--classes", *LABELS, "--threshold", 0, "--format", "csv", "--model-names", *models)
        table = pd.read_csv(io.StringIO(outcome.out)).sort_values(["video_id", "label"])
        return table["mean"].to_numpy()

    first, second = highest("a_0"), highest("b_1")
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_allclose(highest("a_0", "b_1"), (first + second) / 2, atol=TOLERANCE)


# --- formats ------------------------------------------------------------------------------------------


def test_the_table(localize: Command) -> None:
    outcome = localize("--threshold", 0, "--top", 2, "--video-id", "v000", "v001")
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert lines[0] == "video v000, 1:17 long, 16 segments" and lines[4] == "video v001, 0:03 long, 1 segment"
    assert lines[3] == "" and len(lines) == 7
    places = set()
    for line in lines[1:3]:
        match = re.fullmatch(r"  0:00 – 1:17   (\S.*?) {3,}(0\.\d\d) \(peak (0\.\d\d) at (\d:\d[05])\)", line)
        assert match and match[1] in NAMES and match[2] <= match[3]
        places.add(match.start(2))
    assert len(places) == 1  # aligned
    assert all(re.fullmatch(r"  0:00 – 0:03   .* 0\.\d\d", line) for line in lines[5:])


def test_the_table_says_what_is_below_the_threshold() -> None:
    vocabulary = Vocabulary(np.array([5, 8, 9]), ("five", "eight", "a longer name"))
    values = np.array([[0.2, 0.1, 0.7], [0.1, 0.1, 0.799], [0.1, 0.4, 0.2]])
    answer = find_spans("x", 13, values, vocabulary, Query([0, 1, 2], 5, 0.5))
    assert table_lines(answer, Query([0, 1, 2], 5, 0.5)) == [
        "video x, 0:13 long, 3 segments",
        "  0:00 – 0:10   a longer name   0.74 (peak 0.79 at 0:05)",
        "  below 0.5 everywhere; most probable at:",
        "  0:10 – 0:13   eight           0.40",
        "  0:00 – 0:05   five            0.20",
    ]
    query = Query(None, 5, 0.8)
    assert table_lines(find_spans("x", 13, values, vocabulary, query), query) == [
        "video x, 0:13 long, 3 segments",
        "  no class reaches 0.8; the most probable:",
        "  0:05 – 0:10   a longer name   0.79",
    ]


def test_times_and_digits() -> None:
    assert [clock(seconds) for seconds in (0, 59, 60, 3599, 3600, 36061)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]
    assert [digits(number / 100) for number in range(101)] == [f"{number / 100:.2f}" for number in range(101)]
    assert digits(0.4999) == "0.49" and digits(0.9999) == "0.99"
    answer = find_spans(
        "x", 3700, np.linspace(0.6, 1, 740).reshape(740, 1), Vocabulary(np.array([1]), ("one",)), Query(None, 1, 0.9)
    )
    assert table_lines(answer, Query(None, 1, 0.9)) == [
        "video x, 1:01:40 long, 740 segments",
        "    46:15 – 1:01:40   one   0.95 (peak 1.00 at 1:01:35)",
    ]


def test_csv_reads_back_and_agrees_with_json(localize: Command, caplog: pytest.LogCaptureFixture) -> None:
    options = ("--threshold", 0.55, "--top", 1)
    answers = answers_of(localize(*options, "--format", "json"))
    caplog.set_level(logging.INFO, "yt8m")
    outcome = localize(*options, "--format", "csv")
    table = pd.read_csv(io.StringIO(outcome.out))
    assert tuple(table.columns) == CSV_COLUMNS
    assert table.to_dict("records") == [span for answer in answers.values() for span in answer["spans"]]
    lacking = [answer["video_id"] for answer in answers.values() if not answer["spans"]]
    for answer in answers.values():
        assert len(answer["below_threshold"]) == (not answer["spans"])
        for span in answer["below_threshold"]:
            assert (
                f"video {span['video_id']}: no class reaches 0.55; the most probable: {span['class']}, "
                f"{digits(span['highest'])} at {clock(span['start'])}"
            ) in caplog.text
    assert caplog.text.count("no class reaches") == len(lacking)


def test_an_unreachable_threshold_has_an_answer(localize: Command) -> None:
    answers = answers_of(localize("--threshold", 1, "--format", "json"))
    assert all(not answer["spans"] and len(answer["below_threshold"]) == 1 for answer in answers.values())
    assert localize("--threshold", 1).out.count("no class reaches 1; the most probable:") == len(VIDEOS)


def test_json_is_a_document_whatever_there_is() -> None:
    query = Query(None, 5, 0.5)
    for answers in ([], [Localization("a", 0, [], [])], [Localization("a", 0, [], []), Localization("é", 1, [], [])]):
        output = io.StringIO()
        write_json(answers, query, output)
        assert [answer["video_id"] for answer in json.loads(output.getvalue())] == [item.video_id for item in answers]


def test_output_to_a_file_whose_ending_says_the_format(localize: Command, tmp_path: Path) -> None:
    for name, options in (("s.json", ("--format", "json")), ("s.CSV", ("--format", "csv")), ("s.txt", ())):
        outcome = localize("--output", tmp_path / "new" / name)
        assert outcome.status == 0 and not outcome.out
        assert (tmp_path / "new" / name).read_text(encoding="utf-8") == localize(*options).out
    outcome = localize("--output", tmp_path / "other.json", "--format", "table")
    assert outcome.status == 0 and (tmp_path / "other.json").read_text(encoding="utf-8").startswith("video v000")


# --- files --------------------------------------------------------------------------------------------


def test_nothing_is_written_beside_the_file_or_into_the_data_folder(
    localize: Command, features: Path, data_dir: Path
) -> None:
    before = sorted(data_dir.rglob("*"))
    assert localize().status == 0
    assert [path.name for path in features.parent.iterdir()] == [features.name]
    assert sorted(data_dir.rglob("*")) == before


def test_videos_without_labels_frames_or_an_id_of_their_own(
    localize: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = make_video(9, 20)
    videos = [
        Video(b"bare", bare.rgb, bare.audio, None),
        make_video(1, 30),
        make_video(2, 0),
        make_video(1, 50),
        make_video(3, 20, n_audio=0),
    ]
    file = write_videos(tmp_path / "f.tfrecord", videos)
    caplog.set_level(logging.INFO, "yt8m")
    answers = answers_of(localize("--format", "json", file=file))
    assert {name: answer["seconds"] for name, answer in answers.items()} == {
        "bare": 20,
        "v001": 30,
        "v002": 0,
        "v003": 0,
    }
    assert f"{file}: 1 video with a duplicate id left out" in caplog.text
    assert localize(file=file).out.count("no second has both rgb and audio features") == 2
    assert localize("--format", "csv", file=file).status == 0
    assert "video v003: no second has both rgb and audio features" in caplog.text
    assert answers_of(localize("--format", "json", "--video-id", "v002", file=file))["v002"]["spans"] == []


def test_damage_is_named_or_left_out(
    localize: Command, features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(features.read_bytes())
    content[len(content) - 20] ^= 1  # inside the last record's features
    damaged = tmp_path / "damaged.tfrecord"
    damaged.write_bytes(content)
    output = tmp_path / "spans.csv"
    output.write_text("an earlier answer", encoding="utf-8")
    assert_refused(localize("--output", output, file=damaged), "damaged.tfrecord", "v005", "checksum mismatch")
    assert output.read_text(encoding="utf-8") == "an earlier answer"
    answers = answers_of(localize("--on-error", "skip", "--format", "json", file=damaged))
    assert list(answers) == ["v000", "v001", "v002", "v003", "v004"]
    assert "left out because of damage: 1 record," in caplog.text
    damaged.write_bytes(content[:-100])
    assert_refused(localize(file=damaged), "damaged.tfrecord", "truncated")
    for wrong, what in (
        (b"", "empty file"),
        (b"\x1f\x8b" + bytes(20), "a gzip file"),
        (b"<html><body></body>", "HTML"),
    ):
        damaged.write_bytes(wrong)
        assert_refused(localize(file=damaged), "damaged.tfrecord", what)


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """One error line with these parts, and status 2."""
    assert outcome.status == 2, outcome
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err.splitlines()[-1], outcome.err


def test_mistakes(localize: Command, command: Command, data_dir: Path, features: Path, tmp_path: Path) -> None:
    assert_refused(localize("--classes", "gitar"), "class gitar", str(data_dir), "did you mean Guitar")
    assert_refused(localize("--classes", "acoustic"), "did you mean Acoustic guitar?")
    assert_refused(localize("--classes", 99), "class 99", "Guitar, Drums, Acoustic guitar and others are there")
    assert_refused(localize("--video-id", "v000", "V01"), "--videos V01: no such video in", features.name, "v001")
    assert_refused(localize("--video-id", "q"), "v000, v001, v002 and others are there")
    assert_refused(localize(file=tmp_path / "none.tfrecord"), "none.tfrecord: no such file")
    assert_refused(localize(file=tmp_path), f"{tmp_path}: no shard, array or film in this folder")
    assert_refused(localize("--output", tmp_path), "--output", "is a folder")
    assert_refused(localize("--output", features), "--output", "is an input")
    assert_refused(localize("--threshold", 1.5), "--threshold")
    assert_refused(localize("--top", 0), "--top")
    assert_refused(localize("--model-names", "ghost"), "ghost: no such model folder")
    assert_refused(command("localize", features, "--data-dir", tmp_path), "cache/segment: no such folder of models")
    assert_refused(localize("--model-dir", tmp_path / "no"), "no: no such folder of models")
    wide = tmp_path / "wide"
    agnostic_folder(wide / "m_0", DBOF, VOCABULARY)
    assert_refused(localize("--model-dir", wide), f"{features}: features are 8 (rgb) and 3 (audio) wide", "1024")
    agnostic_folder(tmp_path / "more" / "a_0", {**DBOF, **WIDTHS}, VOCABULARY)
    agnostic_folder(tmp_path / "more" / "m_0", {**DBOF, **WIDTHS}, Vocabulary(np.array([7, 9]), ("Guitar", "Lute")))
    assert_refused(localize("--model-dir", tmp_path / "more"), "m_0: other classes", "a_0 has 20 (", "m_0 has 9 (Lute)")


def test_a_model_of_nans_is_named(localize: Command, tmp_path: Path) -> None:
    folder = agnostic_folder(tmp_path / "m_0", {**DBOF, **WIDTHS}, VOCABULARY)
    state = torch.load(folder / "model.pth", weights_only=True)
    next(iter(state.values())).fill_(float("nan"))
    with replacing(folder / "model.pth") as temporary:
        torch.save(state, temporary)
    assert_refused(localize("--model-dir", tmp_path), "m_0: predicts values that are not numbers")


def test_a_reader_who_has_seen_enough_ends_it_quietly(data_dir: Path, features: Path) -> None:
    command = (sys.executable, "-m", "yt8m.localize", features, "--data-dir", data_dir, "--device", "cpu")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141 and len(error.splitlines()) == 1 and "localizing in 6 videos with" in error


@pytest.mark.parametrize("form", ["table", "csv"])
def test_standard_output_that_lacks_letters_of_class_names(form: str, data_dir: Path, features: Path) -> None:
    """People get escapes, programs an error instead of other letters."""
    command = (
        sys.executable,
        "-m",
        "yt8m.localize",
        features,
        "--data-dir",
        data_dir,
        "--device",
        "cpu",
        "--threshold",
        "0",
    )
    found = {
        encoding: subprocess.run(
            [*map(str, command), "--format", form],
            capture_output=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": encoding},
        )
        for encoding in ("utf-8", "ascii")
    }
    text = found["utf-8"].stdout.decode()
    odd = next(letter for letter in text if not letter.isascii())
    assert found["utf-8"].returncode == 0 and any(name in text for name in NAMES if not name.isascii())
    if form == "table":
        assert found["ascii"].returncode == 0
        assert found["ascii"].stdout == text.encode("ascii", "backslashreplace")
    else:
        error = found["ascii"].stderr.decode().splitlines()[-1]
        assert found["ascii"].returncode == 2
        assert f"standard output: ascii has no {odd!a}; set PYTHONIOENCODING=utf-8" in error


def localize_without_av(*arguments: object) -> None:
    """`localize` where PyAV is not installed."""
    sys.modules["av"] = None  # type: ignore[assignment]
    for name in [name for name in sys.modules if name.startswith(("yt8m.films", "yt8m.localization"))]:
        del sys.modules[name]
    run_command("localize", *arguments)


def test_shards_need_no_av(data_dir: Path, features: Path) -> None:
    outcome = fork(localize_without_av, features, "--data-dir", data_dir, "--device", "cpu", "--model-names", MODELS[0])
    assert outcome.status == 0 and "video " in outcome.out, outcome
