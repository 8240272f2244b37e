"""Converts columns of the item table to those by which requests filter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.columns import ItemColumn, ItemColumns
from twotower.serving.runtime.filters.predicate import LIST

NUMPY_TYPES: dict[str, type] = {
    "BOOL": np.bool_,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP64": np.float64,
    "BYTES": object,
}


def item_columns(items: pa.Table, names: Sequence[str]) -> ItemColumns:
    """Return the columns of a table of items, in the order of its rows.

    Parameters
    ----------
    items : Table
        One row per item of the index, in its order.
    names : sequence of str
        The columns: of numbers, text, booleans, or lists of them. Null and NaN are no value.

    Raises
    ------
    ServingError
        If the table lacks a column or a column has another type.
    """
    check_columns(items.schema, names)
    return ItemColumns({name: _column(items[name]) for name in names}, len(items))


def check_columns(
    schema: pa.Schema, names: Sequence[str], setting: str = "serving.filters"
) -> None:
    """Raise ServingError if the columns that a setting names have no values to compare.

    Parameters
    ----------
    schema : Schema
        Of the item table.
    names : sequence of str
        The columns.
    setting : str
        The setting, for messages.
    """
    if missing := [name for name in names if name not in schema.names]:
        raise ServingError(
            f"{setting}: the item table has no column {', '.join(missing)}; it has "
            f"{', '.join(schema.names)}. For a column that only the source has, run `twotower "
            "ingest` again"
        )
    for name in names:
        kind = schema.field(name).type
        if _kind(kind) is None:
            raise ServingError(
                f"{setting}: column '{name}' holds {kind}; expected numbers, text, booleans or "
                "lists of them"
            )


def _column(values: pa.ChunkedArray) -> ItemColumn:
    kind = _kind(values.type)
    assert kind is not None  # checked
    if not kind.endswith(LIST):
        found, codes = _coded(values, kind)
        return ItemColumn(kind, found, codes)
    found, codes = _coded(pc.list_flatten(values), kind.removesuffix(LIST))
    rows = pc.list_parent_indices(values.combine_chunks()).to_numpy()
    # Each value once per item, ascending, and without nulls.
    given = codes < len(found)
    pairs = np.unique(rows[given].astype(np.int64) * (len(found) + 1) + codes[given])
    counts = np.bincount(pairs // (len(found) + 1), minlength=len(values))
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    return ItemColumn(kind, found, (pairs % (len(found) + 1)).astype(np.int32), starts)


def _coded(values: pa.ChunkedArray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the different values, ascending, and the position of each value among them."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    missing = values.is_null(nan_is_null=True).to_numpy()
    given = values.filter(pa.array(~missing))
    plain: np.ndarray = np.array(given.to_pylist(), NUMPY_TYPES[kind])
    if pa.types.is_float32(values.type) or pa.types.is_float16(values.type):
        # The float64 that people write for it: 9.99, not 9.989999771118164.
        plain = np.array([float(str(each)) for each in given.to_numpy()], np.float64)
    found, positions = np.unique(plain, return_inverse=True)
    codes = np.full(len(missing), len(found), np.int32)
    codes[~missing] = positions
    return found, codes


def _kind(type_: pa.DataType) -> str | None:
    """Return the kind of a column for predicates; None if there is none."""
    kinds = pa.types
    if kinds.is_list(type_) or kinds.is_large_list(type_):
        inner = _kind(type_.value_type)
        return None if inner is None or inner.endswith(LIST) else inner + LIST
    if kinds.is_dictionary(type_):
        return _kind(type_.value_type)
    if kinds.is_boolean(type_):
        return "BOOL"
    if kinds.is_string(type_) or kinds.is_large_string(type_):
        return "BYTES"
    if kinds.is_uint64(type_):
        return "UINT64"
    if kinds.is_integer(type_):
        return "INT64"
    return "FP64" if kinds.is_floating(type_) else None
