"""One file over HTTP: resumed where it was broken off, tried again where that may help, and named once it is whole."""

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, TypeVar

import requests

from yt8m import __version__
from yt8m.common.errors import UserError
from yt8m.downloading.crew import Watch
from yt8m.downloading.plan import RemoteShard, looks_like_html
from yt8m.downloading.verified import new_md5, read_into

PARTIAL = ".partial"  # what a file is called until it is whole
BACKOFF_SECONDS = 1.0  # before the first new attempt; doubled before each that follows
_LONGEST_BACKOFF_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 3600.0  # that a server may ask for
_PIECE_BYTES = 1 << 17
_PROGRESS_BYTES = 1 << 20  # an attempt that brings so much more than any before it makes the attempts count anew
_MOST_REDIRECTS = 10
_HTML = "an HTML page came in its place; is there a login page or a proxy in between?"

Result = TypeVar("Result")


class TransferError(Exception):
    """A file that cannot be fetched: its address, and why."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url, self.why = url, why

    def __str__(self) -> str:
        return f"{self.url}: {self.why}"


class _Hiccup(Exception):
    """What may be better at the next attempt, and after how many seconds, where the server has said so."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How often to try again, and for how many seconds to wait for a server that says nothing."""

    retries: int
    timeout: float


@dataclass(frozen=True)
class Client:
    """A thread's connections, and how it deals with trouble."""

    patience: Patience
    watch: Watch
    _session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self._session.max_redirects = _MOST_REDIRECTS
        # Without the identity encoding, places in the file and in what is sent would not be the same.
        self._session.headers.update({"User-Agent": f"yt8m/{__version__}", "Accept-Encoding": "identity"})

    def fetch_small(self, url: str, limit: int) -> bytes:
        """The content of a small file. Raises `TransferError`, also if there are more than `limit` bytes."""

        def attempt() -> bytes:
            content = bytearray()
            with self._answer(url) as answer:
                for piece in answer.iter_content(_PIECE_BYTES):
                    content += piece
                    if len(content) > limit:
                        raise TransferError(url, f"more than {limit:,} bytes; this cannot be the right file")
            return bytes(content)

        return self._persevere(url, attempt, lambda: 0)

    def size_of(self, url: str) -> int | None:
        """How many bytes a file has, as far as the server tells without sending it; tries once."""
        try:
            with _troubles_of(url, self.patience.timeout):
                answer = self._session.head(url, allow_redirects=True, timeout=self.patience.timeout)
                length = answer.headers.get("Content-Length", "")
                return int(length) if answer.status_code == HTTPStatus.OK and length.isdecimal() else None
        except (TransferError, _Hiccup):
            return None

    def fetch_shard(self, shard: RemoteShard, partial: Path) -> None:
        """Have the whole shard under the path `partial`, from what is there of it, with the MD5 that it should have.

        Raises `TransferError` if it is not to be had; what has come of it is kept for another time. Raises `UserError`
        if it cannot be written.
        """
        try:
            with partial.open("a+b", buffering=0) as file:
                part = _Part(file, self.watch)
                try:
                    if not part.is_whole(shard.md5):
                        self._persevere(shard.url, lambda: self._attempt(shard, part), lambda: part.size)
                    os.fsync(file.fileno())  # before it is remembered as verified
                finally:
                    if not part.size and not part.is_whole(shard.md5):
                        partial.unlink()
        except OSError as error:  # the disk is full
            raise UserError(
                f"{partial}: {error.strerror or error}; what is fetched is kept: mend it and type the same command "
                "again"
            ) from None

    def _attempt(self, shard: RemoteShard, part: "_Part") -> None:
        """Fetch what is missing of a shard. Raises `_Hiccup` if it is not whole then."""
        with self._answer(shard.url, part.size) as answer:
            fits = _fits(answer, part.size)
            if fits:
                _receive(answer, part)
        if not fits:  # the server has no such place of the file, or sends another
            part.discard()
            with self._answer(shard.url) as answer:
                _receive(answer, part)
        if not part.is_whole(shard.md5):
            found, size = part.hexdigest(), part.size
            part.discard()
            raise _Hiccup(f"wrong MD5, {found} in the place of {shard.md5}, after {size:,} bytes")

    @contextmanager
    def _answer(self, url: str, start: int = 0) -> Iterator[requests.Response]:
        """A server's answer to the request for a file, or the rest of it from byte `start` on.

        Its status is OK or, with a start, partial content or that there is no such place. Raises `_Hiccup` or
        `TransferError` for all else, and for what happens to the connection inside the block.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        expected = {HTTPStatus.OK}
        if start:
            expected |= {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
        with (
            _troubles_of(url, self.patience.timeout),
            self._session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as answer,
        ):
            status = answer.status_code
            if status not in expected:
                why = f"the server says {status} {answer.reason}"
                if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
                    raise _Hiccup(why, _retry_after(answer.headers.get("Retry-After")))
                raise TransferError(url, why)
            yield answer

    def _persevere(self, url: str, attempt: Callable[[], Result], size: Callable[[], int]) -> Result:
        """The result of the first attempt that succeeds.

        `size` says how many bytes are there: attempts that bring much are no failures, even if the connection breaks.
        """
        failures, most = 0, size()
        while True:
            try:
                return attempt()
            except _Hiccup as hiccup:
                if size() >= most + _PROGRESS_BYTES:
                    failures, most = 0, size()
                failures += 1
                if failures > self.patience.retries:
                    tries = f", after {failures} attempts" if failures > 1 else ""
                    raise TransferError(url, f"{hiccup}{tries}") from None
                seconds = _backoff(failures) if hiccup.wait is None else hiccup.wait
                self.watch.say(f"{url}: {hiccup}; again in {seconds:.1f} s")
                self.watch.pause(seconds)


class _Part:
    """What there is of a file, and the MD5 of it; open for appending."""

    def __init__(self, file: BinaryIO, watch: Watch) -> None:
        self._file, self._watch, self._md5 = file, watch, new_md5()
        file.seek(0)
        self.size = read_into(self._md5, file, lambda _: watch.moved(0))

    def hexdigest(self) -> str:
        """The MD5 of what there is."""
        return self._md5.hexdigest()

    def is_whole(self, md5: str) -> bool:
        """Whether this is the file with that MD5."""
        return self.hexdigest() == md5

    def append(self, piece: bytes) -> None:
        """Write the next bytes."""
        self._watch.moved(len(piece))
        rest = memoryview(piece)
        while rest:  # a disk that is nearly full takes less than all
            rest = rest[self._file.write(rest) :]
        self._md5.update(piece)
        self.size += len(piece)

    def discard(self) -> None:
        """Begin anew."""
        self._watch.moved(-self.size)
        self._file.truncate(0)
        self._md5, self.size = new_md5(), 0


def _receive(answer: requests.Response, part: _Part) -> None:
    """Write what an answer holds. A page of HTML is not written, and what was there before it is kept."""
    pieces = answer.iter_content(_PIECE_BYTES)
    piece = next(pieces, b"")
    if answer.status_code == HTTPStatus.OK:  # the file from its beginning on
        if looks_like_html(piece):
            raise _Hiccup(_HTML)
        if part.size:
            part.discard()
    while piece:
        part.append(piece)
        piece = next(pieces, b"")


def _fits(answer: requests.Response, size: int) -> bool:
    """Whether an answer is the whole file, or what comes after its first `size` bytes."""
    if answer.status_code == HTTPStatus.OK:
        return True
    place = re.match(r"bytes (\d{1,15})-", answer.headers.get("Content-Range", ""), re.ASCII)
    return answer.status_code == HTTPStatus.PARTIAL_CONTENT and place is not None and int(place[1]) == size


@contextmanager
def _troubles_of(url: str, timeout: float) -> Iterator[None]:
    """Turn what goes wrong with a connection into `_Hiccup`, and what will not be better into `TransferError`."""
    try:
        yield
    except requests.exceptions.TooManyRedirects:
        raise TransferError(url, f"more than {_MOST_REDIRECTS} redirects") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
        raise TransferError(url, "it redirects to what is no address of http or https") from None
    except requests.exceptions.Timeout:
        raise _Hiccup(_silence(timeout)) from None
    except requests.RequestException as error:
        raise _Hiccup(_cause(error, timeout)) from None


def _cause(error: BaseException, timeout: float) -> str:
    """What the system says of a broken connection, from the innermost of the exceptions that tell of it."""
    why, inner = "the connection was cut", error.__context__
    while inner is not None:
        if isinstance(inner, TimeoutError):  # in the middle of a file
            why = _silence(timeout)
        elif isinstance(inner, OSError) and inner.strerror and not isinstance(inner, requests.RequestException):
            why = inner.strerror
        inner = inner.__context__
    return why


def _silence(timeout: float) -> str:
    return f"nothing came for {timeout:g} s"


def _retry_after(text: str | None) -> float | None:
    """The seconds that a server asks to wait, given as such or as a date; None if it does not, or not clearly."""
    if text is None:
        return None
    try:
        seconds = float(text) if text.strip().isdecimal() else _seconds_until(parsedate_to_datetime(text))
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)


def _seconds_until(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: longer each time, and not the same for all threads."""
    longest = min(BACKOFF_SECONDS * 2.0 ** min(failures - 1, 30), _LONGEST_BACKOFF_SECONDS)
    return longest * random.SystemRandom().uniform(0.5, 1)
