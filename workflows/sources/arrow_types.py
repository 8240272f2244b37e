"""Convert Arrow columns to tidy types: int64, float64, string, or lists of these."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LOWER_BITS = (
    "If the numbers are hashes, keep their lower 63 bits, which are the same every day: in pandas "
    '(column & (2**63 - 1)).astype("int64")'
)
"""What to do with whole numbers that do not fit in an int64."""

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def tidy(column: pa.ChunkedArray, keep_unsigned: bool = False) -> pa.ChunkedArray:
    """Convert a column to its tidy type.

    Integers and booleans become int64, floats and decimals float64, dates and times int64 unix
    seconds, categories their values. NaN becomes null. With `keep_unsigned`, uint64 stays as it is.

    Raises
    ------
    ArrowNotImplementedError
        If the type is not supported.
    ValueError
        If a number is 2**63 or larger.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return column
    if pa.types.is_dictionary(kind):
        return tidy(column.cast(kind.value_type), keep_unsigned)
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
        column = pa.chunked_array([_as_lists(chunk) for chunk in column.chunks], kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.list_(_tidy_type(kind.value_type)))
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        return pc.divide(column.cast(pa.int64()), _PER_SECOND[kind.unit])
    if keep_unsigned and pa.types.is_uint64(kind):
        return column
    if pa.types.is_uint64(kind) and (high := pc.max(column).as_py() or 0) >= 2**63:
        raise ValueError(f"{high} is beyond 2**63 - 1. {LOWER_BITS}")
    column = column.cast(_tidy_type(kind))
    return without_nan(column) if pa.types.is_floating(column.type) else column


def is_supported(kind: pa.DataType) -> bool:
    """Whether `tidy` can convert columns of this type; it cannot convert nested objects."""
    try:
        tidy(pa.chunked_array([], kind))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace NaN by null."""
    return pc.if_else(pc.is_nan(column), None, column)


def is_untyped(kind: pa.DataType) -> bool:
    """Whether a column of this type has no value: only nulls, or lists of nulls."""
    return pa.types.is_null(kind.value_type if pa.types.is_list(kind) else kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether it is a type of dates or times."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _tidy_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return kind
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale else pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    if any(is_kind(kind) for is_kind in text):
        return pa.string()
    raise pa.ArrowNotImplementedError(
        f"type {kind} is not supported; store numbers, strings or lists of these"
    )


def _as_lists(chunk: pa.FixedSizeListArray) -> pa.ListArray:
    """Convert lists of fixed size, for which older versions of Arrow have no cast.

    No list is null, because Arrow cannot read files with null lists of fixed size.
    """
    offsets = np.arange(len(chunk) + 1, dtype=np.int32) * chunk.type.list_size
    return pa.ListArray.from_arrays(offsets, chunk.flatten())
