"""What a page needs of a film's file: small pictures, its format, and its address."""

import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

LOGGER = logging.getLogger(__name__)
REAL_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # the data set's own ids have 4 characters and say nothing of the video
PICTURE_WIDTH = 160  # pixels
_JPEG_QUANTIZER = 6  # of 2 (best) to 31; about 5 KB a picture


@dataclass(frozen=True)
class FilmLook:
    """What was seen in a film: JPEG `pictures` by the second that was asked for, its `format` in words, and whether
    there are moving pictures in it. Empty for a file that cannot be read."""

    pictures: dict[float, bytes] = field(default_factory=dict)
    format: str = ""
    is_visual: bool = True


def look_into(path: Path, seconds: Sequence[float]) -> FilmLook:
    """The format of a film, and pictures of it at these seconds, without those where nothing can be decoded.

    A film that cannot be read at all is only warned of: a page without pictures is still a page.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as film:
            streams = [stream for stream in film.streams if stream.type in ("video", "audio")]
            kind = f"{' and '.join(stream.codec_context.name for stream in streams)} in {film.format.name}"
            video = next(iter(film.streams.video), None)
            if video is None:
                return FilmLook({}, kind, False)
            video.thread_type = "AUTO"
            pictures = {}
            for second in sorted(set(seconds)):
                picture = _picture_at(film, video, second)
                if picture is not None:
                    pictures[second] = picture
            return FilmLook(pictures, kind)
    except (FFmpegError, OSError) as error:
        LOGGER.warning("%s: no pictures of it (%s)", path, error)
        return FilmLook()


def _picture_at(film: Any, video: Any, second: float) -> bytes | None:
    """The frame that is on screen at a second from the film's start, as a JPEG file; else the last one before it.

    `film` and `video` are PyAV's container and stream.
    """
    import av
    from av.error import FFmpegError

    time = second + (film.start_time or 0) / av.time_base
    chosen = None
    try:
        film.seek(round(time * av.time_base))
        for frame in film.decode(video):
            if frame.time is not None and frame.time > time and chosen is not None:
                break
            chosen = frame
    except FFmpegError as error:
        LOGGER.debug("%s: second %g: %s", film.name, second, error)
    return None if chosen is None else _jpeg(chosen, video.sample_aspect_ratio)


def _jpeg(frame: Any, pixel_aspect: Any) -> bytes:
    """A frame, a PyAV one, as a small upright JPEG file; `pixel_aspect`: width of a pixel by its height, if known."""
    from fractions import Fraction

    import av
    import numpy as np

    ratio = frame.height / (frame.width * float(pixel_aspect or 1))
    turned = frame.rotation % 180 != 0
    width = PICTURE_WIDTH if not turned else round(PICTURE_WIDTH / ratio)
    small = frame.reformat(width=_even(width), height=_even(width * ratio), format="rgb24")
    if frame.rotation:
        pixels = np.ascontiguousarray(np.rot90(small.to_ndarray(), frame.rotation // 90))
        small = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = small.width, small.height, "yuvj420p"
    encoder.time_base = Fraction(1, 1)
    encoder.options = {"flags": "qscale", "qmin": str(_JPEG_QUANTIZER), "qmax": str(_JPEG_QUANTIZER)}
    small = small.reformat(format="yuvj420p")
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
