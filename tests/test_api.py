"""The public Python API: loading models, localizing arrays, results."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot

import yt8m
from tests.conftest import Outcome
from tests.shards import AUDIO, RGB, make_video, write_videos
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder
from yt8m.data.features import Scale
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_folders import open_folder

Command = Callable[..., Outcome]
WIDTHS = {"video_dim": RGB, "audio_dim": AUDIO}
VOCABULARY = Vocabulary(np.array([7, 20, 3000]), ("Guitar", "Drums & <bass>", ""))
VIDEO = make_video(4, 43)


@pytest.fixture(name="models", scope="module")
def fixture_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models. Not to be written to."""
    path = tmp_path_factory.mktemp("data") / "cache" / "segment"
    agnostic_folder(path / "dbof-3_0", {**DBOF, **WIDTHS}, VOCABULARY, 1)
    aware_folder(path / "context-1_0", {**NEXTVLAD, **WIDTHS, "groups": 2}, {**DBOF, **WIDTHS}, VOCABULARY, 2)
    return path


@pytest.fixture(name="model", scope="module")
def fixture_model(models: Path) -> yt8m.Localizer:
    """Both models."""
    return yt8m.load(str(models), device="cpu")


def floats(frames: np.ndarray, model: yt8m.Localizer) -> np.ndarray:
    """The values that bytes stand for."""
    low, high = model.features.rgb.range
    return low + frames * ((high - low) / 255)


def test_the_import_takes_no_library_along() -> None:
    program = (
        "import sys, yt8m; assert {'load', 'Result', 'UserError'} <= set(dir(yt8m)); "
        "print([name for name in ('torch', 'numpy', 'pandas', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        _ = yt8m.loads


@pytest.mark.parametrize("name", yt8m.__all__)
def test_every_public_name_can_be_used(name: str) -> None:
    assert getattr(yt8m, name).__name__ == name


def test_the_answer_is_that_of_the_command(models: Path, command: Command, tmp_path: Path) -> None:
    features = write_videos(tmp_path / "a.tfrecord", [VIDEO])
    options = ("--classes", "guitar", "3000", "--threshold", "0.4", "--shifts", "0", "1")
    outcome = command("localize", features, "--model-dir", models, "--device", "cpu", "--format", "json", *options)
    (expected,) = json.loads(outcome.out)
    model = yt8m.load(models, device="cpu", shifts=(1, 0))
    result = model.localize(VIDEO.frames, ["guitar", "3000"], threshold=0.4, video_id="v004")
    assert result.seconds == expected["seconds"] == 43 and result.video_id == expected["video_id"]
    assert result.to_frame().to_dict("records") == expected["spans"]
    assert [(span.label, span.start) for span in result.below] == [
        (span["label"], span["start"]) for span in expected["below_threshold"]
    ]
    assert result.probabilities.shape == (9, 3) and result.classes == ("Guitar", "Drums & <bass>", "label 3000")


def test_one_model_several_and_their_folder(models: Path, model: yt8m.Localizer) -> None:
    paths = sorted(models.iterdir())
    several = yt8m.load([str(path) for path in paths], device="cpu")
    single = [yt8m.load(path, device="cpu").localize(VIDEO.frames).probabilities for path in paths]
    mean = model.localize(VIDEO.frames).probabilities
    np.testing.assert_array_equal(several.localize(VIDEO.frames).probabilities, mean)
    np.testing.assert_allclose(np.mean(single, axis=0), mean, atol=1e-12)
    assert repr(model) == "<Localizer: context-1_0, dbof-3_0; 3 classes; cpu>"


def test_bytes_floats_and_tensors_are_the_same_features(model: yt8m.Localizer) -> None:
    expected = model.localize(VIDEO.frames).probabilities
    values = floats(VIDEO.frames, model)
    for given in (values, values.astype(np.float32), torch.from_numpy(values), values.tolist(), VIDEO.frames[:, ::1]):
        np.testing.assert_array_equal(model.localize(given).probabilities, expected)
    values[0, 0] = 9.0  # clipped, as shards are made
    frames = VIDEO.frames.copy()
    frames[0, 0] = 255
    np.testing.assert_array_equal(model.localize(values).probabilities, model.localize(frames).probabilities)


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        (VIDEO.frames[:, :-1], ("shape is (43, 10)", "expected (seconds, 11), 8 of rgb and 3 of audio")),
        (VIDEO.frames.T, ("shape is (11, 43)", "give its transpose")),
        (VIDEO.frames[0], ("shape is (11,)",)),
        (VIDEO.frames.astype(int), ("values are int64, expected uint8 or floats",)),
        (VIDEO.frames.astype(float), ("rgb goes from", "expected -1.99", "extractor")),
        (np.full((5, 11), np.nan), ("rgb has values that are not finite",)),
        (np.array([["a"] * 11]), ("values are <U1",)),
        ([[0.0] * 11, [0.0]], ("cannot be converted to an array",)),
        (torch.zeros(5, 11, requires_grad=True), ("cannot be converted to an array", "requires grad")),
    ],
)
def test_other_features_are_refused_in_words(
    model: yt8m.Localizer, features: np.ndarray, parts: tuple[str, ...]
) -> None:
    with pytest.raises(yt8m.UserError, match="features: ") as caught:
        model.localize(features)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


