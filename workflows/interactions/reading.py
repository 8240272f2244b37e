"""Stored interactions in partitions, and what is read of them a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.stored import StoredRows
from twotower.workflows.tables import nullable_integers

PARTITION_ROWS = 1 << 20
"""A partition has about so many rows."""
BATCH_ROWS = 1 << 17
"""Rows that are in memory at a time."""


class Partition(NamedTuple):
    """Consecutive row groups of a file of interactions.

    Attributes
    ----------
    path : Path
    groups : tuple of int
    rows : int
        Number of rows.
    """

    path: Path
    groups: tuple[int, ...]
    rows: int

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the rows in order, in tables of up to `BATCH_ROWS` rows."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, list(self.groups), list(columns)):
                yield pa.Table.from_batches([batch])


def partitions(path: Path) -> list[Partition]:
    """Divide a parquet file into partitions, in order."""
    metadata, found, groups, rows = pq.read_metadata(path), [], [], 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= PARTITION_ROWS or group + 1 == metadata.num_row_groups:
            found.append(Partition(path, tuple(groups), rows))
            groups, rows = [], 0
    return found


def read_numbers(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Read columns of whole numbers without nulls, such as ids, with no second copy in memory.

    Returns
    -------
    tuple of ndarray of int64, shape (n,)
        One per column.
    """
    stored = StoredRows((path,))
    arrays = tuple(np.empty(len(stored), np.int64) for _ in columns)
    start = 0
    for batch in stored.batches(columns):
        for name, array in zip(columns, arrays, strict=True):
            array[start : start + len(batch)] = batch[name].to_numpy()
        start += len(batch)
    return arrays


def read_last(path: Path, columns: Sequence[str], rows: int) -> pd.DataFrame:
    """Read columns of the last rows."""
    kept: list[pa.Table] = []
    for partition in reversed(partitions(path)):
        if sum(len(each) for each in kept) >= rows:
            break
        kept = [*partition.batches(columns), *kept]
    if not kept:
        return pq.read_schema(path).empty_table().select(columns).to_pandas()
    table = pa.concat_tables(kept)
    return table.slice(len(table) - min(rows, len(table))).to_pandas()


def as_pandas(
    table: pa.Table, nullable: Iterable[str], whole_numbers: Iterable[str] = ()
) -> pd.DataFrame:
    """Convert rows to pandas, in the types that all rows together would have.

    Parameters
    ----------
    table : Table
        Some of the rows.
    nullable : iterable of str
        The columns in which any row, also one that is not in `table`, has a null.
    whole_numbers : iterable of str
        The columns of int64 that stay whole numbers beside nulls (Int64). Others become float64.
    """
    rows, whole = table.to_pandas(), set(whole_numbers)
    for name in set(nullable) & {*table.column_names}:
        kind = table.schema.field(name).type
        if name in whole and pa.types.is_int64(kind):
            rows[name] = nullable_integers(table[name])
        elif pa.types.is_integer(kind):
            rows[name] = rows[name].astype(np.float64)
    return rows
