"""Export of model folders to ONNX files, which are compared with PyTorch before they are put in place.

An exported model maps tensors to tensors without data-dependent branches: uint8 frames as in the shards to
probabilities. A model of whole videos itself drops their head and tail, so that callers need not know of them.

Dimensions: S segments, W = 5 + 2·offset frames of an expanded segment, L frames of a whole video, D features of a
frame, F features of a segment or video, H and P features of a row, G groups, K clusters, C classes. S and L are
dynamic, at least 1.
"""

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from helperbot.files import replacing
from torch import Tensor, nn

from yt8m import __version__
from yt8m.common.errors import UserError, import_package
from yt8m.data.frames import SEGMENT_SECONDS, Trim, context_frames, trim_of
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.base import Encoder
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, SegmentModel, VideoModel
from yt8m.models.config import required
from yt8m.models.layers import SEGating
from yt8m.models.model_files import CONFIG_NAME, WEIGHTS_NAME, folder_digest
from yt8m.models.model_folders import ModelFolder, load_segment_model, load_video_model
from yt8m.models.packing import Layout, Packing

OUTPUT = "probabilities"
TOLERANCE = 1e-5  # of probabilities
SIZE_LIMIT = 2**31 - 2**24  # bytes of weights: a protobuf file is limited to 2 GiB, with more in it than weights
_LOGIT_TOLERANCE = 1e-4  # of logits, relative to the largest, or to 1
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED = {"S": 3, "L": 61}
_CHECKED = ({"S": 1, "L": 1}, {"S": 2, "L": 40}, {"S": 5, "L": 41}, {"S": 40, "L": 300})  # trimmed from L = 41 on
_USAGE = (
    "Inputs are uint8 as in the shards, one row per second, visual and audio features side by side. frames: one whole "
    "video, of which the model itself drops the first 30 and last 10 seconds if others remain. segments: seconds "
    "T - offset to T + 5 + offset (exclusive) of that video for segments that start at T, zeros beyond either end. "
    "Class c of the probabilities is row c of labels and names."
)

Model = TypeVar("Model", bound=VideoModel | SegmentModel)
Run = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]  # inputs → probabilities and logits


class _SeenFrames(Layout):
    """The frames of one video, with those that a video model does not see (`frames.context_frames`) as padding.

    All are encoded, so that shapes depend only on L: cutting frames off would take a branch, which tracing does not
    keep.
    """

    def __init__(self, frames: Tensor, trim: Trim) -> None:
        """`frames` (L, D) uint8; `trim`: the unseen ones."""
        head, tail = trim.head * SEGMENT_SECONDS, trim.tail * SEGMENT_SECONDS
        number = (frames[:, 0] >= 0).cumsum(0)  # 1 to L; an `arange` would be traced with its device
        n_frames = number[-1:]
        cut = (n_frames > head + tail).to(number.dtype)
        self._order = (number - 1 + cut * head) % n_frames  # (L,), the seen ones first
        self._seen = number <= n_frames - cut * (head + tail)  # (L,)

    def arrange(self, frames: Tensor) -> Tensor:
        """(L, D) → rows (L, D), float."""
        return frames[self._order].float()

    def unpack(self, rows: Tensor) -> Tensor:
        """(L, ·) → (1, L, ·) with zeros for unseen frames."""
        seen = self._seen.view(-1, *[1] * (rows.dim() - 1))
        return torch.where(seen, rows, torch.zeros_like(rows))[None]

    def mask(self, padded: Tensor) -> Tensor:
        """See `Layout`."""
        return self._seen[None]


def _encode(encoder: Encoder, rows: Tensor, layout: Layout) -> Tensor:
    """Encode rows in a layout, without the shortcuts of training."""
    return encoder.pool_rows(encoder.encode_frames(rows), layout)


def _encode_video(encoder: Encoder, frames: Tensor, trim: Trim) -> Tensor:
    """Frames (L, D) uint8 of a whole video, without `trim` → (1, F)."""
    layout = _SeenFrames(frames, trim)
    return _encode(encoder, layout.arrange(frames), layout)


