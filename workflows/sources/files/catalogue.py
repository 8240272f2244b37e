"""Which items of a catalogue may be recommended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.availability import AVAILABLE
from twotower.workflows.errors import DataError
from twotower.workflows.sources.columns import Column
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.reader import TableReader

WORDS = {"true": 1, "yes": 1, "t": 1, "y": 1, "1": 1, "false": 0, "no": 0, "f": 0, "n": 0, "0": 0}
"""Texts that mean yes or no, in lower case."""


def mark_available(reader: TableReader, config: FilesConfig) -> bool:
    """Give the reader of the items file the column `AVAILABLE`, if the settings ask for it.

    Returns
    -------
    bool
        Whether it has the column.

    Raises
    ------
    DataError
        If the file lacks the column `available`, or a value there means neither yes nor no.
    """
    name = config.available
    if name is None:
        if config.catalogue == "complete":
            every = pa.chunked_array([np.ones(reader.table.num_rows, bool)])
            reader.add(Column(AVAILABLE, every, (), reader.table.rows))
        return config.catalogue == "complete"
    if name not in reader:
        raise DataError(
            f"{reader.path}: no column {name}, which ingest.files.available names; there are "
            f"{', '.join(reader.table.names)}"
        )
    reader.add(_as_flags(reader.typed(name)))
    return True


def _as_flags(column: Column) -> Column:
    """Read a column as yes or no; a row without a value means yes."""
    values = column.values
    if pa.types.is_string(values.type):
        words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        known = pc.index_in(words, value_set=pa.array(WORDS))
        values = pa.chunked_array([pa.array(WORDS.values()).take(known.combine_chunks())])
        unclear = pc.and_(values.is_null(), column.values.is_valid())
        if pc.any(unclear).as_py():
            raise _unclear(column, pc.index(unclear, True).as_py())
    elif pa.types.is_list(values.type):
        raise _unclear(column, 0)
    return replace(column, name=AVAILABLE, values=pc.fill_null(pc.greater(values, 0), True))


def _unclear(column: Column, row: int) -> DataError:
    return DataError(
        f"{column.place(row)}: {column.values[row].as_py()!r} says neither yes nor no; "
        "ingest.files.available takes true, false, or a number, such as the stock"
    )
