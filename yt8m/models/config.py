"""YAML configurations, checked once when read and then frozen.

A configuration file holds one or more of these sections:

    video.model, video.training                              pre-training
    pure_segment.training                                    context-agnostic fine-tuning
    segment_w_context.model, segment_w_context.training      context-aware fine-tuning
    context_base.model, segment_base.model                   written into exported context-aware models
    features, vocabulary                                     written into all exported models: their inputs and
                                                             outputs; training takes both from its data

All unknown, missing and mistyped keys are reported together in one `UserError`.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, SerializeAsAny, StrictInt, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from yt8m.common.config import (
    IN_WORDS,
    ContextTraining,
    FeatureContract,
    Section,
    SegmentTraining,
    VideoTraining,
    describe,
    read_yaml,
)
from yt8m.common.errors import UserError, did_you_mean
from yt8m.models import dbof, nextvlad
from yt8m.models.base import DEFAULT_HEAD, FAMILIES, EncoderConfig, Entry, NameTakenError, Registry, import_module
from yt8m.models.classifiers import ContextModelConfig
from yt8m.models.heads import HEADS

OWN_FAMILIES = dbof, nextvlad  # imported to register themselves

Kind = TypeVar("Kind")


def _of_family(value: object) -> object:
    """A section `model` with the keys of its family and head."""
    if isinstance(value, EncoderConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("expected a mapping")
    section: dict[str, Any] = {"head": DEFAULT_HEAD, "module": None, **value}
    if section["module"] is not None:
        _import(section["module"])
    family, head = _entry(FAMILIES, "type", section), _entry(HEADS, "head", section)
    return _with_keys_of(family.config, head.config).model_validate(value)


VideoModelConfig = Annotated[SerializeAsAny[EncoderConfig], BeforeValidator(_of_family)]


@cache
def _with_keys_of(family: type[Section], head: type[Section]) -> type[Section]:
    return create_model(family.__name__, __base__=(family, head), __doc__=family.__doc__)


def _import(module: object) -> None:
    if not isinstance(module, str) or not all(map(str.isidentifier, module.split("."))):
        raise _problem("module", f"expected the name of a Python module, such as my_family, found {module!r}")
    try:
        import_module(module)
    except NameTakenError as error:
        raise _problem("module", str(error)) from None
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the module failed
        remedy = f"start in the folder that has {error.name}.py, or set PYTHONPATH to it"
        raise _problem("module", f"there is no Python module {error.name}, {remedy}") from None


def _entry(registry: Registry[Kind], key: str, section: Mapping[str, Any]) -> Entry[Kind]:
    """The registered class that a section names."""
    if key not in section:
        raise _problem(key, "missing key")
    name = section[key]
    if isinstance(name, str) and name in registry:
        return registry[name]
    hint = did_you_mean(str(name), registry)
    if hint is None and section["module"] is None:
        hint = "of your own: `module` names the Python module that registers it"
    known = ", ".join(map(repr, sorted(registry)))
    raise _problem(key, f"expected one of {known}, found {name!r}" + (f" ({hint})" if hint else ""))


def _problem(key: str, text: str) -> ValidationError:
    """An error about a key of a section `model`."""
    error = PydanticCustomError(IN_WORDS, "{text}", {"text": text})
    return ValidationError.from_exception_data("model", [InitErrorDetails(type=error, loc=(key,), input=None)])


class VideoSection(Section):
    """`video:`"""

    model: VideoModelConfig
    training: VideoTraining | None = None


class PureSegmentSection(Section):
    """`pure_segment:`"""

    training: SegmentTraining | None = None


class ContextSection(Section):
    """`segment_w_context:`"""

    model: ContextModelConfig
    training: ContextTraining | None = None


class BaseSection(Section):
    """`context_base:` and `segment_base:`"""

    model: VideoModelConfig


class Config(Section):
    """One configuration file; absent sections are None.

    `vocabulary`: label id and name of each class, in the order of the model's outputs.
    """

    video: VideoSection | None = None
    pure_segment: PureSegmentSection | None = None
    segment_w_context: ContextSection | None = None
    context_base: BaseSection | None = None
    segment_base: BaseSection | None = None
    features: FeatureContract | None = None
    vocabulary: tuple[tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], str], ...] | None = None


def load_config(path: Path, *sections: str) -> Config:
    """Read and check a configuration; `sections` (such as "pure_segment.training") are required.

    Raises `UserError` with every unknown, missing or mistyped key of the file in one message.
    """
    return parse_config(read_yaml(path), path, *sections)


def parse_config(data: Mapping[str, Any], source: object, *sections: str) -> Config:
    """Check a mapping read from `source`; see `load_config`."""
    faults = []
    config = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faults = [describe(problem) for problem in error.errors()]
    for section in sections:
        found: Any = data
        for key in section.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None and f"{section}: missing key" not in faults:
            faults.append(f"{section}: missing section")
    if config is None or faults:
        unique = list(dict.fromkeys(faults))
        raise UserError(f"{source}: {len(unique)} problem{'s' * (len(unique) > 1)}: " + "; ".join(unique))
    return config


Present = TypeVar("Present")


def required(section: Present | None) -> Present:
    """A section that was required when the configuration was read (`load_config(path, "video.model")`).

    Raises `LookupError` if it is absent, a bug in the program.
    """
    if section is None:
        raise LookupError("a section of a configuration that was not required when it was read")
    return section


Trained = TypeVar("Trained", VideoSection, PureSegmentSection, ContextSection)


def override_steps(section: Trained, steps: int | None) -> Trained:
    """The section with `training.steps` from the command line, if given."""
    if steps is None or section.training is None:
        return section
    return section.model_copy(update={"training": section.training.model_copy(update={"steps": steps})})
