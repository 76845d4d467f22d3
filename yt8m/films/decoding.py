"""Films: a frame and a second of sound for every second, from any format FFmpeg reads.

Times are presentation times in seconds from the film's first frame. Second s gets the frame nearest to s, the earlier
of two equally near ones, but none more than `EARLY` after s; and the sound from s to s + 1. If frames are less than a
second apart, the frame is off by at most half their distance; otherwise it is the one on screen. A film has as many
seconds as get a frame, where the end of the film counts as one more frame, which no second gets.

Dimensions: H, W pixels of a frame.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from yt8m.common.errors import RecordError
from yt8m.films.container import (
    Beginning,
    Clock,
    Losses,
    Track,
    find_beginning,
    open_container,
    shown,
    what_an_index_lacks,
)
from yt8m.films.extractors.base import SAMPLE_RATE
from yt8m.films.pictures import to_picture
from yt8m.films.pyav import av

EARLY = Fraction(1, 2)
_DRIFT = Fraction(1, 10)  # seconds that sound may deviate from its times, often rounded, before it is realigned
_GAP = Fraction(1, 4)  # seconds between two frames that are no loss
_UNUSUAL = 5  # multiple of the longest gap so far that suggests missing frames
_MISSING = 1  # seconds by which a film may be shorter than announced
_UNREAD = 0.1  # share of a file, too large to be anything but frames
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "avi"}  # formats that may end with an index, which has the number of frames
_PICTURES = {"image2", "ico", "tty"}  # FFmpeg formats that are not films, like those whose names end in:
_PIPE = "_pipe"
_CLOCK = re.compile(r"([0-9]+):([0-9]+):([0-9.]+)")
_FULL_SCALE = np.float32(32768)


class Film:
    """An open film file; a context manager.

    Read `frames` and, after the first one, `sound`; `notes` then describes what was lost so far.

    Attributes:
        path: of the file.
        announced: duration in seconds according to the file; None if it has none.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open a film. The number of decoding `threads` may change the frames of a damaged film.

        Raises `RecordError` if it is not a film.
        """
        self.path = path
        with ExitStack() as stack:
            self._container = stack.enter_context(open_container(path))
            self._stream = find_pictures(self._container, path)
            self._context = stack.pop_all()
        self._stream.codec_context.thread_count = threads
        self._stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"
        self.announced = self._announced_seconds()
        self._track = Track(self._container, self._stream)
        self._clock = Clock(latest=self.announced)
        self._end: Fraction | None = None
        self._sound_end: Fraction | None = None
        self._lost_frames, self._missing_frames, self._lost_sound = Losses(), Losses(), Losses()
        self._unknown_sound = False

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def find_beginning(self) -> Beginning:
        """Its beginning; not to be called after `frames`, nor the other way round."""
        return find_beginning(self._container, self._stream)

    # --- pictures -------------------------------------------------------------------------------------

    def frames(self, shorter_side: int | None = None) -> Iterator[np.ndarray]:
        """A frame (H, W, 3) uint8, RGB, upright and with square pixels, for every second; to be read once.

        `shorter_side`: the smaller of H and W, None to keep the film's. Seconds with the same frame share the array.
        Raises `RecordError` for a film without a readable frame.
        """
        second = n_frames = 0
        shown_now: _Shown | None = None
        for time, frame in self._timed_frames():
            while shown_now is not None and not _is_nearer(time, shown_now.time, second):
                yield shown_now.picture
                second += 1
            shown_now = _Shown(time, frame, self._stream.sample_aspect_ratio or Fraction(1), shorter_side)
            n_frames += 1
        if shown_now is None:
            raise RecordError(self.path, self._why_no_frame())
        if n_frames == 1 and not self._lost_frames and not self._container.streams.audio:
            raise RecordError(self.path, "holds a single picture, not a film")
        self._end = shown_now.time + self._duration(shown_now.frame)
        while second == 0 or not _is_nearer(self._end, shown_now.time, second):
            yield shown_now.picture
            second += 1

    def _why_no_frame(self) -> str:
        if self._container.format.name in _INDEXED and not self._stream.frames:
            lack = what_an_index_lacks(self.path)
            if lack is not None:
                return lack
        return f"no frame of it can be decoded ({self._stream.codec_context.name})"

    def _timed_frames(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """The frames and their times, ascending from 0."""
        before: Fraction | None = None
        duration = Fraction(0)  # of the frame at `before`
        longest_gap = _GAP / _UNUSUAL
        damaged = False  # since `before`
        for frame in self._track.frames():
            time = self._clock.time(frame, self._duration(frame)) if isinstance(frame, av.VideoFrame) else None
            if time is None or not isinstance(frame, av.VideoFrame):
                damaged = True
                continue
            if before is not None:
                if damaged:
                    self._lost_frames.add(before, time)
                elif time - before > max(_UNUSUAL * longest_gap, duration + _GAP):
                    self._missing_frames.add(before, time)
                else:
                    longest_gap = max(longest_gap, time - before)
            damaged = frame.is_corrupt
            before, duration = time, self._duration(frame)
            yield time, frame
        if damaged and before is not None:
            self._lost_frames.add(before, max(before, Fraction(self.announced or 0)))

    def _duration(self, frame: av.VideoFrame) -> Fraction:
        """The duration of a frame according to the file, 0 if unknown."""
        if frame.duration and frame.time_base:
            return frame.duration * frame.time_base
        return 1 / self._stream.guessed_rate if self._stream.guessed_rate else Fraction(0)

    def _announced_seconds(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        clock = _CLOCK.fullmatch(self._stream.metadata.get("DURATION", ""))  # as Matroska has it
        if clock is not None:
            hours, minutes, seconds = map(float, clock.groups())
            return 3600 * hours + 60 * minutes + seconds
        if self._container.duration is None or self._container.streams.audio:  # sound may be longer
            return None
        return self._container.duration / av.time_base

    # --- sound ----------------------------------------------------------------------------------------

    def sound(self) -> Iterator[np.ndarray] | None:
        """The sound of every second, (SAMPLE_RATE,) float32, -1 to 1, endless, padded with zeros.

        None for a film without sound. Call it after the first frame, which sets time 0.
        """
        pieces = self._sound_pieces()
        first = next(pieces, None)
        return None if first is None else _seconds(chain([first], pieces))

    def _sound_pieces(self) -> Iterator[np.ndarray]:
        """The sound from the first frame on, int16, in gapless pieces; none for a film without sound."""
        with open_container(self.path) as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                return
            if stream.codec_context is None:
                self._unknown_sound = True
                return
            clock = Clock(self._clock.start or Fraction(0))
            track = _SoundTrack()
            damaged = False
            for frame in Track(container, stream).frames():
                if not isinstance(frame, av.AudioFrame):
                    damaged = True
                    continue
                duration = Fraction(frame.samples, frame.sample_rate or SAMPLE_RATE)
                time = clock.time(frame, duration)
                if time is None:
                    damaged = True
                    continue
                if self._sound_end is not None and (damaged or time > self._sound_end + _GAP):
                    self._lost_sound.add(min(self._sound_end, time), time)
                damaged = False
                self._sound_end = time + duration
                yield from track.add(frame, time)
            yield from track.flush()
            if damaged and self._sound_end is not None:
                self._lost_sound.add(self._sound_end, self._sound_end)

    # --- what was lost --------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """Descriptions of what was lost, and where."""
        notes = []
        if self._clock.untimed:
            notes.append(f"frames have no times, taken for {float(self._stream.guessed_rate or 0):.6g} a second")
        if self._clock.restarts:
            notes.append(f"the clock was reset at {shown(self._clock.restarts[0])} s")
        if self._lost_frames:
            notes.append(f"frames lost or damaged from {self._lost_frames}")
        if self._missing_frames:
            notes.append(f"no frames from {self._missing_frames}: lost, or nothing moved there")
        if self._lost_sound:
            notes.append(f"sound lost or damaged from {self._lost_sound}")
        if self._unknown_sound:
            notes.append("FFmpeg does not know the codec of the sound")
        if self._end is not None:
            announced = self.announced or 0
            late = float(self._clock.start or 0)  # which some formats count as a part of the film
            if self._end < announced - (late if late < announced else 0) - _MISSING:
                notes.append(f"ends at {shown(self._end)} s, cut off: {shown(announced)} s were announced")
            if self._unread_share() > _UNREAD:
                notes.append(f"the last {self._unread_share():.0%} of the file have no frames that can be read")
            if self._sound_end is not None and self._sound_end < self._end - _MISSING:
                notes.append(f"sound ends at {shown(self._sound_end)} s of {shown(self._end)} s")
        return notes

    def _unread_share(self) -> float:
        """The share of the file after the last frame, 0 if that may be an index."""
        if self._container.format.name in _INDEXED and self._stream.frames or not self._container.size:
            return 0
        return 1 - self._track.read_to / self._container.size


class _Shown:
    """A frame and its time; its picture is made on demand."""

    def __init__(self, time: Fraction, frame: av.VideoFrame, pixel_ratio: Fraction, shorter_side: int | None) -> None:
        self.time, self.frame = time, frame
        self._form = pixel_ratio, shorter_side
        self._picture: np.ndarray | None = None

    @property
    def picture(self) -> np.ndarray:
        """The frame as an array, always the same one."""
        if self._picture is None:
            self._picture = to_picture(self.frame, *self._form)
        return self._picture


class _SoundTrack:
    """Resampled sound in its place, counted in samples from the film's first frame."""

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._form: tuple[object, ...] = ()  # of the resampler's input
        self._expected = Fraction(0)  # place of the next frame
        self._written = 0
        self._skipped = 0  # of the next samples

    def add(self, frame: av.AudioFrame, time: Fraction) -> Iterator[np.ndarray]:
        """The samples (n,) int16 that a frame at this time completes."""
        place = time * SAMPLE_RATE
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if self._resampler is None or form != self._form or abs(place - self._expected) > _DRIFT * SAMPLE_RATE:
            yield from self.flush()
            yield from self._move(round(place))
            self._resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            self._form, self._expected = form, place
        self._expected += Fraction(frame.samples * SAMPLE_RATE, frame.sample_rate)
        for part in self._resampler.resample(frame):
            yield from self._put(part)

    def flush(self) -> Iterator[np.ndarray]:
        """The samples still held by the resampler."""
        if self._resampler is not None:
            for part in self._resampler.resample(None):
                yield from self._put(part)
            self._resampler = None

    def _move(self, place: int) -> Iterator[np.ndarray]:
        self._skipped = max(self._written - place, 0)
        while self._written < place:
            silence = np.zeros(min(place - self._written, SAMPLE_RATE), np.int16)
            self._written += len(silence)
            yield silence

    def _put(self, part: av.AudioFrame) -> Iterator[np.ndarray]:
        samples = part.to_ndarray()[0]
        kept = samples[self._skipped :]
        self._skipped -= len(samples) - len(kept)
        self._written += len(kept)
        yield kept


