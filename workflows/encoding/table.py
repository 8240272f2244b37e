"""The columns of one side as an Arrow table, and its parts, which processes can share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.features.checks import check_table
from twotower.workflows.features.rows import typed
from twotower.workflows.features.sides import Side
from twotower.workflows.features.text import words

PART_ROWS = 1 << 14
"""Rows of a part. It does not depend on the number of processes, nor does any result."""


class StoredPart(NamedTuple):
    """A part of a table that is a row group of a parquet file.

    Attributes
    ----------
    path : Path
    group : int
    """

    path: Path
    group: int


Part: TypeAlias = "pa.Table | StoredPart"


def side_table(table: pd.DataFrame | pa.Table, side: Side) -> pa.Table:
    """Return the columns of a side by internal names.

    Parameters
    ----------
    table : DataFrame or Table
        An Arrow table has been checked by `check_data`; a DataFrame is checked here.
    side : Side

    Returns
    -------
    Table
        int64, float, string, or lists of these. A column of text is a string, or the list of its
        words if `table` is a DataFrame.

    Raises
    ------
    DataError
        See `check_table`.
    """
    if isinstance(table, pd.DataFrame):
        check_table(table, side)
        table = to_arrow(typed(table[side.columns], lists=list(side.multi_hot), numbers=[]))
    return table.select(side.columns).rename_columns(side.internal.columns)


def to_arrow(rows: pd.DataFrame) -> pa.Table:
    """Convert a DataFrame to Arrow; small integers and booleans become int64, NaN null."""
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    for place, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            kind = pa.int64()
        if kind != field.type:
            table = table.set_column(place, field.name, table[field.name].cast(kind))
    return table


def in_parts(table: pa.Table, path: Path, run: RunTasks) -> list[Part]:
    """Divide a table into parts.

    Parameters
    ----------
    table : Table
    path : Path
        The table is written to this file if the tasks run in other processes.
    run : callable
        What will run the tasks.

    Returns
    -------
    list of Part
        One or more.
    """
    if run is map:
        return [table.slice(start, PART_ROWS) for start in range(0, max(len(table), 1), PART_ROWS)]
    pq.write_table(table, path, row_group_size=PART_ROWS)
    return [StoredPart(path, group) for group in range(pq.read_metadata(path).num_row_groups)]


def read_part(part: Part) -> pa.Table:
    """Return the rows of a part."""
    if isinstance(part, pa.Table):
        return part
    with pq.ParquetFile(part.path) as file:
        return file.read_row_group(part.group)


def is_list(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a column has lists."""
    return pa.types.is_list(column.type)


def in_one_piece(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # without chunks, or in newer versions of Arrow
            column = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    return column


def with_words(column: pa.Array) -> pa.Array:
    """Replace texts by the lists of their words."""
    if not pa.types.is_string(column.type):
        return column
    texts = [None if text is None else words(text) for text in column.to_pylist()]
    return pa.array(texts, pa.list_(pa.string()))


def list_lengths(column: pa.Array) -> np.ndarray:
    """Return the length of each list (int64); a null list is empty."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
