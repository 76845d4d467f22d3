"""`yt8m.download` against a server on this machine that misbehaves as servers and networks do."""

import dataclasses
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.shards import context_entries, context_field, list_entries, lists_field, make_video
from yt8m.common import progress
from yt8m.common.errors import UserError
from yt8m.downloading import fetching
from yt8m.downloading.crew import Watch
from yt8m.downloading.plan import Selection, parse_plan, parse_selection

Command = Callable[..., Outcome]
PIECE = 1 << 16  # of what the server sends
NAMES = [f"train{number:02d}.tfrecord" for number in range(6)]
FILES = {name: (name.encode() * 60_000)[: 600_000 + 1000 * row] for row, name in enumerate(NAMES)}
HTML = b"<!DOCTYPE html><html>Please log in to the wireless network</html>"
PLAN = "/2/frame/train/download_plan.json"


def md5(content: bytes) -> str:
    """What a plan says of a file."""
    return hashlib.md5(content).hexdigest()


@dataclasses.dataclass
class Trouble:
    """How the server misbehaves for one file, the first `times` that it is asked for it (HEAD does not count)."""

    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content: bytes | None = None  # in the place of the file
    cut_after: int | None = None  # bytes of an answer, then the connection is closed
    hang_after: int | None = None  # bytes of an answer, then nothing more comes
    ignore_range: bool = False
    shift_range: int = 0  # the answer begins so many bytes before the place that was asked for
    times: int = 1_000_000


class Server(ThreadingHTTPServer):
    """Serves `files` by path, for any host, with the `troubles` of some; knows what it was asked for and has sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, Trouble] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        self.sent: Counter[str] = Counter()
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what is tested."""

    def serve(self, folder: str, files: dict[str, bytes]) -> str:
        """Serve these files and a plan of them under a folder; the URL of the plan."""
        self.files |= {f"{folder}/{name}": content for name, content in files.items()}
        plan = {"files": {name: md5(content) for name, content in files.items()}}
        self.files[f"{folder}/download_plan.json"] = json.dumps(plan).encode()
        return f"{self.url}{folder}/download_plan.json"

    def asked_for(self, name: str) -> list[str | None]:
        """The ranges of the requests for a file, in their order."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(f"/{name}")]


class Handler(BaseHTTPRequestHandler):
    """An answer, or what goes for one."""

    server: Server

    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Quiet."""

    def do_HEAD(self) -> None:  # pylint: disable=invalid-name
        """The size of a file."""
        self.do_GET()

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """A file, its rest, or trouble."""
        server, path, span = self.server, urlsplit(self.path).path, self.headers.get("Range")
        server.asked.append((self.command, path, span))
        trouble = server.troubles.get(path, Trouble())
        if self.command == "GET":
            trouble.times -= 1
        if trouble.times < 0:
            trouble = Trouble()
        content = server.files.get(path) if trouble.content is None else trouble.content
        if content is None or trouble.status != 200:
            self.send_response(404 if content is None else trouble.status)
            for name, value in {"Content-Length": "0", **trouble.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        start = 0 if span is None or trouble.ignore_range else int(span.removeprefix("bytes=").rstrip("-"))
        start = max(start - trouble.shift_range, 0)
        if start >= len(content) and start:
            self.send_response(416)
        elif span is not None and not trouble.ignore_range:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(max(len(content) - start, 0)))
        self.end_headers()
        if self.command == "GET":
            self._send(path, content[start:], trouble)

    def _send(self, path: str, content: bytes, trouble: Trouble) -> None:
        ends = [end for end in (trouble.cut_after, trouble.hang_after) if end is not None]
        content = content[: min(ends, default=len(content))]
        for begin in range(0, len(content), PIECE):
            piece = content[begin : begin + PIECE]
            self.wfile.write(piece)
            self.server.sent[path] += len(piece)
        if trouble.hang_after is not None:
            self.server.closing.wait(20)
        if ends:
            self.close_connection = True


@pytest.fixture(name="server")
def fixture_server() -> Iterator[Server]:
    """A server with a partition of six shards."""
    with Server() as server:
        server.serve("/2/frame/train", FILES)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(name="waits", autouse=True)
