"""The contract of the model `retrieval`: what a request may hold and the table it becomes.

Inside the served graph a request is a table: a dict of columns of equal length. Arrays know no
null, so every user feature travels with a second column, its state: given (`VALUE`), null
(`NULL`), or absent (`ABSENT`: not given by the request, then not known of the user). The states
of a row without a value are the indices NVTabular's Categorify reserves for null and
out-of-vocabulary, so an encoder passes them on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ServingError

VALUE, NULL, ABSENT = 0, 1, 2

K, FILTER_SEEN = "k", "filter_seen"
SCORE = "score"

Table = dict[str, np.ndarray]

NUMPY_DTYPES = {
    "INT64": np.dtype("int64"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
    "BYTES": np.dtype("object"),
}


class RequestError(ServingError):
    """The request is wrong; the message names the input or the parameter. Answered as 400."""


def state_of(feature: str) -> str:
    """The name of a feature's state column."""
    return f"{feature}__state"


def filler(dtype: str) -> Any:
    """What stands in a feature's column where its state says that there is no value."""
    return "" if dtype == "BYTES" else NUMPY_DTYPES[dtype].type(0)


@dataclass(frozen=True)
class Contract:
    """Names, types and limits of requests and answers.

    Attributes
    ----------
    user_id, item_id : names of the input and of the output that hold raw ids
    features : optional inputs, name -> Triton data type
    default_k, max_k : the request parameter `k`
    """

    user_id: str
    item_id: str
    features: dict[str, str]
    default_k: int
    max_k: int

    def read(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> Table:
        """One request as a table of n rows; strings decoded.

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
        for name, dtype in self.features.items():
            if name in inputs:
                values = _column(name, inputs[name], dtype, rows)
                state = np.full(rows, VALUE, np.int8)
                if dtype.startswith("FP"):
                    null = np.isnan(values)
                    values, state[null] = np.where(null, filler(dtype), values), NULL
            else:
                values = np.full(rows, filler(dtype), NUMPY_DTYPES[dtype])
                state = np.full(rows, ABSENT, np.int8)
            table[name], table[state_of(name)] = values, state
        table[K] = np.full(rows, k, np.int64)
        table[FILTER_SEEN] = np.full(rows, filter_seen, bool)
        return table

    def _parameters(self, parameters: Mapping[str, Any]) -> tuple[int, bool]:
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


def _column(name: str, array: np.ndarray, dtype: str, rows: int | None = None) -> np.ndarray:
    """An input tensor [n, 1] as a column [n]."""
    if array.ndim != 2 or array.shape[1] != 1 or not array.shape[0]:
        raise RequestError(f"input '{name}' has shape {list(array.shape)}; expected [n, 1], n >= 1")
    if rows is not None and len(array) != rows:
        raise RequestError(f"input '{name}' has {len(array)} rows, the user ids have {rows}")
    if array.dtype != NUMPY_DTYPES[dtype]:
        raise RequestError(f"input '{name}' is {array.dtype}; expected {dtype}")
    column = array[:, 0]
    if dtype == "BYTES":
        return _decode(name, column)
    if dtype.startswith("FP") and np.isinf(column).any():
        row = int(np.flatnonzero(np.isinf(column))[0])
        raise RequestError(f"input '{name}', row {row}: infinite; use NaN for an unknown value")
    return column


def _decode(name: str, column: np.ndarray) -> np.ndarray:
    decoded = np.empty(len(column), object)
    for row, value in enumerate(column):
        try:
            decoded[row] = bytes(value).decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"input '{name}', row {row}: not UTF-8 ({error})") from error
    return decoded
