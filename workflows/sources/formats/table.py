"""One table in one or more files of any format, read column by column to limit the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.arrow_types import is_supported
from twotower.workflows.sources.base import OnMessage, ignore
from twotower.workflows.sources.columns import Column, Rows, Stored
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.formats.delimited import DelimitedPart
from twotower.workflows.sources.formats.dialect import find_dialect
from twotower.workflows.sources.formats.json_lines import read_json_lines
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.parts import ParquetPart, Part
from twotower.workflows.sources.formats.paths import DataFile, NoRows, expand
from twotower.workflows.sources.formats.reconcile import join
from twotower.workflows.tables import UNREADABLE
from twotower.workflows.vectors import as_matrix


class FileTable:
    """A table in one or more files, its parts.

    Attributes
    ----------
    path : Path
        What was opened.
    names : list of str
        The columns of all parts, by their names in the files.
    num_rows : int
    rows : Rows
        Where the rows are.
    """

    def __init__(
        self,
        path: Path,
        parts: list[Part],
        options: ReadOptions,
        names: Mapping[str, str],
        findings: Findings,
    ):
        self.path, self._parts, self._options = path, parts, options
        self._names, self._findings = names, findings
        self.names = list(dict.fromkeys(name for part in parts for name in part.columns))
        self.rows = Rows([part.place for part in parts], [part.num_rows for part in parts])
        self.num_rows = len(self.rows)

    def __contains__(self, name: str) -> bool:
        return self._names.get(name, name) in self.names or name in self.names

    @property
    def unusable(self) -> dict[str, str]:
        """The columns that `column` refuses in whatever way they are asked for, and the reason."""
        found = {"": "it has no name"} if "" in self.names else {}
        for part in self._parts:
            for name in part.columns:
                if name and part.columns.count(name) == 1 and not is_supported(part.kind(name)):
                    found[name] = f"its values are of type {part.kind(name)}"
        return found

    def column(self, name: str, keep_unsigned: bool = False) -> Column:
        """Read a column, in its tidy type (see `arrow_types.tidy`).

        A part that lacks the column, or has no value in it, has nulls. Without any value in any
        part, the type is null.

        Parameters
        ----------
        name : str
            The name here or in the files.
        keep_unsigned : bool
            Whether uint64 stays as it is.

        Returns
        -------
        Column
            `Column.values` has the values.

        Raises
        ------
        DataError
            If no part has the column, or one has it twice; if it cannot be read; or if the parts
            have different types for it.
        """
        stored = [self._stored(name, part) for part in self._parts]
        values = list(self._values(name, stored))
        joined = join(values, stored, self._parts, self._options, keep_unsigned)
        found = [place for place in stored if place is not None]
        column = Column(name, joined.values, found, self.rows)
        self._say_where_missing(column, stored)
        if joined.words:
            self._findings.changed(
                "words_without_value",
                joined.words,
                f"column {column.stored_name} of {self.path}: {joined.words:,} of "
                f"{self.num_rows:,} values are words such as NA or null among numbers",
                "they are unknown values",
            )
        return column

    def folders(self, names: Collection[str]) -> pa.ChunkedArray:
        """Name the folder of each row's file that is one of `names`; null if there is none."""
        found = [
            next((name for name in part.file.folders if name in names), None)
            for part in self._parts
        ]
        return pa.chunked_array(
            [
                pa.repeat(pa.scalar(name, pa.string()), part.num_rows)
                for name, part in zip(found, self._parts, strict=True)
            ]
        )

    def vectors(self, name: str, dim: int, id_of: Callable[[int], object]) -> np.ndarray:
        """Read a column of vectors, part by part: they may take most of the memory.

        Parameters
        ----------
        name : str
            The name here or in the files.
        dim : int
        id_of : callable
            Describes the id of a row, counted from 0, for messages.

        Returns
        -------
        ndarray of float32, shape (num_rows, dim)
            See `as_matrix`; zeros in the rows of a part that lacks the column.

        Raises
        ------
        DataError
            See `column` and `as_matrix`.
        """
        matrix, start = np.zeros((self.num_rows, dim), np.float32), 0
        stored = [self._stored(name, part) for part in self._parts]
        for place, values in zip(stored, self._values(name, stored), strict=True):
            rows = slice(start, start + len(values))

            def describe(row: int, first: int = start) -> str:
                return f"{self.rows.place(first + row)}, {id_of(first + row)}"

            if place is not None:
                matrix[rows] = as_matrix(values, dim, f"column {place.name}", describe)
            start = rows.stop
        return matrix

    def _values(self, name: str, stored: list[Stored | None]) -> Iterator[pa.ChunkedArray]:
        """Read a column of each part; nulls for a part that lacks it."""
        if all(place is None for place in stored):
            raise DataError(
                f"{self.path}: no column {self._names.get(name, name)}; there are "
                f"{', '.join(self.names)}. Map it in the config: columns: "
                f"{{{name}: <name in the file>}}"
            )
        for part, place in zip(self._parts, stored, strict=True):
            if place is None:
                yield pa.chunked_array([pa.nulls(part.num_rows)])
                continue
            try:
                yield part.values(place.name)
            except UNREADABLE as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{place}: cannot be read: {error}") from error

    def _say_where_missing(self, column: Column, stored: list[Stored | None]) -> None:
        lacking = [
            part
            for part, place in zip(self._parts, stored, strict=True)
            if place is None and not part.may_lack_columns
        ]
        if lacking:
            rows = sum(part.num_rows for part in lacking)
            self._findings.changed(
                "missing_columns",
                rows,
                f"column {column.stored_name}: {len(lacking):,} of {len(self._parts):,} files lack "
                f"it, such as {lacking[0].file}",
                f"the values of {rows:,} rows are unknown",
            )

    def _stored(self, name: str, part: Part) -> Stored | None:
        """Find a column in a part, by its name there or here."""
        if not name:
            raise DataError(
                f"{part.file}, column '': a column needs a name; give it one in the config: "
                "columns: {<name>: ''}, and list that name in place of ''"
            )
        for candidate in (self._names.get(name, name), name):
            count = part.columns.count(candidate)
            if count > 1:
                raise DataError(
                    f"{part.file}: {count} columns named {candidate}; give each a different name"
                )
            if count:
                return Stored(str(part.file), candidate, part.kind(candidate))
        return None


