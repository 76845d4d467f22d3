"""Download of shards: plans, verification of existing files, resumable HTTP transfers; and of vocabularies."""

import csv
import hashlib
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from itertools import chain, count
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from helperbot.files import replacing
from urllib3.exceptions import InvalidHeader, MaxRetryError
from urllib3.util.retry import Retry

from yt8m import __version__
from yt8m.common.errors import UserError
from yt8m.common.progress import Progress
from yt8m.data.partitions import N_SHARDS, PARTITIONS, official_name, shard_number
from yt8m.data.records import stamp_of

LOGGER = logging.getLogger(__name__)
SITE = "data.yt8m.org"
SMALL_BYTES = 64_000_000  # larger than any plan or vocabulary
_STORAGE = "http://storage.googleapis.com/"  # mirrors the site's hosts under their names
# Plain names of shards: no folders, hidden files or control characters.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,190}\.tfrecord", re.ASCII)
_PARTITION = re.compile(r"([23])/(frame|video)/(train|validate|test)")
_PLAN_URL = re.compile(r"https?://data\.yt8m\.org/([23])/download_plans/(frame|video)_(train|validate|test)\.json")
# A plan file as the organizers' script names it.
_SCRIPTS_PLAN = re.compile(r"([23])_(frame|video)_(train|validate|test)_download_plan\.json")
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)
_DEFINITE = set(range(300, 500)) - {408, 429}  # not worth a retry
_PIECE_BYTES = 1 << 17
_PROGRESS_BYTES = 1 << 20  # progress that resets the count of attempts
_SECONDS_BETWEEN_SAVES = 5.0
_MEMORY_VERSION = 2
_PAGE = "an HTML or XML page came in its place; is there a login page or a proxy in between?"

Job = TypeVar("Job")
Output = TypeVar("Output")
Advance = Callable[[int], None]  # takes the number of new bytes; negative if bytes were discarded


@dataclass(frozen=True)
class PlannedShard:
    """A shard of a plan: name and address on its server, MD5 in lower case."""

    server_name: str
    url: str
    md5: str

    @property
    def name(self) -> str:
        """The official name, used for the saved file."""
        return official_name(self.server_name)


def parse_plan(content: bytes, source: str) -> dict[str, str]:
    """Lower-case MD5s by shard name, sorted; empty for a plan that the organizers' script has used up.

    A plan is `{"files": {name: MD5}}` or `{name: MD5}`. Raises `UserError` for anything else, and for names that are
    not plain names of shards, so that no plan can choose where to write.
    """
    if _is_page(content):
        raise UserError(f"{source}: not a plan file: {_PAGE}")
    try:
        plan = json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{source}: not a plan file: {error}") from None
    files = plan.get("files", plan) if isinstance(plan, dict) else None
    if not isinstance(files, dict) or not plan:
        raise UserError(f"{source}: not a plan file: expected a mapping of file names to MD5s")
    for name, md5 in files.items():
        if not _SHARD_NAME.fullmatch(name):
            raise UserError(
                f"{source}: file name {ascii(name):.80}: expected a plain NAME.tfrecord; do not use this plan"
            )
        if not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise UserError(f"{source}: {name}: expected an MD5 of 32 hexadecimal digits, found {ascii(md5):.80}")
    if len({official_name(name) for name in files}) < len(files):
        raise UserError(f"{source}: lists a shard under its server's name and its number; take one of them out")
    return {name: files[name].lower() for name in sorted(files)}


def _is_page(content: bytes | bytearray) -> bool:
    """Whether this begins like HTML or XML, which portals, proxies and storages send instead of files."""
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<error>"))


def _new_md5() -> "hashlib._Hash":
    """An MD5 to check completeness, not for security."""
    return hashlib.md5(usedforsecurity=False)