def test_mistakes_with_models_and_classes(models: Path, model: yt8m.Localizer, tmp_path: Path) -> None:
    with pytest.raises(yt8m.UserError, match="did you mean Guitar"):
        model.localize(VIDEO.frames, "gitar")
    with pytest.raises(yt8m.UserError, match="top: 0, expected at least 1"):
        model.localize(VIDEO.frames, top=0)
    with pytest.raises(yt8m.UserError, match="threshold: 50, expected a probability"):
        model.localize(VIDEO.frames, threshold=50)
    for folders, message in (([], "no folder given"), (tmp_path / "none", "no such folder"), (tmp_path, "no model")):
        with pytest.raises(yt8m.UserError, match=message):
            yt8m.load(folders)
    wider = agnostic_folder(tmp_path / "wider_0", {**DBOF, **WIDTHS, "video_dim": RGB + 1}, VOCABULARY, 1)
    with pytest.raises(yt8m.UserError, match="wider_0: features are 9"):
        yt8m.load([models / "dbof-3_0", wider], device="cpu")
    for options, message in (
        ({"device": "gpu"}, "^device gpu: expected auto"),
        ({"amp": "half"}, "^amp half: expected"),
        ({"shifts": ()}, "shifts: none given"),
        ({"offset": -1}, "offset: -1, expected at least 0"),
    ):
        with pytest.raises(yt8m.UserError, match=message):
            yt8m.load(models, **options)
    named = yt8m.load(models / "dbof-3_0", device="cpu", vocabulary=None)
    assert named.vocabulary.digest == open_folder(models / "dbof-3_0").vocabulary().digest


def test_a_result_draws_itself(model: yt8m.Localizer) -> None:
    result = model.localize(VIDEO.frames, ["Guitar", "Drums & <bass>", 3000], threshold=0.4)
    assert repr(result).startswith("<Result: video, 0:43; ")
    axes = result.plot()
    assert sorted(label.get_text() for label in axes.get_yticklabels()) == sorted(result.classes)
    assert axes.get_xlim() == (0, 43)
    bars = [path for collection in axes.collections for path in collection.get_paths()]
    assert len(bars) == len(result.spans)
    own = pyplot.subplots()[1]
    assert result.plot(own) is own
    pyplot.close("all")
    page = ElementTree.fromstring(result._repr_html_())  # pylint: disable=protected-access  # as a notebook calls it
    names = [row.findtext("th") for row in page.iter("tr")][1:]
    assert sorted(names) == sorted(result.classes)
    assert sum(1 for _ in page.iter("rect")) == len(result.spans)


def test_a_video_of_no_seconds_and_one_without_spans(model: yt8m.Localizer) -> None:
    nothing = model.localize(VIDEO.frames[:0])
    assert nothing.spans == [] and nothing.probabilities.shape == (0, 3) and nothing.to_frame().empty
    assert "no second" in nothing._repr_html_()  # pylint: disable=protected-access
    nothing.plot()
    below = model.localize(VIDEO.frames, threshold=1.0)
    assert "none; most probable" in below._repr_html_() and len(below.below) == 1  # pylint: disable=protected-access
    below.plot()
    pyplot.close("all")
    frame = model.localize(VIDEO.frames, threshold=0.0, top=3).to_frame()
    assert isinstance(frame, pd.DataFrame) and frame["end"].max() == 43


def test_scale_is_the_inverse_of_what_bytes_stand_for() -> None:
    low, high = -2.0, 3.0
    values = np.arange(256)[None]
    np.testing.assert_array_equal(Scale(low, high).quantize(low + values * ((high - low) / 255))[0], values)