def fixture_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits for a new attempt, but how long it would have been is kept."""
    waits: list[float] = []
    monkeypatch.setattr(Watch, "pause", lambda _, seconds: waits.append(seconds))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return waits


Fetch = Callable[..., Outcome]


@pytest.fixture(name="fetch")
def fixture_fetch(command: Command, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Fetch:
    """Download the server's partition to `shards`; what is logged comes before what else is on standard error."""
    caplog.set_level(logging.INFO)

    def call(*options: object) -> Outcome:
        where = ("--data-dir", tmp_path / "data", "--to", tmp_path / "shards")
        caplog.clear()
        outcome = command("download", "--plan", f"{server.url}{PLAN}", *where, *options)
        return outcome._replace(err=caplog.text + outcome.err)

    return call


def framed(payload: bytes) -> bytes:
    """A shard of one record; TensorFlow, which the other tests write theirs with, takes long to import."""
    length = struct.pack("<Q", len(payload))
    checksums = [
        ((crc32c(part) >> 15 | crc32c(part) << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32 for part in (length, payload)
    ]
    return length + struct.pack("<I", checksums[0]) + payload + struct.pack("<I", checksums[1])


def found(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".download.lock"}


def disturb(server: Server, name: str, **what: Any) -> None:
    """Have the server misbehave for a shard."""
    server.troubles[f"/2/frame/train/{name}"] = Trouble(**what)


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """Status 2 and one last line with these parts."""
    last = outcome.err.splitlines()[-1]
    assert outcome.status == 2 and "Traceback" not in outcome.err and "error:" in last, outcome
    for part in parts:
        assert part in last, last


# --- what is fetched ---------------------------------------------------------------------------------------


def test_everything_is_fetched_once_and_not_read_again(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = fetch()
    assert outcome.status == 0 and "6 shards, 0 were there, 6 fetched" in outcome.out, outcome
    assert found(tmp_path / "shards") == FILES
    server.asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "read_into", None)  # reading a file would fail
        outcome = fetch()
    assert outcome.status == 0 and "6 were there, 0 fetched" in outcome.out
    assert server.asked == [("GET", PLAN, None)]
    outcome = fetch("--verify")
    assert "verifying 6 files" in outcome.err and "6 were there, 0 fetched" in outcome.out


def test_files_that_somebody_else_has_put_there_are_read_and_kept(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / NAMES[0]).write_bytes(FILES[NAMES[0]])
    (folder / NAMES[1]).write_bytes(b"mine")
    target = tmp_path / "elsewhere"
    target.write_bytes(b"behind a link")
    (folder / NAMES[2]).symlink_to(target)
    outcome = fetch("--list")
    assert "3 are there and to be verified, 3 are to fetch" in outcome.out and not (tmp_path / "data").exists()
    outcome = fetch()
    assert outcome.status == 0 and "1 were there, 5 fetched" in outcome.out
    assert not server.asked_for(NAMES[0])
    assert f"{NAMES[1]}: its MD5 is not that of the plan" in outcome.err
    assert f"{folder / NAMES[1]}.replaced" in outcome.out and "2 files" in outcome.out
    aside = {f"{NAMES[1]}.replaced": b"mine", f"{NAMES[2]}.replaced": b"behind a link"}
    assert found(folder) == FILES | aside and target.read_bytes() == b"behind a link"
    (folder / NAMES[1]).write_bytes(b"mine again")
    assert fetch().status == 0
    assert found(folder) == FILES | aside | {f"{NAMES[1]}.replaced-2": b"mine again"}


def test_damage_since_the_download_is_found(fetch: Fetch, tmp_path: Path) -> None:
    fetch()
    path = tmp_path / "shards" / NAMES[3]
    stat = path.stat()
    path.write_bytes(b"x" + FILES[NAMES[3]][1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nothing shows from outside
    assert "6 were there" in fetch().out
    outcome = fetch("--verify")
    assert outcome.status == 0 and "5 were there, 1 fetched" in outcome.out
    assert path.read_bytes() == FILES[NAMES[3]]


def test_what_was_remembered_cannot_be_read(fetch: Fetch, tmp_path: Path) -> None:
    fetch()
    (record,) = (tmp_path / "data" / "cache" / "downloads").iterdir()
    for content in ("{", "[]", '{"version": 1, "files": {"a": 1}}', '{"version": 1, "files": [1]}'):
        record.write_text(content, encoding="utf-8")
        outcome = fetch()
        assert outcome.status == 0 and str(record) in outcome.err and "6 were there" in outcome.out


def test_list_fetches_nothing(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    fetch("--shards", "0-1")
    (tmp_path / "shards" / f"{NAMES[2]}.partial").write_bytes(FILES[NAMES[2]][:1000])
    before, server.asked = found(tmp_path / "shards"), []
    outcome = fetch("--list", "--shards", "0-3")
    assert outcome.status == 0
    first, *names = outcome.out.splitlines()
    assert "4 shards; 2 are there, 0 are there and to be verified, 2 are to fetch, about 1.2 MB, 1 of them" in first
    assert names == [f"  {server.url}/2/frame/train/{name}" for name in NAMES[2:4]]
    assert found(tmp_path / "shards") == before and not any(server.asked_for(name) for name in NAMES)


def test_partitions_by_name_come_from_the_mirror_to_where_check_data_looks(
    command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {}
    for number, partition in enumerate(("2/frame/validate", "3/frame/test")):
        video = make_video(number, 30, (3,))
        payload = context_field(context_entries(video)) + lists_field(list_entries(video))
        shards[partition] = {f"part{number:02d}.tfrecord": framed(payload)}
        server.serve(f"/{partition}", shards[partition])
    monkeypatch.setenv("http_proxy", server.url)  # through which it serves any host
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    data_dir = tmp_path / "data"
    outcome = command("download", "--plan", *shards, "--mirror", "asia", "--data-dir", data_dir, "--list")
    assert "http://asia.data.yt8m.org/2/frame/validate/part00.tfrecord" in outcome.out
    assert command("download", "--plan", *shards, "--data-dir", data_dir).status == 0
    assert found(data_dir / "video" / "valid") == shards["2/frame/validate"]
    assert found(data_dir / "segment" / "test") == shards["3/frame/test"]
    outcome = command("check_data", "--data-dir", data_dir)
    assert outcome.status == 0 and "no damage" in outcome.out, outcome


def test_a_plan_on_disk_and_shards_elsewhere(command: Command, server: Server, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({name: md5(content).upper() for name, content in FILES.items()}), encoding="utf-8")
    base = ("--base-url", f"{server.url}/2/frame/train")
    arguments = ("download", "--plan", plan, "--data-dir", tmp_path / "data", "--shards", "1/3")
    assert_refused(command(*arguments, *base), "plan.json", "--to")
    assert_refused(command(*arguments, "--to", tmp_path / "shards"), "plan.json", "--base-url")
    assert command(*arguments, *base, "--to", tmp_path / "shards").status == 0
    assert found(tmp_path / "shards") == {name: FILES[name] for name in (NAMES[1], NAMES[4])}


def test_the_vocabulary(command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "VOCABULARY_URL", f"{server.url}/vocabulary.csv")
    arguments = ("download", "--vocabulary", "--data-dir", tmp_path)
    path = tmp_path / "vocabulary.csv"
    assert_refused(command(*arguments), "/vocabulary.csv", "404")
    server.files["/vocabulary.csv"] = HTML
    assert_refused(command(*arguments), "/vocabulary.csv", "Index")
    assert not path.exists()
    server.files["/vocabulary.csv"] = content = b"Index,TrainVideoCount,KnowledgeGraphId,Name\n0,1,/m/0,Caf\xc3\xa9\n"
    server.troubles["/vocabulary.csv"] = Trouble(status=503, times=1)
    assert command(*arguments).status == 0 and path.read_bytes() == content
    path.write_bytes(b"mine")
    outcome = command(*arguments)
    assert outcome.status == 0 and "left as it is" in outcome.out and path.read_bytes() == b"mine"


# --- trouble -----------------------------------------------------------------------------------------------


def test_servers_that_recover(server: Server, fetch: Fetch, tmp_path: Path, waits: list[float]) -> None:
    disturb(server, NAMES[0], status=503, times=2)
    disturb(server, NAMES[1], cut_after=300_000, times=2)
    disturb(server, NAMES[2], content=FILES[NAMES[2]][:-1] + b"?", times=1)
    disturb(server, NAMES[3], content=HTML, times=1)
    disturb(server, NAMES[4], hang_after=200_000, times=1)
    outcome = fetch("--timeout", 2, "--retries", 2)
    assert outcome.status == 0, outcome
    assert found(tmp_path / "shards") == FILES
    assert server.asked_for(NAMES[0]) == [None] * 3
    begun = [int(str(span).removeprefix("bytes=").rstrip("-")) for span in server.asked_for(NAMES[1])[1:]]
    assert 0 < begun[0] <= 300_000 and begun[0] < begun[1] <= 600_000
    assert server.asked_for(NAMES[2]) == [None, None] and server.asked_for(NAMES[3]) == [None, None]
    assert server.asked_for(NAMES[4])[0] is None and server.asked_for(NAMES[4])[1] is not None
    for what in ("503 Service Unavailable", "the connection was cut", "wrong MD5", "HTML page", "nothing came for 2 s"):
        assert what in outcome.err, outcome.err
    assert len(waits) == 7 and all(0.5 <= seconds <= 2 for seconds in waits) and len(set(waits)) > 1


def test_servers_that_do_not(server: Server, fetch: Fetch, tmp_path: Path, waits: list[float]) -> None:
    """One failure does not keep the other shards from coming, and each is named."""
    disturb(server, NAMES[0], status=500)
    disturb(server, NAMES[1], content=HTML)
    disturb(server, NAMES[2], content=b"something else")
    disturb(server, NAMES[3], status=403)
    del server.files[f"/2/frame/train/{NAMES[4]}"]
    outcome = fetch("--retries", 3)
    assert outcome.status == 1 and "0 were there, 1 fetched, 5 failed" in outcome.out
    assert found(tmp_path / "shards") == {NAMES[5]: FILES[NAMES[5]]}
    lines = outcome.out.splitlines()[-5:]
    reasons = ("500 Internal Server Error, after 4", "an HTML page", "wrong MD5", "403 Forbidden", "404 Not Found")
    for name, line, why in zip(NAMES, lines, reasons):
        assert line.startswith(f"{server.url}/2/frame/train/{name}: ") and why in line
    assert [len(server.asked_for(name)) for name in NAMES] == [4, 4, 4, 1, 1, 1]
    assert len(waits) == 9 and max(waits) > 2
    server.troubles.clear()
    server.files[f"/2/frame/train/{NAMES[4]}"] = FILES[NAMES[4]]
    assert "1 were there, 5 fetched" in fetch().out and found(tmp_path / "shards") == FILES


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        ("999999999", 3600, 3600),
        (+500, 300, 500),
        (-500, 0, 0),
        ("soon", 0.5, 1),
    ],  # a number: so long from now
)
def test_a_server_says_how_long_to_wait(
    server: Server, fetch: Fetch, waits: list[float], text: str | int, least: float, most: float
) -> None:
    if isinstance(text, int):
        text = formatdate(time.time() + text, usegmt=True)
    disturb(server, NAMES[0], status=429, headers={"Retry-After": text}, times=1)
    assert fetch("--shards", "0").status == 0
    assert len(waits) == 1 and least <= waits[0] <= most


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"", {}),
        (FILES[NAMES[0]][:123_456], {}),
        (FILES[NAMES[0]], {}),
        (FILES[NAMES[0]][:123_456], {"ignore_range": True}),
        (FILES[NAMES[0]][:123_456], {"shift_range": 5}),
        (FILES[NAMES[0]] + b"more", {}),
        (b"other" * 100, {}),
    ],
)
def test_what_was_broken_off(server: Server, fetch: Fetch, tmp_path: Path, start: bytes, what: dict[str, Any]) -> None:
    """A part is gone on with or, where that cannot be, begun anew."""
    partial = tmp_path / "shards" / f"{NAMES[0]}.partial"
    partial.parent.mkdir()
    partial.write_bytes(start)
    disturb(server, NAMES[0], **what)
    assert fetch("--shards", "0").status == 0
    assert found(tmp_path / "shards") == {NAMES[0]: FILES[NAMES[0]]}
    if FILES[NAMES[0]].startswith(start) and not what:
        assert server.sent[f"/2/frame/train/{NAMES[0]}"] == len(FILES[NAMES[0]]) - len(start)


def test_a_login_page_does_not_cost_what_was_there(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    partial = tmp_path / "shards" / f"{NAMES[0]}.partial"
    partial.parent.mkdir()
    partial.write_bytes(FILES[NAMES[0]][:500_000])
    disturb(server, NAMES[0], content=HTML, ignore_range=True)
    outcome = fetch("--shards", "0", "--retries", 0)
    assert outcome.status == 1 and "an HTML page came in its place" in outcome.out
    assert partial.read_bytes() == FILES[NAMES[0]][:500_000]


def test_a_connection_that_always_breaks_still_gets_there(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    """Attempts that bring something are not counted."""
    content = os.urandom(1 << 23)
    server.serve("/2/frame/train", {NAMES[0]: content})
    disturb(server, NAMES[0], cut_after=(1 << 20) + (1 << 18))
    outcome = fetch("--retries", 1)
    assert outcome.status == 0, outcome
    assert found(tmp_path / "shards") == {NAMES[0]: content} and len(server.asked_for(NAMES[0])) > 5
    (tmp_path / "shards" / NAMES[0]).unlink()
    disturb(server, NAMES[0], cut_after=(1 << 20) + (1 << 18), ignore_range=True)
    assert fetch("--retries", 1).status == 1  # and those that only bring the same again are


@pytest.mark.parametrize(
    ("location", "why"),
    [("LOOP", "redirects"), ("ftp://127.0.0.1/x", "no address of http"), ("file:///etc/passwd", "no")],
)
def test_redirects_that_lead_nowhere(server: Server, fetch: Fetch, location: str, why: str) -> None:
    url = f"{server.url}/2/frame/train/{NAMES[0]}"
    disturb(server, NAMES[0], status=302, headers={"Location": url if location == "LOOP" else location})
    outcome = fetch("--shards", "0")
    assert outcome.status == 1 and outcome.out.splitlines()[-1].startswith(f"{url}: ") and why in outcome.out


def test_a_redirect_is_followed(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.files["/moved"] = FILES[NAMES[0]]
    disturb(server, NAMES[0], status=302, headers={"Location": "/moved"})
    partial = tmp_path / "shards" / f"{NAMES[0]}.partial"
    partial.parent.mkdir()
    partial.write_bytes(FILES[NAMES[0]][:500_000])
    assert fetch("--shards", "0").status == 0
    assert found(tmp_path / "shards") == {NAMES[0]: FILES[NAMES[0]]} and server.sent["/moved"] == 100_000


def test_nobody_listens(command: Command, tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url
    outcome = command("download", "--plan", f"{url}/plan.json", "--to", tmp_path / "shards", "--data-dir", tmp_path)
    assert_refused(outcome, f"{url}/plan.json: Connection refused, after 6 attempts")
    assert not list(tmp_path.iterdir())


def test_sizes_that_the_server_does_not_tell(fetch: Fetch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Progress counts shards then; where sizes are known, bytes, never more than are expected."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    outcome = fetch("--shards", "0-1", "--jobs", 1)
    assert "downloading: 600000 of 1200000, " in outcome.err and "bytes/s" in outcome.err
    assert "of 1200000" in outcome.err.splitlines()[-1] and "1201000" not in outcome.err
    monkeypatch.setattr(Handler, "do_HEAD", lambda self: self.send_error(405))
    outcome = fetch("--jobs", 1)
    assert outcome.status == 0 and "downloading: 4 of 4, " in outcome.err and "bytes/s" not in outcome.err
    assert found(tmp_path / "shards") == FILES


def test_too_little_space_is_said_before(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1_000_000))
    outcome = fetch()
    assert "about 3.6 MB are to come, and 1.0 MB are free; it will not fit" in outcome.err
    assert "6 fetched" in outcome.out and "will not fit" not in fetch("--verify").err


def test_a_full_disk_ends_it_and_keeps_what_was_fetched(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))  # a write that fails as on a full disk
    try:
        outcome = fetch("--jobs", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_refused(outcome, f"{NAMES[0]}.partial: File too large", "the same command again")
    assert [name for name in NAMES if server.asked_for(name)] == NAMES[:1]
    assert (tmp_path / "shards" / f"{NAMES[0]}.partial").read_bytes() == FILES[NAMES[0]][:400_000]
    assert fetch().status == 0 and server.asked_for(NAMES[0]) == [None, "bytes=400000-"]
    assert found(tmp_path / "shards") == FILES


def test_one_download_at_a_time(fetch: Fetch, tmp_path: Path) -> None:
    with fetching.claimed(tmp_path / "shards"):
        assert_refused(fetch(), "shards: another download", "wait")
    assert fetch().status == 0


def test_a_file_system_that_does_not_know_case(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.serve("/2/frame/train", {"trainAa.tfrecord": b"1", "trainaA.tfrecord": b"2"})
    (tmp_path / "shards").mkdir()
    lock = tmp_path / "shards" / ".DOWNLOAD.LOCK"
    lock.touch()  # what such a system would find under this name
    assert_refused(fetch(), "2 shards would become 1 files")
    lock.unlink()
    assert fetch().status == 0 and len(found(tmp_path / "shards")) == 2


def test_a_folder_in_the_place_of_a_shard(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "shards" / NAMES[0]).mkdir(parents=True)
    assert_refused(fetch(), NAMES[0], "expected a file")


# --- interrupted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_an_interrupted_download_goes_on_where_it_was(
    server: Server, fetch: Fetch, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    half = 1 << 18
    disturb(server, NAMES[0], hang_after=half, times=1)
    disturb(server, NAMES[1], hang_after=half, times=1)
    arguments = ("--plan", f"{server.url}{PLAN}", "--data-dir", tmp_path / "data", "--to", tmp_path / "shards")
    command = [sys.executable, "-m", "yt8m.download", *map(str, arguments), "--jobs", "2", "--timeout", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        partials = [tmp_path / "shards" / f"{name}.partial" for name in NAMES[:2]]
        while not all(path.exists() and path.stat().st_size == half for path in partials):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == status and not errors, errors
    assert {path.name for path in (tmp_path / "shards").glob("*.tfrecord*")} == {path.name for path in partials}
    assert fetch().status == 0
    assert found(tmp_path / "shards") == FILES
    for name in NAMES[:2]:
        assert server.asked_for(name) == [None, f"bytes={half}-"]
    assert {name: server.sent[f"/2/frame/train/{name}"] for name in NAMES} == {
        name: len(content) for name, content in FILES.items()
    }


# --- plans -------------------------------------------------------------------------------------------------


BAD_NAMES = (
    "../up.tfrecord",
    "/etc/x.tfrecord",
    "a/b.tfrecord",
    "a\\b.tfrecord",
    "C:x.tfrecord",
    "..",
    "",
    ".hidden.tfrecord",
    ".tfrecord",
    "line\n.tfrecord",
    "a.tfrecord\n",
    "\u202e.tfrecord",
    "nul\0.tfrecord",
    "x.sh",
    "-rf.tfrecord",
    f"{'x' * 300}.tfrecord",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_hostile_plan_writes_nothing(server: Server, fetch: Fetch, tmp_path: Path, name: str) -> None:
    server.files[PLAN] = json.dumps({"files": {NAMES[0]: md5(FILES[NAMES[0]]), name: md5(b"")}}).encode()
    assert_refused(fetch(), "download_plan.json: file name", "plain name")
    assert not list(tmp_path.iterdir()) and len(server.asked) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (HTML, "an HTML page"),
        (b"", "not a plan file"),
        (b"\xff\xfe", "not a plan file"),
        (b"[" * 100_000, "not a plan file"),
        (b"{}", "a mapping of file names"),
        (b'{"files": []}', "a mapping of file names"),
        (b"[1, 2]", "a mapping of file names"),
        (b'{"a.tfrecord": 5}', "a.tfrecord: expected an MD5"),
        (b'{"a.tfrecord": "d41d8cd98f00b204e9800998ecf8427"}', "a.tfrecord: expected an MD5"),
        (b'{"a.tfrecord": "d41d8cd98f00b204e9800998ecf8427e", "a.tfrecord": ""}', "a name comes twice"),
        (b" " * 300_001, "more than 300,000 bytes"),
    ],
    ids=range(11),
)
def test_what_is_no_plan(
    command: Command,
    server: Server,
    fetch: Fetch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    why: str,
) -> None:
    monkeypatch.setattr(fetching, "PLAN_BYTES", 300_000)
    server.files[PLAN] = content
    assert_refused(fetch(), "download_plan.json", why)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    where = ("--to", tmp_path / "shards", "--base-url", server.url, "--data-dir", tmp_path)
    assert_refused(command("download", "--plan", path, *where), "plan.json", why)


TEXTS = st.text(max_size=20) | st.text("aZ9_.-/", max_size=20)


@settings(deadline=None)
@given(st.dictionaries(TEXTS | TEXTS.map(lambda text: f"{text}.tfrecord"), st.just("0" * 32), max_size=3))
def test_names_that_a_plan_gets_through_stay_in_the_folder(files: dict[str, str]) -> None:
    try:
        plan = parse_plan(json.dumps({"files": files}).encode(), "plan")
    except UserError:
        return
    assert list(plan) == sorted(files)
    for name in plan:
        path = Path("/folder") / name
        assert path.parent == Path("/folder") == Path(os.path.normpath(path)).parent and name.isprintable()
        assert name.isascii() and len(name) <= 200 and path.suffix == ".tfrecord" and not name.startswith(("-", "."))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 50))
def test_shares_are_disjoint_and_complete(n_names: int, step: int) -> None:
    names = [f"{number:03d}" for number in range(n_names)]
    shares = [parse_selection(f"{start}/{step}").of(names, "plan") for start in range(step)]
    assert sorted(name for share in shares for name in share) == names
    assert all(share == sorted(share) for share in shares)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), min_size=1, max_size=5))
def test_ranges_are_what_they_say(ranges: list[list[int]]) -> None:
    names = [f"{number:03d}" for number in range(50)]
    text = ",".join(f"{first}-{last}" if first < last else str(first) for first, last in ranges)
    selection = parse_selection(text)
    if max(last for _, last in ranges) >= 50:
        with pytest.raises(UserError, match="numbered 0 to 49"):
            selection.of(names, "plan")
    else:
        expected = [name for row, name in enumerate(names) if any(first <= row <= last for first, last in ranges)]
        assert selection.of(names, "plan") == expected


def test_all_shards_by_default() -> None:
    assert Selection().of(NAMES, "plan") == NAMES


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ("nothing to download",)),
        (("--plan", "4/frame/train"), ("4/frame/train", "2/frame/train", "URL")),
        (("--plan", "2/frame/train", "3/frame/test", "--to", "x"), ("--to", "single")),
        (("--plan", "ftp://host/plan.json", "--to", "x"), ("ftp://host", "http://")),
        (("--plan", "http://:80/plan.json", "--to", "x"), ("http://:80", "host")),
        (("--plan", "http://host:x/plan.json", "--to", "x"), ("http://host:x", "host")),
        (("--plan", "http://me:secret@host/plan.json", "--to", "x"), ("~/.netrc",)),
        (("--plan", "2/frame/train", "2/frame/train"), ("2/frame/train", "more than once")),
        (("--plan", "2/frame/train", "--mirror", "mars"), ("--mirror", "mars")),
        *(
            (("--shards", text), ("--shards", text))
            for text in ("9-3", "all", "5/5", "1/0", "0-", "0,,1", "\u0663", "")
        ),
        *((("--timeout", text), ("--timeout", text)) for text in ("0", "inf", "nan", "soon", "86401")),
    ],
)
def test_mistakes(command: Command, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]) -> None:
    outcome = command("download", *options, "--data-dir", tmp_path)
    assert_refused(outcome, *parts)
    assert "secret" not in outcome.err and not list(tmp_path.iterdir())


def test_shards_beyond_the_plan(fetch: Fetch, tmp_path: Path) -> None:
    assert_refused(fetch("--shards", "4-6"), "6 shards, numbered 0 to 5; found 6")
    assert_refused(fetch("--shards", "7/9"), "6 shards, and none of them is chosen")
    assert not list(tmp_path.iterdir())