class Fetcher:
    """HTTP downloads with `retries` retries and a `timeout` in seconds for a silent server."""

    def __init__(self, retries: int, timeout: float) -> None:
        self._retry = Retry(retries, backoff_factor=1.0, backoff_max=60.0, backoff_jitter=1.0)
        self._timeout, self._storage_first = timeout, False  # whether the storage, not the site, answered last

    def fetch_small(self, url: str) -> bytes:
        """The content of a small file. Raises `UserError` if it cannot be fetched."""

        def attempt(address: str) -> bytes:
            content = bytearray()
            with self._get(address) as answer:
                for piece in answer.iter_content(_PIECE_BYTES):
                    content += piece
                    if len(content) > SMALL_BYTES:
                        raise UserError(f"{address}: more than {SMALL_BYTES:,} bytes; this cannot be the right file")
            if _is_page(content):
                raise requests.RequestException(_PAGE)
            return bytes(content)

        try:
            return self._persevere(url, attempt)
        except requests.RequestException as error:
            raise UserError(str(error)) from None

    def size_of(self, url: str) -> int:
        """The size of a file in bytes according to a HEAD request; 0 if unknown."""
        for address in self._addresses(url):
            with suppress(requests.RequestException, ValueError), self._get(address, method="HEAD") as answer:
                return int(answer.headers.get("Content-Length", ""))
        return 0

    def fetch_shard(self, shard: PlannedShard, partial: Path, advance: Advance) -> str:
        """Complete the shard in the file `partial`; return "", or why that failed.

        Partial content is kept for the next try. Raises `UserError` if the file cannot be written.
        """
        try:
            with partial.open("a+b", buffering=0) as file:
                advance(_size(file))
                self._persevere(shard.url, lambda url: self._attempt(url, shard, file, advance), lambda: _size(file))
                os.fsync(file.fileno())  # before it is recorded as verified
        except requests.RequestException as error:
            if not partial.stat().st_size:
                partial.unlink()
            return str(error)
        except OSError as error:  # the disk is full
            remedy = "what has been fetched is kept; fix this and run the same command again"
            raise UserError(f"{partial}: {error.strerror or error}; {remedy}") from None
        return ""

    def _attempt(self, address: str, shard: PlannedShard, file: FileIO, advance: Advance) -> None:
        """Fetch the missing part of a shard. Raises `RequestException` if the result is not complete and correct."""
        with self._get(address, start=_size(file)) as answer:
            is_rest = answer.headers.get("Content-Range", "").startswith(f"bytes {_size(file)}-")
            pieces = answer.iter_content(_PIECE_BYTES)
            first = next(pieces, b"")
            if answer.status_code == 200:  # the whole file, from its beginning
                if _is_page(first):  # keep what was there
                    raise requests.RequestException(_PAGE)
                _discard(file, advance)
            # After any other answer, the existing part is either complete or useless, as its MD5 will tell.
            for piece in chain((first,), pieces) if answer.status_code == 200 or is_rest else ():
                advance(len(piece))
                rest = memoryview(piece)
                while rest:  # a nearly full disk may take only a part
                    rest = rest[file.write(rest) :]
        file.seek(0)
        if (found := hashlib.file_digest(file, _new_md5).hexdigest()) != shard.md5:
            why = f"wrong MD5, {found} instead of {shard.md5}, after {_size(file):,} bytes"
            _discard(file, advance)
            raise requests.RequestException(why)

    def _get(self, address: str, start: int = 0, method: str = "GET") -> requests.Response:
        """The server's response for a file, or the rest of it from byte `start`.

        Its status is 200 or, with a start, 206, or 416 if that is beyond the end. Raises `RequestException` for others.
        """
        # With another encoding, offsets in the file and in the response would differ.
        headers = {"User-Agent": f"yt8m/{__version__}", "Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        answer = requests.request(method, address, headers=headers, stream=True, timeout=self._timeout)
        if answer.status_code not in ((200, 206, 416) if start else (200,)):
            with answer:
                code = re.search(rb"<Code>(\w+)</Code>", next(answer.iter_content(2048), b""))
            why = f"the server says {answer.status_code} {answer.reason}{f' ({code[1].decode()})' if code else ''}"
            wait = answer.headers.get("Retry-After")
            raise requests.HTTPError(f"{why}, Retry-After: {wait}" if wait else why, response=answer)
        return answer

    def _addresses(self, url: str) -> list[str]:
        """A file's address and, for one of the data set's hosts, that in the storage, in the order to try them."""
        parts = urlsplit(url)
        if not f".{parts.hostname}".endswith(f".{SITE}"):
            return [url]
        both = [url, f"{_STORAGE}{parts.netloc}{parts.path}"]
        return both[::-1] if self._storage_first else both

    def _persevere(self, url: str, attempt: Callable[[str], Output], size: Callable[[], int] = lambda: 0) -> Output:
        """The result of the first successful attempt, trying the file's addresses in turn.

        `size` returns the bytes fetched so far: attempts with much progress do not count as failures. Raises
        `RequestException` after too many failures, or if all addresses refuse.
        """
        left, reasons, retry, most = self._addresses(url), dict[str, str](), self._retry, size()
        with suppress(MaxRetryError):
            while left:
                address = left.pop(0)
                try:
                    result = attempt(address)
                    self._storage_first = address.startswith(_STORAGE)
                    return result
                except requests.RequestException as error:
                    reasons[address], answer = _reason(error), error.response
                    LOGGER.info("%s: %s", address, reasons[address])
                    # A ValueError is a redirection to an invalid address.
                    if isinstance(error, ValueError) or answer is not None and answer.status_code in _DEFINITE:
                        continue
                left.append(address)
                if size() >= most + _PROGRESS_BYTES:
                    retry, most = self._retry, size()
                retry = retry.increment("GET", address)
                try:
                    retry.sleep(None if answer is None else answer.raw)  # as long as the server asks for
                except InvalidHeader:
                    retry.sleep()
        raise requests.RequestException("; ".join(f"{address}: {why}" for address, why in reasons.items()))


def _reason(error: BaseException) -> str:
    """Why an attempt failed: the message of the innermost exception."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _discard(file: FileIO, advance: Advance) -> None:
    advance(-_size(file))
    file.truncate(0)


def in_threads(
    title: str, total: int, unit: str, work: Callable[[Job, Advance], Output], tasks: Sequence[Job], n_threads: int
) -> Generator[tuple[Job, Output], None, None]:
    """Run `work` on each task in threads, with a progress bar; yield tasks and results as they complete.

    An exception, or leaving the iteration, stops all tasks without waiting for hanging connections.
    """
    lock, ends, done = threading.Lock(), list[Exception](), 0

    def advance(number: int) -> None:
        nonlocal done
        with lock:
            if ends:
                raise ends[0]
            progress.update(min(done + number, total) - min(done, total))  # the total may be an estimate
            done += number

    def run(task: Job) -> tuple[Job, Output]:
        try:
            advance(0)
            return task, work(task, advance)
        except Exception as error:
            ends.append(error)
            raise

    with Progress(title, total, unit, LOGGER) as progress, ThreadPool(min(n_threads, len(tasks)) or 1) as pool:
        try:
            yield from pool.imap_unordered(run, tasks)
        finally:
            ends.append(RuntimeError("cancelled"))


class ShardDownloads:
    """The wanted shards of a plan and their folder: finds those present and fetches the others.

    MD5s of files are kept in the cache of the data folder, so that a terabyte is not read again at each start; they
    are ignored once size or times of a file have changed.
    """

    def __init__(self, title: str, folder: Path, shards: Sequence[PlannedShard], data_dir: Path) -> None:
        self.title, self.folder, self.shards = title, folder, shards
        self.set_aside: list[Path] = []
        digest = hashlib.sha256(os.path.relpath(folder, data_dir).encode()).hexdigest()[:8]
        self._memory = data_dir / "cache" / "downloads" / f"{folder.parent.name}-{folder.name}-{digest}.json"
        self._last_save = time.monotonic()

    def state(self, shard: PlannedShard) -> str:
        """The state of a shard: verified, unread (a file of unknown MD5), begun, or missing."""
        known = [self._md5_of(name) for name in self._files(shard)]
        if shard.md5 in known or None in known:
            return "verified" if shard.md5 in known else "unread"
        return "begun" if f"{shard.name}.partial" in self._names else "missing"

    def look(self, verify: bool, n_threads: int) -> list[PlannedShard]:
        """The shards not yet there. Reads files of unknown MD5, or with `verify` all files."""
        names = [name for shard in self.shards for name in self._files(shard) if verify or self._md5_of(name) is None]
        if names:
            LOGGER.info("%s: verifying %d existing files", self.folder, len(names))
            n_bytes = sum((self.folder / name).stat().st_size for name in names)
            with closing(in_threads("verifying", n_bytes, "byte", self._read, names, n_threads)) as results:
                for name, md5 in results:
                    self._remember(name, md5)
            self._save()
        for shard in self.shards:
            right = [name for name in self._files(shard) if self._md5_of(name) == shard.md5]
            if right:
                self._set_others_aside(shard)
            if len(right) > 1:
                path = self.folder / shard.server_name
                LOGGER.warning("%s: a duplicate of %s, which other commands refuse; delete it", path, shard.name)
        return [shard for shard in self.shards if self.state(shard) != "verified"]

    def fetch(self, missing: Sequence[PlannedShard], size: int, fetcher: Fetcher, n_threads: int) -> list[str]:
        """Fetch shards of about `size` bytes (0: unknown), moving files in their places aside; return the failures."""

        def work(shard: PlannedShard, advance: Advance) -> str:
            partial = self.folder / f"{shard.name}.partial"
            why = fetcher.fetch_shard(shard, partial, advance if size else lambda _: advance(0))
            advance(0 if size else 1)
            return why

        failed = []
        total, unit = (len(missing) * size, "byte") if size else (len(missing), "shard")
        with closing(in_threads("downloading", total, unit, work, missing, n_threads)) as results:
            for shard, why in results:
                if why:
                    failed.append(why)
                    continue
                self._set_others_aside(shard)
                (self.folder / f"{shard.name}.partial").replace(self.folder / shard.name)
                self._remember(shard.name, shard.md5)
        self._save()
        return sorted(failed)

    def _read(self, name: str, advance: Advance) -> str:
        """The MD5 of a file."""
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                md5 = hashlib.file_digest(file, _new_md5).hexdigest()
                advance(_size(file))
        except OSError as error:  # does not name the file when reading fails
            raise UserError(f"{self.folder / name}: {error.strerror}; move it away to fetch it again") from None
        return md5

    def _files(self, shard: PlannedShard) -> list[str]:
        """The names of a shard's existing files. Raises `UserError` if one is not a file."""
        names = [name for name in dict.fromkeys((shard.name, shard.server_name)) if name in self._names]
        for name in names:
            if not (self.folder / name).is_file():
                raise UserError(f"{self.folder / name}: expected a file or nothing of this name; move it away")
        return names

    def _set_others_aside(self, shard: PlannedShard) -> None:
        """Rename files of a shard with the wrong MD5 to free names."""
        for name in self._files(shard):
            if self._md5_of(name) != shard.md5:
                asides = (self.folder / f"{name}.replaced{f'-{number}' if number > 1 else ''}" for number in count(1))
                aside = next(path for path in asides if not os.path.lexists(path))
                self.set_aside.append((self.folder / name).rename(aside))
                self._names.remove(name)

    def _md5_of(self, name: str) -> str | None:
        """The MD5 of an existing file, if known."""
        *stamp, md5 = self._known.get(name, ("",))
        return str(md5) if md5 and stamp == [*stamp_of((self.folder / name).stat())] else None

    def _remember(self, name: str, md5: str) -> None:
        self._known[name] = [*stamp_of((self.folder / name).stat()), md5]
        if time.monotonic() - self._last_save >= _SECONDS_BETWEEN_SAVES:
            self._save()

    @cached_property
    def _names(self) -> set[str]:
        """The exact file names in the folder, even on a disk that ignores case."""
        return set(os.listdir(self.folder)) if self.folder.is_dir() else set()

    @cached_property
    def _known(self) -> dict[str, list[int | str]]:
        """Stamp (see `stamp_of`) and MD5 of files, by name."""
        if not self._memory.exists():
            return {}
        try:
            stored = json.loads(self._memory.read_bytes())
            files = stored["files"] if stored["version"] == _MEMORY_VERSION else {}
            return {str(name): [*map(int, stamp), str(md5)] for name, (*stamp, md5) in files.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            LOGGER.warning("%s cannot be read (%s); the files are verified again", self._memory, error)
            return {}

    def _save(self) -> None:
        self._last_save = time.monotonic()
        with replacing(self._memory) as temporary:
            temporary.write_text(json.dumps({"version": _MEMORY_VERSION, "files": self._known}), encoding="utf-8")


def open_plan(
    plan: str,
    data_dir: Path,
    choose: Callable[[Sequence[str], str], Sequence[str]],
    fetcher: Fetcher,
    *,
    mirror: str,
    folder: Path | None = None,
    base_url: str | None = None,
) -> ShardDownloads:
    """The chosen shards of a plan: a partition, a URL or a path; none of a plan file from which all have been taken.

    `choose` returns the chosen ones of the plan's sorted names, given its source; `mirror`: of the data set's servers;
    `folder` for the shards and `base_url` above them, None for a partition's own. Raises `UserError` if the plan cannot
    be read, is invalid, or lacks such shards, or if their source or destination is unknown.
    """
    location, base = plan, ""
    content: bytes | None = None
    partition = _PARTITION.fullmatch(plan) or _PLAN_URL.fullmatch(plan)
    if partition:
        location = f"http://{SITE}/{partition[1]}/download_plans/{partition[2]}_{partition[3]}.json"
    elif "://" in plan:
        base = urljoin(_checked_url(plan, "--plan"), ".")
    elif Path(plan).is_file():
        partition = _SCRIPTS_PLAN.fullmatch(Path(plan).name)
        content = _content(plan)
    else:
        names = ", ".join(known.published for known in PARTITIONS)
        raise UserError(f"--plan {plan}: expected {names}, the URL of a plan file or the path of one")
    if partition:
        known = _folder_of(partition, plan, data_dir)
        folder = folder or known
    if content is not None and not parse_plan(content, plan):
        return ShardDownloads(plan, data_dir, [], data_dir)
    if folder is None:
        raise UserError(f"--plan {plan}: name the folder for its shards with --to")
    if base_url is not None:
        base = _checked_url(base_url, "--base-url").rstrip("/") + "/"
    elif partition:
        base = f"http://{mirror}.{SITE}/{'/'.join(partition.groups())}/"
    if not base:
        raise UserError(f"--plan {plan}: name the URL above its shards with --base-url")
    files = parse_plan(fetcher.fetch_small(location) if content is None else content, location)
    if partition and content is None and len(files) < N_SHARDS:
        LOGGER.warning("%s: lists only %d of %d shards", location, len(files), N_SHARDS)
    chosen = choose(list(files), location)
    if not chosen and (content is None or None in map(shard_number, files)):
        raise UserError(f"--shards: {location} lists {len(files)} shards, and none of them is chosen")
    shards = [PlannedShard(name, base + name, files[name]) for name in chosen]
    return ShardDownloads(plan, folder, shards, data_dir)


def _content(path: str) -> bytes:
    """The content of a plan file. Raises `UserError` if it is too large."""
    with open(path, "rb") as file:
        content = file.read(SMALL_BYTES + 1)
    if len(content) > SMALL_BYTES:
        raise UserError(f"{path}: more than {SMALL_BYTES:,} bytes; this cannot be a plan file")
    return content


def _folder_of(partition: "re.Match[str]", plan: str, data_dir: Path) -> Path | None:
    """The folder for a partition's shards, None if no command needs them. Raises `UserError` for the video level."""
    release, level, split = partition.groups()
    if level == "video":
        what = "has video-level features, but frame-level features are needed"
        raise UserError(f"--plan {plan}: {what}; name {release}/frame/{split}")
    published = f"{release}/{level}/{split}"
    return next((data_dir / known.folder for known in PARTITIONS if known.published == published), None)


def _checked_url(url: str, option: str) -> str:
    """Check an http or https URL. Raises `UserError` for others, and for one with a password, which would be logged."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, half an IPv6 address
        good = False
    if not good:
        raise UserError(f"{option} {url}: expected http:// or https:// and a host")
    if parts.username is not None:
        raise UserError(f"{option}: leave name and password out of the address and put them into ~/.netrc")
    return url


def fetch_vocabulary(url: str, columns: Collection[str], path: Path, fetcher: Fetcher) -> None:
    """Fetch a table with these columns, among them Index. Raises `UserError` if it is anything else."""
    content = fetcher.fetch_small(url)
    try:
        text = content.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        labels = {int(row["Index"]) for row in rows}
    except (ValueError, KeyError, TypeError, csv.Error):  # UnicodeDecodeError is a ValueError
        rows, labels = [], set()
    if not rows or len(labels) < len(rows) or min(labels) < 0 or not set(columns) <= set(rows[0]):
        what = f"CSV with the columns {', '.join(columns)}, Index being different numbers of at least 0"
        raise UserError(f"{url}: expected {what}")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
