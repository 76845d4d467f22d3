"""Exported models: a folder with `config.yaml` and `model.pth` (a state dict).

`config.yaml` describes the model, its training, its inputs (`features`) and its outputs (`vocabulary`).

The names in a state dict are a file format, shared with models trained in 2019: those of video models have the prefix
`model.`, of context-agnostic ones `_model.`, of context-aware ones none.
"""

import logging
import pickle
import shutil
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import yaml
from helperbot.files import replacing, sync
from helperbot.state import write_state
from pydantic import BaseModel
from torch import Tensor, nn

from yt8m.common.config import DEFAULT_OFFSET, FeatureContract, read_yaml
from yt8m.common.errors import UserError
from yt8m.data.features import feature_contract
from yt8m.data.vocabulary import VOCABULARY_FILE, Vocabulary, challenge_vocabulary
from yt8m.models.classifiers import (
    ContextAgnosticModel,
    ContextAwareModel,
    SegmentModel,
    VideoModel,
    build_video_model,
    make_head,
)
from yt8m.models.config import Config, parse_config, required
from yt8m.models.heads import Head
from yt8m.models.layers import uncenter
from yt8m.models.model_files import CONFIG_NAME, ORIGIN_NAME, WEIGHTS_NAME, read_origin

LOGGER = logging.getLogger(__name__)
_VIDEO_PREFIX = "model."

Model = TypeVar("Model", bound=nn.Module)
ModelKind = Literal["video", "context-agnostic", "context-aware"]


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose `config.yaml` has been read and checked. `offset` is in frames (segment models).

    `features`: the model's inputs, by default those of the published data set. `stored`: the classes in the folder,
    None for folders without, such as those of 2019; `named`: the user's classes for such folders.
    """

    path: Path
    kind: ModelKind
    config: Config
    offset: int
    features: FeatureContract
    stored: Vocabulary | None = None
    named: Vocabulary | None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def head(self) -> Head:
        """The model's head."""
        if self.config.segment_w_context is not None:
            return ContextAwareModel.make_head(self.config.segment_w_context.model)
        return make_head(required(self.config.video).model)

    @property
    def prefix(self) -> str:
        """The prefix of the head's parameter names in the model."""
        return "_model." if self.kind == "context-agnostic" else ""

    def vocabulary(self, expected: Vocabulary | None = None) -> Vocabulary:
        """The model's classes, in the order of its outputs.

        For a folder without them: those named by the user; `expected`, if the model was trained with them; or the
        challenge's for the 1,000 classes of a folder of 2019. Raises `UserError` for any other.
        """
        return self.stored or replace(_vocabulary_of_old_folder(self, expected), source=str(self.path))


