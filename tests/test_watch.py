"""The page to watch films on, in a browser: films play, clicks and keys seek, nothing else is fetched."""

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import DESKTOP, PHONE, OpenPage, running_browser, wait_for
from tests.films import SIZE, number_of, regular, tone
from tests.films import write_film as write_timed_film
from tests.made_films import SCENES, write_film
from yt8m.data.vocabulary import Vocabulary
from yt8m.localization.spans import Localization, Query, find_spans
from yt8m.reporting.film_previews import look_into, relative_url
from yt8m.reporting.watching import FilmAnswer, write_watch_page

SECONDS = 40
REAL_ID = "dQw-_9WgXcQ"
BAD_NAME = "</script><img src=x onerror=alert(1)>"
VOCABULARY = Vocabulary(np.arange(6), (*SCENES, "Moon", BAD_NAME))
PLANTED = {0: [(0, 2)], 1: [(2, 4)], 2: [(4, 6)], 3: [(6, 8)], 4: [(1, 2), (5, 7)]}  # segments with a class


def answer(name: str) -> Localization:
    """Spans of the five classes, and one that reaches the threshold nowhere."""
    return find_spans(name, SECONDS, probabilities(), VOCABULARY, Query(list(range(6)), 6, 0.5))


def probabilities() -> np.ndarray:
    """Those of the segments, (8, 6)."""
    values = np.full((8, 6), 0.05)
    values[3, 5] = 0.3
    for label, places in PLANTED.items():
        for first, stop in places:
            values[first:stop, label] = 0.9 - 0.05 * label
    return values


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three films: H.264 in mp4, VP9 in webm, and MPEG-2 in avi, which no browser plays."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "my films").mkdir()
    films = [
        write_film(folder / "my films" / "100% #1.mp4", SECONDS, codecs=("libx264", "aac")),
        write_film(folder / "second.webm", SECONDS, codecs=("libvpx-vp9", "libopus")),
        write_film(folder / "old's.avi", SECONDS, codecs=("mpeg2video", "mp2")),
    ]
    curves = {label: probabilities()[:, label] for label in range(6)}
    write_watch_page(folder / "page.html", [FilmAnswer(answer(film.stem), film, curves) for film in films])
    return folder


@pytest.fixture(name="browser", scope="module")
def fixture_browser() -> Iterator[Browser]:
    """A browser for all tests of this file."""
    with running_browser() as browser:  # pylint: disable=contextmanager-generator-missing-cleanup  # pytest exhausts it
        yield browser


@pytest.fixture(name="opened")
def fixture_opened(browser: Browser, folder: Path) -> Iterator[OpenPage]:
    """The page on a desk, in light."""
    opened = OpenPage(browser, folder / "page.html", viewport=DESKTOP, color_scheme="light")
    yield opened
    opened.page.context.close()


def span_at(name: str, start: str) -> str:
    """The selector of the span of a class that starts then."""
    return f'#lines .span[aria-label^="{name}, {start} to "]'


def film_time(page: Page) -> float:
    """The second at which the film is."""
    return page.evaluate("document.querySelector('video').currentTime")


def wait_until_playing_from(page: Page, second: float) -> None:
    """Wait for the film to play, and check where it began to."""
    wait_for(page, "window.began !== undefined")
    assert abs(page.evaluate("window.began") - second) <= 0.1
    wait_for(page, f"!document.querySelector('video').paused && document.querySelector('video').currentTime > {second}")


def note_where_it_begins(page: Page) -> None:
    """Let the page remember where the film has been sought to."""
    wait_for(page, "document.querySelector('video').readyState >= 1")
    page.evaluate(
        "document.querySelector('video').addEventListener('seeked', (event) => "
        "{ window.began ??= event.target.currentTime; })"
    )


