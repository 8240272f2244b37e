"""Columns read from files, with the place of each value, and their conversion to ids and numbers.

The columns come from any file format; their values already have tidy types (see `arrow_types`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.ids import WORDS, plain_type
from twotower.workflows.sources.arrow_types import is_time

MAX_ID_BYTES = 1024
"""Longest text id, in bytes of UTF-8."""
_IDS = "ids must be whole numbers or text"
_RESERVED = {pa.int64(): -(2**63), pa.uint64(): 2**64 - 1}
"""The integers that end the lists of a request, so they cannot be ids."""


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
    selected : ndarray of int64 or None
        The numbers of the rows in `rows` that `values` has; None for all.
    """

    name: str
    values: pa.ChunkedArray
    stored: Sequence[Stored]
    rows: Rows
    selected: np.ndarray | None = None

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
        row = row if self.selected is None else int(self.selected[row])
        return f"{self.rows.place(row)}, column {self.stored_name}"

    def replace_values(self, values: pa.ChunkedArray) -> Column:
        """The same column with other values, row by row."""
        return replace(self, values=values)

    def select(self, rows: np.ndarray) -> Column:
        """Some rows of the column, in order."""
        assert self.selected is None
        return replace(self, values=self.values.take(pa.array(rows)), selected=rows)


def as_ids(column: Column, kind: pa.DataType | None = None) -> pa.Array:
    """Check that a column has ids: whole numbers or text in every row.

    Parameters
    ----------
    column : Column
    kind : DataType, optional
        The type that the ids must have: that of the same ids in another file, or before an update.

    Returns
    -------
    Array of int64 or uint64, or DictionaryArray of strings
        The ids as given.

    Raises
    ------
    DataError
        The message names the first wrong value and what to do.
    """
    values, types = column.values, [each.type for each in column.stored]
    if values.null_count:
        row = int(np.argmax(pc.is_null(values).to_numpy()))
        raise _bad_id(column, row, "null", f"Leave such rows out ({values.null_count:,})")
    if pa.types.is_floating(values.type):
        row, advice = _float_id(values.to_numpy())
        raise _bad_id(column, row, f"{values[row].as_py()!r} ({values.type})", advice)
    other = next((each for each in types if pa.types.is_boolean(each) or is_time(each)), None)
    if other is not None or values.type not in WORDS:
        found = f"{values[0].as_py()!r} ({other or values.type})"
        raise _bad_id(column, 0, found, "Store the ids as whole numbers or as text")
    if pa.types.is_string(values.type):
        ids = _combined(values.dictionary_encode().unify_dictionaries())
        _check_texts(column, ids)
    else:
        ids = _combined(values)
        _check_reserved(column, ids)
    return ids if kind is None else _as_kind(column, ids, kind)


def _combined(values: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if len(values.chunks) != 1 else values.chunk(0)


def _check_texts(column: Column, ids: pa.DictionaryArray) -> None:
    """Raise DataError for the first text that cannot be an id."""
    texts, rows = ids.dictionary, ids.indices.to_numpy()
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{column.stored[0]}: a text is not UTF-8; store text as UTF-8") from error
    sizes = pc.binary_length(texts).to_numpy()
    marks = [pc.match_substring(texts, mark).to_numpy(False) for mark in ("\0", "\uffff")]
    for bad, found, advice in (
        (sizes == 0, "an empty text", "Leave such rows out"),
        (
            sizes > MAX_ID_BYTES,
            f"a text of more than {MAX_ID_BYTES:,} bytes",
            "Use a shorter text, such as a hash of it",
        ),
        (marks[0], "a text with the character NUL", "Remove the character"),
        (marks[1], "a text with U+FFFF, which ends the lists of a request", "Remove the character"),
    ):
        if bad.any():
            raise _bad_id(column, int(bad[rows].argmax()), found, advice)


def _check_reserved(column: Column, ids: pa.Array) -> None:
    """Raise DataError for an integer that cannot be an id."""
    reserved = _RESERVED[ids.type]
    if (bad := ids.to_numpy() == reserved).any():
        advice = "This number ends the lists of a request; give this one id another number"
        raise _bad_id(column, int(bad.argmax()), str(reserved), advice)


def _as_kind(column: Column, ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return ids as `kind`, if that changes no id."""
    if plain_type(ids.type) == kind:
        return ids
    if not (pa.types.is_dictionary(ids.type) or pa.types.is_string(kind)):
        try:
            return ids.cast(kind)
        except pa.ArrowInvalid:  # a number that the other type lacks
            wrong = ids.to_numpy()
            wrong = wrong < 0 if pa.types.is_uint64(kind) else wrong >= 2**63
            row = int(wrong.argmax())
    elif pa.types.is_dictionary(ids.type):
        # The first text that is no whole number, if there is one: it made the column text.
        is_number = pc.match_substring_regex(ids.dictionary, "^-?[0-9]+$").to_numpy(False)
        row = int((~is_number)[ids.indices.to_numpy()].argmax())
    else:
        row = 0
    place, found = column.place(row), ids[row].as_py()
    raise DataError(
        f"{place}: {found!r} ({plain_type(ids.type)}), but in the other data the values of "
        f"{column.name} are {WORDS[kind]}; store them here as there, as {kind}"
    )


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
    refuse_nulls(column.replace_values(values))
    return values


def refuse_nulls(column: Column) -> None:
    """Raise DataError if a value is missing; the message names the first row and their number."""
    values = column.values
    if values.null_count:
        row = int(np.argmax(pc.is_null(values).to_numpy()))
        raise DataError(
            f"{column.place(row)}: null {column.name} ({values.null_count:,} such rows); leave "
            "such rows out or give them a value"
        )
