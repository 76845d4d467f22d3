"""Reading films: one frame and one second of sound per second, in any format; log-mel spectra."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.films import cut, damage, is_upright, number_of, picture, regular, tone, write_film
from tests.processes import fork
from yt8m.common.errors import UserError
from yt8m.films.container import Clock
from yt8m.films.decoding import Film
from yt8m.films.extractors.base import SAMPLE_RATE
from yt8m.films.log_mel import BANDS, WINDOWS, log_mel, statistics
from yt8m.films.pictures import resize

NTSC = Fraction(30_000, 1001)


def read(path: Path, shorter_side: int | None = None, threads: int = 1) -> tuple[list[np.ndarray], list[str]]:
    """The frames of a film, and what was lost."""
    with Film(path, threads) as film:
        return list(film.frames(shorter_side)), film.notes


def numbers(path: Path) -> list[int]:
    """The numbers of the frames that stand for a film's seconds."""
    return [number_of(frame) for frame in read(path)[0]]


def sound_of(path: Path) -> np.ndarray | None:
    """The sound of all seconds of a film."""
    with Film(path) as film:
        frames = film.frames()
        next(frames)
        sound = film.sound()
        count = 1 + sum(1 for _ in frames)
        return None if sound is None else np.stack(list(islice(sound, count)))


def amplitudes(sound: np.ndarray) -> np.ndarray:
    """Of a tone, in the middle of each second."""
    return np.sqrt(2) * sound[:, 4000:12000].std(axis=1)


def require_near(chosen: Sequence[int], times: Sequence[Fraction], end: Fraction) -> None:
    """The frame of each second is at most half a frame off, or on the screen where frames are rare."""
    for second, number in enumerate(chosen):
        following = times[number + 1] if number + 1 < len(times) else end
        before = times[number - 1] if number else Fraction(-1)
        off = times[number] - second
        assert off <= max(min((times[number] - before) / 2, Fraction(1, 2)), 0)
        assert -off <= (following - times[number]) / 2 or following - second > Fraction(1, 2)
    assert len(chosen) - 1 <= end <= len(chosen) + Fraction(1, 2)


# --- times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [25, NTSC, 10, Fraction(1, 2)])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "mpeg4")])
def test_frames_of_a_constant_rate_are_at_most_half_a_frame_off(
    tmp_path: Path, name: str, codec: str, rate: Fraction
) -> None:
    count = round(5 * rate) + 1 if rate > 1 else 4
    times = regular(count, rate)
    path = write_film(tmp_path / name, times, codec=codec, rate=rate)
    chosen = numbers(path)
    if rate > 1:
        assert chosen == [
            min(range(count), key=lambda number, at=second: abs(times[number] - at)) for second in range(6)
        ]
    else:
        assert chosen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_frames_of_a_variable_rate(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    times = [Fraction(0)]
    for gap in rng.choice([1, 2, 3, 8, 20, 70], 60, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]).tolist():
        times.append(times[-1] + Fraction(gap, 25))
    chosen = numbers(write_film(tmp_path / "a.mp4", times))
    require_near(chosen, times, times[-1] + Fraction(1, 25))


@settings(max_examples=10, deadline=None)
@given(gaps=st.lists(st.integers(1, 75), min_size=3, max_size=12), late=st.integers(0, 90))
def test_frames_with_any_times(tmp_path_factory: pytest.TempPathFactory, gaps: list[int], late: int) -> None:
    times = [Fraction(sum(gaps[:number]), 30) for number in range(len(gaps) + 1)]
    path = tmp_path_factory.mktemp("film") / "a.mkv"
    write_film(path, [time + Fraction(late, 30) for time in times], codec="mpeg4", clock=30_000)
    chosen = numbers(path)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        rounded = [frame.pts * frame.time_base for frame in frames]  # Matroska's clock has milliseconds
    times = [time - rounded[0] for time in rounded]
    require_near(chosen, times, times[-1] + (frames[-1].duration * frames[-1].time_base or Fraction(1, 25)))


def test_a_picture_that_stands_for_long_is_shown_until_the_next_one(tmp_path: Path) -> None:
    path = write_film(tmp_path / "slides.mp4", [Fraction(0), Fraction(4), Fraction(7), Fraction(8)], rate=1)
    with Film(path) as film:
        frames = list(film.frames())
        assert [number_of(frame) for frame in frames] == [0, 0, 0, 0, 1, 1, 1, 2, 3]
        assert frames[0] is frames[3] and not film.notes