@pytest.mark.parametrize("film", ["100% #1", "second"])
def test_a_click_plays_the_film_from_there(opened: OpenPage, folder: Path, film: str) -> None:
    page = opened.page
    page.get_by_role("button", name=re.compile(f"^{film}")).click()
    note_where_it_begins(page)
    page.click(span_at("Moon", "0:25"))
    wait_until_playing_from(page, 25)
    expect(page.locator("#now")).to_contain_text("Starry sky 0.80")
    expect(page.locator("#now")).to_contain_text("Moon 0.70")
    expect(page.locator(".span.now")).to_have_count(2)
    head, span = page.locator(".playhead").bounding_box(), page.locator(span_at("Moon", "0:25")).bounding_box()
    assert head is not None and span is not None and -2 <= head["x"] - span["x"] < span["width"]
    assert not opened.complaints
    files = {address for address in opened.requests if not address.startswith(("blob:", "data:"))}
    assert files <= {path.absolute().as_uri() for path in [folder / "page.html", folder / "second.webm"]} | {
        (folder / "my films").as_uri() + "/100%25%20%231.mp4"
    }


@pytest.mark.parametrize(
    ("name", "codec"), [("late.mp4", "libx264"), ("late.mkv", "libx264"), ("late.webm", "libvpx-vp9")]
)
@pytest.mark.parametrize("sound", [None, tone(10)])
def test_a_film_whose_pictures_begin_late(
    browser: Browser, tmp_path: Path, name: str, codec: str, sound: np.ndarray | None
) -> None:
    """Second 0 is its first frame, which the browser shows at 3 seconds."""
    times = [3 + time for time in regular(100, 10)]
    film = write_timed_film(tmp_path / name, times, codec=codec, rate=10, sound=sound)
    values = np.full((10, 6), 0.1)
    values[4, 0] = 0.9
    found = find_spans("late", 10, values, VOCABULARY, Query(None, 1, 0.5), 1)
    write_watch_page(tmp_path / "page.html", [FilmAnswer(found, film)])
    page = OpenPage(browser, tmp_path / "page.html", viewport=DESKTOP).page
    wait_for(page, "document.querySelector('video').readyState >= 1")
    page.keyboard.press("n")
    wait_for(page, "!document.querySelector('video').seeking && document.querySelector('video').readyState >= 2")
    assert film_time(page) == pytest.approx(7, abs=0.01)
    expect(page.locator("#now")).to_contain_text("0:04 of 0:10")
    page.wait_for_timeout(300)  # until the frame is drawn
    drawn = np.array(Image.open(BytesIO(page.locator("video").screenshot())).convert("RGB"))
    wide = round(drawn.shape[0] * SIZE[0] / SIZE[1])  # the rest are bars
    assert number_of(drawn[:, (drawn.shape[1] - wide) // 2 :][:, :wide]) == 40
    page.context.close()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_long_names_are_not_cut_off(browser: Browser, tmp_path: Path, viewport: dict[str, int]) -> None:
    film = write_film(tmp_path / "film.mp4", 10, codecs=("libx264", None))
    names = ("a man who plays the violin, or a viola", "x" * 60)
    found = find_spans("film", 10, np.full((2, 2), 0.9), Vocabulary(np.arange(2), names), Query(None, 2, 0.5))
    write_watch_page(tmp_path / "page.html", [FilmAnswer(found, film)])
    page = OpenPage(browser, tmp_path / "page.html", viewport=viewport).page
    expect(page.locator(".card img")).to_have_count(2)
    for card in page.locator(".card").all():
        assert card.evaluate("(own) => own.scrollWidth <= own.clientWidth && own.scrollHeight <= own.clientHeight")
    page.context.close()


def test_the_keyboard_is_enough(opened: OpenPage) -> None:
    page = opened.page
    note_where_it_begins(page)
    page.keyboard.press("n")
    page.keyboard.press("n")
    expect(page.locator(span_at("Moon", "0:05"))).to_be_focused()
    wait_for(page, "Math.abs(document.querySelector('video').currentTime - 5) < 0.1")
    assert page.evaluate("document.querySelector('video').paused")
    page.keyboard.press("ArrowRight")
    expect(page.locator(span_at("Sea", "0:10"))).to_be_focused()
    outline = page.locator(span_at("Sea", "0:10")).evaluate("(own) => getComputedStyle(own).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("p")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(span_at("Sunset", "0:00"))).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator(span_at("Sea", "0:10"))).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("End")
    expect(page.locator(span_at("Mountains", "0:30"))).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("j")
    page.evaluate("window.began = undefined")
    page.keyboard.press("Enter")
    wait_until_playing_from(page, 10)
    page.keyboard.press("Space")
    wait_for(page, "document.querySelector('video').paused")
    assert 10 <= film_time(page) < 20
    page.keyboard.press("Space")
    wait_for(page, "!document.querySelector('video').paused")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert not opened.complaints


def test_tab_reaches_everything(opened: OpenPage) -> None:
    page = opened.page
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "[document.activeElement.id || document.activeElement.className, document.activeElement.tagName]"
        )
        if here[1] == "BODY":
            break
        reached.append(here[0])
    text = " ".join(reached)
    for part in ("chooser-search", "next-span", "zoom-in", "show-keys", "class-search", "span", "card"):
        assert part in text
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, video')].filter((own) => own.checkVisibility() && "
        "!(own.ariaLabel || own.textContent.trim() || own.labels?.length)).map((own) => own.outerHTML)"
    )
    assert unnamed == []


def test_classes_are_filtered(opened: OpenPage) -> None:
    page = opened.page
    names = page.locator("#lines .line:not(.axis):visible .line-name")
    expect(names).to_have_count(6)
    page.get_by_label("Filter by class").fill("mo")
    expect(names).to_have_text(["Mountains", "Moon"])
    page.keyboard.press("n")  # a letter of the text, and no command
    expect(page.locator("#no-class")).to_be_visible()
    page.get_by_label("Filter by class").fill("")
    page.locator("#chips").get_by_role("button", name="Moon").click()
    page.locator("#chips").get_by_role("button", name="Sea").click()
    expect(names).to_have_text(["Sea", "Moon"])
    expect(page.locator(".card")).to_have_count(3)
    page.keyboard.press("n")
    expect(page.locator(span_at("Moon", "0:05"))).to_be_focused()
    page.keyboard.press("n")
    expect(page.locator(span_at("Sea", "0:10"))).to_be_focused()
    assert page.locator("img[src=x]").count() == 0 and not opened.complaints


def test_the_timeline_is_that_of_the_film(opened: OpenPage) -> None:
    page = opened.page
    track = page.locator("#lines .line:not(.axis) .track").first.bounding_box()
    assert track is not None
    own = answer("")
    for span in own.spans:
        box = page.locator(span_at(span.name, f"0:{span.start:02d}")).bounding_box()
        assert box is not None
        assert abs(box["x"] - track["x"] - span.start / SECONDS * track["width"]) < 1.5
        assert abs(box["width"] - (span.end - span.start) / SECONDS * track["width"]) < 1.5
    expect(page.locator(".span.below")).to_have_count(1)
    expect(page.locator("#film-facts")).to_contain_text("0:40 long, 6 spans of 5 classes")
    page.click("#zoom-in")
    wide = page.locator("#lines .line:not(.axis) .track").first.bounding_box()
    assert wide is not None and abs(wide["width"] - 2 * track["width"]) < 2
    page.click("#zoom-out")
    page.locator("#lines .axis .track").click(position={"x": track["width"] * 0.75, "y": 5})
    wait_for(page, "Math.abs(document.querySelector('video').currentTime - 30) < 0.1")


def test_pictures_are_of_the_spans(opened: OpenPage, folder: Path) -> None:
    data = json.loads(opened.page.locator("#data").text_content() or "")
    for film in data["films"][:2]:
        pictures = [span["picture"] for row in film["rows"] for span in row["spans"] if not span["below"]]
        assert len(pictures) == 6 and all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    colours = opened.page.evaluate(
        """async () => {
          const found = {};
          for (const card of document.querySelectorAll(".card")) {
            const picture = card.querySelector("img");
            if (!picture) continue;
            await picture.decode();
            const canvas = new OffscreenCanvas(1, 1).getContext("2d");
            canvas.drawImage(picture, 0, 0, picture.naturalWidth, 4, 0, 0, 1, 1);
            found[card.ariaLabel.split(",")[0]] = [picture.naturalWidth, ...canvas.getImageData(0, 0, 1, 1).data];
          }
          return found;
        }"""
    )
    for number, name in enumerate(SCENES):
        width, red, green, blue, _ = colours[name]
        sky = ((40, 30, 80), (90, 160, 220), (5, 8, 30), (120, 170, 220))[number]
        assert width == 136 and np.abs(np.array([red, green, blue]) - sky).max() < 40, name
    assert (folder / "page.html").stat().st_size < 300_000


def test_films_that_a_browser_cannot_play_are_named(opened: OpenPage) -> None:
    page = opened.page
    page.get_by_role("button", name=re.compile("^old's")).click()
    note = page.locator("#player-note")
    expect(note).to_contain_text("This browser cannot play old's.avi (mpeg2video and mp2 in avi)")
    expect(page.locator("#convert-line")).to_have_text(
        """ffmpeg -i 'old'"'"'s.avi' -c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +faststart """
        """'old'"'"'s-for-browsers.mp4'"""
    )
    page.click(span_at("Sea", "0:10"))
    expect(page.locator("#now")).to_contain_text("0:10 of 0:40 · Sea 0.85")
    with page.expect_file_chooser() as chooser:
        page.click("#choose-file")
    chooser.value.set_files(page.evaluate("decodeURIComponent(new URL('second.webm', location).pathname)"))
    wait_for(page, "Math.abs(document.querySelector('video')?.currentTime - 10) < 0.1")
    expect(note).to_be_hidden()


def test_a_chosen_copy_plays_by_its_own_clock(browser: Browser, tmp_path: Path) -> None:
    """FFmpeg, which makes it, moves what begins first to 0."""
    times = [8 + time for time in regular(100, 10)]
    film = write_timed_film(tmp_path / "film.ts", times, rate=10, clock=90_000, sound=tone(10), sound_start=5)
    values = np.full((10, 6), 0.1)
    values[4, 0] = 0.9
    found = find_spans("film", 10, values, VOCABULARY, Query(None, 1, 0.5), 1)
    write_watch_page(tmp_path / "page.html", [FilmAnswer(found, film)])
    copy = tmp_path / "film-for-browsers.mp4"
    write_timed_film(copy, [time - 5 for time in times], rate=10, sound=tone(10))
    page = OpenPage(browser, tmp_path / "page.html", viewport=DESKTOP).page
    expect(page.locator("#convert-line")).to_contain_text(copy.name)
    page.keyboard.press("n")
    with page.expect_file_chooser() as chooser:
        page.click("#choose-file")
    chooser.value.set_files(copy)
    wait_for(page, "Math.abs(document.querySelector('video')?.currentTime - 7) < 0.1")
    expect(page.locator("#now")).to_contain_text("0:04 of 0:10")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_in_light_and_dark(browser: Browser, folder: Path, scheme: str) -> None:
    opened = OpenPage(browser, folder / "page.html", viewport=PHONE, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert overlaps(page) == []
    level = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(level[:3]) < 200) == (scheme == "dark")
    page.locator(span_at("Sunset", "0:00")).click()
    wait_for(page, "!document.querySelector('video').paused")
    assert not opened.complaints
    page.context.close()


def overlaps(page: Page) -> list[str]:
    """Texts and controls, outside of the film's rows, that lie on one another."""
    return page.evaluate(
        """() => {
          const shown = [...document.querySelectorAll("button:not(.span), input, .line-name, video, h1, #now")]
            .filter((own) => own.checkVisibility() && own.closest("dialog") === null);
          const boxes = shown.map((own) => [own, own.getBoundingClientRect()])
            .filter(([, box]) => box.width > 1 && box.height > 1);
          const clipped = (own) => own.closest(".chooser ul, .chips, .cards") !== null;
          const found = [];
          boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
            if (one.contains(other) || clipped(one) || clipped(other)) return;
            if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) {
              found.push(`${one.id || one.textContent} / ${other.id || other.textContent}`);
            }
          }));
          return found;
        }"""
    )


def serve(route: Route, folder: Path) -> None:
    """Answer with a file of the folder, or instead of YouTube with a player that says what it is told."""
    if "youtube-nocookie" not in route.request.url:
        route.fulfill(path=folder / "youtube.html", content_type="text/html")
        return
    route.fulfill(
        content_type="text/html",
        body="""<script>
          addEventListener("message", (event) => {
            const told = JSON.parse(event.data);
            if (told.func === "seekTo") {
              parent.postMessage(JSON.stringify({ info: { currentTime: told.args[0], playerState: 1 } }), "*");
            }
          });
        </script>""",
    )


def test_youtube_plays_what_is_there_and_only_if_asked(browser: Browser, tmp_path: Path) -> None:
    films = [FilmAnswer(answer(REAL_ID)), FilmAnswer(answer("abcd"))]
    write_watch_page(tmp_path / "youtube.html", films, youtube_ids=True)
    write_watch_page(tmp_path / "plain.html", films)
    plain = OpenPage(browser, tmp_path / "plain.html", viewport=DESKTOP)
    expect(plain.page.locator("#player-note")).to_contain_text("The film is not available here")
    assert "youtube" not in (plain.page.locator("#data").text_content() or "")

    disk = OpenPage(browser, tmp_path / "youtube.html", viewport=DESKTOP)  # where YouTube's player refuses to work
    expect(disk.page.locator("#stage")).to_contain_text("YouTube's player works only on a page from a web server")
    disk.page.evaluate("window.open = (address) => { window.opened = address; }")
    disk.page.click(span_at("Sea", "0:10"))
    assert disk.page.evaluate("window.opened") == f"https://www.youtube.com/watch?v={REAL_ID}&t=10s"
    for opened in (plain, disk):
        assert not opened.complaints and all(address.startswith("file:") for address in opened.requests)
        opened.page.context.close()

    page = browser.new_context().new_page()
    page.route("**/*", lambda route: serve(route, tmp_path))
    page.goto("http://films.test/youtube.html")
    frame = page.frame_locator("#stage iframe").locator("script")
    expect(frame).to_be_attached()
    expect(page.locator("#stage iframe")).to_have_attribute(
        "src", re.compile(f"youtube-nocookie.com/embed/{REAL_ID}\\?")
    )
    expect(page.locator("#stage")).not_to_contain_text("web server")
    page.click(span_at("Sea", "0:10"))
    expect(page.locator("#now")).to_contain_text("0:10 of 0:40 · Sea 0.85")
    page.get_by_role("button", name=re.compile("^abcd")).click()
    expect(page.locator("#stage iframe")).to_have_count(0)
    expect(page.locator("#player-note")).to_contain_text("The film is not available here")
    page.context.close()


def test_pictures_of_files_that_are_not_films(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.mp4").write_text("no film", encoding="utf-8")
    assert not look_into(tmp_path / "text.mp4", [1.0]).pictures
    assert "the page has no pictures of it" in caplog.text
    with av.open(str(tmp_path / "sound.m4a"), "w") as film:
        audio = film.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        film.mux(audio.encode(frame))
        film.mux(audio.encode(None))
    look = look_into(tmp_path / "sound.m4a", [0.5])
    assert not look.is_visual and not look.pictures and look.format.startswith("aac in")


def test_pictures_of_an_unknown_codec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film = write_timed_film(tmp_path / "film.mp4", regular(20, 10), rate=10, sound=tone(2))
    film.write_bytes(film.read_bytes().replace(b"avc1", b"zzzz"))
    assert not look_into(film, [1.0]).pictures
    assert f"{film}: FFmpeg does not know the codec of its pictures; the page has no pictures of it" in caplog.text


def test_addresses_beside_the_page(tmp_path: Path) -> None:
    assert relative_url(tmp_path / "a b#.mp4", tmp_path) == "a%20b%23.mp4"
    assert relative_url(tmp_path / "x.mp4", tmp_path / "pages") == "../x.mp4"
    assert relative_url(tmp_path / "a:b.mp4", tmp_path) in ("./a:b.mp4", "a%3Ab.mp4")
