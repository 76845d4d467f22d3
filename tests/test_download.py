"""`download`, against a local server with the data set's layout that misbehaves in the usual ways."""

import argparse
import dataclasses
import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helperbot.files import locked
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from tests.shards import context_entries, context_field, list_entries, lists_field, make_video
from yt8m import download
from yt8m.common import progress
from yt8m.common.errors import UserError
from yt8m.data import downloads
from yt8m.data.downloads import parse_plan
from yt8m.data.partitions import N_SHARDS, official_name, server_name, shard_number
from yt8m.data.records import framed, stamp_of
from yt8m.download import parse_selection

Command = Callable[..., Outcome]
PIECE = 1 << 16  # of what the server sends
PLAN = "data.yt8m.org/2/download_plans/frame_validate.json"
SITE = "us.data.yt8m.org/2/frame/validate"
STORAGE = "storage.googleapis.com/us.data.yt8m.org/2/frame/validate"
SERVER_NAMES = [f"validatea{letter}.tfrecord" for letter in "abcdef"]
NAMES = [f"validate{number:04d}.tfrecord" for number in range(6)]
CONTENTS = [(name.encode() * 60_000)[: 600_000 + 1000 * row] for row, name in enumerate(NAMES)]
FILES = dict(zip(NAMES, CONTENTS))
HTML = b"<!DOCTYPE html><html>Please log in to the wireless network</html>"
NO_SUCH_KEY = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code>"
    b"<Message>The specified key does not exist.</Message></Error>"
)


def md5(content: bytes) -> str:
    """What a plan says of a file."""
    return hashlib.md5(content).hexdigest()


def plan_of(files: dict[str, bytes], stem: str = "") -> bytes:
    """A plan of these files, by server's names; with a stem, among all shards of its partition."""
    others = {server_name(f"{stem}{number:04d}.tfrecord"): "0" * 32 for number in range(N_SHARDS if stem else 0)}
    return json.dumps({"files": others | {name: md5(content) for name, content in files.items()}}).encode()


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
    """Serves `files` by host and path, with the `troubles` of some, for other addresses what the storage says there.

    Knows what it was asked for, and what it has sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, Trouble] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, address, range
        self.sent: Counter[str] = Counter()
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what is tested."""

    def serve(self, partition: str, files: dict[str, bytes], mirror: str = "us") -> None:
        """Serve these files, by server's names, as shards of a partition."""
        release, _, split = partition.split("/")
        self.files[f"data.yt8m.org/{release}/download_plans/frame_{split}.json"] = plan_of(files, split)
        self.files |= {f"{mirror}.data.yt8m.org/{partition}/{name}": content for name, content in files.items()}

    def asked_for(self, name: str) -> list[str | None]:
        """The ranges of the requests for a file, in their order."""
        return [span for method, address, span in self.asked if method == "GET" and address.endswith(f"/{name}")]

    def disturb(self, row: int, site: str = SITE, **what: Any) -> None:
        """Misbehave for a shard."""
        self.troubles[f"{site}/{SERVER_NAMES[row]}"] = Trouble(**what)


