"""`rate`: rating in the browser by keys, in several windows, through a kill; security of the server."""

import gc
import http.client
import os
import shutil
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, BrowserContext, Page, expect

import yt8m
from tests.browser import DESKTOP, PHONE, running_browser
from tests.conftest import Outcome
from tests.films import CLOCK, regular, tone, write_film
from tests.processes import run_command, start, wait_for
from tests.shards import AUDIO, RGB, make_video, write_videos
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, small_vocabulary, video_folder
from yt8m.__main__ import main as run_yt8m
from yt8m.common.errors import UserError
from yt8m.data.index import load_index
from yt8m.data.vocabulary import read_labels, read_ratings
from yt8m.films.film_files import ids_by_name
from yt8m.rating import windows as rating_windows
from yt8m.rating.choice import TELLING_PROBABILITY, Chooser, Questions
from yt8m.rating.film_list import list_films
from yt8m.rating.predicting import SegmentJudge
from yt8m.rating.questions import Judgement, classes_of_films, list_questions, shown_names
from yt8m.rating.ratings_file import HEADER, RatedSegment, RatingsFile
from yt8m.rating.server import RatingServer
from yt8m.rating.windows import NotAskedError, RatingWindows

Command = Callable[..., Outcome]
READY = "html[data-ready=true]"
RATE = 5  # frames a second
LONG = (
    "a class whose name is long, and Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
)


def make_film(path: Path, codec: str, seconds: int) -> Path:
    """A film of plain frames, each second another colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, RATE, options={"g": "5", **options})  # quick to seek in
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(seconds * RATE):
            colour = (number // RATE * 5 % 256, 100, 50)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), colour, np.uint8), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(name="films", scope="module")
def fixture_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an H.264 film and, in a folder of it, a VP9 one."""
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "garden.mp4", "libx264", 100)
    make_film(folder / "more" / "street.webm", "libvpx-vp9", 62)
    return folder


@pytest.fixture(name="browser", scope="module")
def fixture_browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with running_browser() as browser:  # pylint: disable=contextmanager-generator-missing-cleanup  # pytest exhausts it
        yield browser


class Tab:
    """An open page, with what the browser complained about and every address that it asked for."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.wait()

    def wait(self) -> None:
        """Until a segment can be rated, or none is left."""
        self.page.wait_for_selector(READY, state="attached")

    def press(self, key: str) -> None:
        """Press a key, and wait for what comes of it."""
        self.page.keyboard.press(key)
        self.wait()

    @property
    def question(self) -> tuple[str, int, str]:
        """Film, start second and class."""
        name, _, times = (self.page.locator("#where").text_content() or "").rpartition(", ")
        minutes, seconds = times.split(" to ", maxsplit=1)[0].split(":")
        return name, 60 * int(minutes) + int(seconds), self.page.locator("#class").text_content() or ""


def make_windows(films: Path, ratings: Path, *classes: str, seed: int = 0) -> RatingWindows:
    """Windows about all films of a folder, without a model."""
    found = list_films(films)
    questions, labels = list_questions(found, [list(classes)] * len(found))
    return RatingWindows(found, labels, labels, Chooser(questions, seed), RatingsFile(ratings), "what to type")


@contextmanager
def serving(windows: RatingWindows, films: Path) -> Iterator[str]:
    """The address of a server, at work in a thread."""
    server = RatingServer(windows, films, "test")
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.address
    finally:
        server.stop()
        thread.join()
        server.close()


def rows_of(path: Path) -> list[tuple[str, int, str, int]]:
    """The ratings in a file, in order."""
    return [(row.video_id, row.start, row.label, row.score) for row in read_ratings(path)]


# From keys to a file


class Served:
    """The command, in a process of its own; `address` is what it prints."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._outputs = folder / "out", folder / "err"
        for path in self._outputs:
            path.unlink(missing_ok=True)
        self.process: BaseProcess = start(*self._outputs, Path.cwd(), os.environ, run_command, "rate", *arguments)

    @property
    def address(self) -> str:
        """Where the page is, once it is there."""
        while self.process.is_alive():
            lines = self._outputs[0].read_text(encoding="utf-8").splitlines() if self._outputs[0].exists() else []
            if lines and lines[-1].startswith("http://127.0.0.1:"):
                return lines[-1]
            time.sleep(0.02)
        raise AssertionError(self._outputs[1].read_text(encoding="utf-8"))

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        wait_for([self.process])


