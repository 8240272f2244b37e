"""Files of recommendations: parquet, CSV and JSON lines, written in batches of rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from twotower.pipelines.errors import ConfigError

ROWS_PER_GROUP = 1 << 17
"""Rows per row group of a parquet file, and rows in memory at a time."""


class Writer(Protocol):
    """Appends tables of one schema to a file, which is complete at the end of a `with` block."""

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""

    def __enter__(self) -> Writer:
        """Return the writer."""

    def __exit__(self, *_: object) -> None:
        """Complete the file."""


class Format(Protocol):
    """A file format."""

    def open(self, path: Path, schema: pa.Schema, first: bool) -> Writer:
        """Open a new file; `first` is whether it is the first part of the whole."""

    def join(self, parts: Sequence[Path], out: Path) -> None:
        """Write the rows of several parts to one file."""


def format_of(path: Path) -> Format:
    """The format of a file by its suffix.

    Raises
    ------
    ConfigError
        If the suffix is of no known format.
    """
    if path.suffix not in FORMATS:
        *others, last = FORMATS
        raise ConfigError(f"--out {path}: name it {', '.join(others)} or {last}")
    return FORMATS[path.suffix]


class _ParquetWriter:
    """Collects rows until a row group is full."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.file = pq.ParquetWriter(path, schema)
        self.waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self.waiting.append(table)
        if sum(map(len, self.waiting)) >= ROWS_PER_GROUP:
            self._flush()

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.waiting:
            self.file.write_table(pa.concat_tables(self.waiting))
            self.waiting = []


class _Parquet:
    def open(self, path: Path, schema: pa.Schema, first: bool) -> Writer:
        return _ParquetWriter(path, schema)

    def join(self, parts: Sequence[Path], out: Path) -> None:
        with pq.ParquetWriter(out, pq.read_schema(parts[0])) as file:
            for part in parts:
                rows = pq.ParquetFile(part)
                for group in range(rows.num_row_groups):
                    file.write_table(rows.read_row_group(group))


class _Text:
    """A format of lines, whose files are joined byte by byte."""

    def join(self, parts: Sequence[Path], out: Path) -> None:
        with out.open("wb") as file:
            for part in parts:
                with part.open("rb") as rows:
                    shutil.copyfileobj(rows, file, 1 << 20)


class _Csv(_Text):
    def open(self, path: Path, schema: pa.Schema, first: bool) -> Writer:
        options = pyarrow.csv.WriteOptions(include_header=first)
        return pyarrow.csv.CSVWriter(path, schema, write_options=options)


class _JsonWriter:
    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] = path.open("wb")

    def write(self, table: pa.Table) -> None:
        columns = [
            pc.binary_join_element_wise(f'"{name}": ', _as_json(table[name]), "")
            for name in table.column_names
        ]
        lines = pc.binary_join_element_wise(*columns, ", ")
        self.file.write("".join(f"{{{line}}}\n" for line in lines.to_pylist()).encode())

    def __enter__(self) -> _JsonWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _JsonLines(_Text):
    def open(self, path: Path, schema: pa.Schema, first: bool) -> Writer:
        return _JsonWriter(path)


def _as_json(column: pa.ChunkedArray) -> pa.Array:
    """The values of a column as JSON texts."""
    if not pa.types.is_string(column.type):
        return column.cast(pa.string()).combine_chunks()
    encoded = column.combine_chunks().dictionary_encode()
    texts = [json.dumps(text, ensure_ascii=False) for text in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


FORMATS: dict[str, Format] = {".parquet": _Parquet(), ".csv": _Csv(), ".jsonl": _JsonLines()}
