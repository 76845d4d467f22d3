"""From labels as users write them, ids or names, to label ids; `vocabulary.csv` says which id a name has."""

import csv
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helperbot.files import replacing

from yt8m.common.errors import UserError
from yt8m.common.problems import Problems
from yt8m.data.partitions import NAME_COLUMNS
from yt8m.data.tables import whole_number
from yt8m.data.vocabulary import LARGEST_LABEL, plain_name, read_vocabulary

_INTEGER = re.compile(r"-?[0-9]{1,1000}")  # as plain labels have them; Python does not convert much longer ones


def plain_label(text: str) -> str:
    """A label as it is compared: see `plain_name`; a whole number, however it is written, as its digits."""
    text = plain_name(text)
    number = whole_number(text)
    return text if number is None else str(number)


@dataclass(frozen=True)
class LabelText:
    """A label as line `line` of the CSV `source` has it."""

    source: Path
    line: int
    text: str


@dataclass(frozen=True)
class LabelIds:
    """The id of each label text, and the names of a new `vocabulary.csv`, in order, if there is to be one."""

    ids: dict[str, int]
    new_names: tuple[str, ...] = ()


def resolve_labels(texts: Sequence[LabelText], names_path: Path) -> LabelIds:
    """Label ids of what the CSVs have: integers are ids; names are those of `names_path`, or of one to be made.

    The texts are plain, see `plain_label`. Raises `UserError` for ids beside names, ids out of range, and names that
    `names_path` lacks.
    """
    first: dict[str, LabelText] = {}
    for label in texts:
        first.setdefault(label.text, label)
    numbers = [label for label in first.values() if _INTEGER.fullmatch(label.text)]
    names = [label for label in first.values() if not _INTEGER.fullmatch(label.text)]
    if numbers and names:
        number, name = numbers[0], names[0]
        raise UserError(
            f"{name.source}: line {name.line}: label {name.text!r} is a name, but {number.text!r} of {number.source}, "
            f"line {number.line}, is a label id; write ids throughout, or names that are more than a number"
        )
    if not names:
        return LabelIds(_as_ids(numbers))
    if not names_path.exists():
        ordered = sorted(first)
        return LabelIds({name: number for number, name in enumerate(ordered)}, tuple(ordered))
    known = _read_names(names_path)
    problems = Problems(
        names_path, f"correct the name, or add a line with a new Index at the end of {names_path}; keep its other lines"
    )
    for label in names:
        where = f"of {label.source}, line {label.line}"
        if label.text not in known:
            near = difflib.get_close_matches(label.text, known, 1)
            problems.add(f"no name {label.text!r} {where}" + (f" (there is {near[0]!r})" if near else ""))
        elif len(known[label.text]) > 1:
            problems.add(f"{len(known[label.text])} labels have the name {label.text!r} {where}")
    problems.raise_any()
    return LabelIds({label.text: known[label.text][0] for label in names})


def save_names(names: Sequence[str], path: Path) -> None:
    """Write a `vocabulary.csv` that numbers these names from 0."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAME_COLUMNS)
        writer.writerows((number, "", name) for number, name in enumerate(names))


def _as_ids(labels: Sequence[LabelText]) -> dict[str, int]:
    ids = {label.text: int(label.text) for label in labels}
    for source in dict.fromkeys(label.source for label in labels):
        problems = Problems(source)
        for label in labels:
            if label.source == source and not 0 <= ids[label.text] <= LARGEST_LABEL:
                problems.add(
                    f"line {label.line}: label: expected a name or an id from 0 to {LARGEST_LABEL}, "
                    f"found {label.text!r}"
                )
        problems.raise_any()
    return ids


def _read_names(path: Path) -> dict[str, list[int]]:
    """The ids of each name of a `vocabulary.csv`. Raises `UserError`."""
    vocabulary = read_vocabulary(path)
    known: dict[str, list[int]] = {}
    for label, name in zip(vocabulary.labels.tolist(), vocabulary.names):
        known.setdefault(name, []).append(label)
    return known