def test_frames_that_do_not_come_are_reported(tmp_path: Path) -> None:
    times = [time for time in regular(200, 25) if not 3 < time < 5]
    for name in ("a.mkv", "a.ts"):
        assert read(write_film(tmp_path / name, times))[1] == [
            "no frames from 3.00 to 5.00 s: lost, or nothing moved there"
        ]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_time_begins_with_the_first_frame(tmp_path: Path, name: str) -> None:
    times = [Fraction(7, 2) + time for time in regular(75, 25)]
    path = write_film(tmp_path / name, times, sound=tone(8))
    assert numbers(path) == [0, 25, 50]
    sound = sound_of(path)
    assert sound is not None  # the film's second 0.5 is the sound's second 4
    halves = np.sqrt(2) * sound.reshape(6, -1)[:, 2000:6000].std(axis=1)
    assert np.allclose(halves, [0.4, 0.5, 0.5, 0.1, 0.1, 0.2], atol=0.02)
    assert not read(path)[1]


def test_frames_without_times_are_counted(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.h264", regular(75, 25))
    assert numbers(path) == [0, 25, 50] and "no times" in read(path)[1][0]


class Stamped:
    """A frame of which only the time matters, in seconds."""

    def __init__(self, time: float) -> None:
        self.pts, self.time_base = round(time * 1000), Fraction(1, 1000)


@pytest.mark.parametrize(("moment", "shift"), [(5, -200), (5, 3000), (5, -4.5)])
def test_a_reset_clock_continues(moment: int, shift: float) -> None:
    clock = Clock(latest=20)
    stamps = [time / 10 + (shift if time >= moment * 10 else 0) for time in range(100)]
    times = [clock.time(Stamped(stamp), Fraction(1, 10)) for stamp in stamps]  # type: ignore[arg-type]
    kept = [time for time in times if time is not None]
    assert len(kept) == 93 and kept == sorted(set(kept)) and kept[-1] == Fraction(92, 10)
    assert clock.restarts == [5]


@pytest.mark.parametrize("wrong", [-1.0, 0.3, 500.0])
def test_a_single_impossible_time_is_passed_over(wrong: float) -> None:
    clock = Clock(latest=20)
    stamps = [time / 10 for time in range(50)]
    stamps[20] = wrong
    times = [clock.time(Stamped(stamp), Fraction(1, 10)) for stamp in stamps]  # type: ignore[arg-type]
    assert [row for row, time in enumerate(times) if time is None] == [20] and times[-1] == Fraction(49, 10)
    assert not clock.restarts


# --- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("turned", [90, 180, 270])
def test_turned_films_come_upright(tmp_path: Path, name: str, turned: int) -> None:
    path = write_film(tmp_path / name, regular(30, 25), turned=turned)
    plain = read(write_film(tmp_path / f"plain-{name}", regular(30, 25)))[0]
    frames = read(path)[0]
    with av.open(str(path)) as container:
        angle = next(container.decode(video=0)).rotation  # that it is to be turned, counterclockwise
    assert angle % 360 == turned
    assert all(np.array_equal(frame, np.rot90(other, turned // 90)) for frame, other in zip(frames, plain, strict=True))
    assert is_upright(plain[0]) and is_upright(np.rot90(frames[0], -turned // 90))


def test_mirrored_films_come_as_they_are_shown(tmp_path: Path) -> None:
    one = 1 << 16
    mirrored = write_film(tmp_path / "a.mp4", regular(30, 25), matrix=[-one, 0, 0, 0, one, 0, 0, 0, 1 << 30])
    plain = write_film(tmp_path / "b.mp4", regular(30, 25))
    assert all(np.array_equal(frame[:, ::-1], other) for frame, other in zip(read(mirrored)[0], read(plain)[0]))


def test_pixels_come_square_and_frames_in_the_size_that_is_wanted(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", regular(30, 25), pixels=Fraction(3, 2), turned=90)
    assert read(path)[0][0].shape == (240, 96, 3)
    for side in (48, 96, 200):
        frame = read(path, side)[0][1]
        assert frame.shape == (round(side * 2.5), side, 3) and number_of(np.rot90(frame, -1)) == 25
    small = resize(picture(25), 48)
    assert small.shape == (48, 80, 3) and number_of(small) == 25 and is_upright(small)
    assert resize(small, 48) is small


def test_impossible_pixels_count_as_square(tmp_path: Path) -> None:
    pixels = Fraction(1, 100)
    path = write_film(tmp_path / "film.mkv", regular(10, 10), rate=10, pixels=pixels)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == pixels
    with Film(path) as film:
        assert [frame.shape for frame in film.frames(48)] == [(48, 80, 3)]


def test_any_number_of_threads_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", regular(100, 25))
    assert all(np.array_equal(*pair) for pair in zip(read(path)[0], read(path, threads=3)[0], strict=True))


# --- sound ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "expected"), [(0, [0.1, 0.2, 0.3, 0.4]), (1, [0, 0.1, 0.2, 0.3]), (-1, [0.2, 0.3, 0.4, 0.5])]
)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm"])
def test_sound_is_aligned_with_the_picture(tmp_path: Path, name: str, start: int, expected: list[float]) -> None:
    late = max(-start, 0)  # of the picture
    times = [late + time for time in regular(100, 25)]
    codec = "libvpx-vp9" if name.endswith("webm") else "mpeg4"
    path = write_film(tmp_path / name, times, codec=codec, sound=tone(6), sound_start=max(start, 0))
    sound = sound_of(path)
    assert sound is not None and sound.dtype == np.float32 and sound.shape == (4, SAMPLE_RATE)
    assert np.allclose(amplitudes(sound), expected, atol=0.02)


def test_sound_that_ends_early_is_followed_by_silence(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", regular(100, 25), sound=tone(2))
    sound = sound_of(path)
    assert sound is not None and np.allclose(amplitudes(sound), [0.1, 0.2, 0, 0], atol=0.02)
    assert not sound[3].any()


def test_a_hole_in_the_sound_is_silent_and_what_comes_after_is_in_its_place(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "a.mkv", regular(125, 25), codec="mpeg4", sound=tone(5))
    holed = tmp_path / "holed.mkv"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and 1 <= packet.pts * packet.time_base < 3:
                continue
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    sound = sound_of(holed)
    assert sound is not None and np.allclose(amplitudes(sound), [0.1, 0, 0, 0.4, 0.5], atol=0.02)
    with Film(holed) as film:
        frames = film.frames()
        next(frames)
        seconds = film.sound()
        assert seconds is not None
        list(zip(frames, seconds))
        assert any(note.startswith("sound lost or damaged from 1.0") for note in film.notes)


def test_films_without_sound_and_silent_ones(tmp_path: Path) -> None:
    times = regular(50, 25)
    assert sound_of(write_film(tmp_path / "a.mp4", times)) is None
    silent = sound_of(write_film(tmp_path / "b.mp4", times, sound=np.zeros(96_000, np.float32)))
    assert silent is not None and not silent.any()


# --- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("b.mp4", "mpeg4", {}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.ts", "libx264", {}),
    ],
)
def test_readable_parts_of_damaged_films_are_used(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write_film(tmp_path / name, regular(250, 25), codec=codec, options=options)
    whole = numbers(path)
    assert whole == list(range(0, 250, 25))
    damage(path, 0.45, 0.55)
    frames, notes = read(path)
    lost = [
        (float(start), float(end)) for note in notes for start, end in re.findall(r"([0-9.]+) to ([0-9.]+) s", note)
    ]
    assert lost and all(3 < start < end < 7 for start, end in lost)
    for second, frame in enumerate(frames):
        if not any(start - 0.5 <= second <= end + 0.5 for start, end in lost):
            assert number_of(frame) == whole[second], second
    assert len(frames) == 10


@pytest.mark.parametrize(
    ("name", "codec", "clock", "options"),
    [("a.avi", "mpeg4", 25, {}), ("a.mp4", "libx264", 30_000, {"movflags": "frag_keyframe+empty_moov"})],
)
def test_damage_that_shifts_or_ends_a_film_is_reported(
    tmp_path: Path, name: str, codec: str, clock: int, options: dict[str, str]
) -> None:
    path = write_film(tmp_path / name, regular(250, 25), codec=codec, clock=clock, options=options)
    frames, notes = read(damage(path, 0.45, 0.55))
    assert [number_of(frame) for frame in frames[:4]] == [0, 25, 50, 75] and len(frames) < 10
    assert any("cut off: 10.00 s were announced" in note or "of the file have no frames" in note for note in notes)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mp4", "libx264")])
def test_films_that_are_cut_off_are_used_up_to_there(tmp_path: Path, name: str, codec: str) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = cut(write_film(tmp_path / name, regular(250, 25), codec=codec, options=options), 0.5)
    frames, notes = read(path)
    assert 3 <= len(frames) <= 7
    assert [number_of(frame) for frame in frames] == list(range(0, 25 * len(frames), 25))
    assert any("10.00 s were announced" in note for note in notes), notes


def test_a_stream_that_appears_in_between_changes_nothing(tmp_path: Path) -> None:
    """As in recordings of broadcasts."""
    alone = write_film(tmp_path / "alone.ts", regular(100, 10), rate=10, clock=90_000)
    later = [10 + time for time in regular(50, 10)]
    heard = write_film(tmp_path / "heard.ts", later, rate=10, clock=90_000, sound=tone(5), sound_start=10)
    after = write_film(tmp_path / "after.ts", [5 + time for time in later], rate=10, clock=90_000)
    nothing = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 3000  # packets beyond which FFmpeg does not look for streams
    film = tmp_path / "film.ts"
    film.write_bytes(nothing.join(path.read_bytes() for path in (alone, heard, after)))
    with av.open(str(film)) as container:
        assert len(container.streams) == 1
    with Film(film) as opened:
        seen = [number_of(frame) for frame in opened.frames()]
    assert seen == [*range(0, 100, 10), *range(0, 50, 10), *range(0, 50, 10)]


def test_a_title_in_another_encoding_is_no_damage(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "titled.avi"), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    content = (tmp_path / "titled.avi").read_bytes()
    assert content.count(b"TITLE") == 1
    (tmp_path / "titled.avi").write_bytes(content.replace(b"TITLE", "Gärtn".encode("latin-1")))
    with Film(tmp_path / "titled.avi") as opened:
        assert len(list(opened.frames())) >= 2 and not opened.notes


def test_damaged_sound_is_reported(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", regular(100, 25), codec="mpeg4", sound=tone(4), size=(16, 16))
    damage(path, 0.4, 0.6)
    with Film(path) as film:
        frames = film.frames()
        next(frames)
        sound = film.sound()
        assert sound is not None
        list(zip(frames, sound))
        assert any(note.startswith("sound lost") for note in film.notes)


def first_frame(path: Path) -> None:
    """Read no more than a frame."""
    with Film(path) as film:
        next(film.frames())


def all_frames(path: Path) -> None:
    """Read a film."""
    read(path)


def write_nothing(path: Path) -> None:
    """An empty file."""
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    """A text."""
    path.write_text("no film\n" * 100, encoding="utf-8")


def write_image(path: Path) -> None:
    """A PNG, whatever it is called."""
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(3), format="rgb24")))
        container.mux(stream.encode(None))


def write_single(path: Path) -> None:
    """A film of one frame."""
    write_film(path, [Fraction(0)])


def write_song(path: Path) -> None:
    """Sound alone."""
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        part.sample_rate = 16_000
        container.mux(stream.encode(part))


def write_without_index(path: Path) -> None:
    """An MP4 that was cut off before its index."""
    content = write_film(path, regular(50, 25)).read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 100])


def write_half_an_index(path: Path) -> None:
    """An MP4 that was cut off within its index."""
    content = write_film(path, regular(50, 25)).read_bytes()
    path.write_bytes(content[: content.index(b"moov") + 100])


def write_cut_index(share: float) -> Callable[[Path], object]:
    """An MP4 with no more than a share of its index."""

    def write(path: Path) -> None:
        content = write_film(path, regular(50, 25), sound=tone(2)).read_bytes()
        start = content.index(b"moov")
        path.write_bytes(content[: start + int(share * (len(content) - start))])

    return write


def write_unfinished(path: Path) -> None:
    """An MP4 whose recording was ended before it was finished: the length of its frames is not there yet."""
    content = write_film(path, regular(50, 25)).read_bytes()
    frames = content.index(b"mdat")
    path.write_bytes(content[: frames - 4] + bytes(4) + content[frames : content.index(b"moov") - 4])


def write_broken_index(path: Path) -> None:
    """An MP4 whose index is noise."""
    content = bytearray(write_film(path, regular(50, 25)).read_bytes())
    start = content.index(b"moov") + 4
    content[start:] = np.random.default_rng(0).bytes(len(content) - start)
    path.write_bytes(content)


def write_broken_frames(path: Path) -> None:
    """A film of which no frame is left."""
    whole = write_film(path, regular(50, 25), codec="libvpx-vp9", options={"movflags": "faststart"})
    content = bytearray(whole.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (write_nothing, "cannot be opened as a film .*; it is not a film, or its beginning is damaged: copy"),
        (write_text, "cannot be opened as a film"),
        (write_image, "is a picture or a text"),
        (write_single, "holds a single picture"),
        (write_song, "has sound but no moving pictures"),
        (
            write_without_index,
            r"was cut off before the end of its index .moov., without which .* again, or have a tool",
        ),
        (write_half_an_index, "was cut off before the end of its index"),
        (write_unfinished, "was cut off before the end of its index"),
        (write_broken_index, "its index .moov. is damaged"),
        *((write_cut_index(share), "was cut off before the end of its index") for share in (0.2, 0.6, 0.8)),
        (write_broken_frames, "no frame of it can be decoded"),
        (lambda path: None, "no such file"),
        (Path.mkdir, "not a file"),
    ],
)
def test_files_that_are_not_films_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], object], what: str
) -> None:
    path = tmp_path / "a.mp4"
    write(path)
    with pytest.raises(UserError, match=what) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_file_names_are_not_parsed_as_urls(tmp_path: Path) -> None:
    name = tmp_path / "concat:a|b?%03d#é.mp4"
    write_film(tmp_path / "a.mp4", regular(30, 25)).rename(name)
    assert numbers(name) == [0, 25]


