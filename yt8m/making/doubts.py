"""What is probably a mistake in users' data, though records can be made of it: a warning each."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from yt8m.common.errors import UserError
from yt8m.common.wording import listed
from yt8m.data.annotations import LabelRow, RatingRow
from yt8m.data.index import load_index
from yt8m.data.partitions import FOLDERS
from yt8m.making.array_records import Feature, has_shards

LOGGER = logging.getLogger(__name__)
_TYPICAL_WIDTHS = frozenset((64, 128, 192, 256, 384, 512, 640, 768, 1024, 1152, 1280, 1536, 2048, 4096))


def doubt_names(new_names: Sequence[str], rows: Sequence[LabelRow | RatingRow], names_path: Path) -> None:
    """Warn of names of a new vocabulary that differ so little that they may be one, the most lopsided pairs first."""
    counts = Counter(row.label for row in rows)
    pairs = [sorted(pair, key=lambda name: counts[name]) for pair in near_names(new_names)]
    pairs.sort(key=lambda pair: counts[pair[0]] / counts[pair[1]])
    if pairs:
        LOGGER.warning(
            "%s: some of the new names may be misspelt: %s; if so, correct them in the CSVs, remove this file once it "
            "is written, and run the command again with --overwrite",
            names_path,
            listed([" beside ".join(f"{name!r} ({_rows(counts[name])})" for name in pair) for pair in pairs]),
        )


def doubt_ratings(
    labels: Sequence[LabelRow], ratings: Sequence[RatingRow], videos: Sequence[str], labels_path: Path | None
) -> None:
    """Warn of rated labels that no video has, and of positive ratings of labels that their own video lacks."""
    chosen = set(videos)
    ratings = [row for row in ratings if row.video_id in chosen]
    known = {row.label for row in labels}
    rated = {row.label for row in ratings}
    unknown = sorted(rated - known)
    if unknown:
        LOGGER.warning(
            "%s: no video has %d of the %d rated labels: %s",
            labels_path,
            len(unknown),
            len(rated),
            listed([repr(label) for label in unknown]),
        )
    pairs = {(row.video_id, row.label) for row in labels}
    lacking = [row for row in ratings if row.score and (row.video_id, row.label) not in pairs]
    if lacking:
        LOGGER.warning(
            "%s: %d of the %d positive ratings are of labels that it does not give to their video, such as %r to %s",
            labels_path,
            len(lacking),
            sum(row.score for row in ratings),
            lacking[0].label,
            lacking[0].video_id,
        )


def doubt_partition(videos: Sequence[str], data_dir: Path, partition: str) -> None:
    """Warn of videos that another partition of the data folder has, too."""
    for name in FOLDERS:
        folder = data_dir / name
        if name == partition or not has_shards(folder):
            continue
        try:
            there = set(load_index(folder, data_dir / "cache").video_id.tolist())
        except UserError as error:
            LOGGER.warning("%s: its videos are not compared with these: %s", folder, error)
            continue
        shared = [video_id for video_id in videos if video_id.encode() in there]
        if shared:
            LOGGER.warning(
                "%s: has %d of these %d videos, too: %s; what a model has seen says nothing about how good it is",
                folder,
                len(shared),
                len(videos),
                listed(shared),
            )


def doubt_shapes(features: Sequence[Feature]) -> None:
    """Warn of arrays that have as many rows, all of them, as features usually have columns."""
    for arrays in {feature.arrays.folder: feature.arrays for feature in features}.values():
        lengths = set(arrays.lengths.values())
        if len(lengths) == 1 and lengths < _TYPICAL_WIDTHS and arrays.width not in _TYPICAL_WIDTHS:
            LOGGER.warning(
                "%s: arrays may be transposed, (width, seconds): all have %d rows of %d columns; if so, save array.T",
                arrays.folder,
                *lengths,
                arrays.width,
            )


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


_SHORT = 2  # characters: an edit makes another name of these
_DIGITS = re.compile(r"\d+")


def near_names(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of different names that are the same but for case and at most one edit, each pair and all pairs in order.

    An edit inserts, deletes or replaces a character, or swaps two neighbours. What differs in digits, such as "label 1"
    and "label 2", is meant to, and names of one or two characters are near each other only where case is all.
    """
    sharing: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        for key in _with_one_less(name.casefold()):
            sharing.setdefault(key, []).append(name)
    return sorted({pair for group in sharing.values() for pair in combinations(group, 2) if _are_near(*pair)})


def _with_one_less(text: str) -> set[str]:
    """A text and what is left of it without one of its characters: of two texts an edit apart, both have one of these
    in common."""
    return {text, *(text[:place] + text[place + 1 :] for place in range(len(text)))}


def _are_near(name: str, other: str) -> bool:
    short, long = sorted((name.casefold(), other.casefold()), key=len)
    if short == long:
        return True
    if len(long) <= _SHORT or _DIGITS.sub("", short) == _DIGITS.sub("", long):
        return False
    start = len(os.path.commonprefix([short, long]))
    swapped = short[start : start + 2][::-1] + short[start + 2 :]
    return long[start + 1 :] in (short[start:], short[start + 1 :]) or long[start:] == swapped
