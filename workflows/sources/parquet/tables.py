"""Make the tidy tables from the columns of the interactions, the users and the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids
from twotower.workflows.sources.base import OnMessage
from twotower.workflows.sources.columns import Rows
from twotower.workflows.sources.parquet.files import ParquetFiles
from twotower.workflows.tables import repeated_pairs


def rows_to_keep(
    user_ids: pa.Array,
    item_ids: pa.Array,
    rows: Rows,
    duplicates: str,
    on_message: OnMessage,
) -> np.ndarray:
    """Choose the interactions to keep where pairs are repeated.

    Parameters
    ----------
    user_ids, item_ids : Array, shape (n,)
        As given.
    rows : Rows
        Where the interactions are, for messages.
    duplicates : str
        The setting `duplicates`.
    on_message : callable
        Called with the number of repeated rows, if there are any.

    Returns
    -------
    ndarray of int64
        Row numbers, ascending.

    Raises
    ------
    DataError
        If a pair is repeated and `duplicates` is "error".
    """
    kept = np.ones(len(user_ids), dtype=bool)
    # The last row of a pair is its first in reverse order.
    step = -1 if duplicates == "keep_last" else 1
    users, items = (Ids.of(ids).encode(ids) for ids in (user_ids, item_ids))
    repeats, firsts = repeated_pairs(users[::step], items[::step])
    if not len(repeats):
        return np.flatnonzero(kept)
    if duplicates == "error":
        row, first = int(repeats[0]), int(firsts[0])
        raise DataError(
            f"{rows.place(row)}: user_id {user_ids[row].as_py()!r} and item_id "
            f"{item_ids[row].as_py()!r} occur already in {rows.place(first)} "
            f"({len(repeats):,} rows repeat a pair); remove one, or set ingest."
            "parquet.duplicates to keep_last or keep_all"
        )
    done = "all are kept, and the split uses the last positive row of each pair"
    if duplicates == "keep_last":
        done = "only the last row of each pair is kept"
        kept[len(kept) - 1 - repeats] = False
    on_message(f"{len(repeats):,} of {len(kept):,} rows repeat a user_id and item_id; {done}")
    return np.flatnonzero(kept)


def table_from_interactions(
    log: ParquetFiles,
    key: str,
    ids: pa.Array,
    features: Sequence[str],
    differing: str,
    on_message: OnMessage,
) -> pa.Table:
    """Make the table of users or items from columns of the interactions.

    Parameters
    ----------
    log : ParquetFiles
        The interactions.
    key : str
        "user_id" or "item_id".
    ids : Array, shape (n,)
        The ids of the interactions, as given.
    features : sequence of str
        The columns of the table.
    differing : str
        The setting `differing`.
    on_message : callable
        Called for each feature that has more than one value for an id.

    Returns
    -------
    Table
        One row per id, with the values of its last interaction.

    Raises
    ------
    DataError
        If a feature has more than one value for an id and `differing` is "error".
    """
    codes = Ids.of(ids).encode(ids)
    unique, from_end, position = np.unique(codes[::-1], return_index=True, return_inverse=True)
    last_rows, position = len(ids) - 1 - from_end, position[::-1]
    side = key.partition("_")[0]
    columns = {key: ids.take(pa.array(last_rows))}
    for name in features:
        values = log.column(name).values
        columns[name] = values.take(last_rows)
        numbers = _codes(values)
        differs = numbers != numbers[last_rows][position]
        if not differs.any():
            continue
        row, count = int(differs.argmax()), len(np.unique(codes[differs]))
        found = f"{count:,} of {len(unique):,} {side}s have more than one value"
        if differing == "error":
            value, last = _shown(values[row]), _shown(columns[name][int(position[row])])
            raise DataError(
                f"{log.rows.place(row)}, column {name}: {value} for {key} "
                f"{ids[row].as_py()!r}, which has {last} in a later row; {found}. Make a table "
                f"with one row per {side} and name it under ingest.parquet.{side}s, or set "
                "ingest.parquet.differing to keep_last, which may use rows of the test part and "
                "make test metrics too high"
            )
        on_message(
            f"column {name}: {found}; the value of the last row is used, which may be in the test "
            "part"
        )
    return pa.table(columns)


def _shown(value: pa.Scalar) -> str:
    return repr(value.as_py()) if value.is_valid else "no value"


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Number the values of a column: equal values, and nulls, have equal numbers."""
    if pa.types.is_list(column.type):
        rows = [None if row is None else tuple(row) for row in column.to_pylist()]
        return pd.factorize(pd.Series(rows, dtype=object))[0]
    if pa.types.is_floating(column.type):  # Arrow would distinguish 0.0 from -0.0
        return pd.factorize(column.to_numpy())[0]
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in column.dictionary_encode().chunks]
    return np.concatenate(codes)


def given_table(
    files: ParquetFiles, key: str, features: Sequence[str], kind: pa.DataType | None = None
) -> pa.Table:
    """Read the table of users or items, with ids as given.

    Raises
    ------
    DataError
        If an id is wrong, not of the type `kind`, or repeated.
    """
    ids = files.ids(key, kind)
    codes = Ids.of(ids).encode(ids)
    repeats, firsts = repeated_pairs(codes, np.zeros_like(codes))
    if len(repeats):
        row, first = int(repeats[0]), int(firsts[0])
        raise DataError(
            f"{files.rows.place(row)}: {key} {ids[row].as_py()!r} has a row already, "
            f"{files.rows.place(first)} ({len(repeats):,} such rows); leave only one row per {key}"
        )
    columns = {name: files.column(name).values for name in features}
    return pa.table({key: ids, **columns})


def check_references(ids: pa.Array, rows: Rows, key: str, table: pa.Table, path: Path) -> None:
    """Check that each id of the interactions has a row in the table of users or items.

    Parameters
    ----------
    ids : Array
        The ids of the interactions, which are at `rows`.
    key : str
        The id column of `table`.
    path : Path
        Where the table comes from, for the message.

    Raises
    ------
    DataError
    """
    numbers = Ids.of(ids, table[key])
    unknown = ~np.isin(numbers.encode(ids), numbers.encode(table[key]))
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"{rows.place(row)}: {key} {ids[row].as_py()!r} has no row in {path} "
            f"({int(unknown.sum())} such rows); add it there or leave these interactions out"
        )