class Handler(BaseHTTPRequestHandler):
    """An answer, or what goes for one."""

    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:  # pylint: disable=invalid-name
        """The size of a file."""
        self.do_GET()

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """A file, its rest, or trouble."""
        server, span = self.server, self.headers.get("Range")
        assert self.path.startswith("http://"), self.path  # what a proxy is asked for
        address = self.path.removeprefix("http://")
        server.asked.append((self.command, address, span))
        trouble = server.troubles.get(address, Trouble())
        if self.command == "GET":
            trouble.times -= 1
        if trouble.times < 0:
            trouble = Trouble()
        content = server.files.get(address) if trouble.content is None else trouble.content
        if content is None or trouble.status != 200:
            self.send_response(404 if content is None else trouble.status)
            body = NO_SUCH_KEY if content is None else b""
            for name, value in {"Content-Length": str(len(body)), **trouble.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")
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
            self._send(address, content[start:], trouble)

    def _send(self, address: str, content: bytes, trouble: Trouble) -> None:
        ends = [end for end in (trouble.cut_after, trouble.hang_after) if end is not None]
        content = content[: min(ends, default=len(content))]
        for begin in range(0, len(content), PIECE):
            piece = content[begin : begin + PIECE]
            self.wfile.write(piece)
            self.server.sent[address] += len(piece)
        if trouble.hang_after is not None:
            self.server.closing.wait(20)
        if ends:
            self.close_connection = True


@pytest.fixture(name="server")
def fixture_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The data set's servers, behind a proxy, with the first six shards of 2/frame/validate."""
    with Server() as server:
        server.serve("2/frame/validate", dict(zip(SERVER_NAMES, CONTENTS)))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("http_proxy", server.url)
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(name="waits", autouse=True)
def fixture_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits for a new attempt, but how long it would have been is kept. No proxy but the tests' own."""
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", types.SimpleNamespace(time=time.time, sleep=waits.append))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return waits


Fetch = Callable[..., Outcome]


@pytest.fixture(name="fetch")
def fixture_fetch(command: Command, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Fetch:
    """Download the server's shards to `data/video/valid`; what is logged is put before what is on standard error."""
    assert server.files
    caplog.set_level(logging.INFO)

    def call(*options: object) -> Outcome:
        caplog.clear()
        arguments = ("--plan", "2/frame/validate", "--shards", "0-5", "--data-dir", tmp_path / "data", *options)
        outcome = command("download", *arguments)
        return outcome._replace(err=caplog.text + outcome.err)

    return call


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    """Where the shards go, made already."""
    folder = tmp_path / "data" / "video" / "valid"
    folder.mkdir(parents=True)
    return folder


def shard_of(payload: bytes) -> bytes:
    """A shard of one record."""
    return b"".join(framed(payload))


def found(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".download.lock"}


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """Status 2 and one last line with these parts."""
    last = outcome.err.splitlines()[-1]
    assert outcome.status == 2 and "Traceback" not in outcome.err and "error:" in last, outcome
    for part in parts:
        assert part in last, last


# --- names and numbers -------------------------------------------------------------------------------------


@given(st.integers(0, N_SHARDS - 1), st.sampled_from(["train", "validate", "test"]))
def test_names_and_numbers_of_shards_belong_together(number: int, stem: str) -> None:
    official = f"{stem}{number:04d}.tfrecord"
    on_server = server_name(official)
    assert on_server.startswith(stem) and len(on_server) == len(stem) + 2 + len(".tfrecord")
    assert official_name(on_server) == official == official_name(official) and server_name(on_server) == on_server
    assert shard_number(on_server) == shard_number(official) == number


def test_every_shard_has_names_of_its_own() -> None:
    names = [server_name(f"train{number:04d}.tfrecord") for number in range(N_SHARDS)]
    assert len(set(names)) == N_SHARDS == 3844
    assert names[0] == "trainaa.tfrecord" and names[3] == "trainad.tfrecord" and names[-1] == "train99.tfrecord"
    assert official_name("validate0d.tfrecord") == "validate3227.tfrecord"
    for other in ("train3844.tfrecord", "mine.tfrecord", "trainabc.tfrecord", "trainaa.tfrecord.partial"):
        assert shard_number(other) is None and server_name(other) == other == official_name(other)


# --- what is fetched ---------------------------------------------------------------------------------------


def test_shards_come_from_the_real_addresses_once(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "video" / "valid"
    outcome = fetch("--shards", "0-3")
    assert outcome.status == 0 and f"{folder}: 4 shards, 0 were there, 4 fetched\n" in outcome.out, outcome
    assert found(folder) == {name: FILES[name] for name in NAMES[:4]}
    asked = [("GET", PLAN, None), ("HEAD", f"{SITE}/validateaa.tfrecord", None)]
    asked += [("GET", f"{SITE}/validatea{letter}.tfrecord", None) for letter in "abcd"]
    assert server.asked[:2] == asked[:2] and Counter(server.asked) == Counter(asked)
    server.asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(downloads.hashlib, "file_digest", None)  # reading a file would fail
        outcome = fetch("--shards", "0-3")
    assert outcome.status == 0 and "4 were there, 0 fetched" in outcome.out
    assert server.asked == [("GET", PLAN, None)]
    outcome = fetch("--shards", "0-3", "--verify")
    assert "verifying 4 existing files" in outcome.err and "4 were there, 0 fetched" in outcome.out


def test_shards_under_their_servers_names_are_recognized(server: Server, fetch: Fetch, folder: Path) -> None:
    for name, content in zip(SERVER_NAMES[:3], CONTENTS):
        (folder / name).write_bytes(content)
    (folder / SERVER_NAMES[3]).write_bytes(b"broken off")
    (folder / NAMES[0]).write_bytes(CONTENTS[0])
    (folder / NAMES[1]).write_bytes(b"mine")
    outcome = fetch("--shards", "0-3")
    assert outcome.status == 0 and "3 were there, 1 fetched" in outcome.out, outcome
    assert (
        f"{folder / SERVER_NAMES[0]}: a duplicate of {NAMES[0]}, which other commands refuse; delete it" in outcome.err
    )
    assert [name for name in SERVER_NAMES if server.asked_for(name)] == [SERVER_NAMES[3]]
    there = dict(zip(SERVER_NAMES[:3], CONTENTS)) | {NAMES[0]: CONTENTS[0], NAMES[3]: CONTENTS[3]}
    aside = {f"{NAMES[1]}.replaced": b"mine", f"{SERVER_NAMES[3]}.replaced": b"broken off"}
    assert found(folder) == there | aside and all(name in outcome.out for name in aside)
    (folder / SERVER_NAMES[0]).unlink()
    outcome = fetch("--shards", "0-3")
    assert (
        "4 were there, 0 fetched" in outcome.out and "duplicate" not in outcome.err and "verifying" not in outcome.err
    )


def test_names_that_differ_only_in_case_become_files_that_do_not(server: Server, fetch: Fetch, folder: Path) -> None:
    files = {"validateaB.tfrecord": b"1", "validateAb.tfrecord": b"2", "validateAB.tfrecord": b"3"}
    server.serve("2/frame/validate", files)
    (folder / "validateaB.tfrecord").write_bytes(b"1")
    assert fetch("--shards", ",".join(str(shard_number(name)) for name in files)).status == 0
    assert found(folder) == {"validateaB.tfrecord": b"1", "validate1613.tfrecord": b"2", "validate1639.tfrecord": b"3"}


def test_files_that_somebody_else_has_put_there_are_read_and_kept(
    server: Server, fetch: Fetch, folder: Path, tmp_path: Path
) -> None:
    (folder / NAMES[0]).write_bytes(FILES[NAMES[0]])
    (folder / NAMES[1]).write_bytes(b"mine")
    target = tmp_path / "elsewhere"
    target.write_bytes(b"behind a link")
    (folder / NAMES[2]).symlink_to(target)
    outcome = fetch("--list")
    assert "3 are there and to be verified, 3 are to fetch" in outcome.out and not (tmp_path / "data/cache").exists()
    outcome = fetch()
    assert outcome.status == 0 and "1 were there, 5 fetched" in outcome.out
    assert not server.asked_for(SERVER_NAMES[0])
    assert f"{folder / NAMES[1]}.replaced" in outcome.out and "2 files" in outcome.out
    aside = {f"{NAMES[1]}.replaced": b"mine", f"{NAMES[2]}.replaced": b"behind a link"}
    assert found(folder) == FILES | aside and target.read_bytes() == b"behind a link"
    (folder / NAMES[1]).write_bytes(b"mine again")
    assert fetch().status == 0
    assert found(folder) == FILES | aside | {f"{NAMES[1]}.replaced-2": b"mine again"}


def test_damage_since_the_download_is_found(fetch: Fetch, folder: Path, tmp_path: Path) -> None:
    fetch()
    path = folder / NAMES[3]
    stat = path.stat()
    damaged = b"x" + FILES[NAMES[3]][1:]
    path.write_bytes(damaged)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "5 were there, 1 fetched" in fetch().out
    assert path.read_bytes() == FILES[NAMES[3]]
    path.write_bytes(damaged)
    (record,) = (tmp_path / "data" / "cache" / "downloads").iterdir()
    remembered = json.loads(record.read_text(encoding="utf-8"))
    remembered["files"][NAMES[3]][:-1] = stamp_of(path.stat())  # as of a disk that errs: nothing shows from outside
    record.write_text(json.dumps(remembered), encoding="utf-8")
    assert "6 were there" in fetch().out
    assert "5 were there, 1 fetched" in fetch("--verify").out
    assert path.read_bytes() == FILES[NAMES[3]]


def test_an_unreadable_record_is_ignored(fetch: Fetch, tmp_path: Path) -> None:
    fetch()
    (record,) = (tmp_path / "data" / "cache" / "downloads").iterdir()
    for content in ("{", "[]", '{"version": 2, "files": {"a": 1}}', '{"version": 2, "files": [1]}'):
        record.write_text(content, encoding="utf-8")
        outcome = fetch()
        assert outcome.status == 0 and str(record) in outcome.err and "6 were there" in outcome.out


def test_a_file_that_cannot_be_read(fetch: Fetch, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (folder / NAMES[0]).write_bytes(b"on a bad disk")
    monkeypatch.setattr(downloads.hashlib, "file_digest", fail)
    assert_refused(fetch(), f"{folder / NAMES[0]}: Input/output error", "move it away")


def test_list_fetches_nothing(server: Server, fetch: Fetch, folder: Path) -> None:
    fetch("--shards", "0-1")
    (folder / f"{NAMES[2]}.partial").write_bytes(FILES[NAMES[2]][:1000])
    before, server.asked = found(folder), []
    outcome = fetch("--list", "--shards", "0-3")
    assert outcome.status == 0
    first, *names = outcome.out.splitlines()
    assert "4 shards; 2 are there, 0 are there and to be verified, 2 are to fetch, about 1.2 MB, 1 of them" in first
    assert names == [f"  http://{SITE}/{SERVER_NAMES[row]} -> {NAMES[row]}" for row in (2, 3)]
    assert found(folder) == before and not any(server.asked_for(name) for name in SERVER_NAMES)


def test_partitions_by_name_come_from_the_mirror_to_where_check_data_looks(
    command: Command, server: Server, tmp_path: Path
) -> None:
    contents = {}
    for number, (partition, name) in enumerate({"2/frame/validate": "validateaf", "3/frame/test": "testaf"}.items()):
        video = make_video(number, 30, (3,))
        payload = context_field(context_entries(video)) + lists_field(list_entries(video))
        contents[partition] = shard_of(payload)
        server.serve(partition, {f"{name}.tfrecord": contents[partition]}, "eu")
    data_dir = tmp_path / "data"
    arguments = ("download", "--plan", *contents, "--shards", "5", "--mirror", "eu", "--data-dir", data_dir)
    outcome = command(*arguments, "--list")
    assert "http://eu.data.yt8m.org/3/frame/test/testaf.tfrecord -> test0005.tfrecord" in outcome.out
    assert command(*arguments).status == 0
    assert found(data_dir / "video" / "valid") == {"validate0005.tfrecord": contents["2/frame/validate"]}
    assert found(data_dir / "segment" / "test") == {"test0005.tfrecord": contents["3/frame/test"]}
    outcome = command("check_data", "--data-dir", data_dir)
    assert outcome.status == 0 and "no damage" in outcome.out, outcome


@pytest.mark.usefixtures("server")
def test_an_official_plan_by_its_address_is_its_partition(command: Command, tmp_path: Path) -> None:
    plan = "http://data.yt8m.org/2/download_plans/frame_validate.json"
    outcome = command("download", "--plan", plan, "--shards", "0-1", "--data-dir", tmp_path, "--mirror", "us")
    assert outcome.status == 0, outcome
    assert set(found(tmp_path / "video" / "valid")) == {"validate0000.tfrecord", "validate0001.tfrecord"}


def test_a_partition_that_no_command_needs(command: Command, server: Server, tmp_path: Path) -> None:
    server.serve("2/frame/test", {"testaa.tfrecord": b"1"})
    arguments = ("download", "--plan", "2/frame/test", "--shards", "0", "--data-dir", tmp_path / "data")
    assert_refused(command(*arguments), "2/frame/test", "--to")
    assert command(*arguments, "--to", tmp_path / "shards").status == 0
    assert found(tmp_path / "shards") == {"test0000.tfrecord": b"1"}


def test_the_vocabularies(command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "VOCABULARY_URL", "http://research.google.com/youtube8m/csv/")  # not by https
    arguments = ("download", "--vocabulary", "--data-dir", tmp_path)
    all_labels, rated_labels = tmp_path / "vocabulary.csv", tmp_path / "segment_vocabulary.csv"
    addresses = [f"research.google.com/youtube8m/csv/{name}/vocabulary.csv" for name in ("2", "segments")]
    assert_refused(command(*arguments), addresses[0], "404")
    outcome = command(*arguments, "--list")
    assert outcome.out == "".join(
        f"http://{a} -> {b}: to fetch\n" for a, b in zip(addresses, (all_labels, rated_labels))
    )
    bad = (b"Index,KnowledgeGraphId,Name\n", b"Index,Name\n0,a\n", b"Index,KnowledgeGraphId,Name\n-1,/m/0,a\n")
    for content in (*bad, b"Index,KnowledgeGraphId,Name\n0,/m/0,caf\xe9\n"):
        server.files[addresses[0]] = content
        assert_refused(command(*arguments), addresses[0], "Index, KnowledgeGraphId, Name")
    server.files[addresses[0]] = HTML
    assert_refused(command(*arguments), addresses[0], "HTML or XML page")
    assert not list(tmp_path.iterdir())
    server.files[addresses[0]] = content = b"Index,TrainVideoCount,KnowledgeGraphId,Name\n0,1,/m/0,Caf\xc3\xa9\n"
    server.troubles[addresses[0]] = Trouble(status=503, times=1)
    for bad_labels in (b"Index\n3\n3\n", b"Index\nthree\n", b"Label\n3\n", b"Index,Name\n3,a\n\n,b\n"):
        server.files[addresses[1]] = bad_labels
        assert_refused(command(*arguments), addresses[1], "different numbers of at least 0")
    assert all_labels.read_bytes() == content and not rated_labels.exists()
    server.files[addresses[1]] = rated = b"Index,Name\r\n7,a\r\n3,b\r\n"
    outcome = command(*arguments)
    assert outcome.status == 0 and f"{all_labels}: exists; left as it is" in outcome.out
    assert rated_labels.read_bytes() == rated
    rated_labels.write_bytes(b"mine")
    assert command(*arguments).status == 0 and rated_labels.read_bytes() == b"mine"


# --- which shards ------------------------------------------------------------------------------------------


def chosen(outcome: Outcome) -> list[str]:
    """The server's names of the shards that a download would fetch, in its order."""
    assert outcome.status == 0, outcome
    lines = [line.split() for line in outcome.out.splitlines()[1:]]
    assert all(official_name(address.rpartition("/")[2]) == name for address, _, name in lines)
    return [address.rpartition("/")[2] for address, _, _ in lines]


ALL = [server_name(f"validate{number:04d}.tfrecord") for number in range(N_SHARDS)]


@pytest.mark.parametrize("text", ["1,1", "5,7", "7,7", "1,100", "64,100", "3,3844"])
def test_shares_as_the_organizers_script_has_them(fetch: Fetch, text: str) -> None:
    part, parts = map(int, text.split(","))
    expected = [name for name in ALL if int(hashlib.md5(name.encode()).hexdigest(), 16) % parts == part - 1]
    if expected:
        assert chosen(fetch("--list", "--shards", text)) == expected


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5", [5]),
        ("5-5,7-7", [5, 7]),
        ("20-29,0-9", [*range(10), *range(20, 30)]),
        ("1,2,3", [1, 2, 3]),
        ("3800-3843", range(3800, 3844)),
        ("3/100", range(3, 3844, 100)),
        ("0/1", range(3844)),
    ],
)
def test_shards_by_number(fetch: Fetch, text: str, numbers: list[int]) -> None:
    assert chosen(fetch("--list", "--shards", text)) == [ALL[number] for number in numbers]


def test_nonexistent_shards_are_refused(command: Command, server: Server, fetch: Fetch, tmp_path: Path) -> None:
    assert_refused(fetch("--shards", "3840-3844"), "numbered 0 to 3843; found 3844")
    server.files[PLAN] = plan_of(dict(zip(SERVER_NAMES, CONTENTS)))
    outcome = fetch("--shards", "4-7")
    assert outcome.status == 0 and "lists only 6 of 3844 shards" in outcome.err and "2 fetched" in outcome.out
    assert_refused(fetch("--shards", "6-7"), "6 shards, and none of them is chosen")
    server.files["mirror.example/plan.json"] = plan_of({f"part{row}.tfrecord": b"" for row in range(6)})
    own = ("download", "--plan", "http://mirror.example/plan.json", "--to", tmp_path / "shards")
    assert_refused(command(*own, "--shards", "4-6"), "numbered 0 to 5; found 6")
    assert_refused(command(*own, "--shards", "7/9"), "6 shards, and none of them is chosen")
    assert not (tmp_path / "shards").exists()


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 50))
def test_shares_are_disjoint_and_complete(n_names: int, step: int) -> None:
    names = [f"{number:03d}" for number in range(n_names)]
    for texts in ([f"{start}/{step}" for start in range(step)], [f"{part + 1},{step}" for part in range(step)]):
        shares = [parse_selection(text).of(names, "plan") for text in texts]
        assert sorted(name for share in shares for name in share) == names
        assert all(share == sorted(share) for share in shares)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), min_size=1, max_size=5))