def open_table(
    path: Path,
    options: ReadOptions | None = None,
    names: Mapping[str, str] | None = None,
    on_message: OnMessage = ignore,
) -> FileTable:
    """Open the files of a table; text files are stored as parquet, which nothing leaves behind.

    Parameters
    ----------
    path : Path
        File, folder, glob pattern, zip, or zip followed by the path of a file in it.
    options : ReadOptions, optional
        How to read text files; by default it is found out.
    names : mapping of str to str, optional
        Names of columns here -> names in the files, where they differ.
    on_message : callable, optional
        `Findings`, or a function that is called with each line.

    Raises
    ------
    NoRows
        If there is no file or no row.
    DataError
        If a file cannot be read; the message says what to do.
    """
    options, findings = options or ReadOptions(), Findings.of(on_message)
    files = expand(path, options.format)
    parts = [part for part in _parts(files, options, findings) if part.num_rows or len(files) == 1]
    if not sum(part.num_rows for part in parts):
        raise NoRows(f"{files[0]}: no rows")
    return FileTable(path, parts, options, names or {}, findings)


def _parts(files: list[DataFile], options: ReadOptions, on_message: Findings) -> Iterator[Part]:
    if files[0].kind == "parquet":
        yield from map(ParquetPart, files)
    elif files[0].kind == "json":
        for file in files:
            yield from read_json_lines(file, options)
    else:
        yield from _delimited(files, options, on_message)


def _delimited(
    files: list[DataFile], options: ReadOptions, on_message: OnMessage
) -> Iterator[Part]:
    """Open CSV files; all have the separator of the first one, and a header if it has one."""
    said = False
    for file in files:
        dialect = find_dialect(file, options)
        if dialect is None:
            continue
        if not said:
            others = f" and {len(files) - 1} other files" if len(files) > 1 else ""
            on_message(f"{file}{others}: read as CSV: {dialect}")
            options = dataclasses.replace(
                options, separator=dialect.separator, header=dialect.header
            )
            said = True
        yield DelimitedPart(file, dialect, options)
