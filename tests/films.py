"""Generated films whose pictures encode the number of each frame and whose sound the second.

Dimensions: H, W pixels of a frame.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 30_000  # ticks a second of the times that films are made with
BITS = 10  # of a frame's number, as columns of black and white
SIZE = 160, 96  # W and H
FAST = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "200k"}}


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame (H, W, 3) that tells its number: a column for each bit, white for 1; red above, blue below."""
    width, height = size
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8)
    columns = bits[np.arange(width) * BITS // width] * 255
    frame = np.repeat(np.repeat(columns[None, :, None], height, axis=0), 3, axis=2)
    frame[: height // 4] = 200, 20, 20
    frame[-height // 4 :] = 20, 20, 200
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame tells."""
    height, width = frame.shape[:2]
    middle = frame[height * 3 // 8 : height * 5 // 8].mean(axis=(0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    levels = np.array([middle[centre - 2 : centre + 3].mean() for centre in centres])
    return sum(int(level > 127) << bit for bit, level in enumerate(levels))


def is_upright(frame: np.ndarray) -> bool:
    """Whether red is above and blue below."""
    height = frame.shape[0]
    above, below = frame[: height // 6].mean(axis=(0, 1)), frame[-height // 6 :].mean(axis=(0, 1))
    return bool(above[0] > 2 * above[2] and below[2] > 2 * below[0])


def regular(count: int, rate: Fraction | int) -> list[Fraction]:
    """Times of so many frames at a constant rate."""
    return [Fraction(number) / rate for number in range(count)]


def tone(seconds: float, rate: int = 48_000) -> np.ndarray:
    """Sound (n,) float32: second s has the amplitude (s % 5 + 1) / 10 of a tone of 1 kHz."""
    times = np.arange(round(seconds * rate)) / rate
    return ((times.astype(int) % 5 + 1) / 10 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)


def write_film(
    path: Path,
    times: Sequence[Fraction],
    *,
    codec: str = "libx264",
    rate: Fraction | int = 25,
    clock: int = CLOCK,
    sound: np.ndarray | None = None,
    sound_start: Fraction | int = 0,
    size: tuple[int, int] = SIZE,
    pixels: Fraction | int = 1,
    turned: int = 0,
    matrix: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    keyframes: int = 10,
) -> Path:
    """A film with frames at these times, in seconds, whose pictures are `picture` of their numbers.

    `rate`: what the file says; `sound`: (n,) float32 of 48 kHz; `pixels`: their width in heights; `turned`: degrees, as
    PyAV's `set_display_rotation` has it, or a display `matrix`; `keyframes`: frames from one to the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=FAST.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        stream.codec_context.gop_size = keyframes
        stream.codec_context.sample_aspect_ratio = Fraction(pixels)
        if turned:
            stream.set_display_rotation(turned)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        heard = (
            container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48_000)
            if sound is not None
            else None
        )
        if heard is not None:
            heard.layout = "mono"
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = round(time * clock), Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None and sound is not None:
            for start in range(0, len(sound), 960):
                part = av.AudioFrame.from_ndarray(sound[None, start : start + 960], format="fltp", layout="mono")
                part.sample_rate, part.pts = 48_000, start + round(sound_start * 48_000)
                part.time_base = Fraction(1, 48_000)
                container.mux(heard.encode(part))
            container.mux(heard.encode(None))
    return path


def damage(path: Path, start: float, stop: float) -> Path:
    """Overwrite from one share of a file to another one with noise."""
    content = bytearray(path.read_bytes())
    begin, end = int(len(content) * start), int(len(content) * stop)
    content[begin:end] = np.random.default_rng(0).bytes(end - begin)
    path.write_bytes(content)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep no more than a share of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30)}


def write_coloured_films(folder: Path, count: int = 14) -> list[tuple[str, int, str, int]]:
    """Films `folder`/films/film00.mp4 and so on, of 25 seconds, a frame every 5, and the tables `labels.csv` and
    `ratings.csv`; returns the rows of the latter.

    Each is of one of `COLOURS`, which it shows for 10 seconds, and grey before and after.
    """
    rng = np.random.default_rng(0)
    labels, ratings = [], []
    for number in range(count):
        name, place = list(COLOURS)[number % 2], int(rng.integers(0, 4))
        path = folder / "films" / f"film{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=Fraction(1, 5))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for row in range(5):
                colour = COLOURS[name] if place <= row < place + 2 else (120, 120, 120)
                noisy = np.full((48, 64, 3), colour) + rng.integers(-20, 20, (48, 64, 3))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy.astype(np.uint8), format="rgb24")))
                ratings.append((path.stem, 5 * row, name, int(place <= row < place + 2)))
            container.mux(stream.encode(None))
        labels.append((path.stem, name))
    for table, header, rows in (("labels", "vid,label", labels), ("ratings", "vid,start,label,score", ratings)):
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ratings