def test_50_ratings_by_keys_through_a_kill(films: Path, browser: Browser, tmp_path: Path, command: Command) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("vid,label\ngarden,dog\ngarden,guitar\nstreet,dog\nelsewhere,cat\n", encoding="utf-8")
    ratings = tmp_path / "data" / "ratings" / "first" / "ratings.csv"
    arguments = "--videos", films, "--name", "first", "--labels", labels, "--data-dir", tmp_path / "data"
    expected: list[tuple[str, int, str, int]] = []
    complaints: list[str] = []
    for until in (25, 50):
        served = Served(tmp_path, *arguments)
        tab = Tab(browser.new_context(), served.address)
        assert tab.page.locator("#rated").text_content() == str(len(expected))
        while len(expected) < until:
            name, start_second, label = tab.question
            score = (start_second // 5 + len(label)) % 2
            assert tab.page.evaluate("[film.currentTime, film.videoWidth]")[1] == 64
            tab.press("ny"[score])
            expected.append((Path(name).stem, start_second, label, score))
            assert ratings.read_text(encoding="utf-8").count("\n") == len(expected) + 1  # before the next is asked
        address = served.address
        if until == 25:
            served.kill()
        assert all(request.startswith((address, "data:")) for request in tab.requests)
        complaints += tab.complaints
    assert rows_of(ratings) == expected and len(set(expected)) == 50
    assert {vid for vid, *_ in expected} == {"garden", "street"}
    assert {label for vid, _, label, _ in expected if vid == "street"} == {
        "dog"
    }  # nothing that it is not labelled with
    for _ in range(2):
        assert not tab.page.locator("#end").is_visible()
        tab.press("y")
    expect(tab.page.locator("#end")).to_contain_text("Nothing is left to rate")
    expect(tab.page.locator("#command")).to_have_text(
        f"python -m yt8m.fit --videos {films} --labels {labels} --ratings {ratings} --name first"
    )
    served.kill()
    tab.press("u")
    expect(tab.page.locator("#problem")).to_contain_text("has ended; no answer is lost")
    assert not complaints and len(rows_of(ratings)) == 52
    features = tmp_path / "features"
    features.mkdir()
    for name, seconds in (("garden", 100), ("street", 62)):
        np.save(features / f"{name}.npy", np.zeros((seconds, 4), np.uint8))
    outcome = command(
        "make_records",
        features,
        "--data-dir",
        tmp_path / "own",
        "--partition",
        "segment/train",
        "--labels",
        labels,
        "--ratings",
        ratings,
    )
    assert outcome.status == 0 and "2 videos" in outcome.out, outcome.err
    index = load_index(tmp_path / "own" / "segment" / "train", tmp_path / "own" / "cache")
    assert index.rating_score.size == 52 and index.rating_score.sum() == sum(row[-1] for row in rows_of(ratings))


def test_skip_and_undo(films: Path, browser: Browser, tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.csv"
    RatingsFile(ratings).add(("garden", 5, "dog"), 1)  # of an earlier day
    with serving(make_windows(films, ratings, "dog", "guitar"), films) as address:
        tab = Tab(browser.new_context(), address)
        asked = []
        for key in "yns":
            asked.append(tab.question)
            tab.press(key)
        assert [row[-1] for row in rows_of(ratings)] == [1, 1, 0]
        expect(tab.page.locator("#progress .hint")).to_contain_text("needs at least 4 yes and 4 no for each class")
        assert tab.page.locator("header p").text_content() == "3 rated, 1 skipped"
        for place, left in ((2, 3), (1, 2), (0, 1)):
            tab.press("u")
            assert tab.question == asked[place] and len(rows_of(ratings)) == left
        tab.press("n")
        assert [row[-1] for row in rows_of(ratings)] == [1, 0]
        tab.press("u")
        tab.press("u")  # the one of an earlier day
        assert tab.question == ("garden.mp4", 5, "dog") and ratings.read_text(encoding="utf-8") == HEADER
        expect(tab.page.locator("#undo")).to_have_attribute("aria-disabled", "true")
        tab.press("u")
        assert tab.question == ("garden.mp4", 5, "dog")
        for key in ("Control+y", "Alt+n", "x", "ArrowRight"):
            tab.press(key)
        assert ratings.read_text(encoding="utf-8") == HEADER and not tab.complaints


def test_two_windows(films: Path, browser: Browser, tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.csv"
    with serving(make_windows(films, ratings, "dog", "guitar"), films) as address:
        context = browser.new_context()
        one, other = Tab(context, address), Tab(context, address)
        seen = []
        for _ in range(6):
            assert one.question[:2] != other.question[:2]
            seen += [one.question, other.question]
            one.press("y")
            other.press("n")
        assert len(set(seen)) == 12 and len(rows_of(ratings)) == 12
        one.press("u")
        assert one.question == seen[-2]  # its own, not the last one
        assert sorted(row[-1] for row in rows_of(ratings)) == [0] * 6 + [1] * 5
        left = other.question
        other.page.close()
        while one.question[:2] != left[:2]:
            one.press("s")
        one.page.reload()
        one.wait()
        one.press("u")  # a window without answers takes back those of closed ones
        assert len(rows_of(ratings)) in (10, 11)


def test_the_segment_is_played_in_a_loop(films: Path, browser: Browser, tmp_path: Path) -> None:
    with serving(make_windows(films, tmp_path / "ratings.csv", "dog"), films) as address:
        tab = Tab(browser.new_context(bypass_csp=True), address)  # for wait_for_function
        page = tab.page
        _, first, _ = tab.question
        page.wait_for_function(f"film.currentTime > {first + 0.2} && !film.paused")
        page.evaluate(f"film.currentTime = {first + 4.9}")
        page.wait_for_function(f"film.currentTime >= {first} && film.currentTime < {first + 2}")
        assert not page.evaluate("film.paused")
        page.keyboard.press("p")
        assert page.evaluate("film.paused")
        page.keyboard.press("p")
        page.wait_for_function("!film.paused")
        page.keyboard.press(" ")
        assert page.evaluate("film.paused")
        page.keyboard.press(" ")
        page.wait_for_function("!film.paused")
        page.focus("#pause")
        page.keyboard.press(" ")  # presses the button, once
        assert page.evaluate("film.paused")
        page.wait_for_function(f"Math.abs(parseFloat(played.style.width) / 20 - film.currentTime + {first}) < 0.5")
        page.keyboard.press("m")
        assert page.evaluate("film.muted")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), ({"width": 320, "height": 600}, "dark")],
)
def test_fits_any_screen_and_keys_suffice(
    films: Path, browser: Browser, tmp_path: Path, scheme: str, size: dict[str, int]
) -> None:
    windows = make_windows(films, tmp_path / "a folder whose name is long" / "ratings.csv", LONG, "dog", "guitar")
    with serving(windows, films) as address:
        tab = Tab(browser.new_context(viewport=size, color_scheme=scheme), address)
        page = tab.page
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            boxes = [box.bounding_box() for box in page.locator("button, video, #class, #where, h1, header p").all()]
            for place, one in enumerate(boxes):
                for other in boxes[:place]:
                    assert one is not None and other is not None
                    apart = (
                        one["x"] + one["width"] <= other["x"] + 1 or other["x"] + other["width"] <= one["x"] + 1,
                        one["y"] + one["height"] <= other["y"] + 1 or other["y"] + other["height"] <= one["y"] + 1,
                    )
                    assert any(apart)
            page.keyboard.press("Tab")
            while page.evaluate("document.activeElement.id") != "yes":
                page.keyboard.press("Tab")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            tab.press("Enter")
            page.evaluate("document.activeElement.blur()")
        assert page.locator("#rated").text_content() == "2"
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 20, 19)"
        assert dark == (scheme == "dark") and not tab.complaints


