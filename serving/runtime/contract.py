"""The contract of the model `retrieval`: what a request may hold and the table it becomes.

Inside the served graph a request is a table: a dict of columns of equal length. Arrays know no
null, so every user feature travels with a second column, its state: given (`VALUE`), null
(`NULL`), or absent (`ABSENT`: not given by the request, then not known of the user). The states
of a row without a value are the indices NVTabular's Categorify reserves for null and
out-of-vocabulary, so an encoder passes them on as they are. A table may leave out the columns of
a feature that none of its rows gives.

A list feature is a column of the values of all rows, one after the other, and a third column [n]
says how many of them each row has. In a request it is a tensor [n, w] of any width: each row has
its values first and is padded with `NO_VALUE`; an empty list is a row of `NO_VALUE` alone.

In a feature that is no list, `NO_VALUE` asks for null: NaN for FP32 and FP64, -9223372036854775808
for INT64, "\\uffff" for BYTES. It is the same in JSON, where Triton refuses `null` in "data": null
is written NaN (which Triton's JSON takes, without quotes), -9223372036854775808, or "\\uffff".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import ServingError

VALUE, NULL, ABSENT = 0, 1, 2

K, FILTER_SEEN = "k", "filter_seen"
SCORE = "score"

Table = dict[str, np.ndarray]

TYPES = {"INT64": "int64", "FP32": "float32", "FP64": "float64", "BYTES": "object"}
NUMPY_DTYPES = {name: np.dtype(each) for name, each in TYPES.items()}
FILLER = {"INT64": 0, "FP32": 0.0, "FP64": 0.0, "BYTES": ""}
"""What stands in a feature's column where its state says that there is no value."""

NO_VALUE = {"INT64": np.int64(-(2**63)), "FP32": np.nan, "FP64": np.nan, "BYTES": "\uffff"}
"""Pads the rows of lists, which must not hold it as a value; in other features it asks for null.

For text it is a code point that Unicode never assigns. Not "", which splitting a text produces, nor
"\\0", which NumPy drops at the end.
"""
SIZES = 64
"""Number of cached constant columns; small, because each is as long as a request."""
MAX_WIDTH = 4096
"""Largest number of values per list in a request; the tower may read fewer, the first ones."""


class RequestError(ServingError):
    """The request is wrong; the message names the input or the parameter. Answered as 400."""


def state_of(feature: str) -> str:
    """The name of a feature's state column."""
    return f"{feature}__state"


def count_of(feature: str) -> str:
    """The name of the column that says how many values the lists of a feature have."""
    return f"{feature}__count"


def row_of(user_id: str) -> str:
    """The name of the column that says where a user's row lies in the user table."""
    return f"{user_id}__row"


