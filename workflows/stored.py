"""Interactions in parquet files, read a part at a time, because they may not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1 << 20
"""Rows that are in memory at a time."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of parquet files with one schema, in the order of the files.

    Attributes
    ----------
    files : tuple of Path
        One or more.
    """

    files: tuple[Path, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return pq.read_schema(self.files[0]).remove_metadata()

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    @cached_property
    def num_rows(self) -> int:
        """The number of rows."""
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS
    ) -> Iterator[pa.Table]:
        """Read the rows in order.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read; all by default.
        rows : int
            Largest number of rows of a table.

        Yields
        ------
        Table
        """
        names = None if columns is None else list(columns)
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=names):
                    yield pa.Table.from_batches([batch])


class StoredTables(NamedTuple):
    """One data set whose interactions may not fit in memory.

    Attributes
    ----------
    interactions : StoredRows
        The columns are those of `Tables.interactions`; the ids are int64.
    users, items : Table
        As in `Tables`. Their ids are int64, in any order.
    more : tuple of Path
        Further files of the data set, which `ingest` moves beside the tidy tables.
    """

    interactions: StoredRows
    users: pa.Table
    items: pa.Table
    more: tuple[Path, ...] = ()
