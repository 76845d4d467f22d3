"""Film files for pages: small pictures, format, and address."""

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
from yt8m.data.records import composed
from yt8m.films.film_files import find_films, name_films

if TYPE_CHECKING:
    from yt8m.films.pyav import av

LOGGER = logging.getLogger(__name__)
REAL_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # of YouTube; the data set's ids have 4 characters and are anonymous
_BROWSERS_PLAY = (".mp4", ".webm", ".m4v", ".mov", ".mkv", ".ogv")  # the likeliest first
PICTURES_OF_A_FILM, PICTURES_OF_A_PAGE = 60, 600  # at most, of about 5 KB each
PICTURE_SIDE = 90  # pixels of the shorter side; 160 x 90 for wide pictures
_JPEG_QUANTIZER = 6  # from 2 (best) to 31; about 5 KB per picture


@dataclass(frozen=True)
class FilmLook:
    """JPEG `pictures` of a film by second, its `format` as text, whether it has moving pictures, and the time of
    browsers' clock at second 0: `begins`, and `copy_begins` of a copy by FFmpeg. Empty for an unreadable file."""

    pictures: dict[float, bytes] = field(default_factory=dict)
    format: str = ""
    is_visual: bool = True
    begins: float = 0.0
    copy_begins: float = 0.0

    def address(self, second: float) -> str | None:
        """The picture at a second, as a data URL."""
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
    return found | {composed(film.stem): film for film in sorted(films, key=_playability)}


def _playability(film: Path) -> int:
    """How likely browsers play a film, by its ending; the higher, the likelier."""
    ending = film.suffix.lower()
    return -_BROWSERS_PLAY.index(ending) if ending in _BROWSERS_PLAY else -len(_BROWSERS_PLAY)


def look_into(path: Path, seconds: Sequence[float]) -> FilmLook:
    """The format of a film, and its pictures at these seconds, as far as they can be decoded.

    An unreadable film causes only a warning, and a page without pictures. Raises `UserError` without PyAV.
    """
    from yt8m.films.container import find_beginning, open_container
    from yt8m.films.decoding import find_pictures
    from yt8m.films.pyav import av

    try:
        with open_container(path) as film:
            streams = [stream for stream in film.streams if isinstance(stream, av.VideoStream | av.AudioStream)]
            codecs = [stream.codec_context.name if stream.codec_context else "an unknown codec" for stream in streams]
            kind = f"{' and '.join(codecs)} in {film.format.name}"
            if not film.streams.video:
                return FilmLook({}, kind, False)
            video = find_pictures(film, path)
            video.thread_type = "AUTO"
            begins = find_beginning(film, video)
            pictures = {second: _picture_at(film, video, begins.file + second) for second in sorted(set(seconds))}
            known = {second: picture for second, picture in pictures.items() if picture is not None}
            return FilmLook(known, kind, True, round(begins.browser, 6), round(begins.player, 6))
    except UserError as error:
        LOGGER.warning("%s; the page has no pictures of it", error)
        return FilmLook()


def _picture_at(film: "av.container.InputContainer", video: "av.VideoStream", time: float) -> bytes | None:
    """The frame on screen at a time of the file's clock, or else the last one before it, as a JPEG file."""
    from yt8m.films.container import Track
    from yt8m.films.pyav import av

    try:
        film.seek(round(time * av.time_base))
    except av.FFmpegError as error:
        LOGGER.debug("%s: second %g: %s", film.name, time, error)
    chosen = None
    for frame in Track(film, video).frames():
        if not isinstance(frame, av.VideoFrame) or frame.time is None:
            continue
        if frame.time > time and chosen is not None:
            break
        chosen = frame
    return None if chosen is None else _jpeg(chosen, video.sample_aspect_ratio or Fraction(1))


def _jpeg(frame: "av.VideoFrame", pixel_ratio: Fraction) -> bytes:
    """A frame as a small JPEG file; `pixel_ratio`: width of a pixel over its height."""
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
    """The nearest even size, for chroma subsampling."""
    return max(2, 2 * round(size / 2))


def film_source(film: Path, page: Path, look: FilmLook) -> dict[str, Any]:
    """The address of a film for a page, and the command for a copy that browsers play, as plain values."""
    return {
        "file": relative_url(film, page.parent),
        "name": film.name,
        "format": look.format,
        "visual": look.is_visual,
        "begins": look.begins,
        "copy_begins": look.copy_begins,
        "convert": f"ffmpeg -i {shlex.quote(film.name)} -c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +faststart "
        f"{shlex.quote(film.stem + '-for-browsers.mp4')}",
    }


def relative_url(path: Path, folder: Path) -> str:
    """The URL of a file relative to pages in a folder; an absolute one if there is no relative path."""
    try:
        relative = os.path.relpath(path.absolute(), folder.absolute())
    except ValueError:  # another drive
        return path.absolute().as_uri()
    address = quote(os.fsencode(relative.replace(os.sep, "/")))
    return address if "/" in address or ":" not in address else f"./{address}"
