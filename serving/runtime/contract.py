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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .errors import RequestError
from .filters.caps import MAX_PER
from .filters.parameters import (
    CANDIDATES,
    DIVERSITY,
    DIVERSITY_BY,
    FILTER_SEEN,
    OF_ITEMS,
    PARAMETER_TYPES,
    K,
    ParameterReader,
)
from .filters.predicate import WHERE
from .live.rules import EventRules
from .operators.times import EARLIEST, LATEST, TimeFeatures
from .tensors import NO_VALUE, TYPES, check_length, column_of, concatenate, lists_of, same

VALUE, NULL, ABSENT = 0, 1, 2

SCORE = "score"
ALLOW, EXCLUDE = "allow_item_ids", "exclude_item_ids"
"""Optional inputs: the only items that may be in the answer to a row, and items that may not."""
SIMILAR_TO = "similar_to"
"""The input of requests for similar items, in place of the users: a list of items per row."""
RECOMMEND_FOR = "recommend_for"
"""The input of requests to the model `recommend`, in place of the users. Their tables have the
column CANDIDATES."""
RETRIEVAL_SCORE = "retrieval_score"
"""The further output of the model `recommend`; its SCORE is that of the ranking model."""
ARM = "arm"
"""The output with the version that answered each row, if the server compares two versions."""

Table = dict[str, np.ndarray]

FILLER = {"INT64": 0, "FP32": 0.0, "FP64": 0.0, "BYTES": ""}
"""The value of a feature's column in rows whose state says that there is no value."""