def test_ranges_are_what_they_say(ranges: list[list[int]]) -> None:
    names = [f"{number:03d}" for number in range(50)]
    selection = parse_selection(",".join(f"{first}-{last}" for first, last in ranges))
    if max(last for _, last in ranges) >= 50:
        with pytest.raises(UserError, match="numbered 0 to 49"):
            selection.of(names, "plan")
    else:
        expected = [name for row, name in enumerate(names) if any(first <= row <= last for first, last in ranges)]
        assert selection.of(names, "plan") == expected


@given(st.text("0123456789,-/ x", max_size=12))
def test_a_selection_is_understood_or_refused(text: str) -> None:
    try:
        parse_selection(text)
    except argparse.ArgumentTypeError as error:
        assert repr(text) in str(error)


# --- plans -------------------------------------------------------------------------------------------------


def test_a_plan_that_the_organizers_script_has_used_up(command: Command, server: Server, tmp_path: Path) -> None:
    plan = tmp_path / "2_frame_validate_download_plan.json"
    plan.write_bytes(plan_of({}))
    outcome = command("download", "--plan", plan, "--data-dir", tmp_path)
    (line,) = outcome.out.splitlines()
    assert outcome.status == 0 and line.startswith(f"{plan}: nothing left to fetch; ") and not server.asked
    assert "--list to count what is there" in line
    for name in ("2_frame_test_download_plan.json", "plan.json"):  # nothing goes anywhere, so that --to is not needed
        (tmp_path / name).write_bytes(plan_of({}))
        outcome = command("download", "--plan", tmp_path / name, "--data-dir", tmp_path)
        assert outcome.status == 0 and f"{name}: nothing left to fetch; " in outcome.out
    plan.write_bytes(plan_of(dict(zip(SERVER_NAMES[2:4], CONTENTS[2:]))))
    arguments = ("download", "--plan", plan, "--data-dir", tmp_path, "--to", tmp_path / "shards")
    outcome = command(*arguments, "--shards", "0-1")
    assert outcome.status == 0 and "nothing left" in outcome.out and not server.asked
    outcome = command(*arguments, "--shards", "0-2")
    assert outcome.status == 0 and found(tmp_path / "shards") == {NAMES[2]: CONTENTS[2]}
    assert_refused(command(*arguments, "--shards", "3844"), "numbered 0 to 3843")
    assert command(*arguments).status == 0
    assert found(tmp_path / "shards") == {NAMES[2]: CONTENTS[2], NAMES[3]: CONTENTS[3]}


