"""YAML configurations, checked once at the edge and frozen.

A configuration file holds one or more of these sections:

    video.model, video.training                              pre-training
    pure_segment.training                                    context-agnostic fine-tuning
    segment_w_context.model, segment_w_context.training      context-aware fine-tuning
    context_base.model, segment_base.model                   written into exported context-aware models
    features, vocabulary                                     written into all exported models: what goes in, what
                                                             comes out; a training takes both from its data

Unknown, missing and mistyped keys are all reported together, in one `UserError`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
)

from yt8m.common.errors import UserError

DEFAULT_OFFSET = 3  # frames on either side of a segment


def _number(value: object) -> object:
    """YAML reads `2e-4` as a string: take what Python's float takes, but not booleans."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("expected a number") from None
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[StrictInt, Field(ge=1)]
Reduction = Annotated[StrictInt, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Factor = Annotated[Number, Field(ge=0, le=1)]


def _none_for_zero(value: float | None) -> float | None:
    return value or None


Limit = Annotated[NonNegative | None, AfterValidator(_none_for_zero)]  # 0 and None: no limit


def _max_len(value: object) -> object:
    if value == 0 or isinstance(value, int) and value < -1:
        raise ValueError("expected a number of frames, or -1 for no limit")
    return value


MaxLen = Annotated[StrictInt, BeforeValidator(_max_len)]


def _ascends(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("expected the lower value first")
    return bounds


class _Section(BaseModel):
    """Frozen, and without room for keys nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _VideoModel(_Section):
    """What both families of video models share.

    `video_dim` and `audio_dim` are the widths of the `rgb` and `audio` features, `audio_dim` 0 where there
    is no audio; `max_len` is the most frames sampled from a video in training (-1: all).
    """

    fcn_dim: Count
    p_drop: Fraction
    max_len: MaxLen
    n_mixtures: Count
    per_class: StrictBool = False
    video_dim: Count = 1024
    audio_dim: Annotated[StrictInt, Field(ge=0)] = 128

    @property
    def frame_dim(self) -> int:
        """Width of one frame: visual and audio features side by side."""
        return self.video_dim + self.audio_dim


class DbofConfig(_VideoModel):
    """Context-gated deep bag of frames."""

    type: Literal["dbof"]
    hidden_dim: Count
    frame_se_reduction: Reduction
    video_se_reduction: Reduction


def _divides(groups: int, info: ValidationInfo) -> int:
    """Expanded frames, twice as wide as the features, are cut into so many equal parts."""
    for name in ("video_dim", "audio_dim"):
        if 2 * info.data.get(name, 0) % groups:
            raise ValueError(f"expected a divisor of 2 * {name}, which is {2 * info.data[name]}")
    return groups


class NextvladConfig(_VideoModel):
    """NeXtVLAD; `soft_assignment` chooses the 2019 release's reading of the assignment logits or the paper's."""

    type: Literal["nextvlad"]
    n_clusters: Annotated[StrictInt, Field(ge=2)]  # the audio encoder, if there is one, takes half of them
    groups: Annotated[Count, AfterValidator(_divides)]
    se_reduction: Reduction
    add_batchnorm: StrictBool
    soft_assignment: Annotated[Literal["2019", "paper"], BeforeValidator(str)] = "2019"


VideoModelConfig = Annotated[DbofConfig | NextvladConfig, Field(discriminator="type")]


class ContextModelConfig(_Section):
    """The part of a context-aware model above its two encoders."""

    fcn_dim: Count
    p_drop: Fraction
    se_reduction: Reduction
    max_len: MaxLen
    finetune_context: StrictBool
    n_mixture: Count


class Training(_Section):
    """What all trainings have: `steps` and `ckpt_interval` in optimizer steps, and how they go.

    The learning rate rises linearly from `lr * start_lr_factor` to `lr` over `warmup_ratio` of the steps, then falls
    linearly to `lr * end_lr_factor`. The gradients' global norm is clipped to `clip_grad_norm`. Unlike in 2019,
    the first layer on frames trains with centered inputs (`center_inputs`).
    """

    batch_size: Count
    steps: Count
    lr: Positive
    eps: Positive
    weight_decay: NonNegative
    ckpt_interval: Count
    warmup_ratio: Fraction = 0.2
    start_lr_factor: Factor = 0.01
    end_lr_factor: Factor = 0.01
    clip_grad_norm: Limit = 10.0
    center_inputs: StrictBool = True


class VideoTraining(Training):
    """Pre-training: batch size in videos.

    Unlike in 2019, the head begins with the classes' shares of the training videos (`prior_bias`).
    """

    prior_bias: StrictBool = True


class SegmentTraining(Training):
    """Fine-tuning on rated segments: batch size in ratings; `offset` in frames on either side.

    A rating weighs its score (0 or 1) plus `negative_weight`; the mean loss of the mined negatives, classes that
    surely are not in a video, weighs `mined_weight`.
    """

    warmup_ratio: Fraction = 0.25
    end_lr_factor: Factor = 0.001
    offset: Annotated[StrictInt, Field(ge=0)] = DEFAULT_OFFSET
    negative_weight: NonNegative = 0.5
    mined_weight: NonNegative = 0.5


class ContextTraining(SegmentTraining):
    """Context-aware fine-tuning: the encoders' learning rates are `lr` times their factors, where they train."""

    segment_encoder_lr_factor: NonNegative = 0.5
    context_encoder_lr_factor: NonNegative = 0.25


class VideoSection(_Section):
    """`video:`"""

    model: VideoModelConfig
    training: VideoTraining | None = None


class PureSegmentSection(_Section):
    """`pure_segment:`"""

    training: SegmentTraining | None = None


class ContextSection(_Section):
    """`segment_w_context:`"""

    model: ContextModelConfig
    training: ContextTraining | None = None


class BaseSection(_Section):
    """`context_base:` and `segment_base:`"""

    model: VideoModelConfig


class FeatureMeaning(_Section):
    """A feature: its `width` in bytes, and the values that the bytes 0 and 255 stand for."""

    width: Count
    range: Annotated[tuple[Number, Number], AfterValidator(_ascends)]


class FeatureContract(_Section):
    """`features:`, what a model takes: visual features and, where there is sound, audio features of each second."""

    rgb: FeatureMeaning
    audio: FeatureMeaning | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """Width of the visual and of the audio features, 0 where there are none."""
        return self.rgb.width, self.audio.width if self.audio is not None else 0


class Config(_Section):
    """One configuration file; a section that is absent is None.

    `vocabulary` has the label id and the name of each class, in the order of the model's outputs.
    """

    video: VideoSection | None = None
    pure_segment: PureSegmentSection | None = None
    segment_w_context: ContextSection | None = None
    context_base: BaseSection | None = None
    segment_base: BaseSection | None = None
    features: FeatureContract | None = None
    vocabulary: tuple[tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], str], ...] | None = None


