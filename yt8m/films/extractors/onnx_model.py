"""`onnx:MODEL.onnx`: any image model, run by onnxruntime, with its preprocessing in `MODEL.yaml` beside it.

    size: 224
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]

`Preprocessing` has all keys; docs/extractors.md explains them.

Dimensions: N frames, H and W pixels, V visual features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BeforeValidator, ValidationError

from yt8m.common.config import Count, Number, Positive, Section, describe, read_yaml
from yt8m.common.errors import UserError, first_line, listed
from yt8m.films.extractors.base import Extractor, Options, register
from yt8m.films.extractors.shared import LogMelExtractor, digest_of, one_by_one, required_package

_KIND = "onnx"
_REMEDY = "pip install onnx onnxruntime"
_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _both(value: object) -> object:
    """One number for height and width."""
    return (value, value) if isinstance(value, int) else value


class Preprocessing(Section):
    """Preprocessing of a frame: resize, crop as in torchvision, and x = (byte * scale - mean) / std per channel."""

    size: Annotated[tuple[Count, Count], BeforeValidator(_both)]
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]
    scale: Positive = 1 / 255
    channels: Literal["rgb", "bgr"] = "rgb"
    resize: Literal["crop", "stretch"] = "crop"
    shorter: Count | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    output: str | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8, RGB → (1, 3, height, width) float32."""
        pixels = np.asarray(self._resized(Image.fromarray(frame)), np.float32) * np.float32(self.scale)
        if self.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None])

    def _resized(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        method = _INTERPOLATIONS[self.interpolation]
        if self.resize == "stretch":
            return image.resize((width, height), method)
        if self.shorter is not None:
            sides = [int(self.shorter * side / min(image.size)) for side in image.size]
        elif width * image.height >= height * image.width:
            sides = [width, int(width * image.height / image.width)]
        else:
            sides = [int(height * image.width / image.height), height]
        left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
        return image.resize((sides[0], sides[1]), method).crop((left, top, left + width, top + height))


class OnnxModel(LogMelExtractor):
    """An ONNX model for frames, on the CPU, and log-mel statistics for sound."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` for missing, damaged or mismatched files."""
        self.name = f"{_KIND}:{path}"
        runtime = required_package("onnxruntime", self.name, _REMEDY)
        if not path.is_file():
            raise UserError(f"{path}: no such ONNX model")
        self._preprocessing = _read_preprocessing(path.with_suffix(".yaml"))
        settings = self._preprocessing.model_dump(mode="json")
        self.digest = digest_of({"extractor": _KIND, "version": 1, **settings}, _weights(path, self.name))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # for reproducible results
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # no common base class
            raise UserError(f"{path}: onnxruntime cannot read it ({first_line(error)})") from None
        self._input = _input(path, self._session, self._preprocessing.size)
        self._output = _output(path, self._session, self._preprocessing.output)
        try:
            shape = self._run(np.zeros((*self._preprocessing.size, 3), np.uint8)).shape
        except Exception as error:
            problem = f"cannot be run on a frame of size {self._preprocessing.size} ({first_line(error)})"
            raise UserError(f"{path}: {problem}; check size: in {path.with_suffix('.yaml')}") from None
        if len(shape) != 2 or shape[0] != 1 or not shape[1]:
            raise UserError(
                f"{path}: its output {self._output!r} has the shape {shape} for one frame, expected (1, features); "
                f"set output: in {path.with_suffix('.yaml')} to another one of {_names(self._session.get_outputs())}"
            )
        self.visual = shape[1]

    def encode_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Extractor`."""
        return one_by_one(frames, self.visual, lambda frame: self._run(frame)[0], self.name)

    def _run(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 → (1, V) float32."""
        (output,) = self._session.run([self._output], {self._input: self._preprocessing(frame)})
        return np.asarray(output, np.float32)


@register(_KIND)
def open_onnx(rest: str, _: Options) -> Extractor:
    """The extractor `onnx:MODEL.onnx`."""
    if not rest:
        raise UserError(f"extractor {_KIND}: expected the file of a model, such as {_KIND}:MODEL.onnx")
    return OnnxModel(Path(rest))


def _read_preprocessing(path: Path) -> Preprocessing:
    if not path.is_file():
        example = "size: 224, mean: [0.485, 0.456, 0.406] and std: [0.229, 0.224, 0.225], a line each"
        raise UserError(f"{path}: is missing; write the model's preprocessing to it, such as {example}")
    try:
        preprocessing = Preprocessing.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(describe, error.errors()))}") from None
    shorter, size = preprocessing.shorter, preprocessing.size
    if shorter is not None and preprocessing.resize == "stretch":
        raise UserError(f"{path}: shorter: works only with resize: crop; remove one of them")
    if shorter is not None and shorter < max(size):
        raise UserError(f"{path}: shorter: expected at least {max(size)}, to cover the size {size}, found {shorter}")
    return preprocessing


def _weights(path: Path, name: str) -> dict[str, bytes | Path]:
    """The files of a model: its own, and those with its external weights."""
    onnx = required_package("onnx", name, _REMEDY)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's have no common base class
        raise UserError(f"{path}: not an ONNX model ({first_line(error)})") from None
    elsewhere = {
        entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for other in sorted(elsewhere):
        if not (path.parent / other).is_file():
            raise UserError(f"{path}: its external weights {other} are missing; put the file beside it")
    return {"model": path, **{other: path.parent / other for other in elsewhere}}


def _input(path: Path, session: Any, size: tuple[int, int]) -> str:
    """The name of the only input, images (1, 3, height, width) float32."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"{path}: has {len(inputs)} inputs, {_names(inputs)}; expected one, images (N, 3, H, W)")
    (found,) = inputs
    shape = ", ".join(map(str, found.shape))
    fixed = [wanted for wanted, own in zip((1, 3, *size), found.shape) if isinstance(own, int) and own != wanted]
    if found.type != "tensor(float)" or len(found.shape) != 4 or fixed:
        remedy = (
            f"check size: in {path.with_suffix('.yaml')}"
            if len(found.shape) == 4 and found.shape[1] == 3
            else "export it for float32 with the channels first"
        )
        if found.shape[:1] and isinstance(found.shape[0], int) and found.shape[0] != 1:
            remedy = "export it for batches of one image or of any size"
        raise UserError(
            f"{path}: its input {found.name!r} is {found.type} ({shape}), not tensor(float) "
            f"(1, 3, {size[0]}, {size[1]}); {remedy}"
        )
    return str(found.name)


def _output(path: Path, session: Any, name: str | None) -> str:
    """The name of the output with the features."""
    outputs = session.get_outputs()
    settings = path.with_suffix(".yaml")
    if name is None and len(outputs) != 1:
        raise UserError(f"{settings}: set output: to the one of {_names(outputs)} that has the features")
    if name is not None and name not in (output.name for output in outputs):
        raise UserError(f"{settings}: output: the model has no output {name!r}; its outputs are {_names(outputs)}")
    return name or str(outputs[0].name)


def _names(values: Sequence[Any]) -> str:
    return listed([value.name for value in values])
