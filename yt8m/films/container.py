"""Media files as FFmpeg reads them, and the presentation times of their frames and sound."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast  # pylint: disable=unused-import  # in an annotation

from yt8m.common.errors import RecordError, listed
from yt8m.films.pyav import av

_PROTOCOLS = "file,crypto,data"  # for files that refer to others: nothing from the network
_PATIENCE = 8  # consecutive impossible times that count as a reset of the clock
_INDEX = b"moov"
_FIRST_BOXES = {b"ftyp", b"free", b"mdat", b"skip", b"wide", _INDEX}  # of MP4 and MOV files
_MOST_BOXES = 1000
_NO_FILM = "; it is not a film, or its beginning is damaged: copy or download it again"
_JUMP = 60  # seconds after the announced end from which a time is impossible


class Losses:
    """Time spans in which a track is damaged or missing."""

    def __init__(self) -> None:
        self._spans: list[tuple[Fraction, Fraction]] = []

    def __bool__(self) -> bool:
        return bool(self._spans)

    def add(self, start: Fraction, end: Fraction) -> None:
        """Add a span, in seconds of the film, that begins no earlier than those added before."""
        start = max(start, Fraction(0))
        if self._spans and start <= self._spans[-1][1]:
            self._spans[-1] = self._spans[-1][0], max(end, self._spans[-1][1])
        elif end > 0:
            self._spans.append((start, end))

    def __str__(self) -> str:
        return listed([f"{shown(start)} to {shown(end)} s" for start, end in self._spans])


def shown(seconds: Fraction | float) -> str:
    """A time in seconds, as text."""
    return f"{float(seconds):.2f}"


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file. Raises `RecordError` if FFmpeg cannot read it."""
    if not path.is_file():
        raise RecordError(path, "not a file" if path.exists() else "no such file")
    try:
        str(path).encode()
    except UnicodeEncodeError:  # nor could the tables of films hold it
        raise RecordError(path, "the name is not UTF-8; rename it") from None
    try:  # the prefix keeps names from being parsed as other protocols
        options = {"protocol_whitelist": _PROTOCOLS}
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")  # titles in any encoding
    except av.FFmpegError as error:
        no_film = isinstance(error, av.error.InvalidDataError)
        why = what_an_index_lacks(path) or f"cannot be opened as a film ({error.strerror})" + _NO_FILM * no_film
        raise RecordError(path, why) from None
    if not container.streams:
        container.close()
        raise RecordError(path, what_an_index_lacks(path) or "has neither pictures nor sound" + _NO_FILM)
    return container


def what_an_index_lacks(path: Path) -> str | None:
    """The fault in the index of an unreadable MP4 or MOV file, and the remedy; None for other files."""
    boxes = _boxes(path)
    if not boxes or boxes[0].kind not in _FIRST_BOXES:
        return None
    index = next((box for box in boxes if box.kind == _INDEX), None)
    if index is None or index.end > path.stat().st_size:
        return (
            "was cut off before the end of its index (moov), without which the frames of an MP4 or MOV file cannot be "
            "found; copy or download it again, or have a tool such as untrunc rebuild the index"
        )
    return "its index (moov) is damaged; copy or download it again, or have a tool such as untrunc rebuild the index"


class _Box(NamedTuple):
    """A box of an MP4 or MOV file: its kind, and the offset of the byte after it."""

    kind: bytes
    end: int


def _boxes(path: Path) -> list[_Box]:
    """The top-level boxes of a file, if it has any; the last one may extend beyond the end of the file."""
    boxes: list[_Box] = []
    with path.open("rb") as file:
        file_size, start = path.stat().st_size, 0
        while start < file_size and len(boxes) < _MOST_BOXES:
            file.seek(start)
            header = file.read(16)
            if len(header) < 8:
                break
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:  # the length follows in 64 bits
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # up to the end of the file
                length = file_size - start
            boxes.append(_Box(kind, start + length))
            if length < 8:
                break
            start += length
    return boxes


