"""The tidy tables every source produces."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError

EXACT = 2**53
"""Whole numbers below it are exact in a float64."""


class Tables(NamedTuple):
    """One data set with raw ids.

    interactions : user_id int64, item_id int64, optional rating float32 and timestamp int64
        (unix seconds), other columns as the source gives them; rows in the source's order
    users : user_id int64 and features; one row a user, by ascending id
    items : item_id int64 and features; one row an item, by ascending id
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
        """What `write` has written into `folder`."""
        return cls(*(pq.read_table(folder / f"{name}.parquet") for name in cls._fields))

    def same(self, other: Tables) -> bool:
        """Whether all rows are equal, and in the same order; null equals null."""
        pairs = zip(self, other, strict=True)
        return all(frame(mine).equals(frame(theirs)) for mine, theirs in pairs)


def frame(table: pa.Table) -> pd.DataFrame:
    """`table` in pandas, in which whole numbers beside nulls stay whole numbers (Int64).

    pandas by itself makes them float64: another type, and inexact above 2^53.
    """
    rows = table.to_pandas()
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_int64(field.type) and column.null_count:
            numbers = column.fill_null(0).to_numpy()
            rows[field.name] = pd.arrays.IntegerArray(numbers, column.is_null().to_numpy())
        elif _lists_of_integers(field.type) and pc.list_flatten(column).null_count:
            rows[field.name] = column.to_pylist()
    return rows


def read_frame(path: Path) -> pd.DataFrame:
    """The parquet file `path` in pandas, read as by `frame`."""
    return frame(pq.read_table(path))


def _lists_of_integers(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_int64(kind.value_type)


def merge(old: Tables, new: Tables, keep_repeats: bool = False) -> tuple[Tables, int]:
    """`old` and what `new` brings; merging the same again changes nothing.

    A row of a user or an item replaces the old one of the same id. An interaction that is there
    already, equal in every column but lists, is passed over; any other is appended and, unless
    `keep_repeats`, replaces an older one of the same pair.

    Returns
    -------
    (the merged tables, how many interactions were appended: the last rows)

    Raises
    ------
    DataError naming a column that cannot have the type it has in `old`
    """
    interactions, appended = _merge_interactions(old.interactions, new.interactions, keep_repeats)
    users = _merge_by_id(old.users, new.users, "users")
    return Tables(interactions, users, _merge_by_id(old.items, new.items, "items")), appended


def _merge_interactions(old: pa.Table, new: pa.Table, keep_repeats: bool) -> tuple[pa.Table, int]:
    both = _joined(old, new, "interactions")
    comparable = [field.name for field in both.schema if not pa.types.is_nested(field.type)]
    rows = frame(both.select(comparable))
    is_new = np.arange(len(rows)) >= len(old)
    appended = is_new & ~rows.duplicated().to_numpy()
    kept = ~is_new
    if not keep_repeats:
        pairs = pair_codes(both[0].to_numpy(), both[1].to_numpy())
        kept &= ~np.isin(pairs, pairs[appended])
    return both.take(np.flatnonzero(kept | appended)), int(appended.sum())


def _merge_by_id(old: pa.Table, new: pa.Table, name: str) -> pa.Table:
    both = _joined(old, new, name)
    replaced = pd.Series(both[0].to_numpy()).duplicated(keep="last")
    return sorted_by_id(both.take(np.flatnonzero(~replaced)))


def _joined(old: pa.Table, new: pa.Table, name: str) -> pa.Table:
    """The rows of `old`, then those of `new`, with the column types of `old`."""
    columns = {}
    for column in old.column_names:
        known = old[column]
        more = _as(known.type, new[column], f"{name}: column {column}")
        columns[column] = pa.chunked_array([*known.chunks, *more.chunks], known.type)
    return pa.table(columns)


def _as(known: pa.DataType, column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """`column` cast to the type `known`, on which the served version and its clients depend.

    A column of whole numbers in which a value is missing is often stored as floats: they become
    whole numbers again. Raises DataError naming the value that cannot be one, or the types.
    """
    if column.null_count == len(column):  # whatever type it was stored with
        return pa.chunked_array([pa.nulls(len(column), known)])
    kinds = [_kind(known), _kind(column.type)]
    only_nulls = pa.types.is_list(known) and kinds[1] == "lists of null"
    if kinds[1].endswith("double") and kinds[0] == kinds[1].replace("double", "int64"):
        column = _whole(column, where)
    elif kinds[0] != kinds[1] and kinds != ["double", "int64"] and not only_nulls:
        raise DataError(
            f"{where} has {kinds[1]} in the new data, {kinds[0]} in what there is; store it as "
            "before"
        )
    try:
        return column.cast(known)
    except pa.ArrowInvalid as error:  # an integer that is no float64
        raise DataError(f"{where} has {kinds[0]} in what there is: {error}") from error


def _whole(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """A column of floats, or of lists of them, with null for NaN; DataError if one is not whole."""
    is_list = pa.types.is_list(column.type)
    values = (pc.list_flatten(column) if is_list else column).to_numpy()
    bad = values[~np.isnan(values) & ((np.trunc(values) != values) | (np.abs(values) >= EXACT))]
    if len(bad):
        raise DataError(
            f"{where} has whole numbers in what there is, {bad[0]!r} in the new data; store whole "
            "numbers, as integers where they are 2^53 or more"
        )
    if is_list:
        rows = [
            row and [value if value == value else None for value in row]
            for row in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(rows, column.type)])
    return pc.if_else(pc.is_nan(column), None, column)


def _kind(kind: pa.DataType) -> str:
    # Parquet names the field of a list anew, which makes two types of one.
    return f"lists of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def sorted_by_id(table: pa.Table) -> pa.Table:
    """The rows by ascending first column."""
    return table.take(np.argsort(table.column(0).to_numpy(), kind="stable"))


def repeated_pairs(user_ids: np.ndarray, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that repeat an earlier (user, item) pair, and the row each of them repeats.

    Returns
    -------
    repeats, firsts : int64 arrays of row numbers (0-based), `repeats` ascending
    """
    pairs = pair_codes(user_ids, item_ids)
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.r_[True, pairs[order][1:] != pairs[order][:-1]])
    sizes = np.diff(np.r_[starts, len(order)])
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = np.repeat(order[starts], sizes)
    repeats = np.flatnonzero(firsts != np.arange(len(order)))
    return repeats, firsts[repeats]


def pairs_among(rows: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """bool per row of `rows`: whether its user_id and item_id are those of a row of `others`."""
    ids = ["user_id", "item_id"]
    both = np.concatenate([rows[ids].to_numpy(), others[ids].to_numpy()])
    codes = pair_codes(both[:, 0], both[:, 1])
    return np.isin(codes[: len(rows)], codes[len(rows) :])


def pair_codes(user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """One int64 per row, equal where both ids are equal."""
    users = np.unique(user_ids, return_inverse=True)[1]
    items, item_codes = np.unique(item_ids, return_inverse=True)
    return users.astype(np.int64) * max(len(items), 1) + item_codes
