"""Columns read from files, with the place of each value, and their conversion to ids and numbers.

The columns come from any file format; their values already have tidy types (see `arrow_types`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.sources.arrow_types import LOWER_BITS, is_time

_IDS = "ids must be whole numbers of 0 or more"
_TEXT_IDS = (
    "Replace the values by numbers where the files are made. A value needs the same number every "
    "day, which pandas.factorize does not give: use hashes, in pandas "
    '(pandas.util.hash_array(column.to_numpy()) >> 1).astype("int64"), or keep a table of values '
    "and numbers and append new values to it"
)


class Rows:
    """The rows of one or more files that form one table.

    Parameters
    ----------
    places : sequence of callable
        For each file, a function that describes a row of it, which counts from 0.
    counts : sequence of int
        The number of rows of each file.
    """

    def __init__(self, places: Sequence[Callable[[int], str]], counts: Sequence[int]):
        self._places = list(places)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, row: int) -> str:
        """Describe a row for messages: its file, and its place in it.

        `row` counts from 0 over all files.
        """
        index = int(np.searchsorted(self._ends, row, side="right"))
        start = self._ends[index - 1] if index else 0
        return self._places[index](int(row - start))


class Stored(NamedTuple):
    """A column as it is in one file."""

    path: Path | str
    name: str
    type: pa.DataType

    def __str__(self) -> str:
        return f"{self.path}, column {self.name}"


@dataclass(frozen=True)
class Column:
    """A column of a table in one or more files.

    Attributes
    ----------
    name : str
        The column's name in the tidy tables.
    values : ChunkedArray
        Its values in a tidy type.
    stored : sequence of Stored
        The column in each file.
    rows : Rows
        Where the rows are.
    """

    name: str
    values: pa.ChunkedArray
    stored: Sequence[Stored]
    rows: Rows

    @property
    def stored_name(self) -> str:
        """The column's name in the first file."""
        return self.stored[0].name

    @property
    def stored_as_time(self) -> bool:
        """Whether the files have dates or times; `values` has unix seconds."""
        return is_time(self.stored[0].type)

    def place(self, row: int) -> str:
        """Describe a value for messages: its file, row and column."""
        return f"{self.rows.place(row)}, column {self.stored_name}"

    def replace_values(self, values: pa.ChunkedArray) -> Column:
        """The same column with other values, row by row."""
        return Column(self.name, values, self.stored, self.rows)


def as_ids(column: Column) -> np.ndarray:
    """Check that a column has ids: whole numbers of 0 or more in every row.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    DataError
        The message names the first wrong value and what to do.
    """
    values = column.values
    if values.null_count:
        row = int(np.argmax(pc.is_null(values).to_numpy()))
        raise _bad_id(column, row, "null", f"Leave such rows out ({values.null_count:,})")
    if pa.types.is_floating(values.type):
        row, advice = _float_id(values.to_numpy())
        raise _bad_id(column, row, f"{values[row].as_py()!r} ({values.type})", advice)
    if not pa.types.is_int64(values.type):
        raise _bad_id(column, 0, f"{values[0].as_py()!r} ({values.type})", _TEXT_IDS)
    ids = values.to_numpy()
    if (ids < 0).any():
        row = int(np.argmax(ids < 0))
        raise _bad_id(column, row, str(ids[row]), LOWER_BITS)
    return ids


def _bad_id(column: Column, row: int, found: str, advice: str) -> DataError:
    return DataError(f"{column.place(row)}: {found}; {_IDS}. {advice}")


def _float_id(ids: np.ndarray) -> tuple[int, str]:
    """Choose an example row of float ids, and the advice that fits them."""
    fractions = ~np.isfinite(ids) | (np.trunc(ids) != ids)
    if fractions.any():
        return int(fractions.argmax()), "Store the ids as whole numbers"
    row = int(np.abs(ids).argmax())
    if abs(ids[row]) < 2**53:
        return row, 'Cast the column: astype("int64")'
    return row, (
        "These ids are rounded, because they were stored as floats. Make the file again from the "
        'original ids: in pandas read them as "Int64", which allows nulls'
    )


def as_numbers(column: Column, kind: pa.DataType, advice: str = "") -> pa.ChunkedArray:
    """Cast a column without missing values to a numeric type.

    Raises
    ------
    DataError
        If a value cannot be cast or is missing; the message ends with `advice`.
    """
    try:
        values = column.values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{column.stored[0]}: expected numbers as {kind} for {column.name}: {error}. "
            f"{advice}".rstrip()
        ) from error
    if values.null_count:
        row = int(np.argmax(pc.is_null(values).to_numpy()))
        raise DataError(
            f"{column.place(row)}: null {column.name} ({values.null_count:,} such rows); leave "
            "such rows out or give them a value"
        )
    return values
