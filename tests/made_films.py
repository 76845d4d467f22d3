"""Generated films: four landscapes in a row, each with its own hum.

As a program it makes a page to watch such a film on, for a picture of the documentation:

python -m tests.made_films FOLDER
"""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 16000  # of the sound
SCENES = ("Sunset", "Sea", "Starry sky", "Mountains")


def write_film(
    path: Path, seconds: int, *, codecs: tuple[str, str | None], width: int = 96, height: int = 64, fps: int = 10
) -> Path:
    """A film of so many seconds; its path's ending says the container, the codecs are those of picture and sound."""
    picture_codec, sound_codec = codecs
    with av.open(str(path), "w") as film:
        video: Any = film.add_stream(picture_codec, rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.gop_size = 3 * fps
        audio: Any = None if sound_codec is None else film.add_stream(sound_codec, rate=RATE, layout="mono")
        for number in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(draw(number / fps, seconds, width, height), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            film.mux(video.encode(frame))
            if audio is not None and number % fps == 0:
                film.mux(audio.encode(_hum(number // fps)))
        film.mux(video.encode(None))
        if audio is not None:
            film.mux(audio.encode(None))
    return path


def _hum(second: int) -> av.AudioFrame:
    times = second + np.arange(RATE) / RATE
    wave = np.sin(2 * np.pi * (220 + 20 * (second % 5)) * times)
    frame = av.AudioFrame.from_ndarray((wave * 3000).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, second * RATE, Fraction(1, RATE)
    return frame


def scene_of(time: float, seconds: float) -> int:
    """Which of the four landscapes is to be seen; each has a quarter of the film."""
    return min(int(4 * time / seconds), 3)


def draw(time: float, seconds: float, width: int, height: int) -> np.ndarray:
    """The picture at a time, (height, width, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[height]]]
    scene, turn = scene_of(time, seconds), time / seconds
    skies = [((40, 30, 80), (255, 150, 60)), ((90, 160, 220), (220, 240, 250)), ((5, 8, 30), (30, 30, 70)),
             ((120, 170, 220), (250, 220, 200))]  # fmt: skip
    top, bottom = (np.array(colour, float) for colour in skies[scene])
    picture = top + (bottom - top) * np.minimum(y / 0.65, 1)[..., None]
    _put(picture, np.hypot(x - 0.3 - turn, y - 0.25 - 0.3 * (scene == 0)), 0.11 - 0.05 * (scene == 2), (255, 236, 190))
    if scene == 2:
        stars = np.random.default_rng(5).random((height, width)) < 0.004
        picture[stars & (y < 0.7)] = 255
    for layer in range(3):
        rough, speed = (0.10 if scene == 3 else 0.03), (1 if scene == 1 else 0.1)
        phase = 7 * scene + speed * time
        waves = [np.sin((2.1 + wave) * (2 + layer) * x + 1.7 * wave + phase) / (wave + 1) for wave in range(4)]
        edge = 0.55 + 0.13 * layer + rough * np.sum(waves, axis=0)
        shade = np.array([(90, 40, 70), (30, 95, 140), (12, 14, 35), (70, 90, 110)][scene], float) * (1 - 0.28 * layer)
        picture[y > edge] = shade
    return np.clip(picture, 0, 255).astype(np.uint8)


def _put(picture: np.ndarray, distance: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    glow = np.exp(-np.maximum(distance - radius, 0) / 0.09)[..., None] * np.where(distance < radius, 1, 0.5)[..., None]
    picture += (np.array(colour) - picture) * glow


def main(folder: Path) -> None:
    """Make a film and its page."""
    from yt8m.data.vocabulary import Vocabulary
    from yt8m.localization.spans import Query, find_spans
    from yt8m.reporting.watching import FilmAnswer, write_watch_page

    folder.mkdir(parents=True, exist_ok=True)
    film = write_film(folder / "landscapes.mp4", 180, codecs=("libx264", "aac"), width=640, height=360, fps=4)
    names = (*SCENES, "Moon", "Boat")
    rng = np.random.default_rng(3)
    values = np.full((36, len(names)), -3.5) + rng.normal(0, 0.5, (36, len(names)))
    for segment in range(36):
        values[segment, scene_of(5 * segment, 180)] += 5.5
        values[segment, 4] += 4.5 * (scene_of(5 * segment, 180) == 2 and segment % 6 > 1)
        values[segment, 5] += 4.3 * (segment in (10, 11, 15))
    probabilities = 1 / (1 + np.exp(-values))
    vocabulary = Vocabulary(np.arange(len(names)), names, folder / "made-up")
    answer = find_spans("landscapes", 180, probabilities, vocabulary, Query(None, len(names), 0.5))
    curves = {label: probabilities[:, label] for label in range(len(names))}
    write_watch_page(folder / "watch.html", [FilmAnswer(answer, film, curves)], title="Landscapes: what is when")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