def import_without_av() -> None:
    """What happens where PyAV is not installed."""
    import sys

    sys.modules["av"] = None  # type: ignore[assignment]
    for name in [name for name in sys.modules if name.startswith("yt8m.films")]:
        del sys.modules[name]
    from yt8m.common.errors import UserError as Error  # pylint: disable=reimported

    try:
        import yt8m.films.decoding  # noqa: F401  # pylint: disable=unused-import
    except Error as error:
        print(error)


def test_without_av_a_line_says_what_to_install() -> None:
    assert "pip install 'yt8m[films]'" in fork(import_without_av).out


# --- log-mel spectra -----------------------------------------------------------------------------------


def literal_log_mel(second: np.ndarray) -> np.ndarray:
    """The spectra (WINDOWS, BANDS) of a second (SAMPLE_RATE,), word for word."""

    def mel(hertz: float) -> float:
        return 1127 * np.log(1 + hertz / 700)

    edges = [mel(125) + (mel(7500) - mel(125)) * number / 65 for number in range(66)]
    weights = np.zeros((257, 64))
    for band in range(64):
        low, peak, high = edges[band : band + 3]
        for bin_ in range(257):
            place = mel(bin_ * 16_000 / 512)
            weights[bin_, band] = max(min((place - low) / (peak - low), (high - place) / (high - peak)), 0)
    rows = []
    for start in range(0, 16_000 - 400 + 1, 160):
        window = [second[start + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400)) for n in range(400)]
        magnitudes = np.abs(np.fft.rfft(np.array(window, np.float64), 512))
        rows.append(np.log(magnitudes @ weights + 0.01))
    return np.array(rows)


def test_log_mel_spectra_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    loud = 0.9 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) + rng.normal(0, 1e-3, 16_000)
    sound = np.stack([loud, np.zeros(16_000), rng.uniform(-1, 1, 16_000)]).astype(np.float32)
    expected = np.stack([literal_log_mel(second) for second in sound.astype(np.float64)])
    found = log_mel(sound)
    assert found.shape == (3, WINDOWS, BANDS) and found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    means = np.concatenate([expected.mean(axis=1), expected.std(axis=1)], axis=1)
    assert np.abs(statistics(sound) - means).max() < 1e-5
    assert np.allclose(statistics(sound)[1], [np.log(0.01)] * 64 + [0] * 64)


def test_a_second_has_the_same_spectra_whatever_is_beside_it() -> None:
    sound = np.random.default_rng(1).uniform(-1, 1, (40, SAMPLE_RATE)).astype(np.float32)
    assert np.array_equal(log_mel(sound)[17:19], log_mel(sound[17:19]))