MAX_WORK = 1_000_000
"""Largest rows * k * k of a request that chooses diverse items, one after the other. It takes up to
half a second."""


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
        The columns that the parameters of OF_ITEMS may name, with their kinds (see
        `filters.predicate`).
    candidates : int
        Default and largest value of the parameter `candidates`; 0 without a ranking model.
    max_rows : int
        Largest number of users times candidates.
    events : dict of str to Any or None
        Arguments of `EventRules`; None if the version knows no events.
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
    candidates: int = 0
    max_rows: int = 0
    events: dict[str, Any] | None = None

    def read(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> Table:
        """Turn one request into a table with the columns of the features that it gives.

        Parameters
        ----------
        inputs : mapping of str to ndarray
            Tensors [n, 1], or [n, w] for list features; text as UTF-8.
        parameters : mapping of str to int, bool, float or str
            `k`, `filter_seen` and those of OF_ITEMS, all optional.

        Returns
        -------
        dict of str to ndarray
            The table, n rows. Text is decoded, except ids.

        Raises
        ------
        RequestError
            The message names the first wrong input or parameter.
        """
        if SIMILAR_TO in inputs:
            return self._read_similar(inputs, parameters)
        if RECOMMEND_FOR in inputs:
            return self._read_recommend(inputs, parameters)
        return self._read_users(
            inputs, self._parameters.read(parameters, (K, FILTER_SEEN, *OF_ITEMS))
        )

    def _read_users(self, inputs: Mapping[str, np.ndarray], chosen: Mapping[str, Any]) -> Table:
        """Turn the inputs of a request for users into a table, with its checked parameters."""
        for name in inputs:
            if name != self.user_id and name not in self.features and name not in (ALLOW, EXCLUDE):
                raise RequestError(
                    f"input '{name}' is unknown; this model takes "
                    + ", ".join([self.user_id, *self.features, ALLOW, EXCLUDE])
                )
        if self.user_id not in inputs:
            raise RequestError(f"input '{self.user_id}' is missing")
        ids = inputs[self.user_id]
        table = {self.user_id: column_of(self.user_id, ids, self.user_id_type, is_id=True)}
        rows = len(table[self.user_id])
        for name, array in inputs.items():
            if name in (ALLOW, EXCLUDE):
                table.update(self._items(name, array, rows))
            elif name not in (self.user_id, self._time_input):
                table.update(self._feature(name, array, self.features[name], rows))
        if self.times is not None:
            table.update(self._time_columns(inputs, rows))
        self._add(chosen, table, rows)
        return table

    def _read_recommend(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> Table:
        """Turn a request to the model `recommend` into a table, which has the column CANDIDATES."""
        if not self.candidates:
            raise RequestError("this version has no ranking model; ask the model retrieval")
        if self.user_id in inputs:
            raise RequestError(f"input '{self.user_id}' is unknown beside {RECOMMEND_FOR}")
        names = (K, FILTER_SEEN, *OF_ITEMS, CANDIDATES)
        chosen, count = self._parameters.read_ranked(parameters, names)
        users = {self.user_id if n == RECOMMEND_FOR else n: each for n, each in inputs.items()}
        table = self._read_users(users, chosen)
        rows = len(table[K])
        if rows * count > self.max_rows:
            raise RequestError(
                f"{rows} users with {count} candidates each are {rows * count:,} rows; expected at "
                f"most {self.max_rows:,}: ask for fewer users at a time, or set '{CANDIDATES}'"
            )
        table[CANDIDATES] = same(count, PARAMETER_TYPES[CANDIDATES], rows)
        return table

    def _read_similar(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> Table:
        """Turn a request for similar items into a table."""
        chosen = self._parameters.read(parameters, (K, *OF_ITEMS))
        names = (SIMILAR_TO, ALLOW, EXCLUDE)
        if wrong := [name for name in inputs if name not in names]:
            raise RequestError(f"input '{wrong[0]}' is unknown beside {', '.join(names)}")
        rows = len(inputs[SIMILAR_TO])
        if not rows:
            raise RequestError(f"input '{SIMILAR_TO}' has no rows; expected [n, w], n >= 1")
        table: Table = {}
        for name, array in inputs.items():
            table.update(self._items(name, array, rows))
        del chosen[FILTER_SEEN]
        self._add(chosen, table, rows)
        return table

    @staticmethod
    def _add(parameters: Mapping[str, Any], table: Table, rows: int) -> None:
        """Add the columns of parameters to a table; refuse what would take too long."""
        k = parameters[K]
        if rows * k**2 > MAX_WORK and (DIVERSITY in parameters or MAX_PER in parameters):
            raise RequestError(
                f"parameter '{K}' is {k}, for {rows} rows; with {DIVERSITY} or {MAX_PER}, rows * k "
                f"* k may be at most {MAX_WORK:,}: ask for fewer items, or for fewer rows at a time"
            )
        for name, value in parameters.items():
            table[name] = same(value, PARAMETER_TYPES[name], rows)

    def complete(self, table: Table) -> Table:
        """Add to a table the columns of what it omits: features are `ABSENT`, all items allowed.

        Those of a history hold codes, like those of a table whose ids are converted.
        """
        rows, completed = len(table[K]), dict(table)
        for name, nothing in (
            (WHERE, ""),
            (MAX_PER, ""),
            (DIVERSITY, 0.0),
            (DIVERSITY_BY, ""),
            (CANDIDATES, 0),
        ):
            if name not in table:
                completed[name] = same(nothing, PARAMETER_TYPES[name], rows)
        for name, state in ((ALLOW, ABSENT), (EXCLUDE, VALUE)):
            if name not in table:
                completed[name] = same(0, "int64", 0)
                completed[count_of(name)] = same(0, "int64", rows)
                completed[state_of(name)] = same(state, "int8", rows)
        for name, dtype in self.features.items() if SIMILAR_TO not in table else ():
            column = self.columns.get(name, name)
            if column in table or name == self._time_input:
                continue
            if name in self.lists:
                completed[count_of(column)] = same(0, "int64", rows)
            values = 0 if name in self.lists else rows
            dtype = "INT64" if name == self.history else dtype
            completed[column] = same(FILLER[dtype], TYPES[dtype], values)
            completed[state_of(column)] = same(ABSENT, "int8", rows)
        return completed

    def join(self, tables: Sequence[Table]) -> Table:
        """Concatenate the tables of several requests."""
        if len(tables) == 1:
            return tables[0]
        if any(table.keys() != tables[0].keys() for table in tables):
            tables = [self.complete(table) for table in tables]
        return {name: concatenate([table[name] for table in tables]) for name in tables[0]}

    def _items(self, name: str, array: np.ndarray, rows: int) -> Table:
        """Return the columns of an input that lists item ids, which stay as they are."""
        values, counts = lists_of(name, array, self.item_id_type, rows, is_id=True)
        states = same(VALUE, "int8", rows)
        return {name: values, count_of(name): counts, state_of(name): states}

    def _feature(self, name: str, array: np.ndarray, dtype: str, rows: int) -> Table:
        """Return the columns of a feature that a request gives."""
        column, state = self.columns.get(name, name), np.full(rows, VALUE, np.int8)
        if name in self.lists:
            values, counts = lists_of(name, array, dtype, rows, is_id=name == self.history)
            if name in self.vectors:
                check_length(name, counts, self.vectors[name])
            return {column: values, count_of(column): counts, state_of(column): state}
        values = column_of(name, array, dtype, rows)
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
    def event_rules(self) -> EventRules | None:
        """What an event may hold."""
        return EventRules(**self.events) if self.events else None

    @cached_property
    def _parameters(self) -> ParameterReader:
        return ParameterReader(
            default_k=self.default_k,
            max_k=self.max_k,
            candidates=self.candidates,
            columns=self.filters,
        )

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
            seconds = column_of(features.input, inputs[features.input], "INT64", rows)
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
