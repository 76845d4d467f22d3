"""Building blocks of configurations: strict YAML, validated values, and the sections that concern no model.

`yt8m.models.config` has the whole file.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from yt8m.common.errors import UserError

DEFAULT_OFFSET = 3  # frames on either side of a segment
IN_WORDS = "in_words"  # type of the errors whose text is shown as it is
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+([eE][-+]?[0-9]+)?")


def _number(value: object) -> object:
    """Accept what Python's float accepts, except booleans: YAML reads `2e-4` as a string."""
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
TrimSeconds = Annotated[StrictInt, Field(ge=0, multiple_of=5)]


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


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(Section):
    """Settings of all trainings; `steps` and `ckpt_interval` are in optimizer steps.

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

    Unlike in 2019, the head starts from the classes' shares of the training videos (`prior_bias`).
    """

    prior_bias: StrictBool = True


class SegmentTraining(Training):
    """Fine-tuning on rated segments: batch size in ratings; `offset` in frames on either side.

    A rating weighs its score (0 or 1) plus `negative_weight`; the mean loss of the mined negatives, classes certainly
    absent from a video, weighs `mined_weight`.
    """

    warmup_ratio: Fraction = 0.25
    end_lr_factor: Factor = 0.001
    offset: Annotated[StrictInt, Field(ge=0)] = DEFAULT_OFFSET
    negative_weight: NonNegative = 0.5
    mined_weight: NonNegative = 0.5


class ContextTraining(SegmentTraining):
    """Context-aware fine-tuning: an encoder that trains has a learning rate of `lr` times its factor."""

    segment_encoder_lr_factor: NonNegative = 0.5
    context_encoder_lr_factor: NonNegative = 0.25


class FeatureMeaning(Section):
    """A feature: its `width` in bytes, and the values that bytes 0 and 255 stand for."""

    width: Count
    range: Annotated[tuple[Number, Number], AfterValidator(_ascends)]


class ExtractorIdentity(Section):
    """The extractor of films' features: its `name`, as on the command line, and a `digest` of weights and settings.
    Features are comparable if both agree."""

    name: str
    digest: str


class FeatureContract(Section):
    """The section `features`, a model's input: visual features and, optionally, audio features of each second.

    `trim`: seconds at the beginning and the end of a video that are neither ranked nor seen by video models,
    multiples of 5; by default the challenge's, whose raters never saw them.
    `extractor`: the source of the features; None if unknown.
    """

    rgb: FeatureMeaning
    audio: FeatureMeaning | None = None
    trim: tuple[TrimSeconds, TrimSeconds] = (30, 10)
    extractor: ExtractorIdentity | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of the visual and the audio features, 0 without audio."""
        return self.rgb.width, self.audio.width if self.audio is not None else 0


class _Loader(yaml.SafeLoader):  # pylint: disable=too-many-ancestors
    """A loader that refuses YAML that people misread: duplicate keys, of which PyYAML takes the last, and numbers in
    other bases than 10, such as 016, which is 14, and 1:00, which is 60."""

    def construct_decimal(self, node: yaml.ScalarNode) -> int | float:
        """The number of a scalar node; refuses other bases than 10."""
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(":")[2]
        number = getattr(super(), f"construct_yaml_{kind}")(node)
        if not _DECIMAL.fullmatch(text) and math.isfinite(number):
            problem = f"{text} is read as {number}: write that, without leading zeros, or quote it as text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; refuses duplicate keys."""
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_decimal)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping. Raises `UserError` for anything else."""
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


def describe(problem: Mapping[str, Any]) -> str:
    """Describe an error of pydantic as `section.key: what is wrong`, with the value found."""
    where = ".".join(map(str, problem["loc"]))
    kind = problem["type"]
    if kind == "missing":
        return f"{where}: missing key"
    if kind == "extra_forbidden":
        return f"{where}: unknown key"
    if kind == IN_WORDS:
        return f"{where}: {problem['msg']}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: expected {message.removeprefix('expected ')}, found {problem['input']!r}"
