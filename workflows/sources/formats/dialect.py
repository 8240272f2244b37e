"""Find the separator, the header and the encoding of a CSV file from its first lines."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.encoding import Utf8, find_encoding, shown
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.paths import DataFile

REPLACEMENT = "\x1f"
"""Stands for a separator that the CSV reader does not know: of several characters, or not ASCII."""

_SEPARATORS = (",", "\t", ";", "|", "::", " ")
_NAMES = {"\t": "tab", " ": "space"}
_SAMPLE_BYTES, _SAMPLE_RECORDS = 1 << 18, 200
_VALUE = re.compile(r"\s*[+-]?[\d.,:/ T-]*\d[\d.,:/ TZeE+-]*\s*")
_NAME_WORDS = re.compile(
    r"user|item|customer|client|product|article|sku|movie|book|song|artist|session|visitor|order|"
    r"rating|score|stars|time|date|price|event|title|name|category|type|count|quantity|(^|_)id($|_)",
    re.IGNORECASE,
)
_ID_NAME = re.compile(r"[a-z]+_id", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_MIN_CODES = 3
"""Minimum number of texts with a digit for a first text without one to be a name."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes
    ----------
    separator : str
    header : bool
    names : tuple of str
        The columns, in order.
    encoding : str
    quotes : bool
        Whether fields may be in double quotes.
    blank_lines : int
        The number of blank lines before the first row.
    """

    separator: str
    header: bool
    names: tuple[str, ...]
    encoding: str
    quotes: bool
    blank_lines: int = 0

    @property
    def delimiter(self) -> str:
        """The one character that separates the fields of the text that `open` returns."""
        is_plain = len(self.separator) == 1 and self.separator.isascii()
        return self.separator if is_plain else REPLACEMENT

    def open(self, file: DataFile) -> Utf8:
        """Open a file in this dialect as UTF-8, with `delimiter` between fields."""
        return Utf8(file, self.encoding, self.separator, self.delimiter)

    def __str__(self) -> str:
        return ", ".join(
            (
                f"separator {_NAMES.get(self.separator, repr(self.separator))}",
                "header" if self.header else f"no header (columns {', '.join(self.names)})",
                shown(self.encoding),
            )
        )


def find_dialect(file: DataFile, options: ReadOptions) -> Dialect | None:
    """Find how a CSV file is written; what `options` says is taken from there.

    Returns
    -------
    Dialect or None
        None if the file is empty.

    Raises
    ------
    DataError
        If it is not clear; the message says which option to set.
    """
    encoding = find_encoding(file, options.encoding)
    sample, whole = _sample(file, encoding)
    if not sample.strip():
        return None
    blank_lines = sample[: len(sample) - len(sample.lstrip("\r\n"))].count("\n")
    separator = options.separator or _find_separator(file, sample, whole)
    quotes = len(separator) == 1 if options.quotes is None else options.quotes
    records = _records(sample, separator, whole, quotes)
    first = [field.strip() for field in records[0]]
    header = options.header
    if header is None:
        header = not options.column_names and _has_header(file, first, records[1:])
    names = options.column_names or (
        tuple(first) if header else tuple(f"column_{n}" for n in range(1, len(first) + 1))
    )
    if len(names) != len(first):
        raise DataError(
            f"{file}, line 1: {len(first)} fields, but column_names has {len(names)} names; name "
            "each column"
        )
    return Dialect(separator, header, names, encoding, quotes, blank_lines)


def _sample(file: DataFile, encoding: str) -> tuple[str, bool]:
    """The first characters of the file, and whether they are the whole file."""
    with Utf8(file, encoding) as text:
        data = io.BufferedReader(text, _SAMPLE_BYTES).read(_SAMPLE_BYTES)
        return data.decode("utf-8", errors="ignore"), len(data) < _SAMPLE_BYTES


def _records(sample: str, separator: str, whole: bool, quotes: bool) -> list[list[str]]:
    """The first records of the sample, without blank lines and without an incomplete last one."""
    if len(separator) > 1:
        sample, separator = sample.replace(separator, REPLACEMENT), REPLACEMENT
    found: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # an open quote makes a field of the rest of the file
        for record in csv.reader(io.StringIO(sample, newline=""), **_reading(separator, quotes)):
            if record:
                found.append(record)
            if len(found) > _SAMPLE_RECORDS:
                return found[:_SAMPLE_RECORDS]
    return found if whole or len(found) == 1 else found[:-1]


def _reading(separator: str, quotes: bool) -> dict[str, Any]:
    return {"delimiter": separator, "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE}


def _find_separator(file: DataFile, sample: str, whole: bool) -> str:
    """Choose the separator that gives all records, or else nearly all, equally many fields.

    Where none occurs in the first record, the file has one column.
    """
    shares: dict[str, float] = {}
    for separator in _SEPARATORS:
        records = _records(sample, separator, whole, quotes=len(separator) == 1)
        width = len(records[0]) if records else 0
        if width > 1:
            shares[separator] = sum(len(each) == width for each in records) / len(records)
    if len(shares) > 1:
        shares.pop(" ", None)  # a space is more often a part of a text
    regular = [separator for separator, share in shares.items() if share == 1]
    if not regular:  # whoever reads the rows names the first one that differs
        regular = [separator for separator, share in shares.items() if share > 0.9] or list(shares)
    tabs = ".tsv" in str(file).lower() and "\t" in shares
    if len(regular) == 1 or tabs:
        return "\t" if tabs else regular[0]
    first = sample.splitlines()[0][:80]
    if regular:
        each = " or ".join(_NAMES.get(one, repr(one)) for one in regular)
        raise DataError(f"{file}, line 1: {first!r}; separated by {each}? Set the separator")
    return ","  # one column


def _has_header(file: DataFile, first: list[str], others: list[list[str]]) -> bool:
    """Whether the first record has the names of the columns.

    Names are different texts, not numbers or times. Where the other records have texts only, a
    column decides in which all texts but the first have a digit, such as `customer` above `C00680`;
    otherwise the words in the first record do.
    """
    if any(_VALUE.fullmatch(field) for field in first):
        return False
    named = [field for field in first if field]
    twice = next((name for name in named if named.count(name) > 1), None)
    same_width = [record for record in others if len(record) == len(first)]
    columns = [[field for field in column if field] for column in zip(*same_width, strict=True)]
    if any(column and all(map(_VALUE.fullmatch, column)) for column in columns) or any(
        len(column) >= _MIN_CODES and not _DIGIT.search(name) and all(map(_DIGIT.search, column))
        for name, column in zip(first, columns, strict=False)
    ):
        if twice is None:
            return True
        raise DataError(
            f"{file}, line 1: {named.count(twice)} columns are named {twice}; give each a name of "
            "its own, or set header to false if the line has values"
        )
    if twice is not None:
        return False
    if any(name in column for name, column in zip(first, columns, strict=False)):
        return False
    words = sum(bool(_NAME_WORDS.search(field)) for field in first)
    if words >= min(2, len(first)) or not columns or any(map(_ID_NAME.fullmatch, first)):
        return True
    raise DataError(
        f"{file}, line 1: {', '.join(first)[:80]!r} may be names of columns or values; set header "
        "to true or false"
    )


def rows_of(
    file: DataFile, dialect: Dialect, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Read a file slowly, for messages: the number of the first line, and the fields, of each row.

    Raises
    ------
    DataError
        If a field is too long or, with `strict`, quotes are not where they should be.
    """
    with dialect.open(file) as raw:
        lines = io.TextIOWrapper(io.BufferedReader(raw), "utf-8", newline="")
        reader = csv.reader(lines, strict=strict, **_reading(dialect.delimiter, dialect.quotes))
        begin, waiting = 1, dialect.header
        try:
            for record in reader:
                if record:
                    if not waiting:
                        yield begin, record
                    waiting = False
                begin = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{file}, line {begin}: {error}; is a quote not closed? Close it, or set quotes to "
                "false if quotes belong to the values"
            ) from error
