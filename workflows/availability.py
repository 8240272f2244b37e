"""Withdrawn items: known ones, with interactions to learn from, that are not recommended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids
from twotower.workflows.sources.findings import Findings

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
    """Add or replace the column by bool [n_items]."""
    place, column = items.schema.get_field_index(AVAILABLE), pa.array(available, pa.bool_())
    if place < 0:
        return items.append_column(AVAILABLE, column)
    return items.set_column(place, AVAILABLE, column)


def settled(items: pa.Table, lists_all_items: bool) -> pa.Table:
    """Decide on the items that have a row only because they are in the interactions.

    If a catalogue lists all items, these are withdrawn, else they may be recommended.
    """
    if AVAILABLE not in items.column_names:
        return items
    column = pc.fill_null(items[AVAILABLE], not lists_all_items)
    return with_available(items, column.to_numpy())


def withdraw_unlisted(items: pa.Table, listed: pa.Table) -> pa.Table:
    """Withdraw the items that a complete catalogue does not list.

    Parameters
    ----------
    items : Table
        The merged item table.
    listed : Table
        The rows of the catalogue.
    """
    still = np.isin(items["item_id"].to_numpy(), listed["item_id"].to_numpy())
    return with_available(items, is_available(items) & still)


def note_changes(before: pa.Table, after: pa.Table, ids: Ids, findings: Findings) -> None:
    """Report which items are withdrawn, and which are back.

    Parameters
    ----------
    before, after : Table
        The item table before and after; `before` may have no rows.
    ids : Ids
        The ids of the items.
    findings : Findings
        Gets the numbers and some of the ids.

    Raises
    ------
    DataError
        If no item may be recommended.
    """
    codes, available = after["item_id"].to_numpy(), is_available(after)
    if not available.any():
        raise DataError(
            f"all {len(codes):,} items are withdrawn, so there is nothing to recommend; is the "
            "catalogue, or its column of available items, the right one?"
        )
    old = before["item_id"].to_numpy()[~is_available(before)]
    for rule, found, what in (
        ("withdrawn_items", np.setdiff1d(codes[~available], old), "withdrawn: in no answer"),
        ("returned_items", np.intersect1d(codes[available], old), "available again"),
    ):
        if len(found):
            count = f"{len(found):,} item{'s' if len(found) > 1 else ''}"
            findings.note(rule, len(found), f"{count} {what} ({_named(ids.decode(found))})")


def _named(ids: np.ndarray) -> str:
    names = ", ".join(map(str, ids[:MAX_NAMED].tolist()))
    more = len(ids) - MAX_NAMED
    return f"{names} and {more:,} more" if more > 0 else names
