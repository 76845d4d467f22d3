"""Speed of the default extractor on CPU cores, relative to the length of films, and its memory.

Makes H.264 films with moving pictures and sound, checks that the features equal those of the plain way, which decodes
all frames, picks those of each second by time and encodes them one by one, then times both in turn. `--memory` shows
the peak memory for films of 10 minutes and of 10 hours, each in its own process.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, make_parser, print_rates, rates
from yt8m.films.extraction import Threads, extract
from yt8m.films.extractors.base import SAMPLE_RATE, Extractor, Options, open_extractor
from yt8m.films.pictures import to_picture

SIZES = {"640 x 360": (640, 360), "1280 x 720": (1280, 720)}
RATE, SOUND_RATE = 25, 48_000
SECONDS = 60
LONG = {"10 minutes": (600, Fraction(RATE)), "10 hours": (36_000, Fraction(1, 10))}  # seconds, frames per second


def make_film(path: Path, size: tuple[int, int], seconds: int, rate: Fraction, preset: str = "medium") -> Path:
    """Make a film of slowly moving noise of several scales, with a tone, unless it exists."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    width, height = size
    coarse = (
        rng.integers(0, 256, (height // 16 + 9, width // 16 + 9, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    )
    fine = rng.integers(0, 40, (height + 128, width + 128, 3), np.uint8)
    scene = (coarse[: height + 128, : width + 128] * 0.8 + fine).astype(np.uint8)
    temporary = path.with_name(f"making-{path.name}")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": preset})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE)
        sound.layout = "stereo"
        tone = np.sin(np.arange(SOUND_RATE) * (2 * np.pi * 440 / SOUND_RATE)).astype(np.float32) * 0.3
        for second in range(seconds):
            for number in range(ceil(second * rate), ceil((second + 1) * rate)):
                place = number * 2 % 128
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(scene[place : place + height, 128 - place : 128 - place + width]),
                    format="rgb24",
                )
                container.mux(stream.encode(frame))
            part = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            part.sample_rate, part.pts = SOUND_RATE, second * SOUND_RATE
            container.mux(sound.encode(part))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return temporary.rename(path)


def extract_plainly(path: Path, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
    """Extract features the plain way: decode and convert the whole film, then pick the frame of each second."""
    with av.open(str(path)) as container:
        pictures, times = [], []
        for frame in container.decode(video=0):
            pictures.append(to_picture(frame, Fraction(1), extractor.shorter_side))
            times.append(float(frame.pts * frame.time_base))
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        frames = [*container.decode(audio=0), None]
        sound = np.concatenate([part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)])
    seconds = range(round(len(times) / RATE))
    chosen = [int(np.argmin([abs(time_ - second) for time_ in times])) for second in seconds]
    padded = np.zeros(len(seconds) * SAMPLE_RATE, np.float32)
    padded[: len(sound)] = sound[: len(padded)] / np.float32(32768)
    rgb = np.concatenate([extractor.encode_frames([pictures[frame]]) for frame in chosen])
    audio = np.concatenate([extractor.encode_sound(second[None]) for second in padded.reshape(-1, SAMPLE_RATE)])
    return rgb, audio


def check_equal(path: Path, extractor: Extractor) -> None:
    """Compare both ways' features bit by bit."""
    rgb, audio = extract_plainly(path, extractor)
    for threads in (1, 2):
        found = extract(path, extractor, Threads(threads))
        assert np.array_equal(found.rgb, rgb) and np.array_equal(found.audio, audio) and not found.notes


def rate_of(work: Callable[[], object]) -> float:
    """Seconds of film per second."""
    start = time.perf_counter()
    work()
    return SECONDS / (time.perf_counter() - start)


def time_films(data_dir: Path, extractor: Extractor, repeats: int) -> None:
    """Print a table for each size of films."""
    for name, size in SIZES.items():
        path = make_film(data_dir / f"{size[1]}p.mp4", size, SECONDS, Fraction(RATE))
        check_equal(path, extractor)
        ways: dict[str, Callable[[], float]] = {
            "plain way": partial(rate_of, partial(extract_plainly, path, extractor)),
            "ours, 1 encoding thread": partial(rate_of, partial(extract, path, extractor)),
            "ours, 2 threads": partial(rate_of, partial(extract, path, extractor, Threads(2))),
        }
        title = f"{name}, {RATE} frames/s, {path.stat().st_size * 8 / SECONDS / 1e6:.1f} Mbit/s: seconds of the film"
        print_rates(title, "s", rates(ways, repeats), "plain way")
        start = time.process_time()
        extract(path, extractor, Threads(2))
        print(f"  {SECONDS / (time.process_time() - start):.1f} seconds of the film for each second of a core")


def show_memory(data_dir: Path) -> None:
    """Print the command's peak memory and time for long films with few frames."""
    program = (
        "import resource, sys; from yt8m import extract_features; "
        "extract_features.main(extract_features.build_parser().parse_args(sys.argv[1:])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 'MB')"
    )
    for name, (seconds, rate) in LONG.items():
        path = make_film(data_dir / f"{name.replace(' ', '-')}.mkv", (320, 180), seconds, rate, "ultrafast")
        for again in ("extracted", "written again"):
            start = time.perf_counter()
            command = [sys.executable, "-c", program, str(path), "--to", str(data_dir / path.stem), "--processes", "1"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            said = " ".join(done.stdout.split())
            print(f"{name}, {again}: {said}, {time.perf_counter() - start:.0f} s", flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = make_parser(__doc__, Path("/tmp/yt8m-films"), "films are kept")
    add_repeats(parser, 3)
    parser.add_argument("--memory", action="store_true", help="show only the memory for long films; takes a while")
    return parser


def main() -> None:
    """Check and print."""
    args = build_parser().parse_args()
    if args.memory:
        show_memory(args.data_dir)
        return
    time_films(args.data_dir, open_extractor("efficientnet-lite0", Options()), args.repeats)


if __name__ == "__main__":
    main()
