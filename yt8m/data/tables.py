"""CSV-like tables as users' programs write them, read as text: the one place that knows their dialects."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from yt8m.common.errors import UserError

_DELIMITERS = (",", ";", "\t")
_NO_DELIMITER = "\x1f"  # in no text: lines of a single field
_EXCELS_HINT = re.compile(r"\Asep=.(?=\r?\n)")  # in the first line; the header says the same
_SHOWN = 100  # characters of a header that is not as expected
_SAVE_AGAIN = 'save it as "CSV UTF-8"'
_NO_TEXT = {
    b"\xff\xfe": "is UTF-16",
    b"\xfe\xff": "is UTF-16",
    b"PK\x03\x04": "is a workbook or another zip file",
    b"\xd0\xcf\x11\xe0": "is a workbook",
    b"\x1f\x8b": "is a gzip file",
}

_WHOLE = re.compile(r"[+-]?[0-9]{1,1000}(\.0*)?|[+-]?[0-9]{1,100}(\.[0-9]{1,100})?[eE][+-]?[0-9]{1,3}")

Row = tuple[int, tuple[str, ...]]


def whole_number(text: str) -> int | None:
    """The whole number that a field is, also as spreadsheets and pandas write it (`12.0`, `1E+03`); None for others."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        return None
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else None


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Line number and fields, of `columns` and then of `optional`, of each row of a table that may have further ones.

    The fields of an optional column that the table lacks are "". UTF-8 with or without a byte order mark; separated
    by commas, semicolons or tabs, whichever finds the columns in the header; blank rows are passed over. Raises
    `UserError`, while it is iterated over, also for a table without rows.
    """
    text = _read_text(path)
    delimiter = _find_delimiter(text, columns)
    if delimiter is None:
        found = next((line for line in text.splitlines() if line.strip()), "")[:_SHOWN]
        raise UserError(f"{path}: expected a header with the columns {','.join(columns)}, found {found!r}")
    yield from _fields(text, delimiter, path, columns, optional)


def read_column(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line number and field of each row of a table with this column, or else each line that is not blank, as a whole.

    Lines lose quotation marks around them, as fields do. Raises `UserError`, while it is iterated over.
    """
    text = _read_text(path)
    delimiter = _find_delimiter(text, [column])
    if delimiter is None:
        yield from ((line, fields[0]) for line, fields in _rows(text, _NO_DELIMITER, path))
    else:
        yield from ((line, fields[0]) for line, fields in _fields(text, delimiter, path, [column], ()))


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    for start, what in _NO_TEXT.items():
        if content.startswith(start):
            raise UserError(f"{path}: {what}; {_SAVE_AGAIN}")
    if b"\0" in content[:64]:
        raise UserError(f"{path}: is UTF-16, or no text at all; {_SAVE_AGAIN}")
    try:
        return _EXCELS_HINT.sub("", content.decode("utf-8-sig"), 1)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: is not UTF-8; {_SAVE_AGAIN}") from None


def _find_delimiter(text: str, columns: Sequence[str]) -> str | None:
    """The delimiter with which the header has each of the columns once, None if there is none.

    A header of one column needs none, and then the fields may have any of them.
    """
    for delimiter in (_NO_DELIMITER, *_DELIMITERS):
        try:
            header = _header(text, delimiter)
        except csv.Error:  # "vid";"label" has no fields between commas
            continue
        if all(header.count(column) == 1 for column in columns):
            return delimiter
    return None


def _header(text: str, delimiter: str) -> list[str]:
    for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
        if any(map(str.strip, fields)):
            return list(map(str.strip, fields))
    return []


def _fields(text: str, delimiter: str, path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    """The rows below a header that has the columns."""
    rows = _rows(text, delimiter, path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    twice = next((column for column in optional if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the header has the column {twice} {header.count(twice)} times; leave one")
    places = [header.index(column) if column in header else len(header) for column in (*columns, *optional)]
    empty = True
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"{path}: line {line}: expected {len(header)} fields, as the header has, found {len(fields)}"
            )
        empty = False
        fields.append("")  # of the columns that the table lacks
        yield line, tuple(fields[place] for place in places)
    if empty:
        raise UserError(f"{path}: no row below the header {','.join(header)}")


def _rows(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line that a row begins on, and its fields; of all rows that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}: line {line}: cannot be read as CSV ({error}); mend the quotation marks there"
        ) from None