@pytest.mark.parametrize("files", [{}, {"validateaa.tfrecord": b"1"}], ids=["used up", "not yet"])
def test_a_plan_of_the_organizers_script_for_features_of_videos(
    files: dict[str, bytes], command: Command, server: Server, tmp_path: Path
) -> None:
    plan = tmp_path / "2_video_validate_download_plan.json"
    plan.write_bytes(plan_of(files))
    for options in ((), ("--to", tmp_path / "shards"), ("--list",)):
        outcome = command("download", "--plan", plan, "--data-dir", tmp_path / "data", *options)
        assert_refused(outcome, f"--plan {plan}", "video-level features", "name 2/frame/validate")
    assert not server.asked and [path.name for path in tmp_path.iterdir()] == [plan.name]


def test_a_plan_of_the_organizers_script_goes_to_its_partition(
    command: Command, server: Server, tmp_path: Path
) -> None:
    plan = tmp_path / "2_frame_validate_download_plan.json"
    plan.write_bytes(plan_of(dict(zip(SERVER_NAMES[2:4], CONTENTS[2:]))))
    where = ("--data-dir", tmp_path / "data")
    outcome = command("download", "--plan", plan, *where)
    assert outcome.status == 0, outcome
    folder = tmp_path / "data" / "video" / "valid"
    assert found(folder) == {NAMES[2]: CONTENTS[2], NAMES[3]: CONTENTS[3]}
    assert not any(address.endswith(".json") for _, address, _ in server.asked)
    plan.write_bytes(plan_of({}))
    outcome = command("download", "--plan", plan, *where)
    assert outcome.status == 0 and "give the partition as --plan for --list to count what is there" in outcome.out
    outcome = command("download", "--plan", "2/frame/validate", "--shards", "0-3", *where, "--list")  # as it says
    assert outcome.status == 0 and "4 shards; 2 are there" in outcome.out
    other = plan.rename(tmp_path / "2_frame_test_download_plan.json")  # a partition that no command needs
    other.write_bytes(plan_of({"testaa.tfrecord": b"1"}))
    assert_refused(command("download", "--plan", other, *where), f"--plan {other}", "--to")


