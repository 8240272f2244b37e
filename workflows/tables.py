"""The tidy tables that every source produces, and how to merge new rows into them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.order import keys
from twotower.workflows.stored import MergedRows, Rows, StoredTables

EXACT = 2**53
"""Whole numbers below this are exact in a float64."""
UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)
"""Errors that pyarrow raises for damaged files; MemoryError for a damaged size."""


class Tables(NamedTuple):
    """One data set.

    A source returns the ids as given: int64, uint64 or text. In the files and everywhere else the
    ids are int64 codes (see `workflows.ids`).

    Attributes
    ----------
    interactions : Table
        user_id, item_id, optionally rating (float32), timestamp (int64, unix seconds) and
        `workflows.order.ORDER` (int64), and other columns of the source; rows in the order of the
        source.
    users : Table
        user_id and features; one row per user, by ascending code.
    items : Table
        item_id and features; one row per item, by ascending code.
    """

    interactions: pa.Table
    users: pa.Table
    items: pa.Table

    def write(self, out: Path) -> None:
        """Write interactions.parquet, users.parquet and items.parquet into `out`."""
        out.mkdir(parents=True, exist_ok=True)
        for name, table in self._asdict().items():
            pq.write_table(table, out / f"{name}.parquet")

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """Read what `write` wrote into `folder`."""
        return cls(*(pq.read_table(folder / f"{name}.parquet") for name in cls._fields))


def frame(table: pa.Table) -> pd.DataFrame:
    """Convert `table` to pandas, where whole numbers beside nulls stay whole numbers (Int64).

    By default pandas makes them float64, which is another type and inexact above 2^53.
    """
    rows = table.to_pandas()
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_int64(field.type) and column.null_count:
            rows[field.name] = nullable_integers(column)
        elif _lists_of_integers(field.type) and pc.list_flatten(column).null_count:
            rows[field.name] = column.to_pylist()
    return rows


def nullable_integers(column: pa.ChunkedArray) -> pd.arrays.IntegerArray:
    """Convert whole numbers (int64) with nulls to pandas' Int64."""
    return pd.arrays.IntegerArray(column.fill_null(0).to_numpy(), column.is_null().to_numpy())


def read_frame(path: Path, without: Collection[str] = ()) -> pd.DataFrame:
    """Read a parquet file into pandas, converted by `frame`, except some columns."""
    kept = [name for name in pq.read_schema(path).names if name not in without]
    return frame(pq.read_table(path, columns=kept if without else None))