def find_pictures(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The video stream of a film. Raises `RecordError` if there is none."""
    name = container.format.name
    if name.endswith(_PIPE) or name in _PICTURES:
        raise RecordError(path, f"is a picture or a text ({name.removesuffix(_PIPE)}), not a film")
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.still_image
    films = [stream for stream in container.streams.video if not stream.disposition & covers]
    best = container.streams.best("video")
    stream = best if best in films else next(iter(films), None)
    if not isinstance(stream, av.VideoStream):
        raise RecordError(path, f"not a film: has {'sound but ' if container.streams.audio else ''}no moving pictures")
    if stream.codec_context is None:
        raise RecordError(path, "FFmpeg does not know the codec of its pictures")
    return stream


def _is_nearer(following: Fraction, current: Fraction, second: int) -> bool:
    """Whether the following frame suits a second better than the current one, by their times."""
    wait = following - second
    return wait <= 0 or wait <= EARLY and wait < second - current


def _seconds(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces of int16 sound as seconds of float32, followed by endless zeros."""
    held: list[np.ndarray] = []
    missing = SAMPLE_RATE
    silence = (np.zeros(SAMPLE_RATE, np.int16) for _ in iter(int, 1))
    for piece in chain(pieces, silence):
        while len(piece) >= missing:
            second = np.concatenate([*held, piece[:missing]])
            yield second / _FULL_SCALE
            held, piece, missing = [], piece[missing:], SAMPLE_RATE
        held.append(piece)
        missing -= len(piece)
