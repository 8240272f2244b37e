"""Read small delimited latin-1 files line by line; errors name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from twotower.workflows.errors import DataError

# Control characters other than tab, line feed and carriage return do not occur in latin-1 text.
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_EXPECTED = "expected ISO-8859-1 (latin-1) as published"


def check_encoding(data: bytes, where: str) -> None:
    """Check that `data` can be latin-1 text and is not empty.

    Every byte is valid in latin-1, so this looks for signs of other encodings: byte order marks,
    NUL and other control bytes, and accented characters that are valid UTF-8.

    Raises
    ------
    DataError
        The message begins with `where` and names the line.
    """
    if not data:
        raise DataError(f"{where}: the file is empty; {_EXPECTED} text")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{where}, line 1: byte order mark of UTF-16; {_EXPECTED}")
    if data.startswith(b"\xef\xbb\xbf"):
        raise DataError(f"{where}, line 1: byte order mark of UTF-8 (EF BB BF); {_EXPECTED}")
    _check_not_utf8(data, where)
    odd = _NOT_TEXT.search(data)
    if odd:
        kind = "NUL byte (UTF-16, or a damaged file?)" if odd[0] == b"\0" else "byte"
        line = data.count(b"\n", 0, odd.start()) + 1
        raise DataError(f"{where}, line {line}: {kind} 0x{odd[0].hex()} is not text; {_EXPECTED}")


def _check_not_utf8(data: bytes, where: str) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    if accent := re.search(r"[^\x00-\x7f]", text):
        line = text.count("\n", 0, accent.start()) + 1
        raise DataError(f"{where}, line {line}: {accent[0]!r} is encoded as UTF-8; {_EXPECTED}")


def rows(
    data: bytes, where: str, separator: str, names: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
    """Split a file into lines and fields.

    Parameters
    ----------
    data : bytes
        The content of the file.
    where : str
        The file as messages name it.
    separator : str
    names : sequence of str
        The names of the fields.

    Yields
    ------
    (int, list of str)
        The line number, from 1, and the fields.

    Raises
    ------
    DataError
        If the file is not latin-1 text, or a line is blank or has another number of fields.
    """
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
    """Parse a whole number of 0 or more; raise DataError for anything else."""
    if not _INTEGER.fullmatch(text):
        raise bad_value(where, line, field, text, "a whole number")
    if text.startswith("-"):
        raise bad_value(where, line, field, text, "0 or more")
    return int(text)


def bad_value(where: str, line: int, field: str, value: object, expected: str) -> DataError:
    """Make the error for one wrong field."""
    return DataError(f"{where}, line {line}, {field}: {value!r}; expected {expected}")