def test_a_plan_on_disk_and_shards_elsewhere(command: Command, server: Server, tmp_path: Path) -> None:
    contents = {f"part{row}.tfrecord": bytes([row]) for row in range(6)}
    server.files |= {f"mirror.example/x/{name}": content for name, content in contents.items()}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({name: md5(content).upper() for name, content in contents.items()}), encoding="utf-8")
    base = ("--base-url", "http://mirror.example/x")
    arguments = ("download", "--plan", plan, "--data-dir", tmp_path / "data", "--shards", "1/3")
    assert_refused(command(*arguments, *base), "plan.json", "--to")
    assert_refused(command(*arguments, "--to", tmp_path / "shards"), "plan.json", "--base-url")
    assert command(*arguments, *base, "--to", tmp_path / "shards").status == 0
    assert found(tmp_path / "shards") == {name: contents[name] for name in ("part1.tfrecord", "part4.tfrecord")}
    assert_refused(command(*arguments[:5], *base, "--to", tmp_path / "shards", "--shards", "7/9"), "none of them")


def test_a_plan_of_official_names(command: Command, server: Server, tmp_path: Path) -> None:
    server.files["mirror.example/plan.json"] = plan_of(FILES)
    server.files |= {f"mirror.example/{name}": content for name, content in FILES.items()}
    own = ("--plan", "http://mirror.example/plan.json", "--to", tmp_path / "shards", "--data-dir", tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / NAMES[1]).write_bytes(FILES[NAMES[1]])
    assert "1 were there, 1 fetched" in command("download", *own, "--shards", "1-2").out
    share = [name for name in NAMES if int(md5(server_name(name).encode()), 16) % 3 == 0]
    assert chosen(command("download", *own, "--list", "--shards", "1,3"))[-len(share) :] == [
        name for name in share if name not in NAMES[1:3]
    ]
    server.files["mirror.example/plan.json"] = plan_of(FILES | {SERVER_NAMES[0]: b""})
    assert_refused(command("download", *own), "plan.json", "its server's name and its number")


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
    server.files[PLAN] = plan_of({SERVER_NAMES[0]: b"", name: b""})
    assert_refused(fetch(), "frame_validate.json: file name", "do not use this plan")
    assert not list(tmp_path.iterdir()) and len(server.asked) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (HTML, "an HTML or XML page"),
        (NO_SUCH_KEY, "an HTML or XML page"),
        (b"", "not a plan file"),
        (b"\xff\xfe", "not a plan file"),
        (b"[" * 100_000, "not a plan file"),
        (b"{}", "a mapping of file names"),
        (b'{"files": []}', "a mapping of file names"),
        (b"[1, 2]", "a mapping of file names"),
        (b'{"a.tfrecord": 5}', "a.tfrecord: expected an MD5"),
        (b'{"a.tfrecord": "d41d8cd98f00b204e9800998ecf8427"}', "a.tfrecord: expected an MD5"),
        (b" " * 300_001, "more than 300,000 bytes"),
    ],
    ids=range(11),
)
def test_files_that_are_not_plans_are_refused(
    command: Command,
    server: Server,
    fetch: Fetch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    why: str,
) -> None:
    monkeypatch.setattr(downloads, "SMALL_BYTES", 300_000)
    server.files[PLAN] = content
    assert_refused(fetch(), "/frame_validate.json", why)
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


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ("nothing to download",)),
        (("--plan", "4/frame/train"), ("4/frame/train", "2/frame/train", "URL")),
        *(
            (("--plan", plan, *options), (f"--plan {plan}: ", "video-level features", "name 3/frame/test"))
            for plan in (
                "3/video/test",
                "http://data.yt8m.org/3/download_plans/video_test.json",
                "https://data.yt8m.org/3/download_plans/video_test.json",
            )
            for options in ((), ("--to", "x"), ("--list",))
        ),
        (("--plan", "2/frame/train", "3/frame/test", "--to", "x"), ("--to", "single")),
        (("--plan", "ftp://host/plan.json", "--to", "x"), ("ftp://host", "http://")),
        (("--plan", "http://:80/plan.json", "--to", "x"), ("http://:80", "host")),
        (("--plan", "http://host:x/plan.json", "--to", "x"), ("http://host:x", "host")),
        (("--plan", "http://me:secret@host/plan.json", "--to", "x"), ("~/.netrc",)),
        (("--plan", "2/frame/train", "--base-url", "http://me:secret@host/"), ("~/.netrc",)),
        (("--plan", "2/frame/train", "2/frame/train"), ("2/frame/train", "more than once")),
        (("--plan", "2/frame/train", "--mirror", "mars"), ("--mirror", "mars")),
        *((("--shards", text), ("--shards", text, "i from 1 to n")) for text in ("7,5", "0,5", "0,0")),
        *(
            (("--shards", text), ("--shards", text))
            for text in ("9-3", "all", "5/5", "1/0", "0-", "0,,1", "\u0663", "", "1,2.5")
        ),
        *((("--timeout", text), ("--timeout", text)) for text in ("0", "inf", "nan", "soon", "86401")),
    ],
)
def test_mistakes(command: Command, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]) -> None:
    outcome = command("download", *options, "--data-dir", tmp_path)
    assert_refused(outcome, *parts)
    assert "secret" not in outcome.err and not list(tmp_path.iterdir())


