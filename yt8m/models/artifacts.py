"""Exported models: a folder with `config.yaml` (architecture and training) and `model.pth` (a state dict).

The names in a state dict are a file format, shared with models trained in 2019: video models carry the
prefix `model.`, context-agnostic ones `_model.`, context-aware ones none.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from pydantic import BaseModel
from torch import Tensor, nn

from yt8m.common.config import DEFAULT_OFFSET, Config, parse_config, read_yaml, required
from yt8m.common.errors import UserError
from yt8m.common.files import replacing
from yt8m.models.model_files import CONFIG_NAME, WEIGHTS_NAME
from yt8m.models.segment_models import ContextAgnosticModel, ContextAwareModel, SegmentModel
from yt8m.models.video_models import VideoModel, build_video_model

_VIDEO_PREFIX = "model."

Model = TypeVar("Model", bound=nn.Module)
Kind = Literal["video", "context-agnostic", "context-aware"]


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose `config.yaml` has been read and checked. `offset` is in frames (segment models)."""

    path: Path
    kind: Kind
    config: Config
    offset: int

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name


def open_folder(path: Path) -> ModelFolder:
    """Check that a folder holds an exported model and read its architecture; weights are not read.

    Of the training sections only `offset` is used, so whatever else an older release wrote there is
    left alone. Raises `UserError`.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise UserError(f"{path}: not a finished model, there is no {name}; train it or copy the file there")
    source = path / CONFIG_NAME
    sections = {key: _mapping(section, f"{source}: {key}") for key, section in read_yaml(source).items()}
    kind: Kind = "video"
    if "segment_w_context" in sections:
        kind, names = "context-aware", ["context_base", "segment_base", "segment_w_context"]
    elif "pure_segment" in sections:
        kind, names = "context-agnostic", ["video"]
    else:
        names = ["video"]
    models = {name: {"model": sections[name]["model"]} for name in names if "model" in sections.get(name, {})}
    config = parse_config(models, source, *(f"{name}.model" for name in names))
    segment = sections.get("segment_w_context") or sections.get("pure_segment") or {}
    offset = _mapping(segment.get("training") or {}, f"{source}: training").get("offset", DEFAULT_OFFSET)
    if not isinstance(offset, int) or offset < 0:
        raise UserError(f"{source}: training.offset: expected a number of frames, found {offset!r}")
    return ModelFolder(path, kind, config, offset)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping, found {value!r}")
    return value


def load_video_model(path: Path, n_classes: int) -> VideoModel:
    """The video classifier of a folder, on the CPU, for a vocabulary of `n_classes`. Raises `UserError`."""
    folder = open_folder(path)
    if folder.kind != "video":
        raise UserError(f"{path}: a {folder.kind} segment model, where a video model is needed")
    config = required(folder.config.video).model
    state = {key.removeprefix(_VIDEO_PREFIX): value for key, value in load_state(path).items()}
    _check_classes(state, "", config.n_mixtures, n_classes, path)
    with torch.device("meta"):
        model = build_video_model(config, n_classes)
    return _fill(model, state, path)


def load_segment_model(folder: ModelFolder, n_classes: int) -> SegmentModel:
    """The segment classifier of a folder, on the CPU, for a vocabulary of `n_classes`. Raises `UserError`."""
    if folder.kind == "video":
        raise UserError(f"{folder.path}: a video model, where a segment model is needed")
    state = load_state(folder.path)
    config = folder.config
    with torch.device("meta"):
        model: SegmentModel
        if config.segment_w_context is None:
            base = required(config.video).model
            _check_classes(state, "_model.", base.n_mixtures, n_classes, folder.path)
            model = ContextAgnosticModel(build_video_model(base, n_classes))
        else:
            head = config.segment_w_context.model
            context_base, segment_base = required(config.context_base).model, required(config.segment_base).model
            _check_classes(state, "", head.n_mixture, n_classes, folder.path)
            model = ContextAwareModel(head, context_base, segment_base, n_classes)
    return _fill(model, state, folder.path)


def exported_config(**sections: BaseModel) -> dict[str, Any]:
    """Sections of a configuration as plain values, the way an exported model's `config.yaml` holds them."""
    return {name: section.model_dump(mode="json", exclude_none=True) for name, section in sections.items()}


def save_model(path: Path, config: dict[str, Any], model: VideoModel | SegmentModel) -> None:
    """Write a finished model's folder; the weights come last, so that a folder with `model.pth` is complete."""
    prefix = "" if isinstance(model, ContextAgnosticModel | ContextAwareModel) else _VIDEO_PREFIX
    state = {prefix + key: value.detach().cpu() for key, value in model.state_dict().items()}
    with replacing(path / WEIGHTS_NAME) as weights:
        torch.save(state, weights)
        (path / WEIGHTS_NAME).unlink(missing_ok=True)  # never new weights beside an old configuration, or vice versa
        with replacing(path / CONFIG_NAME) as text:
            text.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def list_folders(directory: Path) -> list[Path]:
    """The model folders of a directory, sorted by name. Raises `UserError` if there are none."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder of models; train one first or set --model-dir")
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(f"{directory}: no model folders; train a model first or set --model-dir")
    return folders


def copy_encoder(encoder: nn.Module, model: VideoModel) -> None:
    """Start an encoder of a context-aware model from a video model, whose further layers are left behind."""
    source = model.state_dict()
    encoder.load_state_dict({key: source[key] for key in encoder.state_dict()})


def load_state(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The state dict of a model folder; on the device "meta" only what it is made of. Raises `UserError`."""
    file = path / WEIGHTS_NAME
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{file}: cannot be read as a state dict ({reason[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file}: not a state dict of tensors")
    return state


def _check_classes(state: dict[str, Tensor], prefix: str, n_mixtures: int, n_classes: int, path: Path) -> None:
    """Raise `UserError` where a state dict's mixture head is not one for `n_classes`."""
    experts = state.get(f"{prefix}expert_fc.2.bias")
    if experts is None:
        raise UserError(f"{path / WEIGHTS_NAME}: does not fit {CONFIG_NAME}: no {prefix}expert_fc.2.bias")
    if len(experts) != n_classes * n_mixtures:
        raise UserError(
            f"{path / WEIGHTS_NAME}: made for {len(experts) / n_mixtures:g} classes ({n_mixtures} mixtures), but the "
            f"vocabulary has {n_classes}; use the vocabulary that the model was trained with"
        )


def _fill(model: Model, state: dict[str, Tensor], path: Path) -> Model:
    """Put a state dict into a model without weights. Raises `UserError` saying how they do not fit."""
    expected = model.state_dict()
    problems = [f"no {key}" for key in expected if key not in state]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{path / WEIGHTS_NAME}: does not fit {CONFIG_NAME}: {'; '.join(problems[:3])}{more}")
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, assign=True)
    return model
