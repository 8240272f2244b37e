"""Converts values of Python, NumPy and pandas to the arrays that a request holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from twotower.serving.runtime.arrays import expand
from twotower.serving.runtime.contract import ALLOW, EXCLUDE
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.caps import MAX_PER
from twotower.serving.runtime.filters.parameters import (
    CANDIDATES,
    DIVERSITY,
    DIVERSITY_BY,
    FILTER_SEEN,
    K,
)
from twotower.serving.runtime.filters.predicate import WHERE
from twotower.serving.runtime.tensors import NO_VALUE, NUMPY_DTYPES

EXPECTED = {
    "INT64": "an integer",
    "UINT64": "an integer of 0 or more",
    "FP32": "a number",
    "FP64": "a number",
    "BYTES": "text",
}
EXACT: dict[str, set[type]] = {
    "INT64": {int, bool},
    "UINT64": set(),  # NumPy accepts negative numbers and makes them large ones
    "FP32": {int, bool},
    "FP64": {int, bool},
    "BYTES": set(),
}
"""Types for which converting a whole list by NumPy gives the same as `_convert` for each value."""

EXACT_FLOATS = 2**53
"""Whole numbers below this are exact in a float64."""

Values = Sequence | np.ndarray


class Filters(NamedTuple):
    """What the answers may hold, as the caller says it (see `RetrievalClient.recommend`)."""

    where: Mapping[str, Any] | str | None = None
    allow_item_ids: Iterable | None = None
    exclude_item_ids: Iterable | None = None
    max_per: Mapping[str, int] | str | None = None
    diversity: float | None = None
    diversity_by: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a request, as types of Python."""
        found: dict[str, Any] = {}
        for name, value in ((WHERE, self.where), (MAX_PER, self.max_per)):
            if value is not None:
                found[name] = _as_json(name, value)
        if self.diversity is not None:
            found[DIVERSITY] = _as_number(DIVERSITY, self.diversity)
        if self.diversity_by is not None:
            if not isinstance(self.diversity_by, str):
                by = self.diversity_by
                raise ServingError(f"parameter '{DIVERSITY_BY}' is {by!r}; expected a column")
            found[DIVERSITY_BY] = self.diversity_by
        return found

    @property
    def inputs(self) -> dict[str, Iterable]:
        """The lists of items, by the name of the input."""
        lists = {ALLOW: self.allow_item_ids, EXCLUDE: self.exclude_item_ids}
        return {name: values for name, values in lists.items() if values is not None}


class Ranking(NamedTuple):
    """Whether the ranking model orders the answers, and how many candidates of each user."""

    rank: bool = False
    candidates: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a request, as types of Python.

        Raises
        ------
        ServingError
            If the number of candidates is no integer, or is given without `rank`.
        """
        if self.candidates is None:
            return {}
        number: Any = self.candidates
        number = number.item() if isinstance(number, np.generic) else number
        if type(number) is not int or abs(number) >= 2**63:
            raise ServingError(
                f"parameter '{CANDIDATES}' is {self.candidates!r}; expected an integer"
            )
        if not self.rank:
            raise ServingError(
                f"parameter '{CANDIDATES}' is for the ranking model; ask with rank=True"
            )
        return {CANDIDATES: number}


NO_FILTERS = Filters()
NOT_RANKED = Ranking()
EXAMPLES = {WHERE: '{"year": {"$gte": 1990}}', MAX_PER: '{"genres": 2}'}


def read_parameters(k: Any, filter_seen: Any = None) -> dict[str, Any]:
    """Return the request parameters as types of Python, because Triton refuses those of NumPy.

    Raises
    ------
    ServingError
        If a parameter has another type.
    """
    parameters = {}
    asked = [(K, k, int)] + ([] if filter_seen is None else [(FILTER_SEEN, filter_seen, bool)])
    for name, value, kind in asked:
        parameters[name] = value.item() if isinstance(value, np.generic) else value
        if type(parameters[name]) is not kind:
            expected = "an integer" if kind is int else "a boolean"
            raise ServingError(f"parameter '{name}' is {value!r}; expected {expected}")
    if abs(parameters[K]) >= 2**63:  # gRPC cannot send it; the server checks smaller ones
        raise ServingError(f"parameter '{K}' is {k!r}; expected an integer of 64 bits")
    return parameters


def _as_json(name: str, value: Any) -> str:
    """Return a mapping, or JSON, as JSON; the server checks what it says.

    Raises
    ------
    ServingError
        If it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ServingError(
            f"parameter '{name}' is {value!r}; expected a dict, or its JSON, such as "
            f"{EXAMPLES[name]}"
        )
    try:
        return json.dumps(value, ensure_ascii=False, default=_of_python)
    except (TypeError, ValueError) as error:
        raise ServingError(f"parameter '{name}' cannot be written as JSON: {error}") from error


def _as_number(name: str, value: Any) -> float:
    number = value.item() if isinstance(value, np.generic) else value
    if type(number) not in (int, float):
        raise ServingError(f"parameter '{name}' is {value!r}; expected a number")
    return float(number)