def _encode_segments(encoder: Encoder, segments: Tensor) -> Tensor:
    """Segments (S, W, D) uint8 → (S, F)."""
    return _encode(encoder, *Packing.of(segments))


class Portable(nn.Module, ABC, Generic[Model]):
    """A model in a form that can be exported: tensors in, tensors out, only layers that ONNX has."""

    def __init__(self, model: Model, trim: Trim) -> None:
        """`model` in eval mode, which is modified but computes the same; `trim`: of whole videos."""
        super().__init__()
        self.model: Model = model
        self.trim = trim
        model.requires_grad_(False)
        for layer in model.modules():
            if isinstance(layer, SEGating):  # its autograd function for a bare batch norm cannot be exported
                layer.bn1 = nn.Sequential(layer.bn1)

    @abstractmethod
    def logits(self, *inputs: Tensor) -> Tensor:
        """The inputs of an `Interface` → logits, in the shape of its output."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The inputs of an `Interface` → probabilities."""
        return self.logits(*inputs).sigmoid()


class _PortableVideoModel(Portable[VideoModel]):
    """A video model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Frames (L, D) uint8 of one whole video → (C,)."""
        (frames,) = inputs
        return self.model.logits(_encode_video(self.model, frames, self.trim)).squeeze(0)


class _PortableAgnosticModel(Portable[ContextAgnosticModel]):
    """A context-agnostic segment model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Segments (S, W, D) uint8 → (S, C)."""
        (segments,) = inputs
        return self.model.classify(_encode_segments(self.model.segment_encoder, segments))


class _PortableAwareModel(Portable[ContextAwareModel]):
    """A context-aware segment model."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """Segments (S, W, D) uint8 and the frames (L, D) uint8 of their whole video → (S, C)."""
        segments, frames = inputs
        features = _encode_segments(self.model.segment_encoder, segments)
        return self.model.classify(
            features, lambda encoder: _encode_video(encoder, frames, self.trim).expand(segments.shape[0], -1)
        )


@dataclass(frozen=True)
class Interface:
    """Shapes of the inputs (uint8), in order, and of the probabilities (float32); "S" and "L" are dynamic."""

    inputs: dict[str, tuple[str | int, ...]]
    output: tuple[str | int, ...]

    def sample(self, sizes: Mapping[str, int], seed: int) -> tuple[Tensor, ...]:
        """Random inputs of these sizes, distributed like features: on uniform noise, trained models predict only 0."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [[sizes[size] if isinstance(size, str) else size for size in shape] for shape in self.inputs.values()]
        return tuple(
            (128 + 32 * torch.randn(shape, generator=generator)).clamp(0, 255).to(torch.uint8) for shape in shapes
        )

    def __str__(self) -> str:
        inputs = ", ".join(f"{name} {_shape(shape)} uint8" for name, shape in self.inputs.items())
        return f"{inputs} -> {OUTPUT} {_shape(self.output)} float32"


def _shape(sizes: Sequence[str | int]) -> str:
    return f"({', '.join(map(str, sizes))}{',' * (len(sizes) == 1)})"


def interface_of(folder: ModelFolder, n_classes: int) -> Interface:
    """Inputs and output of the exported model."""
    config, width = folder.config, SEGMENT_SECONDS + 2 * folder.offset
    if config.segment_w_context is not None:
        return Interface(
            {
                "segments": ("S", width, required(config.segment_base).model.frame_dim),
                "frames": ("L", required(config.context_base).model.frame_dim),
            },
            ("S", n_classes),
        )
    dim = required(config.video).model.frame_dim
    if folder.kind == "video":
        return Interface({"frames": ("L", dim)}, (n_classes,))
    return Interface({"segments": ("S", width, dim)}, ("S", n_classes))


def make_portable(model: VideoModel | SegmentModel, trim: Trim) -> Portable[Any]:
    """The portable form of a model in eval mode, which is modified but computes the same.

    `trim`: what the model does not see of whole videos.
    """
    if isinstance(model, VideoModel):
        return _PortableVideoModel(model, trim)
    if isinstance(model, ContextAwareModel):
        return _PortableAwareModel(model, trim)
    assert isinstance(model, ContextAgnosticModel)
    return _PortableAgnosticModel(model, trim)


