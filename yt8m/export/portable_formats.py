"""Writing portable models to ONNX and TorchScript files, and running those."""

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from yt8m.common.errors import UserError
from yt8m.export.portable import OUTPUT, Interface, Portable

_METADATA_FILE = "metadata.json"  # within a TorchScript file
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_LIMIT = 2**31 - 2**24  # bytes of weights: a protobuf file ends at 2 GiB, and has more in it than weights
_TRACED = {"S": 3, "L": 61}

Run = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]  # inputs → probabilities and logits


def require_onnx() -> None:
    """Raise `UserError` where a package is missing that only ONNX needs."""
    for name in _ONNX_PACKAGES:
        _package(name)


def _package(name: str) -> ModuleType:
    """A package that only `--format onnx` needs. Raises `UserError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"--format onnx: needs the package {name}, which is not installed here; "
            f"pip install {' '.join(_ONNX_PACKAGES)}"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters log of their progress, and without what they tell their programmers."""
    levels = {
        "onnxscript": logging.WARNING,
        "onnx_ir": logging.WARNING,
        "torch.onnx._internal.exporter._registration": logging.ERROR,
    }  # warns where there is no torchvision
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
    """Export through `torch.export` to one file; texts of the description as they are, all else as JSON."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > ONNX_LIMIT:
        raise UserError(
            f"{description['model']}: has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; "
            "use --format torchscript"
        )
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in interface.inputs}
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
        assert program is not None  # it is where no file is named
        proto = program.model_proto
    _clean(proto.graph, interface)
    for key, value in description.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    path.write_bytes(proto.SerializeToString())


def _clean(graph: Any, interface: Interface) -> None:
    """Leave out where in this package each node comes from, and give the free dimensions their names."""
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    for value, shape in zip((*graph.input, *graph.output), (*interface.inputs.values(), interface.output)):
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape):
            if isinstance(size, str):
                dimension.dim_param = size


def read_onnx(path: Path) -> Run:
    """Run an ONNX file on the CPU; its logits as well, by making them an output of a copy."""
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


def write_torchscript(model: Portable[Any], interface: Interface, description: Mapping[str, Any], path: Path) -> None:
    """Trace both methods, `forward` and `logits`.

    `torch.export` has no way to TorchScript, and what it saves itself is for Python with the same torch or, compiled,
    for one machine. A trace is the whole model here, since none of its branches depends on what goes in.
    """
    inputs = interface.sample(_TRACED, 0)
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace_module(model, {"forward": inputs, "logits": inputs}, check_trace=False)
        with path.open("wb") as file:  # given its name, torch would write that into the file
            torch.jit.save(traced, file, _extra_files={_METADATA_FILE: json.dumps(description)})


def read_torchscript(path: Path) -> Run:
    """Run a TorchScript file on the CPU."""
    with _quiet():
        model = torch.jit.load(path, map_location="cpu")

    @torch.no_grad()
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        probabilities = model(*inputs)
        with torch.jit.optimized_execution(False):  # optimizing takes longer than running
            return probabilities, model.logits(*inputs)

    return run
