"""The report, as a browser shows it: opened from disk, without network, with mouse and keyboard, on any screen."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import DESKTOP, PHONE, OpenPage, running_browser
from tests.conftest import Outcome
from tests.shards import AUDIO, RGB, Video, make_video, write_videos
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, video_folder
from yt8m.data.candidates import load_candidates
from yt8m.data.index import load_index, split_fold
from yt8m.data.vocabulary import load_vocabulary
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
    page.select_option("#video", label=video)
    expect(page.locator("#video-note")).to_contain_text(video)


def move_to(page: Page, column_from_the_right: bool) -> None:
    """Move the mouse to the first or last segment of the timeline's first class."""
    page.locator("#timeline .nsewdrag").first.scroll_into_view_if_needed()
    for attempt in range(50):  # the chart may be making room for its labels
        box = page.locator("#timeline .nsewdrag").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + (box["width"] - 25 if column_from_the_right else 25), box["y"] + 12 + attempt % 2)
        page.wait_for_timeout(100)
        if page.locator("#timeline .hovertext").count():
            return
    raise AssertionError("nothing to be seen where the mouse is")


def test_opens_from_disk_without_complaints_and_without_network(opened: OpenPage, report: Path) -> None:
    assert not opened.complaints
    assert {address.partition(":")[0] for address in opened.requests} == {"file", "blob"}
    assert [address for address in opened.requests if address.startswith("file:")] == [report.absolute().as_uri()]
    for missing in opened.page.locator(".missing").all():
        expect(missing).to_be_hidden()
    for chart in ("score-chart", "timeline", "calibration-chart", "curve-chart"):
        expect(opened.page.locator(f"#{chart} svg.main-svg").first).to_be_visible()


def test_scores(opened: OpenPage, folder: Path) -> None:
    document = json.loads((folder / "cache" / "evaluation.json").read_text(encoding="utf-8"))
    rows = opened.page.locator("#score-table tbody tr")
    assert rows.count() == len(document["subjects"]) == 6
    for row, subject in zip(rows.all(), document["subjects"]):
        cells = row.locator("td").all_text_contents()
        assert cells[0] == subject["name"] and cells[1] == f"{subject['map']:.4f}"
    expect(opened.page.locator("#evaluation-text")).to_contain_text("50 ratings of segments in 1 videos")


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
    choose(page, "v100")
    own = next(
        own for own in json.loads(page.locator("#data").text_content() or "")["timelines"] if own["video"] == "v100"
    )
    video = candidates.video_ids.tolist().index(b"v100")
    rows = mean[candidates.row_starts[video] : candidates.row_ends[video]]
    assert own["start"] == 30 and own["url"] is None
    for entry, values in zip(own["classes"], own["probabilities"], strict=True):
        number = vocabulary.labels.tolist().index(entry["label"])
        assert entry["name"] == NAMES[entry["label"]]
        np.testing.assert_allclose(values, rows[:, number], atol=1e-4)
    shown = [entry["label"] for entry in own["classes"]]
    strongest = vocabulary.labels[np.argsort(-rows.max(axis=0))][:3].tolist()
    assert shown[:3] == strongest and set(shown) == set(NAMES)  # all are rated
    truth = read_truth(folder / "truth.csv", folder / "vocabulary.csv")
    assert {(shown[mark["class"]], mark["start"], mark["positive"]) for mark in own["marks"]} == {
        (row.label, row.start, row.score == 1) for row in truth.itertuples()
    }
    assert page.locator("#timeline .point").count() == len(own["marks"])
    assert page.locator("#timeline .heatmaplayer image").count() == 1
    move_to(page, False)
    expect(page.locator("#timeline .hovertext")).to_contain_text(
        f"0:30 to 0:35: probability {own['probabilities'][0][0]:.2f}"
    )