class Case(NamedTuple):
    """Inputs of an exported model, and PyTorch's logits for them, in float32 and in float64."""

    inputs: tuple[Tensor, ...]
    reference: Tensor
    exact: Tensor


@dataclass(frozen=True)
class Comparison:
    """The largest differences of an exported model from PyTorch over all inputs of the check.

    `rounding`: the largest difference of PyTorch's probabilities from its own in float64; `agrees`: whether all
    differences are within tolerance.
    """

    probabilities: float
    logits: float
    rounding: float
    agrees: bool

    def __str__(self) -> str:
        text = f"{self.probabilities:.1e} in probabilities, {self.logits:.1e} in logits"
        if self.probabilities > TOLERANCE:
            text += f" (in float32, PyTorch itself is {self.rounding:.1e} off)"
        return text


def export_folder(folder: ModelFolder, output: Path) -> tuple[Interface, Comparison]:
    """Write a model to an ONNX file that has been run and compared with PyTorch.

    Raises `UserError`, and leaves `output` unchanged, if they differ, the model predicts NaN or is too large, or a
    package needed only here is missing.
    """
    _check_output(folder, output)
    for name in _PACKAGES:
        _package(name)
    vocabulary = folder.vocabulary()
    model = _load(folder)
    interface = interface_of(folder, len(vocabulary))
    trim = trim_of(folder.features)
    cases = _cases(model, interface, trim)
    if not all(case.reference.isfinite().all() for case in cases):
        raise UserError(f"{folder.path}: predicts values that are not numbers; its weights are unusable")
    with replacing(output) as temporary:
        write_onnx(make_portable(model, trim), interface, describe(folder, vocabulary, interface), temporary)
        comparison = compare(read_onnx(temporary), cases)
        if not comparison.agrees:
            raise UserError(
                f"{output}: not written, as it would differ from {folder.path} by up to {comparison}; try "
                "other versions of torch and onnxruntime"
            )
    return interface, comparison


def _check_output(folder: ModelFolder, output: Path) -> None:
    if output.is_dir():
        raise UserError(f"--output {output}: a folder; name a file")
    if output.resolve() in [(folder.path / name).resolve() for name in (CONFIG_NAME, WEIGHTS_NAME)]:
        raise UserError(f"--output {output}: would overwrite the model; name another file")


def _load(folder: ModelFolder) -> VideoModel | SegmentModel:
    return (load_video_model(folder) if folder.kind == "video" else load_segment_model(folder)).eval()


def describe(folder: ModelFolder, vocabulary: Vocabulary, interface: Interface) -> dict[str, Any]:
    """The file's metadata."""
    description = {
        "kind": folder.kind,
        "model": folder.name,
        "interface": str(interface),
        "usage": _USAGE,
        "labels": vocabulary.labels.tolist(),
        "names": list(vocabulary.names),
        "features": folder.features.model_dump(mode="json", exclude_none=True),
        "digest": folder_digest(folder.path),
        "yt8m_version": __version__,
    }
    if "segments" in interface.inputs:
        description["offset"] = folder.offset
    return description


