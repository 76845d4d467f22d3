"""A headless browser for pages that open from disk; also takes the screenshots of the documentation:

python -m tests.browser report data/demo/cache/report.html docs
python -m tests.browser watch data/demo-film/watch.html docs
python -m tests.browser rate data/demo-film docs
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from signal import SIGINT
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
QUIET = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_path() -> str | None:
    """The browser that CHROMIUM names or that is installed; None for the one that playwright itself has installed."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium without a window."""
    sandboxed = os.getuid() != 0  # as root, Chromium has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=QUIET, chromium_sandbox=sandboxed)
        yield browser
        browser.close()


class OpenPage:
    """A page of a file, with everything that the browser complained about and every address that it asked for."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.absolute().as_uri())
        self.page.wait_for_selector("html[data-ready=true]", state="attached")


def wait_for(page: Page, expression: str) -> None:
    """Wait until an expression is true; unlike playwright's own way also where pages forbid `eval`."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not true within 30 s: {expression}")


def take_report_screenshots(report: Path, folder: Path) -> None:
    """Pictures of a report for the documentation."""
    with running_browser() as browser:
        for name, options, element in (
            ("timeline", {"viewport": DESKTOP}, "#timelines"),
            ("scores", {"viewport": DESKTOP}, "#scores"),
            ("timeline-dark-phone", {"viewport": PHONE, "color_scheme": "dark"}, "#timelines"),
        ):
            page = OpenPage(browser, report, **options).page
            page.locator(element).screenshot(path=folder / f"report-{name}.png")


def take_watch_screenshot(watch: Path, folder: Path) -> None:
    """A picture of a page of films for the documentation, at the third span of the first film."""
    with running_browser() as browser:
        page = OpenPage(browser, watch, viewport=DESKTOP).page
        for _ in range(3):
            page.keyboard.press("n")
        wait_for(page, "document.querySelector('video').readyState >= 2 && !document.querySelector('video').seeking")
        page.wait_for_timeout(500)  # the player's own controls come and go
        page.screenshot(path=folder / "watch.png", full_page=True)


def take_rate_screenshot(demo: Path, folder: Path, **options: Any) -> None:
    """A picture of the page for rating, with films and labels of the film demo, after some answers."""
    with TemporaryDirectory() as place, running_browser() as browser:
        (Path(place) / "films").mkdir()
        for film in sorted((demo / "films").iterdir())[:8]:
            shutil.copy(film, Path(place) / "films")
        shutil.copy(demo / "labels.csv", place)
        words = "-m yt8m.rate --videos films --labels labels.csv --name first --seed 11".split()
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        command = [sys.executable, *words]
        with Popen(command, stdout=PIPE, text=True, cwd=place, env=os.environ | {"PYTHONPATH": path}) as server:
            try:
                assert server.stdout is not None
                address = next(line.strip() for line in server.stdout if line.startswith("http"))
                page = browser.new_page(viewport={"width": 900, "height": 1060}, **options)
                page.goto(address)
                for key in "ynnyynynynyynn":
                    page.wait_for_selector("html[data-ready=true]", state="attached")
                    page.keyboard.press(key)
                page.wait_for_selector("html[data-ready=true]", state="attached")
                page.wait_for_timeout(2000)
                picture = Image.open(BytesIO(page.screenshot(full_page=True)))
            finally:
                server.send_signal(SIGINT)
        picture.convert("RGB").quantize(256).save(folder / "rating.png", optimize=True)


if __name__ == "__main__":
    take = {"report": take_report_screenshots, "watch": take_watch_screenshot, "rate": take_rate_screenshot}[
        sys.argv[1]
    ]
    take(Path(sys.argv[2]), Path(sys.argv[3]))
