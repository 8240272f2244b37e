"""Rows of the tidy tables that the data lacks, and the columns that an update needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.availability import AVAILABLE
from twotower.workflows.ids import RunIds
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables, sorted_by_id


def distinct(interactions: pa.Table) -> dict[str, np.ndarray]:
    """Return the different values of user_id and item_id, ascending."""
    return {key: np.unique(interactions[key].to_numpy()) for key in ("user_id", "item_id")}


def with_all_rows(
    tables: Tables,
    ids: RunIds,
    findings: Findings,
    present: Mapping[str, np.ndarray],
    before: StoredTables | None = None,
) -> Tables:
    """Add a row of unknown features for each user and item of the interactions that has none.

    Parameters
    ----------
    tables : Tables
        With codes as ids.
    ids : RunIds
    findings : Findings
        Gets the number of added rows, if the table has features.
    present : mapping of str to ndarray of int64
        The different user_id and item_id of the interactions, see `distinct`.
    before : StoredTables, optional
        The tables before an update, whose users and items need no new row.

    Returns
    -------
    Tables
        Users and items are sorted by id.
    """
    found = {}
    for name, key, known in (("users", "user_id", ids.users), ("items", "item_id", ids.items)):
        table = getattr(tables, name)
        codes = present[key]
        there = [
            table[key].to_numpy(),
            *([getattr(before, name)[key].to_numpy()] if before else []),
        ]
        missing = codes[~np.isin(codes, np.concatenate(there))]
        if len(missing) and table.num_columns > 1:
            findings.changed(
                f"{name}_without_row",
                len(missing),
                f"{len(missing):,} of {len(codes):,} {name} in the interactions have no row in the "
                f"table of {name}, such as {known.decode(missing[:1])[0]!r}",
                "their features are unknown",
            )
        columns = {
            field.name: pa.array(missing)
            if field.name == key
            else pa.nulls(len(missing), field.type)
            for field in table.schema
        }
        both = pa.concat_tables([table, pa.table(columns, schema=table.schema)])
        found[name] = sorted_by_id(both) if len(missing) else table
    return tables._replace(**found)


def with_known_values(merged: pa.Table, before: pa.Table) -> pa.Table:
    """Give unknown values of users or items the values that were known before an update.

    Parameters
    ----------
    merged : Table
        The users or items after the update, by ascending id, with all columns of `before`.
    before : Table
        Those before, with the same types.
    """
    codes, known = merged[0].to_numpy(), before[0].to_numpy()
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    places = pa.array(places, mask=known[places] != codes)
    for place, name in enumerate(before.column_names):
        if merged[name].null_count:
            values = pc.coalesce(merged[name], before[name].take(places))
            merged = merged.set_column(place, name, values)
    return merged


def wanted_again(wanted: Wanted, before: StoredTables, ids: RunIds) -> Wanted:
    """The columns of the tidy tables, with their types, for an update."""
    others = ("user_id", "item_id", AVAILABLE)
    schemas = (before.interactions.schema, before.users.schema, before.items.schema)
    interactions, users, items = (
        tuple(name for name in schema.names if name not in others) for schema in schemas
    )
    types = {field.name: field.type for schema in schemas for field in schema}
    return wanted._replace(
        interactions=interactions, users=users, items=items, types={**types, **ids.types}
    )
