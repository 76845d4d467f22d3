"""Reading of users' CSV-like tables as text, in all supported dialects."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from yt8m.common.errors import UserError

_DELIMITERS = (",", ";", "\t")
_NO_DELIMITER = "\x1f"  # in no text: each line is one field
_EXCELS_HINT = re.compile(r"\Asep=.(?=\r?\n)")  # in the first line; redundant with the header
_SHOWN = 100  # characters of an unexpected header
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
    """The whole number in a field, also as written by spreadsheets and pandas (`12.0`, `1E+03`); otherwise None."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        return None
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else None


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, may_be_empty: bool = False
) -> Iterator[Row]:
    """Line number and fields of each row: those of `columns`, then of `optional`; other columns are ignored.

    The fields of a missing optional column are "". The table is UTF-8 with or without a byte order mark, separated by
    commas, semicolons or tabs, whichever finds the columns in the header; blank rows are skipped. Raises `UserError`
    during iteration, also for a table without rows, unless it `may_be_empty`.
    """
    text = _read_text(path)
    delimiter = _find_delimiter(text, columns)
    if delimiter is None:
        found = next((line for line in text.splitlines() if line.strip()), "")[:_SHOWN]
        raise UserError(f"{path}: expected a header with the columns {','.join(columns)}, found {found!r}")
    yield from _fields(text, delimiter, path, columns, optional, may_be_empty)


def read_column(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line number and field of each row of a table with this column, or else number and text of each non-blank line.

    Quotation marks around fields or lines are removed. Raises `UserError` during iteration.
    """
    text = _read_text(path)
    delimiter = _find_delimiter(text, [column])
    if delimiter is None:
        yield from ((line, fields[0]) for line, fields in _rows(text, _NO_DELIMITER, path))
    else:
        yield from ((line, fields[0]) for line, fields in _fields(text, delimiter, path, [column]))


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
    """The delimiter with which the header has each of the columns once, or None.

    A single-column header needs no delimiter; its fields may then contain any.
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


def _fields(
    text: str,
    delimiter: str,
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    may_be_empty: bool = False,
) -> Iterator[Row]:
    """The rows below a header with the columns."""
    rows = _rows(text, delimiter, path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    twice = next((column for column in optional if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the header has the column {twice} {header.count(twice)} times; keep one")
    places = [header.index(column) if column in header else len(header) for column in (*columns, *optional)]
    empty = True
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"{path}: line {line}: expected {len(header)} fields, as the header has, found {len(fields)}"
            )
        empty = False
        fields.append("")  # for missing optional columns
        yield line, tuple(fields[place] for place in places)
    if empty and not may_be_empty:
        raise UserError(f"{path}: no row below the header {','.join(header)}")


def _rows(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The first line number and the fields of each non-blank row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}: line {line}: cannot be read as CSV ({error}); fix the quotation marks there"
        ) from None
