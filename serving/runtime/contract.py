"""The contract of the model `retrieval`: what a request may hold, and how it becomes a table.

Inside the served graph, requests are a table: a dict of columns with one value per row. Arrays
cannot hold null, so each user feature has a second column, its state: `VALUE`, `NULL`, or `ABSENT`
(the request does not give the feature or, later in the graph, the user table does not have the
user). `NULL` and `ABSENT` equal the indices that NVTabular's Categorify reserves for null and
out-of-vocabulary values, so an encoder copies them. A table may omit the columns of a feature that
none of its rows gives.

The column of a list feature holds the values of all rows, one row after the other, and a third
column [n] holds the number of values per row. In a request a list feature is a tensor [n, w] of any
width: the values of each row come first, padded with `NO_VALUE`. An empty list is a row of
`NO_VALUE` only.

Ids stay in the table as the request has them, text as bytes; `operators.ids` converts them.

A model with features of the time has one more input: the time of each row, in seconds since 1970,
INT64. A request that does not give it is asked now, by the clock of the server; `NO_VALUE` is an
unknown time. The table has the columns that `operators.times` makes of it, and not the time.

In other features, `NO_VALUE` means null: NaN for FP32 and FP64, -9223372036854775808 for INT64,
"\\uffff" for BYTES. The same holds in JSON requests, because Triton refuses `null` in "data"; it
accepts NaN without quotes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .errors import RequestError
from .filters.predicate import WHERE, parse
from .operators.times import EARLIEST, LATEST, TimeFeatures

VALUE, NULL, ABSENT = 0, 1, 2

K, FILTER_SEEN = "k", "filter_seen"
SCORE = "score"
ALLOW, EXCLUDE = "allow_item_ids", "exclude_item_ids"
"""Optional inputs: the only items that may be in the answer to a row, and items that may not."""

Table = dict[str, np.ndarray]

TYPES = {
    "INT64": "int64",
    "UINT64": "uint64",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
NUMPY_DTYPES = {name: np.dtype(each) for name, each in TYPES.items()}
FILLER = {"INT64": 0, "FP32": 0.0, "FP64": 0.0, "BYTES": ""}
"""The value of a feature's column in rows whose state says that there is no value."""

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
PREDICATES = 1024
"""Number of predicates that are known to be right; their texts take 16 MB at most."""
MAX_WIDTH = 4096
"""Largest number of values per list in a request; the tower may read only the first ones."""


def state_of(feature: str) -> str:
    """Return the name of a feature's state column."""
    return f"{feature}__state"


def count_of(feature: str) -> str:
    """Return the name of the column with the number of values in each list of a feature."""
    return f"{feature}__count"


def row_of(user_id: str) -> str:
    """Return the name of the column with each user's row in the user table."""
    return f"{user_id}__row"