def open_folder(path: Path, named: Vocabulary | None = None) -> ModelFolder:
    """Check that a folder holds an exported model and read its description, not its weights.

    `named`: the classes of the model, if the folder does not hold them. Of the training sections only `offset` is
    read, so that anything else from an older release is ignored. Raises `UserError`.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise UserError(f"{path}: not a finished model, there is no {name}; train it or copy the file there")
    source = path / CONFIG_NAME
    content = read_yaml(source)
    outputs: dict[str, Any] = {key: content.pop(key) for key in ("features", "vocabulary") if key in content}
    sections = {key: _mapping(section, f"{source}: {key}") for key, section in content.items()}
    kind: ModelKind = "video"
    if "segment_w_context" in sections:
        kind, names = "context-aware", ["context_base", "segment_base", "segment_w_context"]
    elif "pure_segment" in sections:
        kind, names = "context-agnostic", ["video"]
    else:
        names = ["video"]
    models = {name: {"model": sections[name]["model"]} for name in names if "model" in sections.get(name, {})}
    config = parse_config({**models, **outputs}, source, *(f"{name}.model" for name in names))
    segment = sections.get("segment_w_context") or sections.get("pure_segment") or {}
    offset = _mapping(segment.get("training") or {}, f"{source}: training").get("offset", DEFAULT_OFFSET)
    if config.vocabulary is not None and named is not None:
        LOGGER.info("%s: lists its classes; --vocabulary is ignored for it", path)
    if not isinstance(offset, int) or offset < 0:
        raise UserError(f"{source}: training.offset: expected a number of frames, found {offset!r}")
    base = config.video or required(config.context_base)
    published = feature_contract(base.model.video_dim, base.model.audio_dim)
    features = config.features or published
    if features.widths != published.widths:
        raise UserError(
            f"{source}: features: widths {features.widths}, but the model is made for {published.widths} (video_dim, "
            "audio_dim)"
        )
    return ModelFolder(path, kind, config, offset, features, _stored_vocabulary(config, source), named)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping, found {value!r}")
    return value


def _stored_vocabulary(config: Config, source: Path) -> Vocabulary | None:
    """The classes in an exported configuration, if any. Raises `UserError`."""
    if config.vocabulary is None:
        return None
    labels, names = zip(*config.vocabulary) if config.vocabulary else ((), ())
    if not labels or len(set(labels)) < len(labels):
        raise UserError(f"{source}: vocabulary: expected at least one class, and no label id twice")
    return Vocabulary(np.array(labels, np.int64), tuple(names), str(source.parent))


def _vocabulary_of_old_folder(folder: ModelFolder, expected: Vocabulary | None) -> Vocabulary:
    """The classes of a folder without them, see `ModelFolder.vocabulary`."""
    n_classes = _count_classes(folder, _load_weights(folder, "meta"))
    trained_with = (read_origin(folder.path) or {}).get("vocabulary")  # a digest
    if folder.named is not None:
        if len(folder.named) != n_classes:
            raise UserError(
                f"{folder.named.source}: has {len(folder.named)} classes, {folder.path} is made for {n_classes}; name "
                "the vocabulary that the model was trained with"
            )
        if trained_with not in (None, folder.named.digest):
            raise UserError(
                f"{folder.named.source}: not the vocabulary that {folder.path} was trained with, by the digest in its "
                f"{ORIGIN_NAME}; name that one, with its classes in the same order"
            )
        return folder.named
    challenge = challenge_vocabulary()
    for known in (expected, challenge):
        if known is not None and known.digest == trained_with:
            return known
    if trained_with is None and n_classes == len(challenge):
        _log_assumed_classes(folder.path)
        return challenge
    raise UserError(
        f"{folder.path}: does not say what its {n_classes} outputs are; name the vocabulary that it was trained with: "
        "--vocabulary CSV"
    )


@cache
def _log_assumed_classes(path: Path) -> None:
    """Log, once per folder, that its outputs are assumed to be the challenge's classes."""
    LOGGER.info(
        "%s: does not say what its outputs are; assuming the challenge's 1,000 classes, in the order of its %s",
        path,
        VOCABULARY_FILE,
    )


def load_video_model(path: Path | ModelFolder, vocabulary: Vocabulary | None = None) -> VideoModel:
    """The video classifier of a folder, on the CPU; its outputs are the classes of `vocabulary`, by default its own.

    Raises `UserError`, also for a model with other classes.
    """
    folder = path if isinstance(path, ModelFolder) else open_folder(path)
    if folder.kind != "video":
        raise UserError(f"{folder.path}: a {folder.kind} segment model, where a video model is needed")
    state, n_classes = _ordered_state(folder, vocabulary)
    with torch.device("meta"):
        model = build_video_model(required(folder.config.video).model, n_classes)
    return _fill(model, state, folder.path)


def load_segment_model(folder: ModelFolder, vocabulary: Vocabulary | None = None) -> SegmentModel:
    """The segment classifier of a folder, on the CPU; its outputs are the classes of `vocabulary`, by default its own.

    Raises `UserError`, also for a model with other classes.
    """
    if folder.kind == "video":
        raise UserError(f"{folder.path}: a video model, where a segment model is needed")
    state, n_classes = _ordered_state(folder, vocabulary)
    config = folder.config
    with torch.device("meta"):
        model: SegmentModel
        if config.segment_w_context is None:
            model = ContextAgnosticModel(build_video_model(required(config.video).model, n_classes))
        else:
            bases = required(config.context_base).model, required(config.segment_base).model
            model = ContextAwareModel(config.segment_w_context.model, *bases, n_classes)
    return _fill(model, state, folder.path)


def _ordered_state(folder: ModelFolder, vocabulary: Vocabulary | None) -> tuple[dict[str, Tensor], int]:
    """A folder's state dict, with outputs in the order of `vocabulary` (None: unchanged), and their number."""
    state = _load_weights(folder)
    n_classes = _count_classes(folder, state)
    if vocabulary is None and folder.stored is None:
        return state, n_classes
    own = folder.vocabulary(vocabulary)
    if len(own) != n_classes:
        raise UserError(
            f"{folder.path / WEIGHTS_NAME}: made for {n_classes} classes, but {CONFIG_NAME} lists {len(own)}; the two "
            "files are not of the same model"
        )
    if vocabulary is None:
        return state, n_classes
    rows = vocabulary.rows_in(own)
    if (rows == np.arange(n_classes)).all():
        return state, n_classes
    LOGGER.info(
        "%s: has the classes of %s in another order; its outputs are mapped by label id", folder.path, vocabulary.source
    )
    return folder.head.reorder(state, folder.prefix, rows), n_classes