# --- trouble -----------------------------------------------------------------------------------------------


def test_servers_that_recover(server: Server, fetch: Fetch, folder: Path, waits: list[float]) -> None:
    server.files |= {f"{STORAGE}/{name}": content for name, content in zip(SERVER_NAMES, CONTENTS)}
    for site in (SITE, STORAGE):
        server.disturb(0, site, status=503, times=1)
        server.disturb(1, site, cut_after=300_000, times=1)
        server.disturb(2, site, content=FILES[NAMES[2]][:-1] + b"?", times=1)
        server.disturb(3, site, content=HTML, times=1)
    server.disturb(4, hang_after=200_000, times=1)
    outcome = fetch("--timeout", 2, "--retries", 2)
    assert outcome.status == 0, outcome
    assert found(folder) == FILES
    assert server.asked_for(SERVER_NAMES[0]) == [None] * 3
    begun = [int(str(span).removeprefix("bytes=").rstrip("-")) for span in server.asked_for(SERVER_NAMES[1])[1:]]
    assert 0 < begun[0] <= 300_000 and begun[0] < begun[1] <= 600_000
    assert server.asked_for(SERVER_NAMES[2]) == [None] * 3 == server.asked_for(SERVER_NAMES[3])
    assert server.asked_for(SERVER_NAMES[4])[0] is None and server.asked_for(SERVER_NAMES[4])[1] is not None
    for what in ("503 Service Unavailable", "IncompleteRead", "wrong MD5", "HTML or XML page", "timed out"):
        assert what in outcome.err, outcome.err
    assert len(waits) == 4 and all(2 <= seconds <= 3 for seconds in waits)  # none before the other address is asked