@dataclass(frozen=True)
class Contract:
    """Names, types and limits of requests and answers.

    Attributes
    ----------
    user_id, item_id : str
        Names of the input and of the output that hold raw ids.
    features : dict of str to str
        Optional inputs: name -> Triton data type.
    default_k, max_k : int
        Default and largest value of the request parameter `k`.
    lists : sequence of str
        Names of the list features.
    ranges : dict of str to (float, float)
        Numeric features: name -> smallest and largest value allowed.
    columns : dict of str to str
        Features whose column in the table has another name: name -> column.
    user_id_type, item_id_type : str
        Triton data types of the ids: INT64, UINT64 or BYTES.
    history : str or None
        Name of the list feature that holds item ids.
    vectors : dict of str to int
        List features that are vectors: name -> the length that a vector has. An empty list means
        that there is none.
    times : dict of str to Any or None
        Arguments of `TimeFeatures`, if there are features of the time; its input is among
        `features`.
    filters : dict of str to str
        The columns that the parameter `where` may name, with their kinds (see `filters.predicate`).
    """

    user_id: str
    item_id: str
    features: dict[str, str]
    default_k: int
    max_k: int
    lists: Sequence[str] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    user_id_type: str = "INT64"
    item_id_type: str = "INT64"
    history: str | None = None
    vectors: dict[str, int] = field(default_factory=dict)
    times: dict[str, Any] | None = None
    filters: dict[str, str] = field(default_factory=dict)

    def read(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> Table:
        """Turn one request into a table with the columns of the features that it gives.

        Parameters
        ----------
        inputs : mapping of str to ndarray
            Tensors [n, 1], or [n, w] for list features; text as UTF-8.
        parameters : mapping of str to int, bool or str
            `k`, `filter_seen` and `where`, all optional.

        Returns
        -------
        dict of str to ndarray
            The table, n rows. Text is decoded, except ids.

        Raises
        ------
        RequestError
            The message names the first wrong input or parameter.
        """
        k, filter_seen, where = self._parameters(parameters)
        for name in inputs:
            if name != self.user_id and name not in self.features and name not in (ALLOW, EXCLUDE):
                raise RequestError(
                    f"input '{name}' is unknown; this model takes "
                    + ", ".join([self.user_id, *self.features, ALLOW, EXCLUDE])
                )
        if self.user_id not in inputs:
            raise RequestError(f"input '{self.user_id}' is missing")
        ids = inputs[self.user_id]
        table = {self.user_id: _column(self.user_id, ids, self.user_id_type, is_id=True)}
        rows = len(table[self.user_id])
        for name, array in inputs.items():
            if name in (ALLOW, EXCLUDE):
                table.update(self._items(name, array, rows))
            elif name not in (self.user_id, self._time_input):
                table.update(self._feature(name, array, self.features[name], rows))
        if self.times is not None:
            table.update(self._time_columns(inputs, rows))
        table[K] = _same(k, "int64", rows)
        table[FILTER_SEEN] = _same(filter_seen, "bool", rows)
        if where:
            table[WHERE] = _same(where, "object", rows)
        return table

    def complete(self, table: Table) -> Table:
        """Add to a table the columns of what it omits: features are `ABSENT`, all items allowed.

        Those of a history hold codes, like those of a table whose ids are converted.
        """
        rows, completed = len(table[K]), dict(table)
        if WHERE not in table:
            completed[WHERE] = _same("", "object", rows)
        for name, state in ((ALLOW, ABSENT), (EXCLUDE, VALUE)):
            if name not in table:
                completed[name] = _same(0, "int64", 0)
                completed[count_of(name)] = _same(0, "int64", rows)
                completed[state_of(name)] = _same(state, "int8", rows)
        for name, dtype in self.features.items():
            column = self.columns.get(name, name)
            if column in table or name == self._time_input:
                continue
            if name in self.lists:
                completed[count_of(column)] = _same(0, "int64", rows)
            values = 0 if name in self.lists else rows
            dtype = "INT64" if name == self.history else dtype
            completed[column] = _same(FILLER[dtype], TYPES[dtype], values)
            completed[state_of(column)] = _same(ABSENT, "int8", rows)
        return completed

    def join(self, tables: Sequence[Table]) -> Table:
        """Concatenate the tables of several requests."""
        if len(tables) == 1:
            return tables[0]
        if any(table.keys() != tables[0].keys() for table in tables):
            tables = [self.complete(table) for table in tables]
        return {name: _concatenate([table[name] for table in tables]) for name in tables[0]}

    def _items(self, name: str, array: np.ndarray, rows: int) -> Table:
        """Return the columns of an input that lists item ids, which stay as they are."""
        values, counts = _lists(name, array, self.item_id_type, rows, is_id=True)
        states = _same(VALUE, "int8", rows)
        return {name: values, count_of(name): counts, state_of(name): states}

    def _feature(self, name: str, array: np.ndarray, dtype: str, rows: int) -> Table:
        """Return the columns of a feature that a request gives."""
        column, state = self.columns.get(name, name), np.full(rows, VALUE, np.int8)
        if name in self.lists:
            values, counts = _lists(name, array, dtype, rows, is_id=name == self.history)
            if name in self.vectors:
                _check_length(name, counts, self.vectors[name])
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

    @cached_property
    def _time_features(self) -> TimeFeatures:
        return TimeFeatures(**(self.times or {}))

    @property
    def _time_input(self) -> str | None:
        return self.times["input"] if self.times else None

    def _time_columns(self, inputs: Mapping[str, np.ndarray], rows: int) -> Table:
        """Return the columns of the time that a request gives, or else of the clock's."""
        features = self._time_features
        if features.input not in inputs:
            seconds = np.full(rows, int(time.time()))
        else:
            seconds = _column(features.input, inputs[features.input], "INT64", rows)
        unknown = seconds == NO_VALUE["INT64"]
        outside = np.flatnonzero(~unknown & ((seconds < EARLIEST) | (seconds > LATEST)))
        if len(outside):
            raise RequestError(
                f"input '{features.input}', row {outside[0]}: {seconds[outside[0]]}; expected "
                "seconds since 1970, of the years 1 to 9999"
            )
        table: Table = {}
        for column, values in features.encode(np.where(unknown, 0, seconds)).items():
            table[column] = values
            table[state_of(column)] = np.where(unknown, ABSENT, VALUE).astype(np.int8)
        return table

    def _parameters(self, parameters: Mapping[str, Any]) -> tuple[int, bool, str]:
        if not parameters:
            return self.default_k, True, ""
        unknown = sorted(set(parameters) - {K, FILTER_SEEN, WHERE})
        if unknown:
            raise RequestError(
                f"parameter '{unknown[0]}' is unknown; this model takes {K}, {FILTER_SEEN} and "
                f"{WHERE}"
            )
        k = parameters.get(K, self.default_k)
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise RequestError(
                f"parameter '{K}' is {k!r}; expected an integer from 1 to {self.max_k}"
            )
        filter_seen = parameters.get(FILTER_SEEN, True)
        if type(filter_seen) is not bool:
            raise RequestError(f"parameter '{FILTER_SEEN}' is {filter_seen!r}; expected a boolean")
        where = parameters.get(WHERE, "")
        if type(where) is not str:
            raise RequestError(f"parameter '{WHERE}' is {where!r}; expected text that holds JSON")
        if WHERE in parameters:
            self._check_predicate(where)
        return k, filter_seen, where

    @cached_property
    def _check_predicate(self) -> Callable[[str], None]:
        """Check the text of a predicate; those that were right are remembered."""

        @lru_cache(maxsize=PREDICATES)
        def check(text: str) -> None:
            parse(text, self.filters)

        return check


@lru_cache(maxsize=SIZES, typed=True)
def _same(value: Any, dtype: str, rows: int) -> np.ndarray:
    """Return a column of `value` in every row; it is cached and shared, so it is read-only."""
    column = np.full(rows, value, dtype)
    column.flags.writeable = False
    return column


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate columns; an empty one, of a list that a request omits, may be of any type."""
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


def _column(
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


def _lists(
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


def _check_length(name: str, counts: np.ndarray, length: int) -> None:
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
