"""The tidy tables every source produces."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workflows.errors import DataError


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
        return all(mine.to_pandas().equals(theirs.to_pandas()) for mine, theirs in pairs)


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
    DataError naming a column that has become one of another type
    """
    interactions, appended = _merge_interactions(old.interactions, new.interactions, keep_repeats)
    users = _merge_by_id(old.users, new.users, "users")
    return Tables(interactions, users, _merge_by_id(old.items, new.items, "items")), appended


def _merge_interactions(old: pa.Table, new: pa.Table, keep_repeats: bool) -> tuple[pa.Table, int]:
    both = _joined(old, new, "interactions")
    comparable = [field.name for field in both.schema if not pa.types.is_nested(field.type)]
    rows = both.select(comparable).to_pandas()
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
    """The rows of both; a column of whole numbers becomes float64 where the other's is."""
    columns = {}
    for column in old.column_names:
        parts = [old[column], new[column]]
        kinds = [_kind(part.type) for part in parts]
        if set(kinds) == {"int64", "double"}:
            parts = [part.cast(pa.float64()) for part in parts]
        elif kinds[0] != kinds[1]:
            raise DataError(
                f"{name}: column {column} has {kinds[1]} in the new data, {kinds[0]} in what there "
                "is; store it as before"
            )
        chunks = [*parts[0].chunks, *parts[1].cast(parts[0].type).chunks]
        columns[column] = pa.chunked_array(chunks, parts[0].type)
    return pa.table(columns)


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
