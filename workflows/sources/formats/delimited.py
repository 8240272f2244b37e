"""CSV files: stored once as parquet, without changing a value."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.dialect import Dialect, rows_of
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.parts import ParquetPart
from twotower.workflows.sources.formats.paths import DataFile
from twotower.workflows.sources.formats.stored import nameless_file

_BLOCK = 1 << 24
"""Bytes that are parsed at a time; a row cannot be longer."""


class DelimitedPart(ParquetPart):
    """A CSV file. Its columns are text, except those of known types; an empty field is null.

    Parameters
    ----------
    file : DataFile
    dialect : Dialect
    options : ReadOptions

    Raises
    ------
    DataError
        If a line has another number of fields than the first one.
    """

    has_plain_text = True

    def __init__(self, file: DataFile, dialect: Dialect, options: ReadOptions):
        self._dialect = dialect
        wanted = options.wanted
        kept = {
            number: name
            for number, name in enumerate(dialect.names)
            if wanted is None or name in wanted
        }
        types = {str(number): options.types.get(name, pa.string()) for number, name in kept.items()}
        try:
            source = _store(file, dialect, types)
        except pa.ArrowInvalid:
            # A value is not of its known type; whoever reads the column finds it.
            source = _store_or_explain(file, dialect, dict.fromkeys(types, pa.string()))
        super().__init__(file, source)
        self._stored_names = kept
        self.names = list(dialect.names)

    def _position(self, name: str) -> int:
        return self._schema.names.index(str(self._dialect.names.index(name)))

    def type(self, name: str) -> pa.DataType:
        """The type in which the column is stored."""
        return self._schema.types[self._position(name)]

    def read(self, name: str) -> pa.ChunkedArray:
        """Read a column: text, or its known type if all values have it."""
        return super().read(self._schema.names[self._position(name)])

    def place(self, row: int) -> str:
        """Describe a row for messages: its file and the number of its line there, from 1."""
        for number, (line, _) in enumerate(rows_of(self.file, self._dialect)):
            if number == row:
                return f"{self.file}, line {line}"
        raise ValueError(f"{self.file} has no row {row}")


def _store_or_explain(
    file: DataFile, dialect: Dialect, types: Mapping[str, pa.DataType]
) -> BinaryIO:
    try:
        return _store(file, dialect, types)
    except pa.ArrowInvalid as error:
        width = len(dialect.names)
        for line, fields in rows_of(file, dialect):
            if len(fields) != width:
                begin = dialect.separator.join(fields)[:80]
                raise DataError(
                    f"{file}, line {line}: {len(fields)} fields in {begin!r}; expected {width}, "
                    f"separated by {dialect.separator!r}. Correct the line, or set the separator"
                ) from error
        raise DataError(f"{file}: cannot be read: {error}") from error


def _store(file: DataFile, dialect: Dialect, types: Mapping[str, pa.DataType]) -> BinaryIO:
    """Write the columns to a parquet file without a name, named by their numbers."""
    numbers = [str(number) for number in range(len(dialect.names))]
    with nameless_file(file) as stored, dialect.open(file) as text:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(io.BufferedReader(text), "r"),  # whose reads are never short
            pyarrow.csv.ReadOptions(
                column_names=numbers,
                skip_rows=dialect.blank_lines,
                skip_rows_after_names=int(dialect.header),
                block_size=_BLOCK,
            ),
            pyarrow.csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char='"' if dialect.quotes else False,
                newlines_in_values=dialect.quotes,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        with pq.ParquetWriter(stored, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        stored.flush()
        if dialect.quotes and text.quotes % 2:
            _refuse_open_quote(file, dialect)
        return stored


def _refuse_open_quote(file: DataFile, dialect: Dialect) -> None:
    """Raise DataError if a value that begins with a quote goes on to the end of the file."""
    for _ in rows_of(file, dialect, strict=True):
        pass
