"""What a page needs of a film's file: small pictures, its format, and its address."""

import base64
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yt8m.common.errors import UserError
from yt8m.films.film_files import find_films, name_films

if TYPE_CHECKING:
    from yt8m.films.pyav import av

LOGGER = logging.getLogger(__name__)
REAL_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # the data set's own ids have 4 characters and say nothing of the video
_BROWSERS_PLAY = (".mp4", ".webm", ".m4v", ".mov", ".mkv", ".ogv")  # the likeliest first
PICTURES_OF_A_FILM, PICTURES_OF_A_PAGE = 60, 600  # of about 5 KB each
PICTURE_SIDE = 90  # pixels of the shorter one; 160 of the other where the picture is wide
_JPEG_QUANTIZER = 6  # of 2 (best) to 31; about 5 KB a picture


@dataclass(frozen=True)
class FilmLook:
    """What was seen in a film: JPEG `pictures` by the second that was asked for, its `format` in words, and whether
    there are moving pictures in it. Empty for a file that cannot be read."""

    pictures: dict[float, bytes] = field(default_factory=dict)
    format: str = ""
    is_visual: bool = True

    def address(self, second: float) -> str | None:
        """The picture at a second, as an address that has it in itself."""
        picture = self.pictures.get(second)
        return None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def films_by_id(folder: Path) -> dict[str, Path]:
    """The films in a folder and its subfolders, by the video ids that `extract_features` gives them and by file stem.

    Of several films with the same stem, the one that browsers most likely play. Raises `UserError` where there is none.
    """
    if not folder.is_dir():
        raise UserError(f"--films {folder}: no such folder")
    films = find_films([folder])
    found = {video_id: film for film, video_id in name_films(films, {}).items()}
    return found | {film.stem: film for film in sorted(films, key=_playability)}


def _playability(film: Path) -> int:
    """How likely browsers play a film, by its ending; the higher, the likelier."""
    ending = film.suffix.lower()
    return -_BROWSERS_PLAY.index(ending) if ending in _BROWSERS_PLAY else -len(_BROWSERS_PLAY)


def look_into(path: Path, seconds: Sequence[float]) -> FilmLook:
    """The format of a film, and pictures of it at these seconds, without those where nothing can be decoded.

    A film that cannot be read at all is only warned of: a page without pictures is still a page. Raises `UserError`
    where PyAV is missing.
    """
    from yt8m.films.container import open_container
    from yt8m.films.pyav import av

    try:
        with open_container(path) as film:
            streams = [stream for stream in film.streams if isinstance(stream, av.VideoStream | av.AudioStream)]
            kind = f"{' and '.join(stream.codec_context.name for stream in streams)} in {film.format.name}"
            video = next(iter(film.streams.video), None)
            if video is None:
                return FilmLook({}, kind, False)
            video.thread_type = "AUTO"
            pictures = {second: _picture_at(film, video, second) for second in sorted(set(seconds))}
            return FilmLook({second: picture for second, picture in pictures.items() if picture is not None}, kind)
    except UserError as error:
        LOGGER.warning("%s; the page has no pictures of it", error)
        return FilmLook()


def _picture_at(film: "av.container.InputContainer", video: "av.VideoStream", second: float) -> bytes | None:
    """The frame that is on screen at a second from the first frame on, as a JPEG file; else the last one before it."""
    from yt8m.films.container import Track
    from yt8m.films.pyav import av

    start = video.start_time * video.time_base if video.start_time and video.time_base else 0
    time = float(start) + second
    try:
        film.seek(round(time * av.time_base))
    except av.FFmpegError as error:  # pylint: disable=no-member  # made when av is imported
        LOGGER.debug("%s: second %g: %s", film.name, second, error)
    chosen = None
    for frame in Track(film, video).frames():
        if not isinstance(frame, av.VideoFrame) or frame.time is None:
            continue
        if frame.time > time and chosen is not None:
            break
        chosen = frame
    return None if chosen is None else _jpeg(chosen, video.sample_aspect_ratio or Fraction(1))


def _jpeg(frame: "av.VideoFrame", pixel_ratio: Fraction) -> bytes:
    """A frame as a small JPEG file; `pixel_ratio`: the width of its pixels, in their heights."""
    from yt8m.films.pictures import to_picture
    from yt8m.films.pyav import av

    upright = av.VideoFrame.from_ndarray(to_picture(frame, pixel_ratio, PICTURE_SIDE), format="rgb24")
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = _even(upright.width), _even(upright.height), "yuvj420p"
    encoder.time_base = Fraction(1, 1)
    encoder.options = {"flags": "qscale", "qmin": str(_JPEG_QUANTIZER), "qmax": str(_JPEG_QUANTIZER)}
    small = upright.reformat(encoder.width, encoder.height, "yuvj420p")
    small.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(small), *encoder.encode(None)])


def _even(size: float) -> int:
    """Sizes that halved colours fit."""
    return max(2, 2 * round(size / 2))


def film_source(film: Path, page: Path, look: FilmLook) -> dict[str, Any]:
    """Where the page finds a film, and how to make a copy that browsers play: plain values."""
    return {
        "file": relative_url(film, page.parent),
        "name": film.name,
        "format": look.format,
        "visual": look.is_visual,
        "convert": f"ffmpeg -i {shlex.quote(film.name)} -c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +faststart "
        f"{shlex.quote(film.stem + '-for-browsers.mp4')}",
    }


def relative_url(path: Path, folder: Path) -> str:
    """The address of a file in pages that lie in a folder; an absolute one where there is no way from here to there."""
    try:
        relative = os.path.relpath(path.absolute(), folder.absolute())
    except ValueError:  # another drive
        return path.absolute().as_uri()
    address = quote(os.fsencode(relative.replace(os.sep, "/")))
    return address if "/" in address or ":" not in address else f"./{address}"
