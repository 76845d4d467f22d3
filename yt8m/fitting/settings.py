"""Sizes of models and trainings for given data, as configurations for the trainers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helperbot.files import replacing

from yt8m.common.errors import UserError

_MANY_VIDEOS = 500
_LONGEST = 150  # frames of a video in a training


@dataclass(frozen=True)
class Sizes:
    """Sizes of the training data: videos, median seconds of a video, ratings, classes, and widths of a frame."""

    videos: int
    seconds: int
    ratings: int
    classes: int
    rgb: int
    audio: int


def video_settings(sizes: Sizes) -> dict[str, Any]:
    """The section `video` for pre-training: gated DBoF.

    Measured on 24 spliced films: the overlap of spans in unseen films, over one or two seeds.

    | setting | value | measured |
    |---|---|---|
    | hidden units | twice the frame's width, at most 256, or 512 from 500 videos on | |
    | units above | 32 per class, 32 to 256 | 8 per class: training losses two to three times as high |
    | dropout | 0.7 below 100 videos, else 0.5 | 0.2 to 0.5: spans of wrong classes; 0.8: likewise, with one seed |
    | gating | as published | without: worse with one seed, better with the other |
    | steps | 34 · videos ** 0.4: 121 for 24, 650 for 1,600 | twice as many for 24: spans of wrong classes |
    | batch | a quarter of the videos, 4 to 64, a power of 2 | |

    Exports the last step's weights; held-out videos do not choose any.
    """
    steps = round(34 * sizes.videos**0.4)
    return {
        "video": {
            "model": {
                "type": "dbof",
                "video_dim": sizes.rgb,
                "audio_dim": sizes.audio,
                "hidden_dim": _multiple_of_8(min(2 * (sizes.rgb + sizes.audio), _hidden(sizes.videos))),
                "fcn_dim": _between(32, 32 * sizes.classes, 256),
                "frame_se_reduction": 8,
                "video_se_reduction": 4,
                "p_drop": 0.7 if sizes.videos < 100 else 0.5,
                "max_len": _between(10, sizes.seconds, _LONGEST),
                "n_mixtures": 2,
            },
            "training": {
                "batch_size": _between(4, _power_of_2(sizes.videos / 4), 64),
                "steps": steps,
                "lr": 3e-3,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "ckpt_interval": steps,
            },
        }
    }


def segment_settings(sizes: Sizes) -> dict[str, Any]:
    """The section `pure_segment` for fine-tuning on this many ratings.

    Steps: 28 times the square root of the ratings, 320 for 132; batches of a quarter of the ratings, 8 to 128, a power
    of 2. Segments include a second on either side; without, spans are worse. Negatives weigh more than in the
    challenge, where only the ranking counted, since here probabilities meet a threshold. Exports the last step's
    weights, as `video_settings`.
    """
    steps = round(28 * math.sqrt(sizes.ratings))
    return {
        "pure_segment": {
            "training": {
                "batch_size": _between(8, _power_of_2(sizes.ratings / 4), 128),
                "steps": steps,
                "lr": 2e-3,
                "eps": 1e-7,
                "weight_decay": 0.02,
                "ckpt_interval": steps,
                "offset": 1,
                "negative_weight": 4.0,
                "mined_weight": 6.0,
            }
        }
    }


def write_settings(path: Path, settings: dict[str, Any], command: str) -> None:
    """Write a configuration that names its command, anew if its folder was moved.

    Raises `UserError` if the file was changed.
    """
    values = yaml.safe_dump(settings, sort_keys=False)
    text = f"# {command}\n{values}"
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    is_other_command = found.startswith("# python -m yt8m.") and found.partition("\n")[2] == values
    if not found or is_other_command and found != text:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif found != text:
        raise UserError(
            f"{path}: was changed; rename your configuration and train with the command in its first line, or remove it"
        )


def _hidden(videos: int) -> int:
    return 512 if videos >= _MANY_VIDEOS else 256


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


def _multiple_of_8(value: int) -> int:
    return max(value // 8, 1) * 8


def _power_of_2(value: float) -> int:
    return 2 ** max(round(math.log2(max(value, 1))), 0)