def _of_python(value: Any) -> Any:
    """Return what JSON has no type for, as a value that it has one for."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{value!r} is no value of JSON")


def read_features(features: Any) -> Mapping[str, Iterable]:
    """Return `features` if it is a mapping with text as keys; None becomes an empty one."""
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        kind = type(features).__name__
        raise ServingError(f"features is of type {kind}; expected a dict of names and values")
    for name in features:
        if not isinstance(name, str):
            raise ServingError(f"the name of a feature is {name!r}; expected text")
    return features


def read_values(name: str, values: Iterable) -> Values:
    """Return the values of an input as a list or an array [n]; this consumes iterators."""
    is_array = isinstance(values, np.ndarray)
    if isinstance(values, (str, bytes)) or not (is_array or isinstance(values, Iterable)):
        raise ServingError(f"input '{name}' is {values!r}; expected a list, one value per user")
    if isinstance(values, np.ndarray) and (values.dtype != object or values.ndim != 1):
        return np.atleast_1d(values)
    values = list(values)
    if any(issubclass(kind, Iterator) for kind in set(map(type, values))):  # a list feature
        values = [list(value) if isinstance(value, Iterator) else value for value in values]
    return values


def no_value(datatype: str) -> Any:
    """Return `NO_VALUE` of a Triton data type as a request holds it: text as UTF-8."""
    value = NO_VALUE[datatype]
    return value.encode() if isinstance(value, str) else value


def unknown_input(values: Values) -> np.ndarray:
    """Return values [n] for an input that the model does not have, which the server will refuse."""
    return np.array([[repr(value).encode()] for value in values], np.object_)


def column(name: str, values: Values, datatype: str, nullable: bool) -> np.ndarray:
    """Return values as a tensor [n, 1]; null, if allowed, becomes `NO_VALUE`."""
    return _cast(name, values, datatype, nullable).reshape(-1, 1)


def id_column(name: str, values: Values, datatype: str) -> np.ndarray:
    """Return ids as a tensor [n, 1]. Nothing is converted that could be another id then.

    Raises
    ------
    ServingError
        If an id is null, a number where ids are text, or a float that may have been rounded.
    """
    for value in values if datatype == "BYTES" else ():
        if not isinstance(value, (str, bytes)):
            raise ServingError(f"input '{name}' holds {value!r}; the model takes text (BYTES)")
    array = column(name, values, datatype, nullable=False)
    floats = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    if floats or any(isinstance(value, (float, np.floating)) for value in values):
        rounded = [value for value in values if abs(value) >= EXACT_FLOATS]
        if rounded:
            raise ServingError(
                f"input '{name}' holds {rounded[0]!r}, a float, which may have been rounded; give "
                "integers"
            )
    return array


def read_texts(values: np.ndarray) -> np.ndarray:
    """Return an array of an answer, with text as str; numbers stay as they are."""
    if values.dtype != object:
        return values
    texts = [text.decode() for text in values.ravel().tolist()]
    return np.array(texts, object).reshape(values.shape)


def padded_lists(name: str, rows: Values, datatype: str) -> np.ndarray:
    """Return lists as a tensor [n, w], padded at the end with `NO_VALUE`; null is an empty list."""
    rows = [[] if _is_null(row) else row for row in rows]
    for row in rows:
        if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
            raise ServingError(f"input '{name}' holds {row!r}; expected a list per user")
    rows = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
    flat = _cast(name, [value for row in rows for value in row], datatype, nullable=False)
    filler = no_value(datatype)
    if (flat == filler).any():
        raise ServingError(
            f"input '{name}' holds {NO_VALUE[datatype]!r} in a list, which means 'no value'; "
            "leave it out"
        )
    counts = np.array([len(row) for row in rows], np.int64)
    return expand(flat, counts, max([1, *counts.tolist()]), filler)


def _cast(name: str, values: Values, datatype: str, nullable: bool) -> np.ndarray:
    """Convert values [m] to a Triton data type: text to UTF-8, null to `NO_VALUE`.

    Raises
    ------
    ServingError
        The message names the first value of another kind.
    """
    dtype = NUMPY_DTYPES[datatype]
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, np.ma.MaskedArray):
        values = list(values)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        exact = datatype != "BYTES" and _fits(values, dtype)
    elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "fb":
        may_hold_null = values.dtype.kind == "f" and not nullable
        exact = not may_hold_null and datatype != "BYTES" and np.can_cast(values.dtype, dtype)
    else:
        exact = set(map(type, values)) <= EXACT[datatype]
    if exact:
        with suppress(OverflowError):  # `_convert` names the value
            return np.array(values, dtype)
    converted = np.empty(len(values), dtype)
    for position, value in enumerate(values):
        converted[position] = _convert(name, value, datatype, nullable)
    return converted


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether converting integers to another type changes none."""
    if dtype.kind == "f" or not len(values):
        return np.can_cast(values.dtype, dtype)
    limits = np.iinfo(dtype)
    return limits.min <= int(values.min()) and int(values.max()) <= limits.max


def _convert(name: str, value: Any, datatype: str, nullable: bool) -> Any:
    """Convert one value to a Triton data type."""
    with suppress(OverflowError, UnicodeEncodeError):  # infinity, and text that UTF-8 cannot hold
        if _is_null(value):
            if nullable:
                return no_value(datatype)
        elif datatype == "BYTES":
            if isinstance(value, bytes):
                return bytes(value)
            if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
                return str(value).encode()
        elif isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
            if datatype.startswith("FP"):
                return float(value)
            limits = np.iinfo(NUMPY_DTYPES[datatype])
            if value == int(value) and limits.min <= int(value) <= limits.max:
                return int(value)
    raise ServingError(
        f"input '{name}' holds {value!r}; the model takes {EXPECTED[datatype]} ({datatype})"
        + (" or null" if nullable else "")
    )


def _is_null(value: Any) -> bool:
    """Whether a value is None, NaN, masked, or pandas.NA (recognised without importing pandas)."""
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return True
    return isinstance(value, (float, np.floating)) and value != value
