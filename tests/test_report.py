"""The report in a browser: opened from disk, without network, by mouse and keyboard, on any screen."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import DESKTOP, PHONE, OpenPage, running_browser, wait_for
from tests.conftest import Outcome
from tests.made_films import write_film
from tests.shards import AUDIO, RGB, Video, make_video, write_videos
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, video_folder
from yt8m.data.candidates import load_candidates
from yt8m.data.index import load_index, split_fold
from yt8m.data.vocabulary import load_vocabulary
from yt8m.localization.spans import runs
from yt8m.reporting.film_previews import films_by_id
from yt8m.reporting.timelines import PredictedTimelines
from yt8m.scoring.ratings import ratings_of_table, read_truth

Command = Callable[..., Outcome]
REAL_ID = b"dQw-_9WgXcQ"
NAMES = {3: "Tree", 7: "Aardvark", 12: '</script><img src=x onerror=alert(1)> & "Co"', 40: "Boat", 41: "Zebra"}
WIDTHS = {"video_dim": RGB, "audio_dim": AUDIO}
HTML_NAME = "<img src=x onerror=alert(1)>"  # of a model
VLAD = NEXTVLAD | WIDTHS | {"groups": 2}


def named(video_id: bytes, video: Video) -> Video:
    """The same video under another id."""
    return Video(video_id, video.rgb, video.audio, video.labels, video.ratings)


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: shards, two segment models that held out fold 0, one video model, no predictions yet."""
    path = tmp_path_factory.mktemp("report") / "data"
    lines = [f'{label},"{name.replace(chr(34), chr(34) * 2)}"' for label, name in NAMES.items()]
    path.mkdir()
    (path / "segment_vocabulary.csv").write_text("\n".join(["Index,Name", *lines]) + "\n", encoding="utf-8")
    for shard in range(8):
        videos = [
            make_video(10 * shard + number, 70, [3, 7], [(30, 3, 1.0), (35, 3, 0.0), (40, 7, 1.0)])
            for number in range(2)
        ]
        write_videos(path / "segment" / "train" / f"train{shard}.tfrecord", videos)
    write_videos(
        path / "segment" / "test" / "test0.tfrecord",
        [make_video(100, 90), named(REAL_ID, make_video(101, 62)), make_video(102, 75)],
    )
    index = load_index(path / "segment" / "train", path / "cache")
    agnostic_folder(path / "cache" / "segment" / HTML_NAME, VLAD, path, seed=3)
    agnostic_folder(path / "cache" / "segment" / "vlad_0", VLAD, path, seed=1)
    aware_folder(path / "cache" / "segment" / "both_0", DBOF | WIDTHS, VLAD, path, seed=2)
    for name in ("vlad_0", "both_0"):
        origin = {"fold": 0, "segment/train": index.digest, "config": {"pure_segment": {"training": {"steps": 40}}}}
        (path / "cache" / "segment" / name / "run.json").write_text(json.dumps(origin), encoding="utf-8")
    (path / "cache" / "segment" / "vlad_0" / "history.csv").write_text(
        "step,loss,lr,examples_per_second,train_loss,valid_loss,auc\n10,0.7,1e-4,50,,,\n20,0.5,1e-4,50,0.6,0.55,61.5\n"
        "40,0.4,1e-5,50,0.45,0.5,60\n",
        encoding="utf-8",
    )
    video_folder(path / "cache" / "video" / "base", DBOF | WIDTHS, len(NAMES))
    rows = [
        f"v100,{start},{label},{int((start // 5 + label) % 3 == 0)}" for start in range(30, 80, 5) for label in NAMES
    ]
    (path / "truth.csv").write_text("\n".join(["vid,start,label,score", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(name="report", scope="module")
def fixture_report(folder: Path) -> Path:
    """The page of the data folder, after predictions and an evaluation."""
    from yt8m import evaluate, inference_memmap, prepare_test_meta, report

    where = ["--data-dir", str(folder)]
    truth = ["--truth", str(folder / "truth.csv")]
    for module, more in (
        (prepare_test_meta, []),
        (inference_memmap, ["--device", "cpu"]),
        (evaluate, [*truth, "--seed", "0", "--resamples", "50"]),
        (report, [*truth, "--n-videos", "2", "--top", "3", "--model-names", "vlad_0", "both_0"]),
    ):
        module.main(module.build_parser().parse_args([*where, *more]))
    return folder / "cache" / "report.html"


@pytest.fixture(name="browser", scope="module")
def fixture_browser() -> Iterator[Browser]:
    """A browser for all tests of this file."""
    with running_browser() as browser:  # pylint: disable=contextmanager-generator-missing-cleanup  # pytest exhausts it
        yield browser


@pytest.fixture(name="opened")
def fixture_opened(browser: Browser, report: Path) -> Iterator[OpenPage]:
    """The page on a desk, in light."""
    opened = OpenPage(browser, report, viewport=DESKTOP, color_scheme="light")
    yield opened
    opened.page.context.close()


def choose(page: Page, video: str) -> None:
    """Choose the timeline of a video."""
    page.get_by_label("Search for a video or a class").fill(video)
    page.locator("#chooser-list button").filter(has_text=re.compile(f"^{video}")).click()
    expect(page.locator("#video-title")).to_contain_text(video)


def data_of(page: Page) -> dict[str, Any]:
    """What the page is made of."""
    return json.loads(page.locator("#data").text_content() or "")


def shown_videos(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The videos in the page by id, with their probabilities by class."""
    timelines = data["timelines"]
    levels = np.frombuffer(base64.b64decode(timelines["levels"]), np.uint8)
    found, offset = {}, 0
    for video_id, start, seconds, n_segments, classes, marks in timelines["videos"]:
        names = [timelines["classes"][place] for place in classes]
        own = levels[offset : offset + len(classes) * n_segments].reshape(len(classes), n_segments)
        offset += own.size
        found[video_id] = {
            "start": start,
            "seconds": seconds,
            "classes": names,
            "probabilities": own / timelines["scale"],
            "marks": {(names[row], second, positive) for row, second, positive in marks},
        }
    assert offset == len(levels)
    return found


def test_opens_from_disk_without_complaints_and_without_network(opened: OpenPage, report: Path) -> None:
    assert not opened.complaints
    assert {address.partition(":")[0] for address in opened.requests} == {"file", "blob"}
    assert [address for address in opened.requests if address.startswith("file:")] == [report.absolute().as_uri()]
    for missing in opened.page.locator(".missing").all():
        expect(missing).to_be_hidden()
    for chart in ("score-chart", "calibration-chart", "curve-chart"):
        expect(opened.page.locator(f"#{chart} svg.main-svg").first).to_be_visible()
    for chart in ("score-chart", "calibration-chart"):  # marks at 0 or 1 are drawn as a whole
        assert opened.page.evaluate(f"document.getElementById('{chart}').data[0].cliponaxis") is False
    expect(opened.page).to_have_title("When concepts appear")


def test_scores(opened: OpenPage, folder: Path) -> None:
    document = json.loads((folder / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    rows = opened.page.locator("#score-table tbody tr")
    assert rows.count() == len(document["subjects"]) == 6
    for row, subject in zip(rows.all(), document["subjects"]):
        cells = row.locator("td").all_text_contents()
        assert cells[0] == subject["name"] and cells[1] == f"{subject['map']:.4f}"
    expect(opened.page.locator("#evaluation-text")).to_contain_text("50 ratings of segments in 1 video,")
    heads = opened.page.locator("#score-table th").all_text_contents()
    assert heads == "/MAP@100,000/95 % interval/AUC/class AUC/precision/recall/calibration error/note".split("/")
    place = [subject["name"] for subject in document["subjects"]].index("ensemble")
    half = next(row for row in document["subjects"][place]["at_thresholds"] if row["threshold"] == 0.5)
    cells = rows.nth(place).locator("td").all_text_contents()
    assert cells[5:7] == ["–" if half[name] is None else f"{half[name]:.4f}" for name in ("precision", "recall")]
    opened.page.get_by_text("What the columns say").click()
    assert opened.page.locator("#score-legend dt").all_text_contents() == heads[1:-1]


def test_the_classes_are_sorted_and_searched(opened: OpenPage) -> None:
    page = opened.page
    names = page.locator("#class-table tbody tr td:first-child")
    assert set(names.all_text_contents()) == set(NAMES.values())
    page.locator("#class-table thead th", has_text="Class").first.click()
    expect(names).to_have_text(sorted(NAMES.values(), key=str.lower))
    page.locator("#class-table thead th", has_text="Class").first.click()
    expect(names.first).to_have_text("Zebra")
    column = page.locator("#class-table thead th").all_text_contents().index("ensemble")
    values = page.locator(f"#class-table tbody tr td:nth-child({column + 1})")
    before = values.all_text_contents()
    assert len(set(before)) > 1
    page.locator("#class-table thead th", has_text="ensemble").click()
    expect(values).to_have_text(sorted(before))
    search = page.get_by_label("Search by class name or label:")
    search.fill("aard")
    expect(names).to_have_text(["Aardvark"])
    search.fill("no such class")
    expect(page.locator("#class-table")).to_contain_text("No matching records found")
    search.fill("")
    expect(names).to_have_count(len(NAMES))
    assert not opened.complaints


def test_names_are_text(opened: OpenPage) -> None:
    choose(opened.page, "v100")
    expect(opened.page.locator("#class-table")).to_contain_text(NAMES[12])
    expect(opened.page.locator("#class-table thead")).to_contain_text(HTML_NAME)
    expect(opened.page.locator("#score-table")).to_contain_text(HTML_NAME)
    expect(opened.page.locator("#model-table")).to_contain_text(HTML_NAME)
    assert opened.page.locator("img").count() == 0
    assert not opened.complaints


def test_a_timeline_shows_the_predictions(opened: OpenPage, folder: Path) -> None:
    page, cache = opened.page, folder / "cache"
    candidates, vocabulary = load_candidates(cache), load_vocabulary(folder)
    mean = np.mean([np.load(cache / "predictions" / f"{name}.npy") for name in ("vlad_0", "both_0")], axis=0) / 9999
    videos = shown_videos(data_of(page))
    assert list(videos) == [video_id.decode() for video_id in candidates.video_ids.tolist()]  # all of the test set
    for number, own in enumerate(videos.values()):
        rows = mean[candidates.row_starts[number] : candidates.row_ends[number]]
        assert own["start"] == 30 and own["seconds"] == 40 + 5 * len(rows)
        columns = [vocabulary.names.index(name) for name in own["classes"]]
        assert (
            (rows[:, columns].T - own["probabilities"] >= -1e-6) & (rows[:, columns].T < own["probabilities"] + 0.0051)
        ).all()
        assert columns[:3] == np.argsort(-rows.max(axis=0), kind="stable")[:3].tolist()
    own = videos["v100"]
    assert set(own["classes"]) == set(vocabulary.names)  # all are rated
    truth = read_truth(folder / "truth.csv", folder / "vocabulary.csv")
    names = dict(zip(vocabulary.labels.tolist(), vocabulary.names))
    assert own["marks"] == {(names[row.label], row.start, row.score == 1) for row in truth.itertuples()}
    choose(page, "v100")
    expect(page.locator("#lines .line-name:visible")).to_have_text(["", *own["classes"]])
    expect(page.locator("#lines .mark.yes")).to_have_count(sum(positive for *_, positive in own["marks"]))
    expect(page.locator("#lines .mark.no")).to_have_count(sum(not positive for *_, positive in own["marks"]))
    expect(page.locator("#lines .curve")).to_have_count(len(own["classes"]))
    spans = sum(len(runs(values >= 0.5)) for values in own["probabilities"])
    expect(page.locator("#lines .span")).to_have_count(spans)
    expect(page.locator("#lines .tick").first).to_have_text("0:00")


def test_marks_differ_in_colour_and_shape(opened: OpenPage) -> None:
    page = opened.page
    choose(page, "v100")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        yes = page.locator("#lines .mark.yes circle").first.evaluate("(own) => getComputedStyle(own).fill")
        no = page.locator("#lines .mark.no path").first.evaluate("(own) => getComputedStyle(own).stroke")
        assert yes != no
        surface = page.evaluate("getComputedStyle(document.querySelector('#timelines')).backgroundColor")
        for colour in (yes, no):
            assert contrast(colour, surface) >= 3, scheme


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as the W3C's guidelines define it."""
    levels = []
    for colour in (one, other):
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        levels.append(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return max(levels) / min(levels)


def test_all_videos_can_be_searched(opened: OpenPage) -> None:
    page = opened.page
    found = page.locator("#chooser-list .title")
    search = page.get_by_label("Search for a video or a class")
    assert sorted(found.all_text_contents()) == sorted([REAL_ID.decode(), "v100", "v102"])
    expect(page.locator("#chooser-list .detail").first).to_contain_text("among the most certain")
    search.fill("V10")
    expect(found).to_have_text(["v100", "v102"])
    search.fill("no such")
    expect(page.locator("#chooser-more")).to_have_text("No video found.")
    videos = shown_videos(data_of(page))
    peaks = {
        video: own["probabilities"][own["classes"].index("Zebra")].max()
        for video, own in videos.items()
        if "Zebra" in own["classes"]
    }
    search.fill("zeb")
    expect(found).to_have_text(sorted(peaks, key=lambda video: -peaks[video]))
    best = max(peaks, key=lambda video: peaks[video])
    expect(page.locator("#chooser-list .detail").first).to_contain_text(
        f"Zebra {np.floor(peaks[best] * 100 + 1e-9) / 100:.2f}"
    )


def test_a_real_video_opens_at_that_second(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("window.open = (address) => { window.opened = address; }")
    choose(page, "v100")
    expect(page.locator("#player-note")).to_contain_text("The film is not available here")
    choose(page, REAL_ID.decode())
    link = page.get_by_role("link", name=f"Watch {REAL_ID.decode()} on YouTube")
    address = f"https://www.youtube.com/watch?v={REAL_ID.decode()}&t="
    expect(link).to_have_attribute("href", f"{address}0s")
    expect(page.locator("#stage")).not_to_contain_text("web server")  # no player was asked for
    track = page.locator("#lines .axis .track").bounding_box()
    assert track is not None
    seconds = shown_videos(data_of(page))[REAL_ID.decode()]["seconds"]
    page.mouse.click(track["x"] + track["width"] * 32.5 / seconds, track["y"] + 5)
    expect(link).to_have_attribute("href", f"{address}32s")
    assert page.evaluate("window.opened ?? null") is None


def test_the_keyboard_is_enough(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("window.open = (address) => { window.opened = address; }")
    page.get_by_label("Search for a video or a class").focus()
    page.keyboard.type(REAL_ID.decode())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#video-title")).to_contain_text(REAL_ID.decode())
    own = shown_videos(data_of(page))[REAL_ID.decode()]
    spans = sorted(
        (own["start"] + 5 * first, row)
        for row, values in enumerate(own["probabilities"])
        for first, _ in runs(values >= 0.5)
    )
    assert spans
    while page.evaluate("!document.activeElement.matches('#lines .span')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened").endswith(f"&t={spans[0][0]}s")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened").endswith(f"&t={spans[-1][0]}s")
    page.locator("#class-table").scroll_into_view_if_needed()
    page.evaluate("document.activeElement.blur(); window.opened = 'nothing'")
    page.keyboard.press("n")  # the keys are the viewer's only while the focus is in it
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened") == "nothing"


def test_tables_scroll_in_their_boxes(browser: Browser, report: Path) -> None:
    for viewport in (DESKTOP, PHONE):
        opened = OpenPage(browser, report, viewport=viewport)
        cut = opened.page.evaluate(
            """[...document.querySelectorAll("table, .chart, h1, p, select, input")].filter((own) => {
              if (!own.checkVisibility() || own.closest("dialog")) return false;
              let box = own;  // the first one outside that scrolls
              const scrolls = (own) => /auto|scroll/.test(getComputedStyle(own).overflowX);
              while (box && !(box.scrollWidth > box.clientWidth && scrolls(box))) box = box.parentElement;
              return (box ?? own).getBoundingClientRect().right > innerWidth + 1;
            }).map((own) => own.id || own.outerHTML.slice(0, 80))"""
        )
        assert cut == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        fonts = opened.page.evaluate(
            "[...new Set([...document.querySelectorAll('body *')].filter((own) => own.checkVisibility())"
            ".map((own) => getComputedStyle(own).fontFamily))]"
        )
        assert len(fonts) == 1, fonts
        opened.page.context.close()


def test_films_are_played(browser: Browser, folder: Path, report: Path, tmp_path: Path, command: Command) -> None:
    write_film(tmp_path / "v100.webm", 90, codecs=("libvpx-vp9", None), width=64, height=36, fps=2)
    (tmp_path / "v102.txt").write_text("no film", encoding="utf-8")
    page_path = tmp_path / "page.html"
    where = ["--data-dir", folder, "--films", tmp_path, "--output", page_path, "--model-names", "vlad_0", "both_0"]
    outcome = command("report", *where)
    assert outcome.status == 0, outcome.err
    opened = OpenPage(browser, page_path, viewport=DESKTOP)
    page = opened.page
    choose(page, "v100")
    bars = page.locator("#lines .span")
    assert bars.count()
    expect(page.locator(".card img")).to_have_count(bars.count())
    wait_for(page, "document.querySelector('video').readyState >= 1")
    bars.first.click()
    start = shown_videos(data_of(page))["v100"]
    first = next(runs(values >= 0.5)[0][0] for values in start["probabilities"] if (values >= 0.5).any())
    wait_for(page, f"Math.abs(document.querySelector('video').currentTime - {30 + 5 * first}) < 2")
    assert not opened.complaints
    page.context.close()
    other = tmp_path / "below" / "other.mp4"
    other.parent.mkdir()
    other.touch()
    for films, said in (
        (folder, f"{folder}: no film in this folder; looked for"),
        (tmp_path / "none", "none: no such folder"),
        (other.parent, "no film there is named after one of the videos"),
    ):
        refused = command("report", "--data-dir", folder, "--films", films)
        assert refused.status == 2 and said in refused.err
    del report


def test_films_are_found_by_the_ids_of_their_features(tmp_path: Path) -> None:
    for name in ("a, b.mp4", "below/x.avi", "below/x.webm", "below/x.mkv", "x.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {video_id: str(film.relative_to(tmp_path)) for video_id, film in films_by_id(tmp_path).items()}
    assert found == {
        "a__b": "a, b.mp4",
        "a, b": "a, b.mp4",
        "x": "below/x.webm",
        "x-2": "below/x.mkv",
        "x-3": "below/x.webm",
        "x-4": "x.avi",
    }


def test_models_and_their_curves(opened: OpenPage) -> None:
    rows = [row.locator("td").all_text_contents() for row in opened.page.locator("#model-table tbody tr").all()]
    assert [row[:6] for row in rows] == [
        ["base", "video", "dbof", "–", "–", "–"],
        [HTML_NAME, "context-agnostic", "nextvlad", "–", "–", "–"],
        ["both_0", "context-aware", "dbof for the context, nextvlad for the segment", "0", "40", "–"],
        ["vlad_0", "context-agnostic", "nextvlad", "0", "40", "AUC 0.615 at step 20"],
    ]
    metrics = opened.page.locator("#curve-metric option").all_text_contents()
    assert metrics == [
        "training loss, last 100 steps",
        "learning rate",
        "examples per second",
        "training loss",
        "validation loss",
        "AUC",
    ]
    assert opened.page.locator("#curve-metric option:checked").text_content() == "AUC"
    assert opened.page.locator("#curve-chart .point").count() == 2
    opened.page.select_option("#curve-metric", label="training loss, last 100 steps")
    expect(opened.page.locator("#curve-chart .point")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_in_light_and_dark(browser: Browser, report: Path, scheme: str) -> None:
    opened = OpenPage(browser, report, viewport=PHONE, color_scheme=scheme)
    assert not opened.complaints
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    red, green, blue = opened.page.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue < 200) == (scheme == "dark")
    text = opened.page.evaluate("getComputedStyle(document.querySelector('#score-chart .ytick text')).fill")
    level = sum(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(",")[:3])
    assert (level > 500) == (scheme == "dark")
    opened.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")  # the sun goes down
    expect(opened.page.locator("html")).to_have_class("dark" if scheme == "light" else "")
    assert not opened.complaints
    opened.page.context.close()


def test_rated_videos_are_predicted_by_models_that_have_not_seen_them(
    folder: Path, report: Path, command: Command
) -> None:
    del report  # predictions of test videos are there, too
    index = load_index(folder / "segment" / "train", folder / "cache")
    held_out = np.flatnonzero(np.isin(index.shard, split_fold(index, 0)[1]))
    unseen, seen = index.video_id[held_out[0]].decode(), index.video_id[np.setdiff1d(range(16), held_out)[0]].decode()
    outcome = command(
        "report",
        "--data-dir",
        folder,
        "--videos",
        unseen,
        seen,
        "v102",
        "--output",
        folder / "rated.html",
        "--device",
        "cpu",
    )
    assert outcome.status == 0, outcome.err
    text = (folder / "rated.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["timelines"]["notes"] == [
        [0, "a rated video, by both_0, vlad_0, which were not trained on it"],
        [1, "a rated video, by models that were, or may have been, trained on it"],
        [2, "a test video"],
    ]
    videos = shown_videos(data)
    assert list(videos) == [unseen, seen, "v102"]
    assert videos[unseen]["start"] == 0 and videos[unseen]["seconds"] == 70
    assert videos[unseen]["probabilities"].shape[1] == 14
    assert videos[unseen]["marks"] >= {("Tree", 30, True), ("Aardvark", 40, True)}


def test_missing_parts_are_stated(browser: Browser, folder: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "segment_vocabulary.csv").write_bytes((folder / "segment_vocabulary.csv").read_bytes())
    outcome = command("report", "--data-dir", tmp_path)
    assert outcome.status == 0, outcome.err
    opened = OpenPage(browser, tmp_path / "cache" / "report.html", viewport=DESKTOP)
    assert not opened.complaints
    texts = [missing.text_content() or "" for missing in opened.page.locator(".missing").all() if missing.is_visible()]
    assert len(texts) == 5 and "yt8m.inference_memmap" in texts[0] and "yt8m.evaluate" in texts[1]
    opened.page.context.close()


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--videos", "none"], "--videos: no video none in"),
        (["--evaluations", "odd.json"], "odd.json: not an evaluation of this version"),
        (["--evaluations", "missing.json"], "missing.json: cannot be read as an evaluation"),
        (["--truth", "missing.csv"], "missing.csv: no such file"),
        (["--model-names", "other"], "predictions: no such predictions of test segments"),
        (["--videos", "v100", "v100"], "v100 is named more than once"),
    ],
)
def test_mistakes(
    report: Path, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], problem: str
) -> None:
    before = report.read_bytes()
    (folder / "odd.json").write_text('{"version": 0}', encoding="utf-8")
    monkeypatch.chdir(folder)
    outcome = command("report", "--data-dir", folder, *options)
    assert outcome.status == 2
    assert problem in outcome.err.splitlines()[-1] and "Traceback" not in outcome.err
    assert report.read_bytes() == before


def test_the_most_and_least_certain_come_first(folder: Path, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del report
    candidates, vocabulary = load_candidates(folder / "cache"), load_vocabulary(folder)
    map_ = np.full((candidates.n_rows, len(vocabulary)), 100, np.int16)
    starts = candidates.row_starts
    map_[starts[0] + 1, 2], map_[starts[1], 0], map_[starts[2] + 3, 4] = 5100, 2000, 9990
    ratings = ratings_of_table(read_truth(folder / "truth.csv", folder / "vocabulary.csv"))
    timelines = PredictedTimelines([map_, map_], candidates, vocabulary, ratings)
    selection = timelines.select(1, 2)
    assert [video.video_id.encode() for video in selection.videos] == candidates.video_ids.tolist()
    assert list(selection.notes.items()) == [
        (2, f"among the most certain: {vocabulary.names[4]}, probability 0.99 at 0:45"),
        (0, f"among the least certain: {vocabulary.names[2]}, probability 0.51 at 0:35"),
    ]
    assert not selection.remarks
    room = (len(vocabulary) + 1) * int(candidates.row_ends[0])  # all classes of the first video are rated
    monkeypatch.setattr("yt8m.reporting.timelines.MOST_BYTES", room)
    small = timelines.select(1, 5)
    assert [video.video_id.encode() for video in small.videos] == candidates.video_ids[[0, 2]].tolist()
    assert list(small.notes) == [1, 0] and len(small.videos[1].classes) == 1
    assert small.remarks == [f"Left out of the test set: 1 video; the page holds at most {room} probabilities"]
