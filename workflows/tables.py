"""The tidy tables every source produces."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


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


def pair_codes(user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """One int64 per row, equal where both ids are equal."""
    users = np.unique(user_ids, return_inverse=True)[1]
    items, item_codes = np.unique(item_ids, return_inverse=True)
    return users.astype(np.int64) * max(len(items), 1) + item_codes
