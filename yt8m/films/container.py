"""Files of pictures and sound as FFmpeg reads them, and when what comes from them is to be shown and heard."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast  # pylint: disable=unused-import  # in an annotation

from yt8m.common.errors import UserError, listed
from yt8m.films.pyav import av

_PROTOCOLS = "file,crypto,data"  # what files that name others may have read: nothing from elsewhere
_PATIENCE = 8  # frames of impossible times, after which the clock has been set anew
_INDEX = b"moov"
_FIRST_BOXES = {b"ftyp", b"free", b"mdat", b"skip", b"wide", _INDEX}  # of MP4 and MOV files
_MOST_BOXES = 1000
_NO_FILM = "; it is no film, or its beginning is damaged: copy or download it again"
_JUMP = 60  # seconds beyond the announced end: no time of a frame


class Losses:
    """When a track lacks something."""

    def __init__(self) -> None:
        self._spans: list[tuple[Fraction, Fraction]] = []

    def __bool__(self) -> bool:
        return bool(self._spans)

    def add(self, start: Fraction, end: Fraction) -> None:
        """From `start` to `end`, in seconds of the film; not before what has been added so far."""
        start = max(start, Fraction(0))
        if self._spans and start <= self._spans[-1][1]:
            self._spans[-1] = self._spans[-1][0], max(end, self._spans[-1][1])
        elif end > 0:
            self._spans.append((start, end))

    def __str__(self) -> str:
        return listed([f"{shown(start)} to {shown(end)} s" for start, end in self._spans])


def shown(seconds: Fraction | float) -> str:
    """A time, for people."""
    return f"{float(seconds):.2f}"


def open_container(path: Path) -> av.container.InputContainer:
    """A file, open. Raises `UserError` for what FFmpeg knows no way to read."""
    if not path.is_file():
        raise UserError(f"{path}: is no file" if path.exists() else f"{path}: no such file")
    try:  # with its protocol, so that no name is taken for another one
        container = av.open(f"file:{path}", options={"protocol_whitelist": _PROTOCOLS})
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!a}: the name is not UTF-8; rename it") from None
    except av.FFmpegError as error:
        no_film = isinstance(error, av.error.InvalidDataError)
        why = what_an_index_lacks(path) or f"cannot be opened as a film ({error.strerror})" + _NO_FILM * no_film
        raise UserError(f"{path}: {why}") from None
    if not container.streams:
        container.close()
        raise UserError(f"{path}: {what_an_index_lacks(path) or 'has neither pictures nor sound' + _NO_FILM}")
    return container


def what_an_index_lacks(path: Path) -> str | None:
    """What is wrong with the index of an MP4 or MOV file that cannot be read, and what to do; None for other files."""
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
    """A part of an MP4 or MOV file: its kind, and the byte behind its last one."""

    kind: bytes
    end: int


def _boxes(path: Path) -> list[_Box]:
    """The outermost boxes of a file, as far as it has any; the last one may end behind the end of the file."""
    boxes: list[_Box] = []
    with path.open("rb") as file:
        file_size, start = path.stat().st_size, 0
        while start < file_size and len(boxes) < _MOST_BOXES:
            file.seek(start)
            header = file.read(16)
            if len(header) < 8:
                break
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:  # 64 bits follow
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # the rest of the file
                length = file_size - start
            boxes.append(_Box(kind, start + length))
            if length < 8:
                break
            start += length
    return boxes


Stream = av.VideoStream | av.AudioStream
Frame = av.VideoFrame | av.AudioFrame


class Track:
    """A stream of a container, read once; `read_to` is the byte of the file behind the last packet of any stream."""

    def __init__(self, container: av.container.InputContainer, stream: Stream) -> None:
        self._container, self._stream = container, stream
        self.read_to = 0

    def frames(self) -> Iterator[Frame | None]:
        """The frames, in the order in which they are shown; None where something could not be read."""
        for packet in self._packets():
            if packet is None:
                yield None
                continue
            if packet.is_corrupt:
                yield None
            try:
                yield from cast(list[Frame], packet.decode())
            except av.FFmpegError:
                yield None

    def _packets(self) -> Iterator["av.Packet[Any] | None"]:
        """The packets, the empty one last that gets the last frames; None where one could not be read."""
        failures = 0
        while failures < _PATIENCE:  # in a row: what comes behind a damaged part may be readable
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


class Clock:
    """When frames are shown, in seconds from the first one on.

    Frames whose time is impossible, since it is not after that of the frame before or long after the film's end, are
    left out; unless there are many in a row: then the film's clock has been set anew, and time goes on.

    Attributes:
        start: when the first frame is shown, by the clock of the file.
        untimed: whether frames had no times.
        restarts: when the clock was set anew.
    """

    def __init__(self, start: Fraction | None = None, latest: float | None = None) -> None:
        """`start`: of the film, None for that of the first frame; `latest`: when it ends, None if that is not known."""
        self.start = start
        self.untimed = False
        self.restarts: list[Fraction] = []
        self._latest = None if latest is None else Fraction(latest) + _JUMP
        self._expected: Fraction | None = None  # when the next frame comes, if none is missing
        self._last: Fraction | None = None
        self._shift = Fraction(0)
        self._impossible = 0

    def time(self, frame: Frame, duration: Fraction) -> Fraction | None:
        """When a frame is shown, which has that `duration`; None for one to leave out."""
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
