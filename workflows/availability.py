"""Withdrawn items: known ones, with interactions to learn from, that are not recommended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids

AVAILABLE = "item__available"
"""The column of the item table that says whether an item may be recommended; without it, all may.

The name keeps clear of features, which people may well call "available"."""
MAX_NAMED = 5
"""Items that a line names."""


def is_available(items: pa.Table) -> np.ndarray:
    """Whether each item of the item table may be recommended.

    Parameters
    ----------
    items : Table

    Returns
    -------
    ndarray of bool, shape (n_items,)
    """
    if AVAILABLE not in items.column_names:
        return np.ones(len(items), bool)
    return items[AVAILABLE].to_numpy()


def read_available(data: Path) -> np.ndarray:
    """Read `is_available` from the tidy tables in a folder."""
    path = data / "items.parquet"
    columns = [name for name in pq.read_schema(path).names if name in ("item_id", AVAILABLE)]
    return is_available(pq.read_table(path, columns=columns))


def with_available(items: pa.Table, available: np.ndarray) -> pa.Table:
    """Add or replace the column.

    Raises
    ------
    DataError
        If no item may be recommended.
    """
    if len(items) and not available.any():
        raise DataError(
            f"all {len(items):,} items are withdrawn, so there is nothing to recommend; is the "
            "catalogue, or its column of available items, the right one?"
        )
    place, column = items.schema.get_field_index(AVAILABLE), pa.array(available)
    if place < 0:
        return items.append_column(AVAILABLE, column)
    return items.set_column(place, AVAILABLE, column)


def completed(new: pa.Table, old: pa.Table) -> pa.Table:
    """Give new rows of items the column, if the old item table has it and they do not.

    An item stays as it was; an unknown one may be recommended.
    """
    if AVAILABLE not in old.column_names or AVAILABLE in new.column_names:
        return new
    withdrawn = old.filter(pc.invert(old[AVAILABLE]))["item_id"].combine_chunks()
    return new.append_column(AVAILABLE, pc.invert(pc.is_in(new["item_id"], value_set=withdrawn)))


def withdraw_unlisted(items: pa.Table, listed: pa.Table) -> pa.Table:
    """Withdraw the items that a complete catalogue does not list.

    Parameters
    ----------
    items : Table
        The merged item table.
    listed : Table
        The rows of the catalogue.
    """
    still = pc.is_in(items["item_id"], value_set=listed["item_id"].combine_chunks())
    return with_available(items, is_available(items) & still.to_numpy())


def describe(before: pa.Table, after: pa.Table, ids: Ids) -> list[str]:
    """Say which items are withdrawn, and which are back, in a line each.

    Parameters
    ----------
    before, after : Table
        The item table before and after; `before` may have no rows.
    ids : Ids
        The ids of the items.
    """
    codes, available = after["item_id"].to_numpy(), is_available(after)
    old = before["item_id"].to_numpy()[~is_available(before)]
    withdrawn = np.setdiff1d(codes[~available], old)
    back = np.intersect1d(codes[available], old)
    lines = (
        (withdrawn, "withdrawn: in no answer from now on"),
        (back, "available again"),
    )
    return [
        f"{len(found):,} item{'s' if len(found) > 1 else ''} {what} ({_named(ids.decode(found))})"
        for found, what in lines
        if len(found)
    ]


def _named(ids: np.ndarray) -> str:
    names = ", ".join(map(str, ids[:MAX_NAMED].tolist()))
    more = len(ids) - MAX_NAMED
    return f"{names} and {more:,} more" if more > 0 else names