def _lists_of_integers(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_int64(kind.value_type)


def merge(old: StoredTables, new: Tables, keep_repeats: bool = False) -> tuple[StoredTables, int]:
    """Merge new rows into the tables. Merging the same rows again changes nothing.

    A row of a user or an item replaces the old one with the same id. An interaction that is known
    already, with equal values in all columns except lists, is skipped. Any other interaction is
    appended and, unless `keep_repeats`, replaces older ones of the same pair.

    Returns
    -------
    (StoredTables, int)
        The merged tables, and the number of appended interactions, which are the last rows.

    Raises
    ------
    DataError
        If a new column cannot have the type it has in `old`; the message names the column.
    """
    log = _merge_interactions(old.interactions, new.interactions, keep_repeats)
    users = _merge_by_id(old.users, new.users, "users")
    merged = StoredTables(log, users, _merge_by_id(old.items, new.items, "items"))
    return merged, len(log.appended)


def same(merged: StoredTables, old: StoredTables) -> bool:
    """Whether `merge` has changed nothing of `old`. Nulls equal each other."""
    log = merged.interactions
    assert isinstance(log, MergedRows)
    if len(log.removed) or len(log.appended):
        return False
    pairs = ((merged.users, old.users), (merged.items, old.items))
    return all(frame(mine).equals(frame(theirs)) for mine, theirs in pairs)


def _merge_interactions(old: Rows, new: pa.Table, keep_repeats: bool) -> MergedRows:
    numbers = _rows_of_pairs(old, new)
    known = old.take(numbers)
    both = _concatenate(known, new, "interactions")
    comparable = [field.name for field in both.schema if not pa.types.is_nested(field.type)]
    rows = frame(both.select(comparable))
    is_new = np.arange(len(rows)) >= len(known)
    appended = is_new & ~rows.duplicated().to_numpy()
    replaced = np.zeros(len(known), bool)
    if not keep_repeats:
        pairs = pair_codes(both[0].to_numpy(), both[1].to_numpy())
        replaced = np.isin(pairs[: len(known)], pairs[appended])
    return MergedRows(old, numbers[replaced], both.take(np.flatnonzero(appended)))


def _rows_of_pairs(old: Rows, new: pa.Table) -> np.ndarray:
    """The numbers int64 [n], ascending, of the rows whose user and item are a new row's pair."""
    wanted = new.select(["user_id", "item_id"]).to_pandas()
    users = pa.array(wanted["user_id"].unique(), pa.int64())
    start, numbers = 0, [np.zeros(0, np.int64)]
    for batch in old.batches(["user_id", "item_id"]) if len(wanted) else ():
        rows = np.flatnonzero(pc.is_in(batch["user_id"], value_set=users).to_numpy())
        pairs = batch.take(rows).to_pandas()
        numbers.append(start + rows[pairs_among(pairs, wanted)])
        start += len(batch)
    return np.concatenate(numbers)


def _merge_by_id(old: pa.Table, new: pa.Table, name: str) -> pa.Table:
    both = _concatenate(old, new, name)
    replaced = pd.Series(both[0].to_numpy()).duplicated(keep="last")
    return sorted_by_id(both.take(np.flatnonzero(~replaced)))


def _concatenate(old: pa.Table, new: pa.Table, name: str) -> pa.Table:
    """Append the rows of `new` to those of `old`, with the column types of `old`."""
    columns = {}
    for column in old.column_names:
        known = old[column]
        more = _cast_like(known.type, new[column], f"{name}: column {column}")
        columns[column] = pa.chunked_array([*known.chunks, *more.chunks], known.type)
    return pa.table(columns)


def _cast_like(known: pa.DataType, column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Cast a new column to the known type, on which the served version and its clients depend.

    Whole numbers are often stored as floats if a value is missing; they become whole numbers again.
    Raises DataError naming a value that cannot be cast, or the types.
    """
    if column.null_count == len(column):  # its stored type means nothing
        return pa.chunked_array([pa.nulls(len(column), known)])
    old_kind, new_kind = _kind(known), _kind(column.type)
    only_nulls = pa.types.is_list(known) and new_kind == "lists of null"
    if new_kind.endswith("double") and old_kind == new_kind.replace("double", "int64"):
        column = _whole_numbers(column, where)
    elif old_kind != new_kind and (old_kind, new_kind) != ("double", "int64") and not only_nulls:
        raise DataError(
            f"{where} has {new_kind} in the new data, but {old_kind} in the data before; store it "
            "as before"
        )
    try:
        return column.cast(known)
    except pa.ArrowInvalid as error:  # a whole number that is not exact in a float64
        raise DataError(f"{where} has {old_kind} in the data before: {error}") from error


def _whole_numbers(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Check that floats, or lists of them, are whole numbers; NaN becomes null."""
    is_list = pa.types.is_list(column.type)
    values = (pc.list_flatten(column) if is_list else column).to_numpy()
    bad = values[~np.isnan(values) & ((np.trunc(values) != values) | (np.abs(values) >= EXACT))]
    if len(bad):
        raise DataError(
            f"{where} has whole numbers in the data before, but {bad[0]!r} in the new data; store "
            "whole numbers, as integers where they are 2^53 or more"
        )
    if is_list:
        rows = [
            row and [value if value == value else None for value in row]
            for row in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(rows, column.type)])
    return pc.if_else(pc.is_nan(column), None, column)


def _kind(kind: pa.DataType) -> str:
    # Parquet renames the field inside a list type, so equal types of lists may have two names.
    return f"lists of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def sorted_by_id(table: pa.Table) -> pa.Table:
    """Sort the rows by the first column, ascending."""
    return table.take(np.argsort(table.column(0).to_numpy(), kind="stable"))


def repeated_pairs(user_ids: np.ndarray, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find rows that repeat an earlier (user, item) pair.

    Returns
    -------
    repeats, firsts : ndarray of int64
        The numbers of these rows (from 0), ascending, and of the first row with the same pair.
    """
    pairs = pair_codes(user_ids, item_ids)
    none = np.empty(0, dtype=np.int64)
    # Most data has no repeats, and finding that out takes less time and memory.
    if (pairs[1:] > pairs[:-1]).all() or (pairs[1:] < pairs[:-1]).all():
        return none, none
    ordered = np.sort(pairs)
    if (ordered[1:] != ordered[:-1]).all():
        return none, none
    del ordered
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    starts = np.flatnonzero(np.r_[True, pairs[1:] != pairs[:-1]])
    sizes = np.diff(np.r_[starts, len(order)])
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = np.repeat(order[starts], sizes)
    repeats = np.flatnonzero(firsts != np.arange(len(order)))
    return repeats, firsts[repeats]


def pairs_among(rows: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Whether the (user_id, item_id) pair of each row is in `others`.

    If both have the column `OCCURRENCE`, it is a part of the pair.

    Returns
    -------
    ndarray of bool, shape (len(rows),)
    """
    by = [name for name in keys(rows) if name in others]
    both = np.concatenate([rows[by].to_numpy(), others[by].to_numpy()])
    codes = pair_codes(both[:, 0], both[:, 1])
    if len(by) > 2:
        codes = pair_codes(codes, both[:, 2])
    return np.isin(codes[: len(rows)], codes[len(rows) :])


def pair_codes(user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Number the pairs: rows have the same int64 if and only if both ids are equal."""
    if not len(user_ids):
        return np.empty(0, dtype=np.int64)
    lows = [int(ids.min()) for ids in (user_ids, item_ids)]
    spans = [int(ids.max()) - low + 1 for ids, low in zip((user_ids, item_ids), lows, strict=True)]
    if spans[0] * spans[1] < 2**63:  # without sorting
        codes = np.subtract(user_ids, lows[0], dtype=np.int64)
        codes *= spans[1]
        codes += item_ids
        codes -= lows[1]
        return codes
    users = np.unique(user_ids, return_inverse=True)[1]
    items, item_codes = np.unique(item_ids, return_inverse=True)
    return users.astype(np.int64) * max(len(items), 1) + item_codes