_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+([eE][-+]?[0-9]+)?")


class _Loader(yaml.SafeLoader):  # pylint: disable=too-many-ancestors
    """Refuses what would silently be taken for something else than people read: a key that comes twice, of which PyYAML
    takes the last, and numbers with other bases than 10, such as 016, which is 14, and 1:00, which is 60."""

    def construct_decimal(self, node: yaml.ScalarNode) -> int | float:
        """The number that a node is."""
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(":")[2]
        number = getattr(super(), f"construct_yaml_{kind}")(node)
        if not _DECIMAL.fullmatch(text) and math.isfinite(number):
            problem = f"{text} would be {number}: write that, without leading zeros, or put text in quotation marks"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_decimal)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. Raises `UserError` for anything else."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a configuration file ({error})") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def load_config(path: Path, *sections: str) -> Config:
    """Read and check a configuration; `sections` (such as "pure_segment.training") must be there.

    Raises `UserError` with every unknown, missing or mistyped key of the file in one message.
    """
    return parse_config(read_yaml(path), path, *sections)


def parse_config(data: Mapping[str, Any], source: object, *sections: str) -> Config:
    """Check a mapping read from `source`; see `load_config`."""
    problems = []
    config = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
    for section in sections:
        found: Any = data
        for key in section.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None and f"{section}: missing key" not in problems:
            problems.append(f"{section}: missing section")
    if config is None or problems:
        unique = list(dict.fromkeys(problems))
        raise UserError(f"{source}: {len(unique)} problem{'s' * (len(unique) > 1)}: " + "; ".join(unique))
    return config


Section = TypeVar("Section")


def required(section: Section | None) -> Section:
    """A section that whoever read the configuration asked for (`load_config(path, "video.model")`), so it is there.

    Raises `LookupError` where nobody did, which is a mistake of the program and not of the user.
    """
    if section is None:
        raise LookupError("a section of a configuration that was not asked for when it was read")
    return section


Trained = TypeVar("Trained", VideoSection, PureSegmentSection, ContextSection)


def override_steps(section: Trained, steps: int | None) -> Trained:
    """The section with `training.steps` as the command line has it, if it says so."""
    if steps is None or section.training is None:
        return section
    return section.model_copy(update={"training": section.training.model_copy(update={"steps": steps})})


def _describe(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `section.key: what is wrong (the value)`."""
    # The discriminator of a union appears in the location ("video.model.dbof.p_drop") but not in the file.
    location = problem["loc"]
    where = ".".join(str(part) for part in (location[:2] + location[3:] if len(location) > 3 else location))
    kind = problem["type"]
    if kind == "missing":
        return f"{where}: missing key"
    if kind == "extra_forbidden":
        return f"{where}: unknown key"
    if kind == "union_tag_not_found":
        return f"{where}.type: missing key"
    if kind == "union_tag_invalid":
        return f"{where}.type: expected one of {problem['ctx']['expected_tags']}, found {problem['ctx']['tag']!r}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: expected {message.removeprefix('expected ')}, found {problem['input']!r}"
