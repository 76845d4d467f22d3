"""The partitions of the data set: where the commands look for their shards, and what the data set calls them."""

from dataclasses import dataclass

NAMES_FILE = "vocabulary.csv"  # the official names of all labels, in the data folder
NAME_COLUMNS = ("Index", "KnowledgeGraphId", "Name")


@dataclass(frozen=True)
class Partition:
    """`folder` in the data folder; `published`: its path on the data set's servers; `stem`: how names of its shards
    begin; `labelled`: whether its videos have labels."""

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
