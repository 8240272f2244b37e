"""The columns of one side as an Arrow table, and its parts, which processes can share."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.features.checks import check_table
from twotower.workflows.features.rows import typed
from twotower.workflows.features.sides import Side
from twotower.workflows.features.text import words

PART_ROWS = 1 << 14
"""Rows of a part. It does not depend on the number of processes, nor does any result."""


class StoredPart(NamedTuple):
    """A part of a table that is a record batch of an Arrow file.

    Attributes
    ----------
    path : Path
    batch : int
    rows : int
        Number of rows.
    """

    path: Path
    batch: int
    rows: int


Part: TypeAlias = "pa.Table | StoredPart"


class SideRows(NamedTuple):
    """The rows of a side by internal names, see `side_table`.

    Attributes
    ----------
    table : Table
    parts : list of Part
        The same rows in parts, see `in_parts`.
    """

    table: pa.Table
    parts: list[Part]


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


def side_rows(
    table: pd.DataFrame | pa.Table | SideRows, side: Side, folder: Path, run: RunTasks
) -> SideRows:
    """Return the rows of a side, in memory and in parts that the processes of `run` can read.

    Parameters
    ----------
    table : DataFrame, Table or SideRows
        See `side_table`. SideRows are returned as they are.
    side : Side
    folder : Path
        Where the parts are put if the tasks run in other processes.
    run : callable
        What will run the tasks.
    """
    if isinstance(table, SideRows):
        return table
    rows = side_table(table, side)
    if run is not map:
        folder.mkdir(parents=True, exist_ok=True)
    return SideRows(rows, in_parts(rows, folder / f"{side.name}.arrow", run))


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
        The table is written to this file if the tasks run in other processes. The file is not
        compressed, so that they map it into memory instead of reading it.
    run : callable
        What will run the tasks.

    Returns
    -------
    list of Part
        One or more.
    """
    starts = range(0, max(len(table), 1), PART_ROWS)
    parts = [table.slice(start, PART_ROWS) for start in starts]
    return parts if run is map else stored(parts, path)


def stored(tables: list[pa.Table], path: Path) -> list[Part]:
    """Write tables of the same columns to an Arrow file, and return them as its parts.

    A task that runs twice, because its process was thought dead, replaces a file by an equal one.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with pa.ipc.new_file(unfinished, tables[0].schema) as file:
        for table in tables:
            file.write_batch(_one_batch(table))
    unfinished.replace(path)
    return [StoredPart(path, place, len(table)) for place, table in enumerate(tables)]


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [in_one_piece(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def in_tasks(parts: list[Part], size: int) -> list[list[Part]]:
    """Divide parts into tasks of up to `size` parts, in order."""
    return [parts[start : start + size] for start in range(0, len(parts), size)]


def part_rows(part: Part) -> int:
    """Return the number of rows of a part."""
    return part.rows if isinstance(part, StoredPart) else len(part)


def read_part(part: Part) -> pa.Table:
    """Return the rows of a part."""
    if isinstance(part, pa.Table):
        return part
    with pa.memory_map(str(part.path)) as file:
        return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(part.batch)])


def is_list(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a column has lists."""
    return pa.types.is_list(column.type)


def in_one_piece(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return column.chunk(0)  # `combine_chunks` would copy it
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