def test_a_click_opens_a_real_video_at_that_second(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("window.open = (address) => { window.opened = address; }")
    choose(page, "v100")
    move_to(page, False)
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate("window.opened ?? null") is None  # v100 is not a real id
    choose(page, REAL_ID.decode())
    move_to(page, True)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("window.opened !== undefined")
    last = 30 + 5 * (-(-62 // 5) - 8 - 1)
    assert page.evaluate("window.opened") == f"https://www.youtube.com/watch?v={REAL_ID.decode()}&t={last}s"


def test_the_keyboard_is_enough(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("window.open = (address) => { window.opened = address; }")
    page.locator("#video").focus()
    while page.locator("#video option:checked").text_content() != REAL_ID.decode():
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "timeline"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    own = page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).timelines"
        f".find((own) => own.video === '{REAL_ID.decode()}')"
    )
    expect(page.locator("#readout")).to_have_text(
        f"{own['classes'][1]['name']}, 0:35 to 0:40: probability {own['probabilities'][1][1]:.2f}"
    )
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    expect(page.locator("#readout")).to_contain_text(f"{own['classes'][0]['name']}, 0:30 to 0:35")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened").endswith(f"&t={30 + 5 * (len(own['probabilities'][0]) - 1)}s")
    assert page.locator("#timeline .shapelayer path").count() == 1  # the cursor is to be seen


def test_next_and_previous(opened: OpenPage) -> None:
    page = opened.page
    videos = page.locator("#video option").all_text_contents()
    assert sorted(videos) == sorted([REAL_ID.decode(), "v100", "v102"])  # all three, none of them twice
    page.click("#next-video")
    expect(page.locator("#video-note")).to_contain_text(videos[1])
    page.click("#previous-video")
    page.click("#previous-video")
    expect(page.locator("#video-note")).to_contain_text(videos[-1])


def test_models_and_their_curves(opened: OpenPage) -> None:
    rows = [row.locator("td").all_text_contents() for row in opened.page.locator("#model-table tbody tr").all()]
    assert [row[:6] for row in rows] == [
        ["base", "video", "dbof", "–", "–", "–"],
        [HTML_NAME, "context-agnostic", "nextvlad", "–", "–", "–"],
        ["both_0", "context-aware", "dbof for the context, nextvlad for the segment", "0", "40", "–"],
        ["vlad_0", "context-agnostic", "nextvlad", "0", "40", "auc 61.5 at step 20"],
    ]
    metrics = opened.page.locator("#curve-metric option").all_text_contents()
    assert metrics == ["loss", "lr", "examples_per_second", "train_loss", "valid_loss", "auc"]
    assert opened.page.locator("#curve-metric option:checked").text_content() == "auc"
    assert opened.page.locator("#curve-chart .point").count() == 2
    opened.page.select_option("#curve-metric", label="loss")
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
    text = opened.page.evaluate("getComputedStyle(document.querySelector('#timeline .ytick text')).fill")
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
    first, second, third = data["timelines"]
    assert first["note"] == "a rated video, by both_0, vlad_0, which were not trained on it"
    assert second["note"] == "a rated video, by models that were trained on it, or may have been"
    assert third["note"] == "a test video"
    assert first["start"] == 0 and len(first["probabilities"][0]) == 14
    labels = [entry["label"] for entry in first["classes"]]
    assert {(labels[mark["class"]], mark["start"], mark["positive"]) for mark in first["marks"]} >= {
        (3, 30, True),
        (7, 40, True),
    }


def test_what_there_is_not_is_said(browser: Browser, folder: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "segment_vocabulary.csv").write_bytes((folder / "segment_vocabulary.csv").read_bytes())
    outcome = command("report", "--data-dir", tmp_path)
    assert outcome.status == 0, outcome.err
    opened = OpenPage(browser, tmp_path / "cache" / "report.html", viewport=DESKTOP)
    assert not opened.complaints
    texts = [missing.text_content() or "" for missing in opened.page.locator(".missing").all() if missing.is_visible()]
    assert len(texts) == 5 and "yt8m.evaluate" in texts[0] and "yt8m.inference_memmap" in texts[1]
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


def test_certainty_is_entropy(folder: Path, report: Path) -> None:
    del report
    rng = np.random.default_rng(1)
    candidates, vocabulary = load_candidates(folder / "cache"), load_vocabulary(folder)
    maps = [rng.integers(0, 10000, (candidates.n_rows, len(vocabulary))).astype(np.int16) for _ in range(2)]
    for values, video, level in ((maps, 0, 20), (maps, 2, 9990)):
        for own in values:
            own[candidates.row_starts[video] : candidates.row_ends[video]] = level
    timelines = PredictedTimelines(
        maps, candidates, vocabulary, ratings_of_table(read_truth(folder / "truth.csv", folder / "vocabulary.csv"))
    )
    chosen = timelines.by_certainty(1)
    # Video 0 is surest, but that there is nothing; video 2 shows something surely.
    assert [own.video_id.encode() for own in chosen] == [candidates.video_ids[2], candidates.video_ids[1]]
    share = 9990 / 9999
    bits = -len(vocabulary) * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert f"{bits:.2f} bits" in chosen[0].note
