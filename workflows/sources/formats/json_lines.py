"""JSON lines: stored as parquet, one part for each run of blocks with the same types."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.encoding import Utf8, find_encoding
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.parts import ParquetPart
from twotower.workflows.sources.formats.paths import DataFile
from twotower.workflows.sources.formats.stored import nameless_file
from twotower.workflows.tables import EXACT

_BLOCK = 1 << 25
_ADVICE = (
    'expected one JSON object per line, such as {"user": 1, "item": "a"}; in pandas, '
    'to_json(orient="records", lines=True) writes that'
)


class JsonPart(ParquetPart):
    """Rows of a file with one JSON object per line.

    Parameters
    ----------
    file : DataFile
    encoding : str
    source : file object
        The rows as parquet.
    first : int
        The number of rows of the file before these.
    names : list of str
        The keys, also of columns that are not stored.
    mixed : dict of str to str
        What is wrong with columns whose values have no common type.
    """

    may_lack_columns = True  # writers leave out what has no value

    def __init__(
        self,
        file: DataFile,
        encoding: str,
        source: BinaryIO,
        first: int,
        names: list[str],
        mixed: dict[str, str],
    ):
        super().__init__(file, source)
        self._encoding, self._first, self._mixed = encoding, first, mixed
        self.names = names

    def read(self, name: str) -> pa.ChunkedArray:
        """Read a column; DataError if its values have no common type."""
        if name in self._mixed:
            raise DataError(f"{self.file}, column {name}: {self._mixed[name]}; store one type")
        return super().read(name)

    def place(self, row: int) -> str:
        """Describe a row for messages: its file and the number of its line there, from 1."""
        with Utf8(self.file, self._encoding) as raw:
            count = 0
            for number, line in enumerate(io.BufferedReader(raw), start=1):
                count += bool(line.strip())
                if count > self._first + row:
                    return f"{self.file}, line {number}"
        raise ValueError(f"{self.file} has no row {row}")


def read_json_lines(file: DataFile, options: ReadOptions) -> list[JsonPart]:
    """Store the objects of a file as parquet.

    Returns
    -------
    list of JsonPart
        Parts of the file, in order; a new one begins where a key or the type of its values
        changes. Empty if there is no object.

    Raises
    ------
    DataError
        If a line is not a JSON object; the message names it.
    """
    encoding = find_encoding(file, options.encoding)
    parts: list[JsonPart] = []
    blocks = _tables(file, encoding, options)
    block = next(blocks, None)
    first = 0
    while block is not None:
        table, names, mixed = block
        with nameless_file(file) as stored, pq.ParquetWriter(stored, table.schema) as writer:
            start = first
            same = (table.schema, names, mixed)
            while block is not None and (block[0].schema, *block[1:]) == same:
                writer.write_table(block[0])
                first += len(block[0])
                block = next(blocks, None)
        stored.flush()
        parts.append(JsonPart(file, encoding, stored, start, names, mixed))
    return parts


def _tables(
    file: DataFile, encoding: str, options: ReadOptions
) -> Iterator[tuple[pa.Table, list[str], dict[str, str]]]:
    """Read the file in blocks: the wanted columns, all keys, and what is wrong with columns."""
    for start, data in _blocks(file, encoding):
        mixed: dict[str, str] = {}
        try:
            table = _parse(data)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            table, mixed = _parse_slowly(file, start, data)
        names = table.column_names
        wanted = [name for name in names if options.wanted is None or name in options.wanted]
        yield table.select(wanted), names, mixed


def _blocks(file: DataFile, encoding: str) -> Iterator[tuple[int, bytes]]:
    """Read whole lines: the number of the first one, from 1, and the lines."""
    line = 1
    with Utf8(file, encoding) as raw:
        text = io.BufferedReader(raw, _BLOCK)
        while data := text.read(_BLOCK):
            data += text.readline()
            if data.strip():
                yield line, data
            line += data.count(b"\n")


def _parse(data: bytes) -> pa.Table:
    """Parse lines with Arrow; ArrowInvalid if it cannot, or would change a value."""
    read = pyarrow.json.ReadOptions(block_size=len(data) + 1)
    table = pyarrow.json.read_json(io.BytesIO(data), read)
    schema = pa.schema([(field.name, _without_times(field.type)) for field in table.schema])
    if schema != table.schema:  # Arrow makes times of some texts
        parse = pyarrow.json.ParseOptions(explicit_schema=schema)
        table = pyarrow.json.read_json(io.BytesIO(data), read, parse)
    for column in table.columns:
        if pa.types.is_floating(column.type) and (pc.max(pc.abs(column)).as_py() or 0) >= EXACT:
            raise pa.ArrowInvalid("may be rounded integers")
    return table


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return kind


def _parse_slowly(file: DataFile, start: int, data: bytes) -> tuple[pa.Table, dict[str, str]]:
    """Parse lines one by one, to find a wrong one, or columns of mixed types."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), start=start):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}; {_ADVICE}") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: {line[:80].decode()!r}; {_ADVICE}")
        rows.append(row)
    columns, mixed = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _array(values)
        except (pa.ArrowException, OverflowError, TypeError):
            columns[name] = pa.nulls(len(values))
            mixed[name] = _examples(values)
    return pa.table(columns), mixed


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except OverflowError:
        return pa.array(values, pa.uint64())


def _examples(values: list[Any]) -> str:
    """Name two values of different types."""
    kinds: dict[type, Any] = {}
    for value in values:
        if value is not None:
            kinds.setdefault(type(value), value)
    shown = [repr(value)[:40] for value in list(kinds.values())[:2]]
    return f"the values, such as {' and '.join(shown)}, have no type in common"