def _load_weights(folder: ModelFolder, device: str = "cpu") -> dict[str, Tensor]:
    """A folder's state dict with the names of the model's parameters."""
    state = load_state(folder.path, device)
    if folder.kind != "video":
        return state
    return {key.removeprefix(_VIDEO_PREFIX): value for key, value in state.items()}


def _count_classes(folder: ModelFolder, state: dict[str, Tensor]) -> int:
    """C of a state dict's head. Raises `UserError` if it does not fit the configuration."""
    problem = f"{folder.path / WEIGHTS_NAME}: does not fit {CONFIG_NAME}: "
    layer, per_class = next(iter(folder.head.class_rows.items()))
    key = f"{folder.prefix}{layer}.weight"
    if key not in state:
        raise UserError(f"{problem}no {key}")
    n_classes, rest = divmod(len(state[key]), per_class)
    if rest:
        raise UserError(
            f"{problem}{len(state[key])} rows of {key} are not a multiple of {per_class}, the rows per class"
        )
    return n_classes


def exported_config(**sections: BaseModel) -> dict[str, Any]:
    """Sections of a configuration as plain values, as in an exported model's `config.yaml`.

    Absent parts of a section are omitted; below them all keys are written, since defaults may differ from None.
    """
    return {
        name: {key: value for key, value in section.model_dump(mode="json").items() if value is not None}
        for name, section in sections.items()
    }


def save_model(
    path: Path,
    config: dict[str, Any],
    model: VideoModel | SegmentModel,
    vocabulary: Vocabulary,
    features: FeatureContract,
) -> None:
    """Write a finished model's folder: `config` (see `exported_config`), features, vocabulary and weights.

    A model trained with centered inputs is switched to parameters for raw inputs.

    The weights are written last, so that a folder with `model.pth` is complete.
    """
    uncenter(model)
    prefix = "" if isinstance(model, ContextAgnosticModel | ContextAwareModel) else _VIDEO_PREFIX
    state = {prefix + key: value.detach().cpu() for key, value in model.state_dict().items()}
    text = yaml.safe_dump(config | exported_config(features=features), sort_keys=False)
    classes = [list(row) for row in zip(vocabulary.labels.tolist(), vocabulary.names)]
    text += yaml.safe_dump(  # one line per class
        {"vocabulary": classes}, default_flow_style=None, allow_unicode=True, width=sys.maxsize
    )
    with replacing(path / WEIGHTS_NAME) as weights:
        write_state(state, weights)
        sync(weights)  # before the old ones are removed
        (path / WEIGHTS_NAME).unlink(missing_ok=True)  # never new weights beside an old configuration, or vice versa
        with replacing(path / CONFIG_NAME) as temporary:
            temporary.write_text(text, encoding="utf-8")


def copy_model(source: Path, target: Path) -> None:
    """Copy a finished model's folder, the weights last, so that a folder with `model.pth` is complete."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (ORIGIN_NAME, CONFIG_NAME, WEIGHTS_NAME):
        if (source / name).exists():
            with replacing(target / name) as temporary:
                shutil.copyfile(source / name, temporary)


def list_folders(directory: Path) -> list[Path]:
    """The model folders of a directory, sorted by name. Raises `UserError` if there are none."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder of models; train one first or set --model-dir")
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(f"{directory}: no model folders; train a model first or set --model-dir")
    return folders


def copy_encoder(encoder: nn.Module, model: VideoModel) -> None:
    """Initialize an encoder of a context-aware model from a video model, without its further layers."""
    source = model.state_dict()
    encoder.load_state_dict({key: source[key] for key in encoder.state_dict()})


def load_state(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The state dict of a model folder; on the device "meta" only names, shapes and types. Raises `UserError`."""
    file = path / WEIGHTS_NAME
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{file}: cannot be read as a state dict ({reason[0]}); copy the file again or train the model again"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file}: not a state dict of tensors")
    return state


def _fill(model: Model, state: dict[str, Tensor], path: Path) -> Model:
    """Load a state dict into a model without weights. Raises `UserError` naming mismatches."""
    expected = model.state_dict()
    faults = [f"no {key}" for key in expected if key not in state]
    faults += [f"unknown {key}" for key in state if key not in expected]
    faults += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path / WEIGHTS_NAME}: does not fit {CONFIG_NAME}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, assign=True)
    return model