Stream = av.VideoStream | av.AudioStream
Frame = av.VideoFrame | av.AudioFrame


class Track:
    """A stream of a container, read once; `read_to` is the file offset after the last packet of any stream."""

    def __init__(self, container: av.container.InputContainer, stream: Stream) -> None:
        self._container, self._stream = container, stream
        self.read_to = 0

    def frames(self) -> Iterator[Frame | None]:
        """The frames in presentation order; None for unreadable data."""
        for packet in self.packets():
            if packet is None:
                yield None
                continue
            if packet.is_corrupt:
                yield None
            try:
                yield from cast(list[Frame], packet.decode())
            except av.FFmpegError:
                yield None

    def packets(self) -> Iterator["av.Packet[Any] | None"]:
        """The packets, ending with the empty one that flushes the decoder; None for an unreadable one."""
        failures = 0
        while failures < _PATIENCE:  # consecutive; data after a damaged part may be readable
            try:
                for packet in self._container.demux():
                    failures = 0
                    self.read_to = max(self.read_to, (packet.pos or 0) + packet.size)
                    if packet.stream is self._stream:
                        yield packet
                return
            except av.FFmpegError:
                failures += 1
                yield None
            except IndexError:  # from flushing, after ours, streams that the file did not have at its beginning
                return


class Beginning(NamedTuple):
    """The time of a film's first frame, which is second 0 of its features, by other clocks, in seconds.

    `file`: that of the file; `browser`: that of browsers, which is the file's, or begins at 0 if that is negative;
    `player`: that of other players, which begins with the first picture or sound.
    """

    file: float
    browser: float
    player: float


def find_beginning(container: av.container.InputContainer, stream: av.VideoStream) -> Beginning:
    """The beginning of a film, read from there on; 0 if its frames have no times, or cannot be decoded."""
    frames = (frame for frame in Track(container, stream).frames() if frame is not None)
    time = float(next((frame.time for frame in frames), None) or 0)
    start = time if container.start_time is None else container.start_time / av.time_base
    return Beginning(time, time - min(start, 0), max(time - start, 0))


class Clock:
    """Presentation times of frames, in seconds from the first one.

    Frames with impossible times, not after the previous frame or long after the end of the film, are dropped. Several
    in a row count as a reset of the film's clock, and time continues.

    Attributes:
        start: time of the first frame by the file's clock.
        untimed: whether frames had no times.
        restarts: when the clock was reset.
    """

    def __init__(self, start: Fraction | None = None, latest: float | None = None) -> None:
        """`start`: of the film, None for that of the first frame; `latest`: its end, None if unknown."""
        self.start = start
        self.untimed = False
        self.restarts: list[Fraction] = []
        self._latest = None if latest is None else Fraction(latest) + _JUMP
        self._expected: Fraction | None = None  # time of the next frame if none is missing
        self._last: Fraction | None = None
        self._shift = Fraction(0)
        self._impossible = 0

    def time(self, frame: Frame, duration: Fraction) -> Fraction | None:
        """The time of a frame with this `duration`; None if it is to be dropped."""
        time = self._by_its_clock(frame)
        if self._last is not None and time <= self._last or self._latest is not None and time > self._latest:
            self._impossible += 1
            if self._impossible < _PATIENCE:
                return None
            expected = self._expected or Fraction(0)
            self._shift += expected - time
            time = expected
            self.restarts.append(time)
        self._impossible = 0
        self._last, self._expected = time, time + duration
        return time

    def _by_its_clock(self, frame: Frame) -> Fraction:
        if frame.pts is None or frame.time_base is None:
            self.untimed = True
            if self.start is None:
                self.start = Fraction(0)
            return self._expected or Fraction(0)
        absolute = frame.pts * frame.time_base
        if self.start is None:
            self.start = absolute
        return absolute - self.start + self._shift