def test_servers_that_do_not_recover(server: Server, fetch: Fetch, folder: Path, waits: list[float]) -> None:
    """One failure does not keep the other shards from coming, and each is named."""
    for site in (SITE, STORAGE):
        server.disturb(0, site, status=500, content=b"")
        server.disturb(1, site, content=HTML)
        server.disturb(2, site, content=b"something else")
        server.disturb(3, site, status=403, content=b"")
    del server.files[f"{SITE}/{SERVER_NAMES[4]}"]
    outcome = fetch("--retries", 3)
    assert outcome.status == 1 and "0 were there, 1 fetched, 5 failed" in outcome.out
    assert found(folder) == {NAMES[5]: FILES[NAMES[5]]}
    lines = outcome.out.splitlines()[-5:]
    reasons = (
        "500 Internal Server Error",
        "an HTML or XML page",
        "wrong MD5",
        "403 Forbidden",
        "404 Not Found (NoSuchKey)",
    )
    for name, line, why in zip(SERVER_NAMES, sorted(lines, key=lambda line: line.split(": ")[0][-20:]), reasons):
        for site in (SITE, STORAGE):
            assert f"http://{site}/{name}: " in line and line.count(why) == 2
    assert [len(server.asked_for(name)) for name in SERVER_NAMES] == [4, 4, 4, 2, 2, 1]
    assert len(waits) == 6 and max(waits) > 3
    server.troubles.clear()
    server.files[f"{SITE}/{SERVER_NAMES[4]}"] = FILES[NAMES[4]]
    assert "1 were there, 5 fetched" in fetch().out and found(folder) == FILES


@pytest.mark.parametrize("status", [None, 404, 403, 500, 502, 200])
def test_the_storage_steps_in(server: Server, fetch: Fetch, folder: Path, status: int | None) -> None:
    """None: nobody listens at the first host."""
    for address in list(server.files):
        server.files[f"storage.googleapis.com/{address}"] = server.files[address]
        server.troubles[address] = (
            Trouble(cut_after=0) if status is None else Trouble(status=status, content=NO_SUCH_KEY)
        )
    outcome = fetch("--retries", 1, "--jobs", 1)
    assert outcome.status == 0, outcome
    assert found(folder) == FILES
    asked = [address for _, address, _ in server.asked]
    assert asked[:2] == [PLAN, f"storage.googleapis.com/{PLAN}"]
    assert {f"{STORAGE}/{name}" for name in SERVER_NAMES} <= set(asked)
    assert len(asked) == len(SERVER_NAMES) + 3  # that the storage answers is remembered


def test_a_host_that_refuses_connections(
    server: Server, fetch: Fetch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {f"{STORAGE}/{name}": content for name, content in zip(SERVER_NAMES, CONTENTS)}
    with Server() as closed:
        port = closed.server_address[1]
    look_up = socket.getaddrinfo

    def refuse(host: str, *rest: Any, **options: Any) -> Any:
        return look_up("127.0.0.1", port, *rest[1:], **options) if "yt8m" in host else look_up(host, *rest, **options)

    monkeypatch.setenv("no_proxy", "us.data.yt8m.org")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    outcome = fetch()
    assert outcome.status == 0 and f"{SITE}/{SERVER_NAMES[0]}: Connection refused" in outcome.err
    assert found(folder) == FILES


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("7", 7, 7), (+500, 300, 500), (-500, 2, 3), ("soon", 2, 3)],  # a number: so long from now
)
def test_a_server_says_how_long_to_wait(
    server: Server, fetch: Fetch, waits: list[float], text: str | int, least: float, most: float
) -> None:
    if isinstance(text, int):
        text = formatdate(time.time() + text, usegmt=True)
    for site in (SITE, STORAGE):
        server.disturb(0, site, status=429, content=b"", headers={"Retry-After": text}, times=1)
    outcome = fetch("--shards", "0")
    assert outcome.status == 0 and f"429 Too Many Requests, Retry-After: {text}" in outcome.err
    assert least <= waits[-1] <= most


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
def test_interrupted_downloads_resume_or_start_over(
    server: Server, fetch: Fetch, folder: Path, start: bytes, what: dict[str, Any]
) -> None:
    """A part is gone on with or, where that cannot be, begun anew."""
    (folder / f"{NAMES[0]}.partial").write_bytes(start)
    server.disturb(0, **what)
    assert fetch("--shards", "0").status == 0
    assert found(folder) == {NAMES[0]: FILES[NAMES[0]]}
    if FILES[NAMES[0]].startswith(start) and not what:
        assert server.sent[f"{SITE}/{SERVER_NAMES[0]}"] == len(FILES[NAMES[0]]) - len(start)


def test_a_login_page_does_not_cost_what_was_there(server: Server, fetch: Fetch, folder: Path) -> None:
    partial = folder / f"{NAMES[0]}.partial"
    partial.write_bytes(FILES[NAMES[0]][:500_000])
    server.disturb(0, content=HTML, ignore_range=True)
    outcome = fetch("--shards", "0", "--retries", 0)
    assert outcome.status == 1 and "an HTML or XML page came in its place" in outcome.out
    assert partial.read_bytes() == FILES[NAMES[0]][:500_000]


def test_an_unstable_connection_still_completes(server: Server, fetch: Fetch, folder: Path) -> None:
    """Attempts that bring something are not counted."""
    content = os.urandom(1 << 23)
    server.serve("2/frame/validate", {SERVER_NAMES[0]: content})
    server.disturb(0, cut_after=(1 << 20) + (1 << 18))
    outcome = fetch("--shards", "0", "--retries", 1)
    assert outcome.status == 0, outcome
    assert found(folder) == {NAMES[0]: content}
    assert sum(address.startswith(SITE) for method, address, _ in server.asked if method == "GET") > 5
    (folder / NAMES[0]).unlink()
    server.disturb(0, cut_after=(1 << 20) + (1 << 18), ignore_range=True)
    assert fetch("--shards", "0", "--retries", 1).status == 1  # and those that only bring the same again are


