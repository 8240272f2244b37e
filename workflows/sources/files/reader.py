"""Columns of one table as the source needs them: typed, without the rows that lack an id."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.order import ORDER
from twotower.workflows.sources.arrow_types import without_nan
from twotower.workflows.sources.base import ProgressCounter
from twotower.workflows.sources.columns import Column, as_ids
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.formats.reconcile import all_whole
from twotower.workflows.sources.formats.table import FileTable
from twotower.workflows.sources.time_texts import without_missing
from twotower.workflows.vectors import as_column

ROW_COLUMNS = ("rating", "timestamp", ORDER)
"""Columns of the interactions that have types of their own, and no unknown values."""


class TableReader:
    """Reads columns of a table.

    Parameters
    ----------
    table : FileTable
    counter : ProgressCounter
        Advanced once per column.
    findings : Findings
    categories : collection of str
        Columns of categories, where floats that are whole numbers become integers.
    """

    def __init__(
        self,
        table: FileTable,
        counter: ProgressCounter,
        findings: Findings,
        categories: Collection[str],
    ):
        self.table, self._counter, self._findings = table, counter, findings
        self._categories = categories
        self._rows: np.ndarray | None = None
        self._read: dict[str, Column] = {}

    @property
    def path(self) -> Path:
        """What was opened."""
        return self.table.path

    def place(self, row: int) -> str:
        """Describe a row for messages; `row` counts the rows that are kept, from 0."""
        return self.table.rows.place(row if self._rows is None else int(self._rows[row]))

    def __contains__(self, name: str) -> bool:
        return name in self._read or name in self.table

    def keep_complete(self, names: Collection[str]) -> None:
        """Leave out the rows that lack a value of one of these columns.

        Raises
        ------
        DataError
            If no row is left, or `strict` and there is such a row.
        """
        kept = np.ones(self.table.num_rows, dtype=bool)
        for name in names:
            column = self.typed(name)
            self._read[name] = column
            if not column.values.null_count:
                continue
            missing = column.values.is_null().to_numpy()
            count = int(missing.sum())
            if count == len(missing):
                raise DataError(f"{column.stored[0]}: no value in any row; expected {name}")
            self._findings.changed(
                "rows_without_value",
                count,
                f"{count:,} of {len(missing):,} rows of {self.path} have no {name}, the first at "
                f"{self.table.rows.place(int(missing.argmax()))}",
                "these rows are left out",
            )
            kept &= ~missing
        if not kept.any():
            raise DataError(f"{self.path}: no row has {' and '.join(names)}")
        if not kept.all():
            self._rows = np.flatnonzero(kept)

    def ids(self, name: str, kind: pa.DataType | None = None) -> pa.Array:
        """Read a column of ids as given, and check it (see `as_ids`)."""
        return as_ids(self.column(name), kind)

    def column(self, name: str) -> Column:
        """Read a column, of the rows that are kept."""
        column = self._read.pop(name) if name in self._read else self.typed(name)
        return column if self._rows is None else column.select(self._rows)

    def vectors(self, name: str, dim: int, key: str, ids: pa.Array) -> pa.ChunkedArray:
        """Read a column of vectors of `dim` numbers, of the rows that are kept.

        Parameters
        ----------
        name : str
        dim : int
        key : str
            The column of the ids, for messages.
        ids : Array
            The ids of the rows that are kept.
        """
        rows = np.arange(self.table.num_rows) if self._rows is None else self._rows

        def id_of(row: int) -> str:
            place = np.flatnonzero(rows == row)
            return f"{key} {ids[int(place[0])].as_py()!r}" if len(place) else f"without {key}"

        matrix = self.table.vectors(name, dim, id_of)
        self._counter.advance()
        return as_column(matrix if self._rows is None else matrix[rows])

    def add(self, column: Column) -> None:
        """Add a column of all rows, which the files do not have as it is."""
        self._read[column.name] = column

    def typed(self, name: str) -> Column:
        """Read a column of all rows, with unknown values as null."""
        is_id = name in ("user_id", "item_id")
        column = self.table.column(name, keep_unsigned=is_id)
        self._counter.advance()
        values = column.values
        if pa.types.is_null(values.type):
            self._findings.changed(
                "columns_without_values",
                len(values),
                f"column {column.stored_name} of {self.path} has no value in any row",
                "its values are unknown",
            )
            values = values.cast(pa.string())
        elif pa.types.is_string(values.type):
            values = self._without_empty(name, column)
        elif pa.types.is_floating(values.type):
            values = without_nan(values)
            if (is_id or name in self._categories) and all_whole(values):
                values = values.cast(pa.int64())
                self._findings.note(
                    "whole_floats",
                    len(values) - values.null_count,
                    f"column {column.stored_name}: floating point numbers that are all whole are "
                    "read as whole numbers",
                )
        return column.replace_values(values)

    def _without_empty(self, name: str, column: Column) -> pa.ChunkedArray:
        """Replace empty texts, and in times texts that mean no value, by null."""
        values = column.values
        if name == "timestamp":
            return without_missing(values)
        is_empty = pc.equal(pc.binary_length(values), 0)
        count = pc.sum(is_empty).as_py() or 0
        if not count:
            return values
        self._findings.changed(
            "empty_texts",
            count,
            f"column {column.stored_name}: {count:,} of {len(values):,} texts in "
            f"{self.path} are empty",
            "they are unknown values",
        )
        return pc.if_else(is_empty, None, values)


def known_types(types: Mapping[str, pa.DataType], names: Mapping[str, str]) -> dict:
    """The columns that must be text, by their names here and in the files."""
    texts = [
        name for name, kind in types.items() if pa.types.is_string(kind) and name not in ROW_COLUMNS
    ]
    return {each: pa.string() for name in texts for each in (name, names.get(name, name))}