def test_a_film_that_the_browser_cannot_play(films: Path, browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    old = make_film(folder / "it's old.avi", "mpeg4", 20).rename(folder / "old's.avi")
    with serving(make_windows(folder, tmp_path / "ratings.csv", "dog"), folder) as address:
        tab = Tab(browser.new_context(), address)
        for _ in range(3):
            tab.press("y")
        expect(tab.page.locator("#unplayable li")).to_contain_text("old's.avi")
        told = tab.page.locator("#unplayable pre").text_content() or ""
        assert told.startswith("ffmpeg -i ") and f"{folder}/old" in told and "libx264" in told and ".mp4" in told
        assert {row[0] for row in rows_of(tmp_path / "ratings.csv")} == {"garden", "street"}
        playable = sum(int(film.seconds // 5) for film in list_films(folder) if film.path != old)
        expect(tab.page.locator("#progress")).to_contain_text(f"{playable - 3} left")
        assert not [complaint for complaint in tab.complaints if "Error" in complaint]
    made = make_film(tmp_path / "made.mp4", "libx264", 20)
    (film,) = (film for film in list_films(folder) if film.path == old)
    assert film.played(folder) == old
    made.rename(film.conversion[-1])
    assert [film.video_id for film in list_films(folder)] == ["garden", "street", "old's"]  # no further film
    assert film.played(folder) == Path(film.conversion[-1])


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize(
    ("name", "codec", "clock"),
    [
        ("film.mp4", "libx264", CLOCK),
        ("film.mkv", "libx264", CLOCK),
        ("film.webm", "libvpx-vp9", CLOCK),
        ("film.flv", "flv1", CLOCK),
        ("film.wmv", "wmv2", CLOCK),
        ("film.ts", "libx264", 90_000),
    ],
)
def test_films_last_as_long_as_their_pictures(tmp_path: Path, name: str, codec: str, clock: int, late: int) -> None:
    """However long their sound is."""
    times = [late + time for time in regular(100, 10)]
    write_film(tmp_path / name, times, codec=codec, rate=10, sound=tone(30), clock=clock)
    film = list_films(tmp_path)[0]
    assert film.seconds == pytest.approx(10, abs=0.01) and film.begins == pytest.approx(late, abs=0.05)
    assert list_questions([film], [["dog"]])[0].starts.tolist() == [0, 5]


def test_a_copy_begins_by_the_clock_of_other_players(tmp_path: Path) -> None:
    """FFmpeg, which makes it, moves what begins first to 0."""
    times = [8 + time for time in regular(70, 10)]
    write_film(tmp_path / "film.ts", times, rate=10, sound=tone(9), sound_start=5, clock=90_000)
    windows = make_windows(tmp_path, tmp_path / "ratings.csv", "dog")
    assert windows.ask("w")["question"]["begins"] == pytest.approx(8, abs=0.05)
    film = list_films(tmp_path)[0]
    shutil.copyfile(film.path, film.converted)  # while the page is open
    assert windows.ask("w")["question"]["begins"] == pytest.approx(3, abs=0.05)


def test_a_film_whose_pictures_begin_late(browser: Browser, tmp_path: Path) -> None:
    """Second 0 is its first frame, as for its features; its sound begins earlier and ends later."""
    folder = tmp_path / "films"
    times = [3 + time for time in regular(70, 10)]
    for name, codec in (("late.mp4", "libx264"), ("late.webm", "libvpx-vp9")):
        write_film(folder / name, times, codec=codec, rate=10, sound=tone(30))
    with serving(make_windows(folder, tmp_path / "ratings.csv", "dog"), folder) as address:
        tab = Tab(browser.new_context(), address)
        for _ in range(2):
            assert tab.question[1] == 0
            tab.page.wait_for_timeout(300)
            assert 3 <= tab.page.evaluate("film.currentTime") < 8.5
            tab.press("y")
        expect(tab.page.locator("#end")).to_contain_text("Nothing is left to rate")


def test_an_answer_that_cannot_be_written(films: Path, browser: Browser, tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.csv"
    with serving(make_windows(films, ratings, "dog"), films) as address:
        tab = Tab(browser.new_context(), address)
        asked = tab.question
        ratings.unlink()
        tab.press("y")
        expect(tab.page.locator("#problem")).to_contain_text(f"{ratings}: No such file")
        assert tab.question == asked
        ratings.write_text(HEADER, encoding="utf-8")
        tab.press("y")
        expect(tab.page.locator("#problem")).to_be_hidden()
        assert len(rows_of(ratings)) == 1


# For no one else


def ask(
    address: str, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """A request as it stands, nothing of it made regular: status, body and headers."""
    place = urlsplit(address).netloc
    connection = http.client.HTTPConnection(place)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    content = (body or "").encode()
    for name, value in ({"Host": place, "Content-Length": str(len(content))} | headers).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(content)
    reply = connection.getresponse()
    try:
        return reply.status, reply.read(), dict(reply.getheaders())
    finally:
        connection.close()


def test_strangers_get_nothing(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    secret = tmp_path / "secret.mp4"
    shutil.copy(films / "garden.mp4", secret)
    (folder / "link.mp4").symlink_to(secret)
    windows = make_windows(folder, tmp_path / "ratings.csv", "dog")
    assert [film.name for film in windows.films] == ["garden.mp4", "more/street.webm"]  # the link leads out
    with serving(windows, folder) as address:
        own, place = urlsplit(address).path, urlsplit(address).netloc
        origin = f"http://{place}"
        json = {"Content_Type": "application/json", "Origin": origin}
        window = '{"window": "w"}'
        assert place.startswith("127.0.0.1:")
        assert ask(address, own)[0] == 200
        status, body, headers = ask(address, f"{own}film/0", Range="bytes=10-19")
        assert (status, body) == (206, (folder / "garden.mp4").read_bytes()[10:20])
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert ask(address, f"{own}ask", "POST", window, **json)[0] == 200
        token = own.strip("/")
        other = token[:-1] + ("y" if token.endswith("x") else "x")
        paths = [
            "/", "/x", f"/{token[:-1]}/", f"/{other}/", f"/{token}x/film/0", "/film/0", f"/x/../{token}/",
            f"{own}../{token}/rate.js", f"{own}film/../film/0", f"{own}film/../../etc/passwd",
            f"{own}film/%2e%2e/%2e%2e/secret.mp4", f"{own}film/..%2fsecret.mp4", f"{own}film/2", f"{own}film/-1",
            f"{own}film/garden.mp4", f"{own}rate.html", f"{own}page/rate.html", f"{own}..", "/../../etc/passwd", "//",
        ]  # fmt: skip
        for path in paths:
            assert ask(address, path)[:2] == (404, b""), path
        strangers: list[dict[str, str]] = [
            {"Host": "evil.example"},
            {"Host": f"evil.example:{place.partition(':')[2]}"},
            {"Host": place.replace("127.0.0.1", "localhost")},
            {"Host": ""},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": origin.replace("http", "https")},
        ]
        for headers in strangers:
            for path in (own, f"{own}film/0", f"{own}rate.js"):
                assert ask(address, path, **headers)[:2] == (403, b""), (path, headers)
            assert ask(address, f"{own}ask", "POST", window, **json | headers)[:2] == (403, b""), headers
        assert ask(address, f"{own}ask", "POST", window, Content_Type="application/json")[:2] == (403, b"")
        assert ask(address, f"{own}ask", "POST", window, Content_Type="text/plain", Origin=origin)[:2] == (400, b"")
        for body_text in ("", "[]", "{}", '{"window": 1}', '{"window": ""}', f'{{"window": "{65 * "w"}"}}'):
            assert ask(address, f"{own}ask", "POST", body_text, **json)[:2] == (400, b""), body_text
        for values in ("", ', "question": true, "yes": true', ', "question": 0, "yes": 1'):
            assert ask(address, f"{own}answer", "POST", f'{{"window": "w"{values}}}', **json)[:2] == (400, b"")
        assert ask(address, f"{own}ask", "POST", " " * 5000, **json)[0] in (400, 413)
        assert ask(address, f"{own}answer", **json)[:2] == (405, b"")
        (folder / "garden.mp4").unlink()
        (folder / "garden.mp4").symlink_to(secret)  # since it was looked at
        assert ask(address, f"{own}film/0")[:2] == (404, b"")
    assert (tmp_path / "ratings.csv").read_text(encoding="utf-8") == HEADER


# Windows and answers


def test_threads_never_get_the_same_question(films: Path, tmp_path: Path) -> None:
    windows = make_windows(films, tmp_path / "ratings.csv", "dog", "guitar")
    showing: dict[str, tuple[int, int]] = {}
    clashes: list[object] = []

    def rate(name: str) -> None:
        question = windows.ask(name)["question"]
        while question is not None:
            showing[name] = question["film"], question["start"]
            if list(showing.values()).count(showing[name]) > 1:
                clashes.append(dict(showing))
            del showing[name]
            question = windows.answer(name, question["number"], 1)["question"]

    threads = [threading.Thread(target=rate, args=(f"window {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rest = windows.ask("last")["question"]
    while rest is not None:  # what others were asked when a thread ended
        rest = windows.answer("last", rest["number"], 1)["question"]
    rows = rows_of(tmp_path / "ratings.csv")
    assert not clashes and len(rows) == len(set(rows)) == (20 + 12) * 2


def test_a_silent_window_loses_its_question(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(rating_windows.time, "monotonic", lambda: now)
    windows = make_windows(films, tmp_path / "ratings.csv", "dog")
    first = windows.ask("silent")["question"]["number"]
    for _ in range(31):
        asked = windows.ask("busy")["question"]["number"]
        assert asked != first
        windows.answer("busy", asked, 0)
    assert windows.ask("busy")["question"] is None and windows.ask("busy")["others"]
    now = rating_windows.LEASE_SECONDS + 1
    assert windows.ask("busy")["question"]["number"] == first
    with pytest.raises(NotAskedError):
        windows.answer("silent", first, 1)


Row = tuple[RatedSegment, int]
ROWS = st.lists(
    st.tuples(
        st.tuples(
            st.text("abcé-_", min_size=1),
            st.integers(0, 100).map(lambda number: 5 * number),
            st.text('dog ,"1é', min_size=1).map(str.strip).filter(bool),
        ),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: (row[0][0], row[0][1], row[0][2].strip()),
)


@given(ROWS, st.data())
@settings(deadline=None, max_examples=40)
def test_only_an_incomplete_last_line_is_removed(rows: list[Row], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "ratings.csv")
        file = RatingsFile(path)
        sizes = [path.stat().st_size]
        for key, score in rows:
            file.add(key, score)
            sizes.append(path.stat().st_size)
        whole = dict(file.scores)
        assert RatingsFile(path).scores == whole == dict(rows)
        cut = data.draw(st.integers(0, sizes[-1]))
        os.truncate(path, cut)
        kept = [row for row, size in zip(rows, sizes[1:]) if size - 1 <= cut]  # a line lacks its end at most
        assert list(RatingsFile(path).scores.items()) == kept
        file = RatingsFile(path)
        file.add(("z", 0, "new"), 1)
        assert rows_of(path) == [(*key, score) for key, score in [*kept, (("z", 0, "new"), 1)]]


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    file = RatingsFile(path)
    for score in (0, 1):
        file.add(("v", 5, "dog"), score)
    file.add(("v", 10, "dog"), 0)
    assert rows_of(path) == [("v", 5, "dog", 1), ("v", 10, "dog", 0)]
    path.write_bytes("\ufeffvid,start,label,score\r\nv,5.0,dog,1\r\nv,5,dog,1".encode())  # as spreadsheets save it
    assert RatingsFile(path).scores == {("v", 5, "dog"): 1}
    assert path.read_text(encoding="utf-8") == HEADER + "v,5,dog,1\n"
    for content, part in (
        ("vid;start;label;score\nv;5;dog;1\n", "first line"),
        ("vid,start,label,score,rater\nv,5,dog,1,me\n", "first line"),
        ("anything", "not a file of ratings"),
        (f"{HEADER}v,4,dog,1\n", "multiple of 5"),
        (f"{HEADER}v,5,dog,1\nv,5,dog,0\n", "with another score"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=part):
            RatingsFile(path)
        assert path.read_text(encoding="utf-8") == content


# What is asked


def test_the_choice_follows_the_rule() -> None:
    rng = np.random.default_rng(1)
    n = 400
    questions = Questions(rng.integers(0, 20, n), 5 * np.arange(n), rng.integers(0, 4, n), rng.random(n))
    chooser = Chooser(questions, 0)
    free, asked = np.ones(n, bool), np.zeros(n, bool)
    chosen = []
    for _ in range(40):
        number = chooser.choose(free, asked)
        assert number is not None
        of_classes = np.bincount(questions.classes[asked], minlength=4)
        assert of_classes[questions.classes[number]] == of_classes.min()
        of_films = np.bincount(questions.films[asked], minlength=20)
        rivals = free & (of_classes == of_classes.min())[questions.classes]
        assert of_films[questions.films[number]] == of_films[questions.films[rivals]].min()
        rivals &= of_films[questions.films] == of_films[questions.films[number]]
        distances = np.abs(questions.probabilities - TELLING_PROBABILITY)
        assert distances[number] == distances[rivals].min()
        free[number], asked[number] = False, True
        chosen.append(number)
    assert np.abs(questions.probabilities[chosen] - TELLING_PROBABILITY).mean() < 0.1
    assert chooser.choose(np.zeros(n, bool), asked) is None


def test_without_a_model_the_seed_decides() -> None:
    questions = Questions(np.zeros(50, np.int64), 5 * np.arange(50), np.zeros(50, np.int64))
    everything, nothing = np.ones(50, bool), np.zeros(50, bool)
    first = [Chooser(questions, seed).choose(everything, nothing) for seed in range(20)]
    assert first == [Chooser(questions, seed).choose(everything, nothing) for seed in range(20)]
    assert len(set(first)) > 10
    unknown = Questions(
        questions.films, questions.starts, questions.classes, np.where(np.arange(50) == 7, 0.99, np.nan)
    )
    assert Chooser(unknown, 0).choose(everything, nothing) == 7  # the only one of which a model says anything


@pytest.mark.parametrize("kind", ["video", "segment"])
def test_a_model_chooses_the_segments(films: Path, tmp_path: Path, kind: str) -> None:
    widths = {"video_dim": RGB, "audio_dim": AUDIO}
    videos = [make_video(1, 90), make_video(2, 62)]
    write_videos(tmp_path / "features" / "films.tfrecord", videos)
    (tmp_path / "features" / "films.csv").write_text(
        f"video_id,path,seconds\nv001,{films / 'garden.mp4'},90\nv002,{films / 'more' / 'street.webm'},62\n",
        encoding="utf-8",
    )
    make = video_folder if kind == "video" else agnostic_folder
    model = make(tmp_path / "model", DBOF | widths if kind == "video" else NEXTVLAD | widths | {"groups": 2}, 3)
    found = list_films(films, tmp_path / "features" / "films.csv")
    assert [(film.video_id, film.seconds) for film in found] == [("v001", 90), ("v002", 62)]
    judge = SegmentJudge(model, "cpu")
    judgement = judge.judge_folder(tmp_path / "features", {film.video_id for film in found})
    assert {name: values.shape for name, values in judgement.probabilities.items()} == {
        "v001": (18, 3),
        "v002": (13, 3),
    }
    if kind == "segment":
        expected = yt8m.load(model, device="cpu").probabilities([torch.from_numpy(video.frames) for video in videos])
        np.testing.assert_array_equal(np.concatenate(list(judgement.probabilities.values())), np.concatenate(expected))
    questions, labels = list_questions(found, [["class 1"], ["2", "class 1"]], judgement)
    assert labels == ["2", "class 1"] and len(questions) == 18 + 2 * 12
    place = int(np.flatnonzero((questions.films == 1) & (questions.starts == 20) & (questions.classes == 0))[0])
    assert questions.probabilities is not None
    assert questions.probabilities[place] == judgement.probabilities["v002"][4, 2]
    file = RatingsFile(tmp_path / "ratings.csv")
    windows = RatingWindows(found, labels, shown_names(labels, judge.vocabulary), Chooser(questions, 0), file, "")
    first = windows.ask("w")
    number = first["question"]["number"]
    assert {row["class"] for row in first["classes"]} == {"class 2", "class 1"}  # an id by its name
    distances = np.abs(questions.probabilities - TELLING_PROBABILITY)
    assert distances[number] == distances.min()
    windows.answer("w", number, 1)
    assert rows_of(file.path)[0][2] == labels[questions.classes[number]]


def test_questions_unknown_to_a_model(films: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = list_films(films)
    vocabulary = small_vocabulary(2)
    known = Judgement({"garden": np.full((18, 2), 0.5)}, vocabulary)
    questions, _ = list_questions(found, [["class 1", "cat"]] * 2, known)
    assert questions.probabilities is not None and np.isfinite(questions.probabilities).sum() == 18
    assert len(questions) == 2 * (18 + 12)  # no more than there are features of
    assert "--features: lacks these films: street" in caplog.text and "these classes: cat" in caplog.text
    for classes, probabilities, part in ((["cat"], known.probabilities, "cat"), (["class 1"], {}, "garden, street")):
        with pytest.raises(UserError, match=part):
            list_questions(found, [classes] * 2, Judgement(probabilities, vocabulary))


def test_mistakes(films: Path, tmp_path: Path, command: Command) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("vid,label\ngarden,dog\n", encoding="utf-8")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("vid,label\nx,dog\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    short = make_film(tmp_path / "short" / "a.mp4", "libx264", 3).parent
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.mp4").write_bytes(b"no film")
    for options, parts in (
        ((films,), ("--labels CSV or --classes",)),
        ((films, "--classes", "dog", "--model", empty), ("--model: needs --features",)),
        ((tmp_path / "none", "--classes", "dog"), ("none: no such folder",)),
        ((empty, "--classes", "dog"), ("no film in this folder",)),
        ((broken, "--classes", "dog"), ("no readable film in it",)),
        ((short, "--classes", "dog"), ("5 seconds long",)),
        ((films, "--labels", labels, "--classes", "dgo"), ("did you mean dog?",)),
        ((films, "--labels", foreign), ("garden, street", "in the table x")),
        ((films, "--classes", " "), ("not a valid class name",)),
        ((films, "--classes", "dog", "--port", "70000"), ("port from 0 to 65535",)),
        ((films, "--classes", "dog", "--model", empty, "--features", empty), ("not a finished model",)),
    ):
        outcome = command("rate", "--videos", *options, "--name", "n", "--data-dir", tmp_path / "data")
        assert outcome.status == 2 and "Traceback" not in outcome.err, outcome
        for part in parts:
            assert part in outcome.err.splitlines()[-1], outcome.err
    served = Served(tmp_path, "--videos", films, "--name", "n", "--classes", "dog", "--data-dir", tmp_path / "data")
    port = urlsplit(served.address).port
    same = "--videos", films, "--classes", "dog", "--data-dir", tmp_path / "data"
    assert "another process is writing ratings there" in command("rate", *same, "--name", "n").err
    assert "Address already in use; choose another" in command("rate", *same, "--name", "m", "--port", port).err
    served.kill()


def test_labels_of_films(films: Path, tmp_path: Path) -> None:
    found = list_films(films)
    labels = tmp_path / "labels.csv"
    labels.write_text("vid,label\ngarden,dog\ngarden,cat\n", encoding="utf-8")
    rows = read_labels(labels)
    assert classes_of_films(found, rows, None, labels) == [["dog", "cat"], []]
    assert classes_of_films(found, rows, ["cat"], labels) == [["cat"], []]
    assert classes_of_films(found, rows, ["CAT"], labels) == [["cat"], []]
    assert classes_of_films(found, None, ["cat", "cat", "dog", "Dog", " DOG"], None) == [["cat", "dog"]] * 2


def test_tables_may_have_the_names_of_films_that_are_no_ids(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    for name in ("my garden", "my, garden", "their garden", "their_garden", "at/their garden"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(films / "garden.mp4", folder / f"{name}.mp4")
    found = {film.path: film.video_id for film in list_films(folder)}
    ids = ids_by_name(found)
    assert ids == {"my garden": "my_garden", "my, garden": "my__garden"}  # but "their garden" is two films
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(f'{HEADER}"my, garden",5,dog,1\nmy_garden,5,dog,0\n', encoding="utf-8")
    assert RatingsFile(ratings, ids).scores == {("my__garden", 5, "dog"): 1, ("my_garden", 5, "dog"): 0}
    assert "my__garden,5,dog,1" in ratings.read_text(encoding="utf-8")
    ratings.write_text(f"{HEADER}my garden,5,dog,1\nmy_garden,5,dog,0\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3: rates the segment and label of line 2 again"):
        RatingsFile(ratings, ids)


def test_a_class_has_one_spelling_in_a_file(films: Path, tmp_path: Path, command: Command) -> None:
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(f"{HEADER}garden,5,dog,1\n", encoding="utf-8")
    words = "--videos", films, "--name", "n", "--ratings", ratings, "--data-dir", tmp_path
    outcome = command("rate", *words, "--classes", "cat", "Dog")
    assert outcome.status == 2 and not outcome.out
    assert f"{ratings}: has ratings of 'dog', which is now spelled 'Dog'; spell the class as in" in outcome.err


def test_the_next_command_is_spelled_as_the_user_typed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RatingServer, "serve", lambda self: None)
    words = "--videos", films, "--name", "n", "--classes", "dog", "--data-dir", tmp_path
    run_yt8m(["rate", *map(str, words)])
    assert f"next: yt8m fit --videos {films} --labels" in capfd.readouterr().out
    gc.unfreeze()


def test_films_with_accents_in_parts_have_their_labels(films: Path, tmp_path: Path) -> None:
    """As macOS writes names of files."""
    name = unicodedata.normalize("NFC", "Gärten")
    apart = unicodedata.normalize("NFD", name)
    film = tmp_path / "films" / f"{apart}.mp4"
    film.parent.mkdir()
    shutil.copyfile(films / "garden.mp4", film)
    (tmp_path / "films.csv").write_text(f"video_id,path,seconds\n{apart},{film},60\n", encoding="utf-8")
    labels = tmp_path / "labels.csv"
    for form in (name, apart):
        labels.write_text(f"vid,label\n{form},dog\n", encoding="utf-8")
        for listing in (None, tmp_path / "films.csv"):
            found = list_films(film.parent, listing)
            assert [own.video_id for own in found] == [name]
            assert classes_of_films(found, read_labels(labels), None, labels) == [["dog"]]
        assert found[0].seconds == 60  # as listed
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(f"{HEADER}{apart},5,dog,1\n", encoding="utf-8")
    assert RatingsFile(ratings).scores == {(name, 5, "dog"): 1}


def test_labels_and_ratings_of_other_films_are_named(
    films: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RatingServer, "serve", lambda self: None)
    labels, ratings = tmp_path / "labels.csv", tmp_path / "ratings.csv"
    labels.write_text("vid,label\ngarden,dog\nstreet,dog\n", encoding="utf-8")
    ratings.write_text(f"{HEADER}garden,0,dog,1\ngarden,95,dog,0\n", encoding="utf-8")
    arguments = "--videos", films, "--name", "n", "--labels", labels, "--ratings", ratings, "--data-dir", tmp_path
    assert command("rate", *arguments).status == 0
    assert not caplog.records
    with labels.open("a", encoding="utf-8") as file:
        file.write("garden.mp4,cat\ngarden.mp4,dog\n")
    with ratings.open("a", encoding="utf-8") as file:
        file.write("garden.mp4,5,dog,1\ngarden,100,dog,0\nstreet,500,cat,0\n")
    before = ratings.read_bytes()
    outcome = command("rate", *arguments)
    assert outcome.status == 0 and ratings.read_bytes() == before
    assert [record.message for record in caplog.records] == [
        f"{labels}: has labels of 1 video without a film here: garden.mp4 (did you mean garden?)",
        f"{ratings}: has ratings of 1 video without a film here: garden.mp4 (did you mean garden?)",
        f"{ratings}: 2 ratings beyond the end of a film: garden at 100, street at 500",
    ]