def _package(name: str) -> ModuleType:
    """Import a package needed only for export. Raises `UserError` if it is not installed."""
    return import_package(name, "--format onnx", f"pip install {' '.join(_PACKAGES)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' progress logs and deprecation warnings."""
    levels = {
        "onnxscript": logging.WARNING,
        "onnx_ir": logging.WARNING,
        "torch.onnx._internal.exporter._registration": logging.ERROR,  # warns if torchvision is missing
    }
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def write_onnx(model: Portable[Any], interface: Interface, description: Mapping[str, Any], path: Path) -> None:
    """Export with `torch.export` to one file; strings in the description are stored as they are, all else as JSON."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > SIZE_LIMIT:
        raise UserError(
            f"{description['model']}: has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; "
            "a model of this size cannot be exported"
        )
    shapes = [tuple({0: torch.export.Dim.DYNAMIC} for _ in interface.inputs)]  # of `*inputs`
    with _quiet():
        exported = torch.export.export(model, interface.sample(_TRACED, 0), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(interface.inputs),
            output_names=[OUTPUT],
        )
        assert program is not None  # it is None only if a file is named
        proto = program.model_proto
    _clean(proto.graph, interface)
    for key, value in description.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    path.write_bytes(proto.SerializeToString())


def _clean(graph: Any, interface: Interface) -> None:
    """Remove the origin of each node in this package, and name the dynamic dimensions."""
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    for value, shape in zip((*graph.input, *graph.output), (*interface.inputs.values(), interface.output)):
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape):
            if isinstance(size, str):
                dimension.dim_param = size


def read_onnx(path: Path) -> Run:
    """Load an ONNX file to run on the CPU, and a copy with the logits as an output."""
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    proto = onnx.load(path)
    (logits,) = (node.input[0] for node in proto.graph.node if OUTPUT in node.output)
    proto.graph.output.add(name=logits)
    sessions = [
        runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
        for source in (str(path), proto.SerializeToString())
    ]

    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        names = [value.name for value in sessions[0].get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        outputs = [session.run([name], feed)[0] for session, name in zip(sessions, (OUTPUT, logits))]
        return torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1])

    return run


@torch.no_grad()
def reference_logits(model: VideoModel | SegmentModel, inputs: Sequence[Tensor], trim: Trim) -> Tensor:
    """PyTorch's logits for the inputs of an exported model, in the precision of the weights.

    `trim`: what it does not see of whole videos.
    """
    dtype = next(model.parameters()).dtype
    inputs = [frames.to(dtype) for frames in inputs]
    if isinstance(model, ContextAgnosticModel):
        return model(*inputs)
    if isinstance(model, ContextAwareModel):
        segments, frames = inputs
        return model(segments, _seen(frames, trim), None, torch.zeros(len(segments), dtype=torch.int64))
    (frames,) = inputs
    return model(_seen(frames, trim))[0]


def _seen(frames: Tensor, trim: Trim) -> Tensor:
    """The frames (L, D) of a whole video that a model sees, as a batch of one video."""
    return frames[slice(*context_frames(len(frames), trim))][None]


def _cases(model: VideoModel | SegmentModel, interface: Interface, trim: Trim) -> list[Case]:
    """Inputs and expected outputs for the comparison."""
    samples = [interface.sample(sizes, seed) for seed, sizes in enumerate(_CHECKED)]
    references = [reference_logits(model, inputs, trim) for inputs in samples]
    model.double()
    exact = [reference_logits(model, inputs, trim) for inputs in samples]
    model.float()  # changes no weight
    return [Case(*case) for case in zip(samples, references, exact)]


def compare(run: Run, cases: Sequence[Case]) -> Comparison:
    """Run an exported model on all cases.

    If float32 is too coarse for a model, the exported one may differ from PyTorch by ten times PyTorch's own difference
    from float64, within limits: other programs add in another order, and approximate exponentials.
    """
    probabilities, logits, rounding, agrees = [], [], [], True
    for case in cases:
        scale = max(1.0, case.reference.abs().max().item())
        own = _distance(case.reference.sigmoid(), case.exact.sigmoid())
        found = run(case.inputs)
        probabilities.append(_distance(found[0], case.reference.sigmoid()))
        logits.append(_distance(found[1], case.reference))
        rounding.append(own)
        agrees &= probabilities[-1] <= _allowed(TOLERANCE, own)
        agrees &= logits[-1] <= _allowed(_LOGIT_TOLERANCE * scale, _distance(case.reference, case.exact))
    return Comparison(max(probabilities), max(logits), max(rounding), agrees)


def _allowed(tolerance: float, rounding: float) -> float:
    return min(max(tolerance, 10 * rounding), 100 * tolerance)


def _distance(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, infinite if shapes differ or a value is NaN."""
    if found.shape != expected.shape:
        return float("inf")
    return (found - expected).abs().nan_to_num(float("inf")).max().item()