@dataclass(frozen=True)
class Contract:
    """Names, types and limits of requests and answers.

    Attributes
    ----------
    user_id, item_id : names of the input and of the output that hold raw ids
    features : optional inputs, name -> Triton data type
    default_k, max_k : the request parameter `k`
    lists : names of the features that are lists
    ranges : features that are used as numbers, name -> the smallest and the largest it takes
    columns : features whose column of the table has another name, name -> column
    """

    user_id: str
    item_id: str
    features: dict[str, str]
    default_k: int
    max_k: int
    lists: Sequence[str] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def read(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> Table:
        """One request as a table of n rows; strings decoded; only the features that it gives.

        Raises
        ------
        RequestError
            naming the first input or parameter that is wrong
        """
        k, filter_seen = self._parameters(parameters)
        for name in inputs:
            if name != self.user_id and name not in self.features:
                raise RequestError(
                    f"input '{name}' is unknown; this model takes "
                    + ", ".join([self.user_id, *self.features])
                )
        if self.user_id not in inputs:
            raise RequestError(f"input '{self.user_id}' is missing")
        table = {self.user_id: _column(self.user_id, inputs[self.user_id], "INT64")}
        rows = len(table[self.user_id])
        for name, array in inputs.items():
            if name != self.user_id:
                table.update(self._feature(name, array, self.features[name], rows))
        table[K] = _same(k, "int64", rows)
        table[FILTER_SEEN] = _same(filter_seen, "bool", rows)
        return table

    def complete(self, table: Table) -> Table:
        """The table with the columns of every feature: absent where the request gives none."""
        rows, completed = len(table[K]), dict(table)
        for name, dtype in self.features.items():
            column = self.columns.get(name, name)
            if column in table:
                continue
            if name in self.lists:
                completed[count_of(column)] = _same(0, "int64", rows)
            values = 0 if name in self.lists else rows
            completed[column] = _same(FILLER[dtype], TYPES[dtype], values)
            completed[state_of(column)] = _same(ABSENT, "int8", rows)
        return completed

    def join(self, tables: Sequence[Table]) -> Table:
        """The rows of several requests as one table."""
        if len(tables) == 1:
            return tables[0]
        if any(table.keys() != tables[0].keys() for table in tables):
            tables = [self.complete(table) for table in tables]
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def _feature(self, name: str, array: np.ndarray, dtype: str, rows: int) -> Table:
        """The columns of a feature that a request gives."""
        column, state = self.columns.get(name, name), np.full(rows, VALUE, np.int8)
        if name in self.lists:
            values, counts = _lists(name, array, dtype, rows)
            return {column: values, count_of(column): counts, state_of(column): state}
        values = _column(name, array, dtype, rows)
        if name in self.ranges:
            low, high = self.ranges[name]
            outside = np.flatnonzero((values < low) | (values > high))
            if len(outside):
                raise RequestError(
                    f"input '{name}', row {outside[0]}: {values[outside[0]]:g}; "
                    f"expected {low:g} to {high:g}"
                )
        null = np.isnan(values) if dtype.startswith("FP") else values == NO_VALUE[dtype]
        if null.any():
            values = values.copy()
            values[null], state[null] = FILLER[dtype], NULL
        return {column: values, state_of(column): state}

    def _parameters(self, parameters: Mapping[str, Any]) -> tuple[int, bool]:
        if not parameters:
            return self.default_k, True
        unknown = sorted(set(parameters) - {K, FILTER_SEEN})
        if unknown:
            raise RequestError(
                f"parameter '{unknown[0]}' is unknown; this model takes {K} and {FILTER_SEEN}"
            )
        k = parameters.get(K, self.default_k)
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise RequestError(
                f"parameter '{K}' is {k!r}; expected an integer from 1 to {self.max_k}"
            )
        filter_seen = parameters.get(FILTER_SEEN, True)
        if type(filter_seen) is not bool:
            raise RequestError(f"parameter '{FILTER_SEEN}' is {filter_seen!r}; expected a boolean")
        return k, filter_seen


@lru_cache(maxsize=SIZES, typed=True)
def _same(value: Any, dtype: str, rows: int) -> np.ndarray:
    """`value` in every row; shared, so not to be written."""
    column = np.full(rows, value, dtype)
    column.flags.writeable = False
    return column


def _column(name: str, array: np.ndarray, dtype: str, rows: int | None = None) -> np.ndarray:
    """An input tensor [n, 1] as a column [n]."""
    if array.ndim != 2 or array.shape[1] != 1 or not array.shape[0]:
        raise RequestError(f"input '{name}' has shape {list(array.shape)}; expected [n, 1], n >= 1")
    _check(name, array, dtype, rows)
    column = array[:, 0]
    return _decode(name, column, range(len(column))) if dtype == "BYTES" else column


def _lists(name: str, array: np.ndarray, dtype: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """An input tensor [n, w] as the values of all rows and counts int64 [n]."""
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_WIDTH:
        raise RequestError(
            f"input '{name}' has shape {list(array.shape)}; expected [n, w], 1 <= w <= {MAX_WIDTH}"
        )
    _check(name, array, dtype, rows)
    if dtype == "BYTES":
        given = array != NO_VALUE[dtype].encode()
    else:
        given = array != NO_VALUE[dtype] if dtype == "INT64" else ~np.isnan(array)
    late = np.flatnonzero((given[:, 1:] & ~given[:, :-1]).any(axis=1))
    if len(late):
        raise RequestError(
            f"input '{name}', row {late[0]}: a value after the padding; fill up at the end"
        )
    values = array[given]
    if dtype == "BYTES":
        values = _decode(name, values, np.nonzero(given)[0])
    return values, given.sum(axis=1)


def _check(name: str, array: np.ndarray, dtype: str, rows: int | None) -> None:
    if rows is not None and len(array) != rows:
        raise RequestError(f"input '{name}' has {len(array)} rows, the user ids have {rows}")
    if array.dtype != NUMPY_DTYPES[dtype]:
        raise RequestError(f"input '{name}' is {array.dtype}; expected {dtype}")
    if dtype.startswith("FP") and np.isinf(array).any():
        row = int(np.nonzero(np.isinf(array))[0][0])
        raise RequestError(f"input '{name}', row {row}: infinite; use NaN for an unknown value")


def _decode(name: str, values: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """UTF-8 [m] as text; `rows` are the values' row numbers, for error messages."""
    decoded = np.empty(len(values), object)
    for position, value in enumerate(values):
        try:
            decoded[position] = bytes(value).decode()
        except UnicodeDecodeError as error:
            row = rows[position]
            raise RequestError(f"input '{name}', row {row}: not UTF-8 ({error})") from error
    return decoded