@pytest.mark.parametrize(
    ("location", "why"),
    [("LOOP", "30 redirects"), ("ftp://127.0.0.1/x", "ftp://127.0.0.1/x"), ("file:///etc/passwd", "file:///etc")],
)
def test_redirects_that_lead_nowhere(server: Server, fetch: Fetch, location: str, why: str) -> None:
    url = f"http://{SITE}/{SERVER_NAMES[0]}"
    server.disturb(0, status=302, headers={"Location": url if location == "LOOP" else location})
    outcome = fetch("--shards", "0")
    assert outcome.status == 1 and outcome.out.splitlines()[-1].startswith(f"{url}: ") and why in outcome.out


def test_a_redirect_is_followed(server: Server, fetch: Fetch, folder: Path) -> None:
    server.files["moved.example/x"] = FILES[NAMES[0]]
    server.disturb(0, status=302, headers={"Location": "http://moved.example/x"})
    (folder / f"{NAMES[0]}.partial").write_bytes(FILES[NAMES[0]][:500_000])
    assert fetch("--shards", "0").status == 0
    assert found(folder) == {NAMES[0]: FILES[NAMES[0]]} and server.sent["moved.example/x"] == 100_000


def test_an_unreachable_server_is_named(command: Command, tmp_path: Path, waits: list[float]) -> None:
    with Server() as closed:
        url = closed.url
    outcome = command("download", "--plan", f"{url}/plan.json", "--to", tmp_path / "shards", "--data-dir", tmp_path)
    assert_refused(outcome, f"{url}/plan.json: Connection refused")
    assert not list(tmp_path.iterdir())
    assert len(waits) == 4 and waits == sorted(waits)  # after the first failure it asks again at once


def test_sizes_that_the_server_does_not_tell(fetch: Fetch, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Progress counts shards then; where sizes are known, bytes, never more than are expected."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    outcome = fetch("--shards", "0-1", "--jobs", 1)
    assert "downloading: 600000 of 1200000, " in outcome.err and "bytes/s" in outcome.err
    assert "of 1200000" in outcome.err.splitlines()[-1] and "1201000" not in outcome.err
    monkeypatch.setattr(Handler, "do_HEAD", lambda self: self.send_error(405))
    outcome = fetch("--jobs", 1)
    assert outcome.status == 0 and "downloading: 4 of 4, " in outcome.err and "bytes/s" not in outcome.err
    assert found(folder) == FILES


def test_too_little_space_is_said_before(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1_000_000))
    outcome = fetch()
    assert "needs about 3.6 MB, but only 1.0 MB are free" in outcome.err
    assert "6 fetched" in outcome.out and "are free" not in fetch("--verify").err


def test_a_full_disk_ends_it_and_keeps_what_was_fetched(server: Server, fetch: Fetch, folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))  # a write that fails as on a full disk
    try:
        outcome = fetch("--jobs", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_refused(outcome, f"{NAMES[0]}.partial: File too large", "the same command again")
    assert [name for name in SERVER_NAMES if server.asked_for(name)] == SERVER_NAMES[:1]
    assert (folder / f"{NAMES[0]}.partial").read_bytes() == FILES[NAMES[0]][:400_000]
    assert fetch().status == 0 and server.asked_for(SERVER_NAMES[0]) == [None, "bytes=400000-"]
    assert found(folder) == FILES


def test_one_download_at_a_time(fetch: Fetch, folder: Path) -> None:
    with locked(folder / ".download.lock", UserError()):
        assert_refused(fetch(), "valid: another download", "wait")
    assert fetch().status == 0


@pytest.mark.parametrize("name", [NAMES[0], SERVER_NAMES[0]])
def test_a_folder_in_the_place_of_a_shard(fetch: Fetch, folder: Path, name: str) -> None:
    (folder / name).mkdir()
    assert_refused(fetch(), name, "expected a file")


# --- interrupted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_an_interrupted_download_goes_on_where_it_was(
    server: Server, fetch: Fetch, tmp_path: Path, folder: Path, number: signal.Signals, status: int
) -> None:
    half = 1 << 18
    server.disturb(0, hang_after=half, times=1)
    server.disturb(1, hang_after=half, times=1)
    arguments = ("--plan", "2/frame/validate", "--shards", "0-5", "--data-dir", tmp_path / "data")
    command = [sys.executable, "-m", "yt8m.download", *map(str, arguments), "--jobs", "2", "--timeout", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        partials = [folder / f"{name}.partial" for name in NAMES[:2]]
        while not all(path.exists() and path.stat().st_size == half for path in partials):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        errors = process.communicate(timeout=10)[1]
    assert process.returncode == status
    # From Python 3.14 on, multiprocessing has a process of its own that tells what a killed one has left.
    assert not errors or number == signal.SIGKILL, errors
    assert {path.name for path in folder.glob("*.tfrecord*")} == {path.name for path in partials}
    assert fetch().status == 0
    assert found(folder) == FILES
    for name in SERVER_NAMES[:2]:
        assert server.asked_for(name) == [None, f"bytes={half}-"]
    sent = {name: server.sent[f"{SITE}/{name}"] for name in SERVER_NAMES}
    assert sent == dict(zip(SERVER_NAMES, map(len, CONTENTS)))
