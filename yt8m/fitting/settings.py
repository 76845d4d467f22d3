"""The sizes of models and trainings that suit some data, as the configurations that the commands for experts take."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helperbot.files import replacing

from yt8m.common.errors import UserError


@dataclass(frozen=True)
class Sizes:
    """How much there is to learn from: videos and the seconds of a usual one, ratings, classes, width of a frame."""

    videos: int
    seconds: int
    ratings: int
    classes: int
    rgb: int
    audio: int


def video_settings(sizes: Sizes) -> dict[str, Any]:
    width = sizes.rgb + sizes.audio
    hidden = _multiple(min(2 * width, 256 if sizes.videos < 500 else 512))
    batch_size = _between(4, _power(sizes.videos / 4), 64)
    steps = _between(60, round(VIDEO_EPOCHS * sizes.videos / batch_size), 4000)
    return {
        "video": {
            "model": {
                "type": "dbof",
                "video_dim": sizes.rgb,
                "audio_dim": sizes.audio,
                "hidden_dim": hidden,
                "fcn_dim": _multiple(_between(32, 32 * sizes.classes, 256)),
                "frame_se_reduction": 8,
                "video_se_reduction": 4,
                "p_drop": 0.5,
                "max_len": _between(10, sizes.seconds, 150),
                "n_mixtures": 2,
            },
            "training": {
                "batch_size": batch_size,
                "steps": steps,
                "lr": 3e-3,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "ckpt_interval": steps,
            },
        }
    }


def segment_settings(sizes: Sizes) -> dict[str, Any]:
    batch_size = _between(8, _power(sizes.ratings / 4), 128)
    steps = _between(60, round(SEGMENT_EPOCHS * sizes.ratings / batch_size), 4000)
    return {
        "pure_segment": {
            "training": {
                "batch_size": batch_size,
                "steps": steps,
                "lr": 2e-3,
                "eps": 1e-7,
                "weight_decay": 0.02,
                "ckpt_interval": steps,
                "offset": 1,
                "mined_weight": 1.0,
            }
        }
    }


VIDEO_EPOCHS, SEGMENT_EPOCHS = 40, 40


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


def _multiple(value: int, of: int = 8) -> int:
    return max(value // of, 1) * of


def _power(value: float) -> int:
    return 2 ** max(round(math.log2(max(value, 1))), 0)


def write_settings(path: Path, settings: dict[str, Any], header: str) -> None:
    text = "".join(f"# {line}\n" for line in header.splitlines()) + yaml.safe_dump(settings, sort_keys=False)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{path}: is not as this command wrote it; give your own one another name, and train with the commands "
                "that its header names"
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
