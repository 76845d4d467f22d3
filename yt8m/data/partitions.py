"""The partitions of the data set: folders, names of shards on servers and disks, folds of the rated partition.

Imports nothing heavy: `--help` needs the folds.
"""

import re
import string
from dataclasses import dataclass
from typing import Final, Literal

NAMES_FILE = "vocabulary.csv"  # the official names of all labels, in the data folder
NAME_COLUMNS = ("Index", "KnowledgeGraphId", "Name")
N_LABELS = 3862  # of the published data set


@dataclass(frozen=True)
class Partition:
    """`folder` in the data folder; `published`: its path on the servers; `stem`: prefix of its shards' names;
    `labelled`: whether its videos have labels."""

    folder: str
    published: str
    stem: str
    labelled: bool


PARTITIONS = (
    Partition("video/train", "2/frame/train", "train", True),
    Partition("video/valid", "2/frame/validate", "validate", True),
    Partition("segment/train", "3/frame/validate", "validate", True),
    Partition("segment/test", "3/frame/test", "test", False),
)
FOLDERS = tuple(partition.folder for partition in PARTITIONS)

SUFFIX = ".tfrecord"
_DIGITS = string.ascii_lowercase + string.ascii_uppercase + string.digits
N_SHARDS = len(_DIGITS) ** 2  # of a partition
_SERVER_NAME = re.compile(r"(train|validate|test)([A-Za-z0-9])([A-Za-z0-9])\.tfrecord", re.ASCII)
_OFFICIAL_NAME = re.compile(r"(train|validate|test)([0-9]{4})\.tfrecord", re.ASCII)


def official_name(name: str) -> str:
    """The numbered name of a shard with a server's name; other names unchanged."""
    match = _SERVER_NAME.fullmatch(name)
    if match is None:
        return name
    stem, first, second = match.groups()
    return f"{stem}{_DIGITS.index(first) * len(_DIGITS) + _DIGITS.index(second):04d}{SUFFIX}"


def shard_number(name: str) -> int | None:
    """The number, 0 to 3843, of a shard with a server's or an official name; None for other names."""
    match = _OFFICIAL_NAME.fullmatch(official_name(name))
    return int(match[2]) if match is not None and int(match[2]) < N_SHARDS else None


def server_name(name: str) -> str:
    """The server's name of a shard with an official name; other names unchanged."""
    number = shard_number(name)
    match = _OFFICIAL_NAME.fullmatch(name)
    if number is None or match is None:
        return name
    return f"{match[1]}{_DIGITS[number // len(_DIGITS)]}{_DIGITS[number % len(_DIGITS)]}{SUFFIX}"


N_FOLDS, FOLD_SEED = 8, 42
NO_FOLD: Final = "none"  # train on all shards

Fold = int | Literal["none"]
