"""Interactions in parquet files, read a part at a time, because they may not fit in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1 << 20
"""Rows that are in memory at a time."""
MAX_VALUES = 1 << 24
"""Values that `distinct` gathers before it removes repeated ones."""


class Rows(ABC):
    """The rows of a table that may not fit in memory."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns and their types."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
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

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        """Read a column."""
        chunks = [chunk for batch in self.batches([column]) for chunk in batch[column].chunks]
        return pa.chunked_array(chunks, self.schema.field(column).type)

    def read(self) -> pa.Table:
        """Read all rows."""
        return pa.concat_tables([self.schema.empty_table(), *self.batches()])

    def take(self, numbers: np.ndarray) -> pa.Table:
        """Read the rows of some numbers, from 0, ascending."""
        found, start = [self.schema.empty_table()], 0
        for batch in self.batches() if len(numbers) else ():
            first, last = np.searchsorted(numbers, [start, start + len(batch)])
            if first < last:
                found.append(batch.take(numbers[first:last] - start))
            start += len(batch)
        return pa.concat_tables(found)

    def distinct(self, column: str) -> np.ndarray:
        """Return the different values of a column of int64, ascending, as int64 [n]."""
        found, size = [np.zeros(0, np.int64)], 0
        for batch in self.batches([column]):
            found.append(np.unique(batch[column].to_numpy()))
            size += len(found[-1])
            if size > MAX_VALUES:  # so that memory grows with the different values only
                found, size = [np.unique(np.concatenate(found))], 0
        return np.unique(np.concatenate(found))

    def copy(self, path: Path, on_rows: Callable[[int], None] | None = None) -> None:
        """Write all rows to one parquet file.

        Parameters
        ----------
        path : Path
            It may be the file of these rows, which has other rows afterwards.
        on_rows : callable, optional
            Called with the number of rows of each part after it is written.
        """
        written = path.with_name(f"{path.name}.tmp")
        with pq.ParquetWriter(written, self.schema) as writer:
            for batch in self.batches():
                writer.write_table(batch)
                if on_rows is not None:
                    on_rows(len(batch))
        written.replace(path)


@dataclass(frozen=True)
class StoredRows(Rows):
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

    @cached_property
    def _count(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS
    ) -> Iterator[pa.Table]:
        """Read the rows in order, see `Rows.batches`."""
        names = self.column_names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=names):
                    yield pa.Table.from_batches([batch]).select(names).cast(schema)


@dataclass(frozen=True)
class MergedRows(Rows):
    """Stored rows without some of them, and then rows in memory.

    Attributes
    ----------
    stored : Rows
    removed : ndarray of int64
        The numbers of the stored rows to leave out, from 0, ascending.
    appended : Table
        With the columns of the stored rows.
    """

    stored: Rows
    removed: np.ndarray
    appended: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return self.stored.schema

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.stored) - len(self.removed) + len(self.appended)

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS
    ) -> Iterator[pa.Table]:
        """Read the rows in order, see `Rows.batches`."""
        start = 0
        for batch in self.stored.batches(columns, rows):
            first, last = np.searchsorted(self.removed, [start, start + len(batch)])
            if first < last:
                kept = np.ones(len(batch), bool)
                kept[self.removed[first:last] - start] = False
                yield batch.filter(pa.array(kept))
            else:
                yield batch
            start += len(batch)
        names = self.column_names if columns is None else list(columns)
        for first in range(0, len(self.appended), rows):
            yield self.appended.select(names).slice(first, rows)


class StoredTables(NamedTuple):
    """One data set whose interactions may not fit in memory.

    Attributes
    ----------
    interactions : Rows
        The columns are those of `Tables.interactions`; the ids of a source are int64 here.
    users, items : Table
        As in `Tables`; of a source, in any order.
    more : tuple of Path
        Further files of the data set, which `ingest` moves beside the tidy tables.
    """

    interactions: Rows
    users: pa.Table
    items: pa.Table
    more: tuple[Path, ...] = ()

    def write(self, out: Path, on_rows: Callable[[int], None] | None = None) -> None:
        """Write interactions.parquet, users.parquet and items.parquet into `out`.

        `on_rows` is as in `Rows.copy`.
        """
        out.mkdir(parents=True, exist_ok=True)
        self.interactions.copy(out / "interactions.parquet", on_rows)
        pq.write_table(self.users, out / "users.parquet")
        pq.write_table(self.items, out / "items.parquet")

    @classmethod
    def read(cls, folder: Path) -> StoredTables:
        """Open what `write` wrote into `folder`; the interactions stay on the disk."""
        return cls(
            StoredRows((folder / "interactions.parquet",)),
            pq.read_table(folder / "users.parquet"),
            pq.read_table(folder / "items.parquet"),
        )
