"""Reading small delimited text files line by line, with errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from twotower.workflows.errors import DataError

# Bytes that no latin-1 text has: control characters other than tab, line feed, carriage return.
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def check_encoding(data: bytes, where: str) -> None:
    """Raise DataError when `data` is empty or cannot be the latin-1 text the files are.

    Latin-1 gives every byte a meaning, so what betrays another encoding is checked: byte order
    marks, NUL and other control bytes, and accented text that is valid UTF-8.
    """
    expected = "expected ISO-8859-1 (latin-1) as published"
    if not data:
        raise DataError(f"{where}: the file is empty; {expected} text")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{where}, line 1: byte order mark of UTF-16; {expected}")
    if data.startswith(b"\xef\xbb\xbf"):
        raise DataError(f"{where}, line 1: byte order mark of UTF-8 (EF BB BF); {expected}")
    if not data.isascii():
        _refuse_utf8(data, where, expected)
    odd = _NOT_TEXT.search(data)
    if odd:
        kind = "NUL byte (UTF-16, or a damaged file?)" if odd[0] == b"\0" else "byte"
        raise DataError(
            f"{where}, line {_line_at(data, odd.start())}: {kind} 0x{odd[0].hex()} is not text; "
            f"{expected}"
        )


def _refuse_utf8(data: bytes, where: str, expected: str) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    accent = re.search(r"[^\x00-\x7f]", text)
    line = text.count("\n", 0, accent.start()) + 1
    raise DataError(f"{where}, line {line}: {accent[0]!r} is encoded as UTF-8; {expected}")


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def rows(
    data: bytes, where: str, separator: str, names: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, fields) of each line; DataError for a blank or uneven line."""
    check_encoding(data, where)
    lines = data.decode("latin-1").split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split(separator)
        if len(fields) != len(names):
            found = "blank line" if not line.strip() else f"{len(fields)} field(s) in {line[:80]!r}"
            raise DataError(
                f"{where}, line {number}: {found}; expected {len(names)} fields separated by "
                f"{separator!r}: {', '.join(names)}"
            )
        yield number, fields


def integer(text: str, where: str, line: int, field: str) -> int:
    """`text` as a number of 0 or more."""
    if not _INTEGER.fullmatch(text):
        raise bad_value(where, line, field, text, "a whole number")
    if text.startswith("-"):
        raise bad_value(where, line, field, text, "0 or more")
    return int(text)


def bad_value(where: str, line: int, field: str, value: object, expected: str) -> DataError:
    """The error for one bad field: file, line, field, value, and what was expected."""
    return DataError(f"{where}, line {line}, {field}: {value!r}; expected {expected}")
