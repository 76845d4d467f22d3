"""`export_model`: exported files give the model's own numbers, or there is no file."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from tests.conftest import Outcome
from tests.small_models import DBOF, NEXTVLAD, agnostic_folder, aware_folder, video_folder
from tests.test_commands import assert_refused
from tests.test_parity import CASES, assert_parity, model_folder, raw_frames
from yt8m.data.frames import Trim
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_files import folder_digest
from yt8m.models.model_folders import list_folders, load_segment_model, load_video_model, open_folder
from yt8m.prediction import onnx_export as exporting
from yt8m.prediction.inference import Computation, Member, Predictor

Command = Callable[..., Outcome]
WIDTHS = {"video_dim": 24, "audio_dim": 8}
LABELS, NAMES = [3, 7, 40, 41, 3000], ["Game", "Café", "Salt, pepper", 'The "car"', "Tree"]
VOCABULARY = Vocabulary(np.array(LABELS), tuple(NAMES))
PLAIN_NEXTVLAD = {**NEXTVLAD, "add_batchnorm": False, "soft_assignment": "paper", "se_reduction": 0, "per_class": True}
PLAIN_DBOF = {**DBOF, "frame_se_reduction": 0, "video_se_reduction": 0}


@pytest.fixture(name="export")
def fixture_export(command: Command) -> Command:
    """Run the command on a folder."""
    return lambda *arguments: command("export_model", *arguments)


def small_folder(path: Path, kind: str, *models: dict) -> Path:
    """A model folder with statistics and biases as after some training; those of a new model would hide mistakes."""
    make = {"video": video_folder, "agnostic": agnostic_folder, "aware": aware_folder}[kind]
    folder = make(path, *({**model, **WIDTHS} for model in models), VOCABULARY)
    generator = torch.Generator().manual_seed(5)
    state = torch.load(folder / "model.pth", weights_only=True)
    for key, value in state.items():
        if key.endswith(("running_mean", "bias")):
            value += 0.3 * torch.randn(value.shape, generator=generator)
        elif key.endswith("running_var"):
            value += torch.rand(value.shape, generator=generator)
        elif key.endswith("gating_fc.2.weight"):
            value /= 50  # else the dummy expert may leave nothing of the others
    torch.save(state, folder / "model.pth")
    return folder


def random_inputs(folder: Path, n_segments: int, n_frames: int, seed: int = 9) -> dict[str, torch.Tensor]:
    """What a model of the small folders takes; the first segment begins before the video."""
    opened = open_folder(folder)
    generator = torch.Generator().manual_seed(seed)
    segments = torch.randint(256, (n_segments, 5 + 2 * opened.offset, 32), generator=generator, dtype=torch.uint8)
    segments[0, :2] = 0
    frames = torch.randint(256, (n_frames, 32), generator=generator, dtype=torch.uint8)
    names = {"video": ("frames",), "context-agnostic": ("segments",)}.get(opened.kind, ("segments", "frames"))
    return {name: {"segments": segments, "frames": frames}[name] for name in names}


@torch.no_grad()
def probabilities(folder: Path, segments: torch.Tensor | None = None, frames: torch.Tensor | None = None) -> np.ndarray:
    """What the model gives in PyTorch."""
    seen = frames
    if frames is not None:
        seen = (frames[30:-10] if len(frames) > 40 else frames)[None]
    if segments is None:
        return load_video_model(folder).eval()(seen)[0].sigmoid().numpy()
    model = load_segment_model(open_folder(folder)).eval()
    context = () if seen is None else (seen, None, torch.zeros(len(segments), dtype=torch.int64))
    return model(segments, *context).sigmoid().numpy()


def session_of(file: Path) -> onnxruntime.InferenceSession:
    """Another program that has the file."""
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run_in(session: onnxruntime.InferenceSession, **inputs: torch.Tensor) -> np.ndarray:
    """The probabilities."""
    (found,) = session.run(["probabilities"], {name: tensor.numpy() for name, tensor in inputs.items()})
    return found


def assert_same(session: onnxruntime.InferenceSession, folder: Path, sizes: tuple[int, int]) -> None:
    """Equal, to 1e-5, to numbers that are not all the same, for so many segments and frames."""
    inputs = random_inputs(folder, *sizes)
    found, expected = run_in(session, **inputs), probabilities(folder, **inputs)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 < 1e-3 < np.ptp(expected)


def names_of_files(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def declared(values: list[onnxruntime.NodeArg]) -> str:
    """Inputs or outputs of an ONNX file as the command describes them."""
    types = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    return ", ".join(f"{value.name} {tuple(value.shape)} {types[value.type]}" for value in values).replace("'", "")


@pytest.mark.parametrize(
    "kind, models, interface",
    [
        ("video", [DBOF], "frames (L, 32) uint8 -> probabilities (5,) float32"),
        ("agnostic", [PLAIN_NEXTVLAD], "segments (S, 11, 32) uint8 -> probabilities (S, 5) float32"),
        ("aware", [NEXTVLAD, DBOF], "segments (S, 11, 32) uint8, frames (L, 32) uint8 -> probabilities (S, 5) float32"),
    ],
    ids=["video", "agnostic", "aware"],
)
def test_a_model_in_a_file(
    kind: str,
    models: list[dict],
    interface: str,
    export: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    folder = small_folder(tmp_path / "models" / "small", kind, *models)
    digest = folder_digest(folder)
    with caplog.at_level(logging.INFO):
        outcome = export(folder)
    assert (outcome.status, outcome.err, caplog.records, recwarn.list) == (0, "", [], [])
    (line,) = outcome.out.splitlines()
    assert line.startswith(f"{folder / 'model.onnx'}: 0.") and interface in line and "differs" in line
    assert names_of_files(folder) == ["config.yaml", "model.onnx", "model.pth"]  # nothing beside the file
    assert list_folders(tmp_path / "models") == [folder] and folder_digest(folder) == digest

    session = session_of(folder / "model.onnx")
    for sizes in ((1, 9), (6, 52)):
        assert_same(session, folder, sizes)
    assert f"{declared(session.get_inputs())} -> {declared(session.get_outputs())}" == interface

    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    assert b"onnx_export.py" not in (folder / "model.onnx").read_bytes()  # nothing of the machine that it was made on
    says = session.get_modelmeta().custom_metadata_map
    assert (json.loads(says["labels"]), json.loads(says["names"]), says["digest"]) == (LABELS, NAMES, digest)
    assert (says["kind"], says["interface"], says["model"]) == (open_folder(folder).kind, interface, "small")
    assert says.get("offset") == (None if kind == "video" else "3") and says["yt8m_version"] and says["usage"]


@pytest.mark.parametrize(
    "kind, models",
    [
        ("video", [PLAIN_DBOF]),
        ("video", [NEXTVLAD]),
        ("agnostic", [DBOF]),
        ("agnostic", [NEXTVLAD]),
        ("aware", [DBOF, PLAIN_NEXTVLAD]),
    ],
)
def test_other_models_in_a_file_elsewhere(kind: str, models: list[dict], export: Command, tmp_path: Path) -> None:
    folder, output = small_folder(tmp_path / "small", kind, *models), tmp_path / "elsewhere" / "small.onnx"
    outcome = export(folder, "--format", "onnx", "--output", output)
    assert (outcome.status, outcome.err) == (0, "") and str(output) in outcome.out
    assert names_of_files(folder) == ["config.yaml", "model.pth"] and names_of_files(output.parent) == ["small.onnx"]
    session = session_of(output)
    for sizes in ((1, 9), (6, 52)):
        assert_same(session, folder, sizes)


def test_the_predictions_of_a_video_are_those_of_inference(export: Command, tmp_path: Path) -> None:
    """From the frames of a video alone, with another offset, as the help of the command says."""
    folder = small_folder(tmp_path / "small", "aware", NEXTVLAD, DBOF)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["segment_w_context"]["training"]["offset"] = offset = 12
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "(S, 29, 32)" in export(folder).out

    frames = torch.randint(256, (73, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    around = torch.cat([torch.zeros(offset, 32), frames, torch.zeros(offset + 5, 32)]).to(torch.uint8)
    segments = torch.stack([around[start : start + 5 + 2 * offset] for start in range(30, 65, 5)])
    member = Member("small", load_segment_model(open_folder(folder)).eval(), offset)
    expected = Predictor([member], Computation(torch.device("cpu")))([frames], [0])[0]
    found = torch.from_numpy(run_in(session_of(folder / "model.onnx"), segments=segments, frames=frames))
    assert (9999 * found - expected).abs().max() < 1 < np.ptp(expected.numpy())


@pytest.mark.parametrize("case", ["video_dbof", "agnostic_nextvlad"])
def test_models_of_2019(case: str, command: Command, tmp_path: Path) -> None:
    """Folders without training keys give the logits of the 2019 release; a video model gets whole videos."""
    folder = model_folder(case, tmp_path / case)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    for section in config.values():
        section.pop("training", None)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    outcome = command("export_model", folder, "--data-dir", tmp_path)
    assert outcome.status == 0, outcome.err
    run = exporting.read_onnx(folder / "model.onnx")
    if case.startswith("video"):
        logits = torch.stack([run([frames])[1] for frames in raw_frames(CASES[case]["frames"])])
    else:
        _, logits = run([raw_frames(CASES[case]["segments"])])
    assert_parity(logits, case)


def test_a_model_with_other_numbers_is_refused(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_folder(tmp_path / "small", "video", DBOF)
    output = folder / "model.onnx"
    output.write_text("an earlier one", encoding="utf-8")
    whole = exporting.make_portable
    monkeypatch.setattr(exporting, "make_portable", lambda model, _: whole(model, Trim(5, 2)))
    assert_refused(export(folder), str(output), "not written", "would differ from", "other versions")
    assert output.read_text(encoding="utf-8") == "an earlier one"
    assert names_of_files(folder) == ["config.yaml", "model.onnx", "model.pth"]


def test_logits_count_where_probabilities_say_nothing(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_folder(tmp_path / "small", "agnostic", PLAIN_DBOF)
    state = torch.load(folder / "model.pth", weights_only=True)
    state["_model.expert_fc.2.bias"] -= 1000
    torch.save(state, folder / "model.pth")
    right = exporting.reference_logits
    monkeypatch.setattr(exporting, "reference_logits", lambda *arguments: 1.001 * right(*arguments))
    assert_refused(export(folder), "not written", "0.0e+00 in probabilities")
    assert names_of_files(folder) == ["config.yaml", "model.pth"]


@pytest.mark.parametrize(
    "exact, found, agrees",
    [
        (0.0, 3e-5, True),
        (0.0, 6e-5, False),  # probabilities: a quarter of it, of which 1e-5 is allowed
        (1e-4, 9e-4, True),
        (1e-4, 2e-3, False),  # PyTorch itself is off by 1e-4
        (0.5, 0.6, False),
        (0.0, float("nan"), False),
    ],
)
def test_the_tolerance_grows_with_float32s_own_error(exact: float, found: float, agrees: bool) -> None:
    def run(_: object) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.tensor([[0.0, found]])
        return logits.sigmoid(), logits

    case = exporting.Case((), torch.zeros(1, 2), torch.tensor([[0.0, exact]], dtype=torch.float64))
    comparison = exporting.compare(run, [case])
    assert comparison.agrees == agrees
    assert ("PyTorch itself" in str(comparison)) == (not agrees or found > 4e-5)


def test_shapes_have_to_be_the_same() -> None:
    case = exporting.Case((), torch.zeros(3, 1), torch.zeros(3, 1).double())
    comparison = exporting.compare(lambda _: (torch.full((1, 1), 0.5), torch.zeros(1, 1)), [case])
    assert not comparison.agrees and comparison.probabilities == float("inf")


def test_mistakes(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_folder(tmp_path / "small", "agnostic", NEXTVLAD)
    before = {name: (folder / name).read_bytes() for name in names_of_files(folder)}
    assert_refused(export(tmp_path / "none"), "none", "no such model folder")
    assert_refused(export(tmp_path), "not a finished model", "config.yaml")
    assert_refused(export(folder, "--output", tmp_path), "--output", "a folder")
    for name in before:
        assert_refused(export(folder, "--output", folder / ".." / "small" / name), "--output", name, "another file")
    assert_refused(export(folder, "--output", folder / "model.pth" / "x"), "model.pth")
    assert export(folder, "--format", "torchscript").status == 2
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "SIZE_LIMIT", 1000)
        assert_refused(export(folder), "small", "2 GB", "cannot be exported")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        assert_refused(export(folder), "--format onnx", "package onnxscript", "pip install onnx onnxscript onnxruntime")
    assert {name: (folder / name).read_bytes() for name in names_of_files(folder)} == before


def test_useless_weights_are_refused(export: Command, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "small", "agnostic", NEXTVLAD)
    state = torch.load(folder / "model.pth", weights_only=True)
    state["_model.gating_fc.2.bias"][0] = float("nan")
    torch.save(state, folder / "model.pth")
    assert_refused(export(folder), str(folder), "not numbers")
    assert names_of_files(folder) == ["config.yaml", "model.pth"]
