"""The tensors of requests: which types and shapes they have, and how they become columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import RequestError

TYPES = {
    "INT64": "int64",
    "UINT64": "uint64",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
NUMPY_DTYPES = {name: np.dtype(each) for name, each in TYPES.items()}
NO_VALUE: dict[str, Any] = {
    "INT64": np.int64(-(2**63)),
    "UINT64": np.uint64(2**64 - 1),
    "FP32": np.nan,
    "FP64": np.nan,
    "BYTES": "\uffff",
}
"""Padding of list rows, which must not hold it as a value; in other features it means null.

For text it is a code point that Unicode never assigns. "" would not do, because splitting a text
produces it, and neither would "\\0", which NumPy drops at the end of a string.
"""
SIZES = 64
"""Number of cached constant columns; small, because each is as long as the request."""
MAX_WIDTH = 4096
"""Largest number of values per list in a request; the tower may read only the first ones."""


@lru_cache(maxsize=SIZES, typed=True)
def same(value: Any, dtype: str, rows: int) -> np.ndarray:
    """Return a column of `value` in every row; it is cached and shared, so it is read-only."""
    column = np.full(rows, value, dtype)
    column.flags.writeable = False
    return column


def concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate columns; an empty one, of a list that a request omits, may be of any type."""
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


def column_of(
    name: str, array: np.ndarray, dtype: str, rows: int | None = None, is_id: bool = False
) -> np.ndarray:
    """Turn an input tensor [n, 1] into a column [n]; ids stay bytes."""
    if array.ndim != 2 or array.shape[1] != 1 or not array.shape[0]:
        raise RequestError(f"input '{name}' has shape {list(array.shape)}; expected [n, 1], n >= 1")
    _check(name, array, dtype, rows)
    column = array[:, 0]
    if dtype != "BYTES" or is_id:
        return column
    return _decode(name, column, range(len(column)))


def lists_of(
    name: str, array: np.ndarray, dtype: str, rows: int, is_id: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Turn an input tensor [n, w] into the values of all rows and their counts int64 [n]."""
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_WIDTH:
        raise RequestError(
            f"input '{name}' has shape {list(array.shape)}; expected [n, w], 1 <= w <= {MAX_WIDTH}"
        )
    _check(name, array, dtype, rows)
    if dtype == "BYTES":
        given = array != NO_VALUE[dtype].encode()
    else:
        given = ~np.isnan(array) if dtype.startswith("FP") else array != NO_VALUE[dtype]
    late = np.flatnonzero((given[:, 1:] & ~given[:, :-1]).any(axis=1))
    if len(late):
        raise RequestError(
            f"input '{name}', row {late[0]}: a value after the padding; pad at the end only"
        )
    values = array[given]
    if dtype == "BYTES" and not is_id:
        values = _decode(name, values, np.nonzero(given)[0])
    return values, given.sum(axis=1)


def check_length(name: str, counts: np.ndarray, length: int) -> None:
    """Check that vectors have their length; an empty one means that there is none."""
    wrong = np.flatnonzero((counts != length) & (counts > 0))
    if len(wrong):
        raise RequestError(
            f"input '{name}', row {wrong[0]}: a vector of {counts[wrong[0]]} numbers; expected "
            f"{length}, or only padding for no vector"
        )


def _check(name: str, array: np.ndarray, dtype: str, rows: int | None) -> None:
    if rows is not None and len(array) != rows:
        raise RequestError(f"input '{name}' has {len(array)} rows, the user ids have {rows}")
    if array.dtype != NUMPY_DTYPES[dtype]:
        raise RequestError(f"input '{name}' is {array.dtype}; expected {dtype}")
    if dtype.startswith("FP") and np.isinf(array).any():
        row = int(np.nonzero(np.isinf(array))[0][0])
        raise RequestError(f"input '{name}', row {row}: infinite; use NaN for an unknown value")


def _decode(name: str, values: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Decode UTF-8 [m]; `rows` are the values' row numbers, for error messages."""
    decoded = np.empty(len(values), object)
    for position, value in enumerate(values):
        try:
            decoded[position] = bytes(value).decode()
        except UnicodeDecodeError as error:
            row = rows[position]
            raise RequestError(f"input '{name}', row {row}: not UTF-8 ({error})") from error
    return decoded
