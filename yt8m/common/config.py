"""What configurations are made of: YAML read strictly, keys that check their values, and sections without a model.

`yt8m.models.config` has the file as a whole.
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
IN_WORDS = "in_words"  # the type of faults whose text is for people


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


class Section(BaseModel):
    """Frozen, and without room for keys nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(Section):
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


TrimSeconds = Annotated[StrictInt, Field(ge=0, multiple_of=5)]


class FeatureMeaning(Section):
    """A feature: its `width` in bytes, and the values that the bytes 0 and 255 stand for."""

    width: Count
    range: Annotated[tuple[Number, Number], AfterValidator(_ascends)]


class ExtractorIdentity(Section):
    """What has made features of films: its `name`, as the command line has it, and a `digest` of weights and settings;
    what it makes of a film is comparable where both are the same."""

    name: str
    digest: str


class FeatureContract(Section):
    """`features:`, what a model takes: visual features and, where there is sound, audio features of each second.

    `trim`: how many seconds at the beginning and at the end of a video are neither ranked nor seen by video models,
    multiples of 5; without the key the challenge's, whose raters never saw those.
    `extractor`: what has made them; None where that is not known.
    """

    rgb: FeatureMeaning
    audio: FeatureMeaning | None = None
    trim: tuple[TrimSeconds, TrimSeconds] = (30, 10)
    extractor: ExtractorIdentity | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """Width of the visual and of the audio features, 0 where there are none."""
        return self.rgb.width, self.audio.width if self.audio is not None else 0


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


def describe(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `section.key: what is wrong (the value)`."""
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
