"""Read text files of any encoding as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.paths import BROKEN, DataFile

_BLOCK = 1 << 22
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER = {
    b"PK\x03\x04": "an Excel workbook or a zip; save the sheet as CSV, or name the zip .zip",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the sheet as CSV",
    b"PAR1": "a parquet file; name it .parquet",
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"BZh": "compressed with bzip2; use gzip, or no compression",
    b"(\xb5/\xfd": "compressed with zstandard; use gzip, or no compression",
    b"SQLi": "an SQLite database; write its table to a CSV file first",
    b"%PDF": "a PDF, not a table",
    b"\x89PNG": "an image, not a table",
    b"\xff\xd8\xff": "an image, not a table",
    b"GIF8": "an image, not a table",
}
"""How files begin that people name as if they were text, and what to do."""
_FALLBACK = "cp1252"
_SHOWN = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252"}


def find_encoding(file: DataFile, given: str | None) -> str:
    """Find the encoding of a text file, and check that every byte fits.

    A byte order mark tells it; otherwise it is UTF-8 or, if a byte does not fit, Windows-1252,
    which contains the printable characters of latin-1.

    Raises
    ------
    DataError
        If a byte does not fit (the message names its line and column), or `given` is no encoding.
    """
    with file.open() as raw:
        start = _read(file, raw, 4)
    for mark, other in _OTHER.items():
        if start.startswith(mark):
            raise DataError(f"{file}: this is {other}")
    if given is not None:
        try:
            encoding = codecs.lookup(given).name
        except LookupError:
            raise DataError(
                f"encoding: {given!r} is unknown; use a name such as utf-8, latin-1 or utf-16"
            ) from None
        _check(file, encoding, "set another encoding")
        return encoding
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            _check(file, encoding, "set the encoding, or save the file as UTF-8")
            return encoding
    advice = "save the file as UTF-8, or set its encoding"
    if _misfit(file, "utf-8") is None:
        _check(file, "utf-8", advice)
        return "utf-8"
    _check(file, _FALLBACK, advice)
    return _FALLBACK


def shown(encoding: str) -> str:
    """The encoding as people write it."""
    return _SHOWN.get(encoding, encoding)


def _check(file: DataFile, encoding: str, advice: str) -> None:
    found = _misfit(file, encoding)
    if found is not None:
        line, column, what = found
        raise DataError(f"{file}, line {line}, character {column}: {what}; {advice}")


def _misfit(file: DataFile, encoding: str) -> tuple[int, int, str] | None:
    """Find the first byte that is no text: its line and character, from 1, and what it is."""
    line, column = 1, 1

    def advance(text: str) -> None:
        nonlocal line, column
        breaks = text.count("\n")
        line += breaks
        column = len(text) - text.rfind("\n") if breaks else column + len(text)

    decoder = codecs.getincrementaldecoder(encoding)()
    with file.open() as raw:
        while True:
            data = _read(file, raw, _BLOCK)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # The object is the block together with bytes kept from the one before.
                advance(error.object[: error.start].decode(encoding, errors="replace"))
                wrong = error.object[error.start]
                return line, column, f"byte 0x{wrong:02x} is not {shown(encoding)}"
            if (zero := text.find("\0")) >= 0:
                advance(text[:zero])
                return line, column, "a NUL byte, which is not text"
            advance(text)
            if not data:
                return None


def _read(file: DataFile, raw: BinaryIO, size: int) -> bytes:
    try:
        return raw.read(size)
    except BROKEN as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


class Utf8(io.RawIOBase):
    """The text of a file as UTF-8 bytes, without a byte order mark.

    Parameters
    ----------
    file : DataFile
    encoding : str
        From `find_encoding`.
    separator : str
        Replaced by `replacement`, if that is another text.
    replacement : str
        A character that is not in the file.

    Attributes
    ----------
    quotes : int
        The number of double quotes that were read.
    """

    def __init__(self, file: DataFile, encoding: str, separator: str = "", replacement: str = ""):
        self._file, self._raw = file, file.open()
        self._decode = codecs.getincrementaldecoder(encoding)().decode
        self._plain = encoding == "utf-8"
        self._separator, self._replacement = separator, replacement
        self._ready, self._kept, self._ended = b"", "", False
        self.quotes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
        super().close()

    def readinto(self, buffer: object) -> int:
        """Fill `buffer`; return the number of bytes, 0 at the end."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._ready and not self._ended:
            self._ready = self._next_block()
            self.quotes += self._ready.count(b'"')
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _next_block(self) -> bytes:
        data = _read(self._file, self._raw, _BLOCK)
        self._ended = not data
        if self._plain and self._separator == self._replacement:
            return data
        text = self._kept + self._decode(data, final=self._ended)
        self._kept = ""
        if self._separator != self._replacement:
            text = self._replaced(text)
        return text.encode()

    def _replaced(self, text: str) -> str:
        """Replace the separators; the start of one at the end of the block is kept for the next."""
        if self._replacement in text:
            raise DataError(
                f"{self._file}: has the control character {self._replacement!r}, which stands for "
                f"the separator {self._separator!r} while the file is read; remove it"
            )
        text = text.replace(self._separator, self._replacement)
        for length in range(0 if self._ended else len(self._separator) - 1, 0, -1):
            if text.endswith(self._separator[:length]):
                self._kept = text[-length:]
                return text[:-length]
        return text
