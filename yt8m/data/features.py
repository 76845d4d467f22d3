"""The meaning of feature bytes: `features.json` beside shards, unless they are the published data set's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helperbot.files import replacing
from pydantic import ValidationError

from yt8m.common.config import ExtractorIdentity, FeatureContract, FeatureMeaning
from yt8m.common.errors import UserError
from yt8m.data.frames import CANDIDATES, Trim, trim_of

CONTRACT_NAME = "features.json"
PUBLISHED_EXTRACTOR = "yt8m"  # reproduces the features of the published data set, which names no extractor
_ROWS_AT_A_TIME = 1024
PUBLISHED_RANGE = (4 / 512 - 2, 2 + 4 / 512)  # values of the bytes 0 and 255 in the published data set


@dataclass(frozen=True)
class Scale:
    """The range of float features that maps to 0..255."""

    low: float
    high: float

    def quantize(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Floats (L, W) → uint8 (L, W), rounded to nearest, and the number of values outside the range."""
        quantized = np.empty(values.shape, np.uint8)
        clipped = 0
        for rows in pieces(len(values)):
            piece = values[rows].astype(np.float64)
            clipped += int(((piece < self.low) | (piece > self.high)).sum())
            quantized[rows] = ((piece - self.low) * (255 / (self.high - self.low))).round().clip(0, 255)
        return quantized, clipped


def pieces(n_rows: int) -> Iterator[slice]:
    """Slices of bounded size that cover `n_rows` rows, to keep temporary arrays small."""
    for start in range(0, n_rows, _ROWS_AT_A_TIME):
        yield slice(start, start + _ROWS_AT_A_TIME)


def feature_contract(
    rgb: int,
    audio: int,
    rgb_range: tuple[float, float] = PUBLISHED_RANGE,
    audio_range: tuple[float, float] = PUBLISHED_RANGE,
    extractor: ExtractorIdentity | None = None,
) -> FeatureContract:
    """The contract of features of these widths; `audio` 0: none. The default ranges are the published data set's."""
    return FeatureContract(
        rgb=FeatureMeaning(width=rgb, range=rgb_range),
        audio=FeatureMeaning(width=audio, range=audio_range) if audio else None,
        extractor=extractor,
    )


def read_contract(folder: Path, rgb: int, audio: int) -> FeatureContract:
    """The contract of shards whose features have these widths.

    `folder`: the folder of the shards, or one shard. Without a `features.json`, the published data set's features are
    assumed. Raises `UserError` if the file cannot be read or has other widths.
    """
    contract = find_contract(_path(folder).parent)
    published = feature_contract(rgb, audio)
    if contract is None:
        return published
    if contract.widths != published.widths:
        raise UserError(
            f"{_path(folder)}: describes features of the widths {contract.widths}, those of {folder} are "
            f"{published.widths}; it belongs to other shards: replace or remove it"
        )
    return contract


def read_trim(folder: Path) -> Trim:
    """The trim in the contract of shards; `folder` as for `read_contract`. Raises `UserError`."""
    contract = find_contract(_path(folder).parent)
    return CANDIDATES if contract is None else trim_of(contract)


def _path(folder: Path) -> Path:
    return (folder if folder.is_dir() else folder.parent) / CONTRACT_NAME


def find_contract(folder: Path) -> FeatureContract | None:
    """The contract in a folder, or None. Raises `UserError` if it cannot be read."""
    path = folder / CONTRACT_NAME
    try:
        return FeatureContract.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f'{path}: cannot be read as {{"rgb": {{"width": W, "range": [LOW, HIGH]}}, "audio": ...}} ({reason})'
        ) from None


def save_contract(contract: FeatureContract, folder: Path) -> None:
    """Write `features.json` into a folder of shards."""
    with replacing(folder / CONTRACT_NAME) as temporary:
        temporary.write_text(contract.model_dump_json(exclude_none=True, indent=1) + "\n", encoding="utf-8")


def require_same(found: FeatureContract, where: object, expected: FeatureContract, whose: object) -> None:
    """Raise `UserError` unless features `found` at `where` match those `expected` by `whose` in extractor, widths and
    ranges.

    If only one side names its extractor and the other has the published range, the extractor must be
    `PUBLISHED_EXTRACTOR`; otherwise any extractor will do.
    """
    _require_published(found, where, expected, whose)
    ours, theirs = found.extractor, expected.extractor
    if ours is not None and theirs is not None and ours != theirs:
        other = f"{theirs.name}" if ours.name != theirs.name else "other weights or settings of it"
        raise UserError(
            f"{where}: features are made by the extractor {ours.name}, those of {whose} by {other}; use features of "
            "the same extractor"
        )
    if found.widths != expected.widths:
        raise UserError(
            f"{where}: features are {found.widths[0]} (rgb) and {found.widths[1]} (audio) wide, those of {whose} "
            f"{expected.widths[0]} and {expected.widths[1]}; use features of the same extractor"
        )
    for name in ("rgb", "audio"):
        meaning, other_meaning = getattr(found, name), getattr(expected, name)
        if meaning is not None and _differ(meaning.range, other_meaning.range):
            raise UserError(
                f"{where}: bytes of {name} stand for values from {_shown(meaning.range)}, those of {whose} for "
                f"{_shown(other_meaning.range)}; make the shards again with that range, or put the right "
                f"{CONTRACT_NAME} beside them"
            )


def _require_published(found: FeatureContract, where: object, expected: FeatureContract, whose: object) -> None:
    """Raise `UserError` if one side is the published data set's and the other one from another extractor."""
    which = f"the released data set's, which only the extractor {PUBLISHED_EXTRACTOR} makes"
    ours, theirs = _foreign_extractor(found), _foreign_extractor(expected)
    if ours is not None and _is_published(expected):
        raise UserError(
            f"{where}: features are made by the extractor {ours}, those of {whose} are {which}; extract them with "
            f"--extractor {PUBLISHED_EXTRACTOR} --assets FOLDER"
        )
    if theirs is not None and _is_published(found):
        raise UserError(
            f"{where}: features name no extractor and have the range of {which}; those of {whose} are made by "
            f"{theirs}; use features of the same extractor"
        )


def _foreign_extractor(contract: FeatureContract) -> str | None:
    """The named extractor, or None if there is none or it is `PUBLISHED_EXTRACTOR`."""
    name = None if contract.extractor is None else contract.extractor.name
    return None if name == PUBLISHED_EXTRACTOR else name


def _is_published(contract: FeatureContract) -> bool:
    """Whether features count as the published data set's: its range and no named extractor."""
    meanings = [meaning for meaning in (contract.rgb, contract.audio) if meaning is not None]
    return contract.extractor is None and not any(_differ(meaning.range, PUBLISHED_RANGE) for meaning in meanings)


def _shown(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.10g} to {bounds[1]:.10g}"


def _differ(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two ranges differ by more than a hundredth of the step between two bytes."""
    step = (first[1] - first[0]) / 255
    return any(abs(ours - theirs) > step / 100 for ours, theirs in zip(first, second))
