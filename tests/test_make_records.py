"""`make_records`: shards hold the given arrays; invalid input is refused as a whole."""

import csv
import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from yt8m import make_records
from yt8m.data.features import feature_contract
from yt8m.data.index import Index, load_index
from yt8m.data.reader import Frames, ShardReader

Command = Callable[..., Outcome]
LABELS, RATINGS = ("vid", "label"), ("vid", "start", "label", "score")


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """A folder of these arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for video_id, array in arrays.items():
        np.save(folder / f"{video_id}.npy", array)
    return folder


def save_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """A CSV of these rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def frames_of(reader: ShardReader, record: int) -> np.ndarray:
    """All frames of a record, (n, D), its checksum verified."""
    out = np.empty((int(reader.index.n_frames[record]), reader.frame_dim), np.uint8)
    assert reader.read([Frames(record, slice(0, len(out)), out)], whole=True).all()
    return out


def records_of(index: Index) -> dict[str, int]:
    """The record of each video."""
    return {name.decode(): record for record, name in enumerate(index.video_id.tolist())}


class World:
    """Six videos of uint8 features, their labels and ratings, and the command line that makes rated shards of them."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        self.data_dir, self.features = folder / "own", folder / "features"
        self.arrays = {f"video-{number}": rng.integers(0, 256, (40 + number, 6), np.uint8) for number in range(6)}
        save_arrays(self.features, self.arrays)
        self.labels = [(video_id, 3 + number % 2) for number, video_id in enumerate(self.arrays)]
        self.ratings = [(video_id, 30, 3, number % 2) for number, video_id in enumerate(self.arrays)]
        self.labels_path = save_csv(folder / "labels.csv", LABELS, self.labels)
        self.ratings_path = save_csv(folder / "ratings.csv", RATINGS, self.ratings)

    def arguments(self, partition: str, *more: object) -> list[object]:
        """The command line for a partition."""
        files = {"--labels": self.labels_path} if partition != "segment/test" else {}
        if partition == "segment/train":
            files["--ratings"] = self.ratings_path
        given_files = [part for option in files.items() for part in option]
        return [
            "make_records",
            self.features,
            "--data-dir",
            self.data_dir,
            "--partition",
            partition,
            *given_files,
            *more,
        ]

    def index(self, partition: str = "segment/train") -> Index:
        """What has been written."""
        return load_index(self.data_dir / partition, self.data_dir / "cache")


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> World:
    """Files of a user."""
    return World(tmp_path)


def assert_refused(outcome: Outcome, *parts: object) -> None:
    """One line on stderr with these parts, status 2."""
    assert outcome.status == 2, outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for part in parts:
        assert str(part) in outcome.err, outcome.err


@st.composite
def _videos(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays, labels and ratings of a few videos, and where audio comes from."""
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9_.\-]{1,11}", fullmatch=True), min_size=1, max_size=12, unique=True)
    )
    names = [f"v{name}" for name in names]
    widths = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    audio = draw(st.sampled_from(["none", "folder", "columns"]))
    lengths = {name: (draw(st.integers(1, 30)), draw(st.integers(1, 30))) for name in names}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    labels = st.integers(0, 2**31 - 1) | st.integers(0, 9)
    seconds = {name: min(pair) if audio == "folder" else pair[0] for name, pair in lengths.items()}
    return {
        "audio": audio,
        "rgb": {name: rng.integers(0, 256, (pair[0], widths[0]), np.uint8) for name, pair in lengths.items()},
        "sound": {
            name: rng.integers(0, 256, (pair[audio == "folder"], widths[1]), np.uint8) for name, pair in lengths.items()
        },
        "labels": {name: draw(st.lists(labels, max_size=3, unique=True)) for name in names},
        "ratings": {
            name: draw(
                st.lists(
                    st.tuples(st.integers(0, (seconds[name] - 1) // 5).map(lambda n: 5 * n), labels, st.integers(0, 1)),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda rating: rating[:2],
                )
            )
            for name in names
        },
        "shard": draw(st.none() | st.integers(1, 5)),
    }


@settings(max_examples=25, deadline=None)
@given(videos=_videos())
def test_records_hold_the_given_values(videos: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rgb, sound, audio = videos["rgb"], videos["sound"], videos["audio"]
        options: list[object] = []
        if audio == "columns":
            rgb_arrays = {key: np.concatenate([rgb[key], sound[key]], axis=1) for key in rgb}
            options = ["--audio-width", next(iter(sound.values())).shape[1]]
        else:
            rgb_arrays = rgb
        if audio == "folder":
            options = ["--audio", save_arrays(folder / "sound", sound)]
        if videos["shard"]:
            options += ["--shard-videos", videos["shard"]]
        labels = [(key, label) for key, own in videos["labels"].items() for label in own] or [("elsewhere", 1)]
        ratings = [(key, *rating) for key, own in videos["ratings"].items() for rating in own]
        arguments: list[object] = [save_arrays(folder / "rgb", rgb_arrays), "--data-dir", folder / "own"]
        arguments += ["--partition", "segment/train", *options]
        arguments += ["--labels", save_csv(folder / "labels.csv", LABELS, labels)]
        arguments += ["--ratings", save_csv(folder / "ratings.csv", RATINGS, ratings), "--seed", 0]
        make_records.main(make_records.build_parser().parse_args([*map(str, arguments)]))

        index = load_index(folder / "own" / "segment" / "train", folder / "own" / "cache")
        records, reader = records_of(index), ShardReader(index)
        assert set(records) == set(rgb)
        for key, record in records.items():
            expected = [rgb[key]] if audio == "none" else [rgb[key], sound[key]]
            n_frames = min(map(len, expected))
            assert np.array_equal(frames_of(reader, record), np.concatenate([part[:n_frames] for part in expected], 1))
            assert index.of_record(record, index.labels, index.label_ends).tolist() == sorted(videos["labels"][key])
            columns = (index.rating_start, index.rating_label, index.rating_score)
            found = zip(*(index.of_record(record, values, index.rating_ends).tolist() for values in columns))
            assert list(found) == sorted(videos["ratings"][key])


@settings(max_examples=20, deadline=None)
@given(
    low=st.integers(-100_000, 100_000).map(lambda number: number / 1000),
    extent=st.integers(100, 200_000).map(lambda number: number / 1000),
    dtype=st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    seed=st.integers(0, 99),
)
def test_floats_become_the_nearest_of_256_steps(low: float, extent: float, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (low + rng.uniform(-0.2, 1.2, (11, 5)) * extent).astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        features = save_arrays(Path(name) / "features", {"one": np.asfortranarray(values) if seed % 2 else values})
        high = low + extent
        arguments = [str(features), "--data-dir", name, "--partition", "segment/test", "--seed", "0"]
        arguments += ["--range", repr(low), repr(high)]
        make_records.main(make_records.build_parser().parse_args(arguments))
        index = load_index(Path(name) / "segment" / "test", Path(name) / "cache")
        back = frames_of(ShardReader(index), 0) * (extent / 255) + low
        assert np.abs(back - values.astype(float).clip(low, high)).max() <= extent / 510 * (1 + 1e-6)


def test_names_get_ids_once_and_for_all(world: World, command: Command) -> None:
    names = ["Zebra", "cat, big", "Änderung"]
    save_csv(world.labels_path, LABELS, [(video, names[number % 3]) for number, video in enumerate(world.arrays)])
    save_csv(world.ratings_path, RATINGS, [(video, 5, "yak", 1) for video in world.arrays])
    assert command(*world.arguments("segment/train")).status == 0
    path = world.data_dir / "vocabulary.csv"
    ordered = sorted([*names, "yak"])
    assert path.read_text(encoding="utf-8").splitlines()[0] == "Index,KnowledgeGraphId,Name"
    with path.open(newline="", encoding="utf-8") as file:
        assert [(int(row["Index"]), row["Name"]) for row in csv.DictReader(file)] == list(enumerate(ordered))
    assert set(world.index().rating_label.tolist()) == {ordered.index("yak")}
    assert command("prepare_vocabulary", "--data-dir", world.data_dir).status == 0
    with (world.data_dir / "segment_vocabulary.csv").open(newline="", encoding="utf-8") as file:
        assert [row["Name"] for row in csv.DictReader(file)] == ["yak"]

    before = contents(world.data_dir)
    save_csv(world.labels_path, LABELS, [("video-1", "yak"), ("video-2", "zebra")])
    outcome = command(*world.arguments("video/train"))
    assert_refused(outcome, path, "'zebra'", "line 3", "'Zebra'", "add a line")
    assert contents(world.data_dir) == before
    save_csv(world.labels_path, LABELS, [("video-1", "yak"), ("video-2", "Zebra")])
    assert command(*world.arguments("video/train")).status == 0
    assert path.read_bytes() == before["vocabulary.csv"]
    index = world.index("video/train")
    assert sorted(index.labels.tolist()) == sorted(map(ordered.index, ("yak", "Zebra")))


def test_letters_with_accents_are_the_same_in_one_piece_and_in_two(world: World, command: Command) -> None:
    whole, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    assert whole != apart
    spellings = [whole, apart, f" {apart} "]
    save_csv(world.labels_path, LABELS, [(video, spellings[row % 3]) for row, video in enumerate(world.arrays)])
    save_csv(world.ratings_path, RATINGS, [(video, 30, apart, 1) for video in world.arrays])
    assert command(*world.arguments("segment/train")).status == 0
    path = world.data_dir / "vocabulary.csv"
    assert path.read_text(encoding="utf-8").splitlines()[1:] == [f"0,,{whole}"]
    assert set(world.index().labels.tolist()) == set(world.index().rating_label.tolist()) == {0}
    for known, asked in ((whole, apart), (apart, whole), (apart, apart)):
        path.write_text(f"Index,Name\n5,dog\n9,{known}\n", encoding="utf-8")
        save_csv(world.labels_path, LABELS, [("video-1", asked)])
        outcome = command(*world.arguments("video/train", "--overwrite"))
        assert outcome.status == 0, outcome
        assert world.index("video/train").labels.tolist() == [9]


@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
@pytest.mark.parametrize("in_folder", ["NFC", "NFD"])
def test_ids_with_accents_are_the_same_in_one_piece_and_in_two(
    in_folder: Literal["NFC", "NFD"], in_table: Literal["NFC", "NFD"], world: World, command: Command
) -> None:
    """macOS and programs there have file names in parts."""
    name = unicodedata.normalize("NFC", "Café-Å")
    in_file, in_row = (unicodedata.normalize(form, name) for form in (in_folder, in_table))
    assert name != unicodedata.normalize("NFD", name)
    (world.features / "video-1.npy").rename(world.features / f"{in_file}.npy")
    for path in (world.labels_path, world.ratings_path):
        path.write_text(path.read_text(encoding="utf-8").replace("video-1", in_row), encoding="utf-8")
    videos = save_csv(world.folder / "videos.csv", ["vid"], [(in_row,), ("video-2",)])
    for more in ((), ("--overwrite", "--videos", videos)):
        assert command(*world.arguments("segment/train", *more)).status == 0
        index = world.index()
        record = records_of(index)[name]
        assert index.of_record(record, index.labels, index.label_ends).tolist() == [4]
        assert len(index.of_record(record, index.rating_start, index.rating_ends)) == 1
        assert index.rgb_count[record] == len(world.arrays["video-1"])
    assert command(*world.arguments("segment/test")).status == 0
    assert name in records_of(world.index("segment/test"))


def test_two_arrays_of_ids_that_look_alike_are_refused(world: World, command: Command) -> None:
    for form in ("NFC", "NFD"):
        save_arrays(world.features, {unicodedata.normalize(form, "Café"): world.arrays["video-1"]})
    assert_refused(command(*world.arguments("segment/train")), world.features, "Café.npy is there twice", "remove one")


def test_names_without_their_vocabulary_are_refused_beside_shards(world: World, command: Command) -> None:
    assert command(*world.arguments("video/train")).status == 0
    save_csv(world.labels_path, LABELS, [("video-1", "yak")])
    assert_refused(command(*world.arguments("video/valid")), "vocabulary.csv: missing", "video/train")
    assert not (world.data_dir / "video" / "valid").exists()


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((9, 6), np.int64), ["values are int64", "expected uint8 or floats"]),
        (np.zeros((9, 6), bool), ["values are bool"]),
        (np.zeros(9, np.uint8), ["shape is (9,)", "(seconds, width)"]),
        (np.zeros((2, 9, 6), np.uint8), ["shape is (2, 9, 6)"]),
        (np.zeros((0, 6), np.uint8), ["(0, 6)"]),
        (np.zeros((9, 5), np.uint8), ["5 columns wide", "video-0.npy is 6"]),
        (np.zeros((9, 6), np.float32), ["values are float32", "video-0.npy uint8"]),
        (np.array([[{"a": 1}] * 6] * 9, dtype=object), ["cannot be read as an array"]),
    ],
)
def test_arrays_that_are_not_features_are_refused(
    world: World, command: Command, array: np.ndarray, parts: list[str]
) -> None:
    np.save(world.features / "video-3.npy", array, allow_pickle=True)
    assert_refused(command(*world.arguments("segment/train")), world.features, "video-3.npy", *parts)


def test_a_text_is_no_array(world: World, command: Command) -> None:
    (world.features / "video-3.npy").write_text("1,2,3\n", encoding="utf-8")
    outcome = command(*world.arguments("segment/train"))
    assert_refused(outcome, "video-3.npy: cannot be read as an array of numbers; save one with numpy.save")
    assert "pickle" not in outcome.err
    assert not world.data_dir.exists()


def test_transposed_arrays_are_recognized(world: World, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    save_arrays(world.features, {video_id: array.T for video_id, array in world.arrays.items()})
    outcome = command(*world.arguments("segment/train"))
    assert_refused(outcome, "video-1.npy: 41 columns wide, video-0.npy is 40", "(width, seconds): save array.T")
    save_arrays(world.features, dict.fromkeys(world.arrays, np.zeros((64, 45), np.uint8)))
    assert command(*world.arguments("segment/train")).status == 0
    assert "features: arrays may be transposed, (width, seconds): all have 64 rows of 45 columns" in caplog.text
    caplog.clear()
    for shape in ((64, 128), (45, 64), (45, 46)):
        save_arrays(world.features, dict.fromkeys(world.arrays, np.zeros(shape, np.uint8)))
        assert command(*world.arguments("segment/train", "--overwrite")).status == 0
    np.save(world.features / "video-1.npy", np.zeros((66, 46), np.uint8))
    assert command(*world.arguments("segment/train", "--overwrite")).status == 0
    np.save(world.features / "video-2.npy", np.zeros((45, 47), np.uint8))
    outcome = command(*world.arguments("segment/train", "--overwrite"))
    assert_refused(outcome, "47 columns wide")
    assert "save array.T" not in caplog.text + outcome.err


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x93NUMPY\x01\x00"])
def test_files_that_are_not_arrays_are_refused(world: World, command: Command, content: bytes) -> None:
    (world.features / "video-3.npy").write_bytes(content)
    assert_refused(command(*world.arguments("segment/train")), "video-3.npy", "cannot be read as an array")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(world: World, command: Command, value: float) -> None:
    save_arrays(world.features, {key: array / np.float32(255) for key, array in world.arrays.items()})
    broken = (world.arrays["video-3"] / 255).astype(np.float16)
    broken[7, 2] = value
    np.save(world.features / "video-3.npy", broken)
    assert_refused(command(*world.arguments("segment/train", "--range", 0, 1)), "video-3.npy", "not finite")


def test_floats_need_a_range_and_bytes_none(world: World, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    assert_refused(command(*world.arguments("segment/train", "--range", 0, 1)), "--range", "uint8", "leave it out")
    save_arrays(world.features, {key: np.full((40, 6), 0.25, np.float32) for key in world.arrays})
    np.save(world.features / "video-0.npy", np.linspace(-1.5, 2, 240).reshape(40, 6))
    assert_refused(command(*world.arguments("segment/train")), "rgb features float64 from -1.5 to 2", "--range -1.")
    assert_refused(command(*world.arguments("segment/train", "--range", 1, 1)), "--range 1 1", "less than")
    assert_refused(command(*world.arguments("segment/train", "--range", 0, 1, "--audio-range", 0, 1)), "no audio")
    assert not world.data_dir.exists()
    outcome = command(*world.arguments("segment/train", "--range", -1.5, 1))
    assert outcome.status == 0
    n_clipped = int((np.linspace(-1.5, 2, 240) > 1).sum())
    assert f"{n_clipped} of {6 * 240} values" in caplog.text


@pytest.mark.parametrize("scale", [1, 1e-5, 3e7])
def test_the_range_that_is_proposed_is_ready_to_use(
    world: World, command: Command, caplog: pytest.LogCaptureFixture, scale: float
) -> None:
    rng = np.random.default_rng(0)
    for video_id in world.arrays:
        values = np.concatenate([rng.uniform(-2, 1, (2000, 4)), rng.uniform(0, 9, (2000, 2))], axis=1) * scale
        values[0, :4], values[1, 4:], values[2, 4:] = -70 * scale, 700 * scale, 0
        np.save(world.features / f"{video_id}.npy", values.astype(np.float32))
    outcome = command(*world.arguments("segment/train", "--audio-width", 2))
    assert_refused(outcome, f"rgb features float32 from {-70 * scale:g} to", "audio features float32 from 0 to")
    options = outcome.err.split("99.8 % of the values are in ")[1].split()
    assert options[::3] == ["--range", "--audio-range"]
    bounds = [float(option) / scale for place, option in enumerate(options) if place % 3]
    assert np.allclose(bounds, [-2, 1, 0, 9], atol=0.05) and "e" not in "".join(options[1:3])
    assert command(*world.arguments("segment/train", "--audio-width", 2, *options)).status == 0
    clipped = re.search(r"of 72000 values \((.*) %\) were outside", caplog.text)
    assert clipped and 0.05 < float(clipped[1]) < 0.6
    outcome = command(*world.arguments("video/train", "--audio-width", 2, *options[:3]))
    assert outcome.status == 0, "the range of audio is that of --range, if there is no other"


def test_the_range_of_many_arrays_is_that_of_some_rows(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yt8m.making import feature_arrays

    monkeypatch.setattr(feature_arrays, "_SAMPLED_VALUES", 12)  # two rows: those in the middle of videos 0 and 3
    for number, video_id in enumerate(world.arrays):
        np.save(world.features / f"{video_id}.npy", np.repeat(np.linspace(0, number, 41)[:, None], 6, axis=1))
    assert_refused(command(*world.arguments("segment/train")), "from 0 to 5", "--range 0 1.5")


def test_a_range_for_values_that_are_nearly_the_same(world: World, command: Command) -> None:
    arrays = {video_id: np.full((40, 6), 1000.1) for video_id in world.arrays}
    save_arrays(world.features, arrays)
    assert_refused(command(*world.arguments("segment/train")), "all values of the rgb features are 1000.1")
    arrays["video-0"][3, 3] = 1000.2
    save_arrays(world.features, arrays)
    assert_refused(command(*world.arguments("segment/train")), "--range 1000.1 1000.2")


def test_constant_audio_is_refused(world: World, command: Command) -> None:
    values = np.linspace(0, 1, 40 * 6).reshape(40, 6)
    values[:, 4:] = -3
    save_arrays(world.features, dict.fromkeys(world.arrays, values))
    call = world.arguments("segment/train", "--audio-width", 2)
    assert_refused(command(*call), f"{world.features}: all values of the audio features are -3, which is useless")
    assert_refused(command(*call, "--audio-range", -3, 0), "the rgb features float64 from 0 to 0.99")
    assert not (world.data_dir / "segment" / "train").exists()


@pytest.mark.parametrize("delimiter", [";", ","])
def test_excels_separator_line_is_skipped(world: World, command: Command, delimiter: str) -> None:
    for path in (world.labels_path, world.ratings_path):
        text = path.read_text(encoding="utf-8").replace(",", delimiter).replace("\n", "\r\n")
        path.write_bytes(f"\ufeffsep={delimiter}\r\n{text}".encode())
    assert command(*world.arguments("segment/train")).status == 0
    index = world.index()
    assert set(index.labels.tolist()) == {3, 4} and len(index.rating_label) == len(world.ratings)
    with world.labels_path.open("ab") as file:
        file.write(b"nobody\r\n")
    outcome = command(*world.arguments("segment/train", "--overwrite"))
    assert_refused(outcome, f"{world.labels_path}: line {len(world.labels) + 3}: expected 2 fields")


def test_audio_has_a_range_of_its_own(world: World, command: Command) -> None:
    values = np.concatenate([np.full((40, 4), 0.5), np.full((40, 2), 30.0)], axis=1)
    save_arrays(world.features, dict.fromkeys(world.arrays, values))
    options = ("--audio-width", 2, "--range", 0, 1, "--audio-range", 20, 70)
    outcome = command(*world.arguments("segment/train", *options))
    assert outcome.status == 0 and "video_dim: 4, audio_dim: 2" in outcome.out
    reader = ShardReader(world.index())
    assert frames_of(reader, 0)[0].tolist() == [128, 128, 128, 128, 51, 51]
    assert reader.features == feature_contract(4, 2, (0, 1), (20, 70)).model_copy(update={"trim": (0, 0)})
    assert_refused(command(*world.arguments("video/train", "--audio-width", 6, "--range", 0, 1)), "--audio-width 6")


def test_seconds_without_audio_are_left_out_and_counted(
    world: World, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    audio = {key: np.ones((len(array) + (key == "video-2") * 3, 2), np.uint8) for key, array in world.arrays.items()}
    audio["video-1"] = audio["video-1"][:35]
    folder = save_arrays(world.folder / "audio", audio)
    outcome = command(*world.arguments("segment/train", "--audio", folder))
    assert outcome.status == 0
    assert re.search(r"2 of 6 videos .* length: video-1 \(41 and 35\), video-2 \(42 and 45\); 9 seconds", caplog.text)
    index = world.index()
    assert index.n_frames[records_of(index)["video-1"]] == 35 and index.rgb_count.tolist() == index.audio_count.tolist()
    save_arrays(folder, {"video-1": np.ones((30, 2), np.uint8)})
    outcome = command(*world.arguments("segment/train", "--audio", folder, "--overwrite"))
    assert_refused(outcome, world.ratings_path, "line 3", "start: 30 is beyond the end of video-1, 30 s long")
    (folder / "video-4.npy").unlink()
    assert_refused(command(*world.arguments("video/train", "--audio", folder)), "video-4.npy", folder)


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([("video-1", 31, 3, 1)], ["line 2: start", "'31'"]),
        ([("video-1", -5, 3, 1)], ["line 2: start", "'-5'"]),
        ([("video-1", "nan", 3, 1)], ["line 2: start", "'nan'"]),
        ([("video-1", 30, 3, 1), ("video-1", 35, 3, 0.5)], ["line 3: score", "'0.5'"]),
        ([("video-1", 30, 3, "inf")], ["line 2: score"]),
        ([("video-1", 30, "", 1)], ["line 2: label is empty"]),
        ([("video-1", 30, "a\nb", 1)], ["line 2: label 'a\\nb' has a line break"]),
        ([("video-1", 30, -3, 1)], ["line 2: label", "'-3'"]),
        ([("video-1", 30, 2**31, 1)], ["line 2: label"]),
        ([("video-1", 30, 3, 1), ("video-1", 30, "+03", 0)], ["line 3", "line 2 again, with another score"]),
        ([("video-1", 40, 3, 1), ("video-2", 45, 3, 1)], ["line 3: start: 45 is beyond the end of video-2, 42 s long"]),
        ([("video-9", 30, 3, 1)], ["video video-9 has no video-9.npy"]),
        ([("video-1", 30, "cat", 1)], ["line 2", "'cat' is a name", "'3'", "labels.csv"]),
        ([("video-1", 30, 3)], ["line 2: expected 4 fields"]),
        ([], ["no row"]),
        ([(f"video-{number}", 1, 3, 1) for number in range(9)], ["line 2", "line 6", "and 4 more"]),
    ],
)
def test_wrong_ratings_are_listed_and_nothing_is_written(
    world: World, command: Command, rows: list[tuple[object, ...]], parts: list[str]
) -> None:
    save_csv(world.ratings_path, RATINGS, rows)
    assert_refused(command(*world.arguments("segment/train")), world.ratings_path, *parts)
    assert not world.data_dir.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vid,name\nvideo-1,3\n", ["vid,label", "'vid,name'"]),
        ("vid,label\nvideo-9,3\n", ["video-9.npy", "leave such videos out"]),
        ("vid,label\nvideo-1,\n", ["line 2: label is empty"]),
        ('vid,label\nvideo-1,"a\nb"\n', ["line 2: label 'a\\nb' has a line break"]),
        ('vid,label\n"video-1,3\n', ["cannot be read as CSV"]),
        ("", ["vid,label"]),
    ],
)
def test_wrong_labels_are_refused(world: World, command: Command, text: str, parts: list[str]) -> None:
    world.labels_path.write_text(text, encoding="utf-8")
    assert_refused(command(*world.arguments("video/train")), world.labels_path, *parts)
    assert not world.data_dir.exists()


@pytest.mark.parametrize("name", ["a:b", "a,b", "a b", 'a"b', "a\u3000b", "a\tb", "a\u200bb", "\udcff", ""])
def test_ids_that_a_submission_cannot_hold_are_refused(world: World, command: Command, name: str) -> None:
    save_arrays(world.features, {name: np.zeros((9, 6), np.uint8)})
    assert_refused(command(*world.arguments("segment/test")), world.features, f"video id {name!r}", "an id may have no")


def test_ids_are_names_of_files(world: World, command: Command) -> None:
    save_csv(world.labels_path, LABELS, [("a/b", 3)])
    assert_refused(command(*world.arguments("video/train")), world.labels_path, "video id 'a/b'", "nor a slash")


def test_other_ids_come_through(world: World, command: Command) -> None:
    names = ["ü-日本", "it's", "`v`", "%;|=\\"]
    save_arrays(world.features, dict.fromkeys(names, np.zeros((45, 6), np.uint8)))
    assert command(*world.arguments("segment/test")).status == 0
    assert set(records_of(world.index("segment/test"))) == {*world.arrays, *names}
    assert command("prepare_test_meta", "--data-dir", world.data_dir).status == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--partition", "segment/test", "--labels", "labels.csv"], ["--labels", "leave it out"]),
        (["--partition", "video/train"], ["--labels", "needed"]),
        (["--partition", "segment/train", "--labels", "labels.csv"], ["--ratings", "needed"]),
        (["--partition", "video/train", "--labels", "labels.csv", "--ratings", "r.csv"], ["--ratings", "leave it out"]),
        (["--partition", "video/train", "--labels", "none.csv"], ["none.csv", "no such file"]),
    ],
)
def test_options_that_do_not_fit_the_partition_are_refused(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(world.folder)
    assert_refused(command("make_records", "features", "--data-dir", "own", *arguments), *parts)


def test_shards_are_replaced_only_when_told_so_and_only_as_a_whole(
    world: World, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    assert command(*world.arguments("segment/train")).status == 0
    folder = world.data_dir / "segment" / "train"
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(world.data_dir)
    assert_refused(command(*world.arguments("segment/train")), folder, "has shards already", "--overwrite")
    save_csv(world.ratings_path, RATINGS, [("video-1", 45, 3, 1)])
    assert_refused(command(*world.arguments("segment/train", "--overwrite")), world.ratings_path)
    assert contents(world.data_dir) == before
    save_csv(world.ratings_path, RATINGS, [("video-1", 35, 3, 1)])
    outcome = command(*world.arguments("segment/train", "--overwrite"))
    assert outcome.status == 0 and "1 shards are too few for the 8 folds" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["features.json", "notes.txt", "validate0000.tfrecord"]
    assert list(records_of(world.index())) == ["video-1"]
    assert {path.name for path in folder.parent.iterdir()} == {"train", ".train.lock"}


def test_a_failed_write_leaves_the_old_shards(world: World, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from yt8m.making import array_records

    assert command(*world.arguments("segment/train")).status == 0
    before = contents(world.data_dir)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(array_records, "write_shard", full_disk)
    outcome = command(*world.arguments("segment/train", "--overwrite"))
    assert_refused(outcome, "No space left")
    assert contents(world.data_dir) == before
    assert {path.name for path in (world.data_dir / "segment").iterdir()} == {"train", ".train.lock"}


def test_names_stay_with_the_shards_that_have_them(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yt8m.making import shard_writing

    for path, columns in ((world.labels_path, LABELS), (world.ratings_path, RATINGS)):
        rows = [(video, *([5] if columns is RATINGS else []), "yak", 1)[: len(columns)] for video in world.arrays]
        save_csv(path, columns, rows)
    assert command(*world.arguments("segment/train")).status == 0
    (world.data_dir / "vocabulary.csv").unlink()

    def broken_disk(*_: object) -> None:
        raise OSError(5, "Input/output error", "old")

    monkeypatch.setattr(shard_writing, "_keep_the_rest", broken_disk)  # the new shards are in their place by then
    assert_refused(command(*world.arguments("segment/train", "--overwrite")), "Input/output error")
    assert "yak" in (world.data_dir / "vocabulary.csv").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert command(*world.arguments("segment/train", "--overwrite")).status == 0
    assert not (world.data_dir / "segment" / ".train.old").exists()


def test_the_seed_alone_decides_the_order(world: World, command: Command) -> None:
    save_arrays(world.features, {f"more-{number}": np.full((9, 6), number, np.uint8) for number in range(30)})
    found = []
    for seed in (1, 1, 2):
        outcome = command(*world.arguments("segment/test", "--seed", seed, "--overwrite"))
        assert "36 videos" in outcome.out and "8 shards" in outcome.out
        found.append(contents(world.data_dir / "segment" / "test"))
    assert found[0] == found[1] != found[2]
    sizes = np.bincount(world.index("segment/test").shard)
    assert len(sizes) == 8 and sizes.max() - sizes.min() <= 1
    command(*world.arguments("segment/test", "--shard-videos", 20, "--overwrite"))
    assert np.bincount(world.index("segment/test").shard).tolist() == [18, 18]


@pytest.mark.parametrize(
    "text", ["video-1\n\nvideo-4\n", "note,vid\na,video-1\nb,video-4\n", "\ufeffvid\nvideo-4\nvideo-1"]
)
def test_a_part_of_the_videos(world: World, command: Command, text: str) -> None:
    path = world.folder / "part.txt"
    path.write_text(text, encoding="utf-8")
    for partition in ("video/train", "video/valid", "segment/train", "segment/test"):
        assert command(*world.arguments(partition, "--videos", path)).status == 0
        index = world.index(partition)
        assert set(records_of(index)) == {"video-1", "video-4"}
        assert len(index.labels) == (0 if partition == "segment/test" else 2)
        assert len(index.rating_label) == (2 if partition == "segment/train" else 0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("video-1\nvideo-1\n", ["line 2", "was on line 1"]), ("video-8\n", ["video-8.npy"]), ("", ["no video"])],
)
def test_a_wrong_list_of_videos_is_refused(world: World, command: Command, text: str, parts: list[str]) -> None:
    path = world.folder / "part.txt"
    path.write_text(text, encoding="utf-8")
    assert_refused(command(*world.arguments("segment/test", "--videos", path)), path, *parts)


def test_rated_shards_hold_the_rated_videos(world: World, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    save_csv(world.ratings_path, RATINGS, [("video-5", 0, 3, 1), ("video-2", 40, 9, 0)])
    save_csv(world.labels_path, LABELS, [("video-2", 4), ("elsewhere", 4)])
    outcome = command(*world.arguments("segment/train"))
    assert outcome.status == 0 and "1 of 2 videos have no label" in caplog.text
    index = world.index()
    assert set(records_of(index)) == {"video-2", "video-5"} and index.labels.tolist() == [4]


def test_shards_without_audio_are_in_order(world: World, command: Command) -> None:
    assert command(*world.arguments("segment/train")).status == 0
    outcome = command("check_data", "--data-dir", world.data_dir, world.data_dir / "segment" / "train")
    assert outcome.status == 0, outcome
    assert re.search(r"width of rgb / audio +6 / none", outcome.out)
    assert "unlike" not in outcome.out and "unusually" not in outcome.out


def test_new_names_that_may_be_misspelt_are_named(
    world: World, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(video_id, "dog") for video_id in world.arrays]
    rows += [("video-1", "dgo"), ("video-1", "label 1"), ("video-2", "label 2"), ("video-3", "cat"), ("video-4", "Cat")]
    save_csv(world.labels_path, LABELS, rows)
    assert command(*world.arguments("video/train")).status == 0
    (warning,) = [line for line in caplog.text.splitlines() if "misspelt" in line]
    assert f"{world.data_dir}/vocabulary.csv: " in warning
    assert "'dgo' (1 row) beside 'dog' (6 rows), 'Cat' (1 row) beside 'cat' (1 row); if so" in warning
    caplog.clear()
    assert command(*world.arguments("video/train", "--overwrite")).status == 0
    assert "misspelt" not in caplog.text


def test_ratings_of_labels_that_videos_do_not_have_are_named(
    world: World, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    assert command(*world.arguments("segment/train")).status == 0  # video-1, -3 and -5 have the label 4, not 3
    assert "3 of the 3 positive ratings" in caplog.text and "such as '3' to video-1" in caplog.text
    assert "no video has" not in caplog.text
    caplog.clear()
    ratings = [("video-0", 30, 3, 1), ("video-1", 30, 4, 1), ("video-2", 30, 17, 0), ("elsewhere", 30, 18, 1)]
    save_csv(world.ratings_path, RATINGS, ratings)
    videos = save_csv(world.folder / "videos.csv", ["vid"], [("video-0",), ("video-1",), ("video-2",)])
    assert command(*world.arguments("segment/train", "--overwrite", "--videos", videos)).status == 0
    assert f"{world.labels_path}: no video has 1 of the 3 rated labels: '17'" in caplog.text
    assert "positive ratings" not in caplog.text


def test_videos_of_tables_without_an_array_are_named(
    world: World, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    assert command(*world.arguments("segment/train")).status == 0
    assert "without an array" not in caplog.text
    with world.labels_path.open("a", encoding="utf-8") as file:
        file.write("video-1.npy,3\nvideo-1.npy,4\nother,3\n")
    assert command(*world.arguments("segment/train", "--overwrite")).status == 0
    (warning,) = [record.message for record in caplog.records if "without an array" in record.message]
    start = f"{world.labels_path}: 2 videos without an array in {world.features} left out: video-1.npy (did you mean "
    assert warning.startswith(start) and "video-1" in warning.removeprefix(start) and warning.endswith("other")
    caplog.clear()
    with world.ratings_path.open("a", encoding="utf-8") as file:
        file.write("vidoe-9,30,3,1\n")
    videos = save_csv(world.folder / "videos.csv", ["vid"], [(video_id,) for video_id in world.arrays])
    assert command(*world.arguments("segment/train", "--overwrite", "--videos", videos)).status == 0
    assert f"{world.ratings_path}: 1 video without an array" in caplog.text and "vidoe-9" in caplog.text


def test_videos_of_two_partitions_are_named(world: World, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    parts = {"video/train": ("video-0", "video-1"), "segment/test": ("video-2", "video-1")}
    for partition, names in parts.items():
        videos = save_csv(world.folder / "videos.csv", ["vid"], [(name,) for name in names])
        assert command(*world.arguments(partition, "--videos", videos)).status == 0
    (warning,) = [line for line in caplog.text.splitlines() if "that a model has seen" in line]
    assert f"{world.data_dir}/video/train: also has 1 of these 2 videos: video-1; scores" in warning
    caplog.clear()
    (world.data_dir / "video" / "train" / "train0000.tfrecord").write_bytes(b"no shard")
    assert command(*world.arguments("segment/test", "--overwrite")).status == 0
    assert f"{world.data_dir}/video/train: its videos were not compared with these: " in caplog.text
    assert "that a model has seen" not in caplog.text
