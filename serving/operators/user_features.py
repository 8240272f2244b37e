"""The features of each user: those that the request gives, else those of the user table."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import ColumnSelector
from merlin.schema import Schema
from merlin.table import TensorTable

from twotower.serving.operators.base import ServedOperator, split_rows
from twotower.serving.runtime.arrays import first_values, save_column
from twotower.serving.runtime.contract import (
    ABSENT,
    FILLER,
    NULL,
    VALUE,
    count_of,
    row_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.tensors import NO_VALUE, NUMPY_DTYPES
from twotower.serving.vocabularies import NO_NAMES

NO_VECTORS: Mapping[str, np.ndarray] = MappingProxyType({})


class UserFeatures(ServedOperator):
    """Takes the features that a request does not give from the user table.

    Features of the context are not in the table: only a request can give them.

    Parameters
    ----------
    users : pandas.DataFrame
        One row per user. Columns other than the id and the features are ignored.
    user_id : str
        Name of the id column, int64.
    features : list of str
        Names of the raw feature columns: integers, floats, strings, or lists of them. Nulls are
        allowed; a null list is an empty list. Those of the context are among them.
    lists : mapping of str to int, optional
        List feature -> number of values kept per row.
    names : mapping of str to str, optional
        Feature -> its name in requests, where the two differ.
    context : pandas.DataFrame, optional
        The features of the context, as columns of their types; its rows are ignored.
    vectors : mapping of str to ndarray of float32, shape (n_users, length), optional
        Further list features: the pretrained vectors of the rows of `users`. A row of zeros is an
        empty list: the user has no vector.
    """

    def __init__(
        self,
        users: pd.DataFrame,
        user_id: str,
        features: list[str],
        lists: Mapping[str, int] | None = None,
        names: Mapping[str, str] = NO_NAMES,
        context: pd.DataFrame | None = None,
        vectors: Mapping[str, np.ndarray] = NO_VECTORS,
    ) -> None:
        super().__init__()
        self.names = {name: names.get(name, name) for name in [*features, *vectors]}
        self.context = {
            name: _triton_type(context[name], self.names[name])
            for name in features
            if context is not None and name in context
        }
        _check_users(
            users,
            user_id,
            {name: self.names[name] for name in features if name not in self.context},
        )
        order = np.argsort(users[user_id].to_numpy(), kind="stable")
        users = users.iloc[order]
        self.user_id = user_id
        self.user_ids = users[user_id].to_numpy(np.int64)
        self.vectors = list(vectors)
        self.lists = {**(lists or {}), **{name: v.shape[1] for name, v in vectors.items()}}
        self.features, self.stored = {}, {}
        for name in features:
            if name in self.context:
                self.features[name] = self.context[name]
                continue
            if name in self.lists:
                stored = _lists(users[name], self.lists[name], self.names[name])
            else:
                stored = _column(users[name], self.names[name])
            self.features[name], self.stored[name] = stored
        for name, matrix in vectors.items():
            self.features[name], self.stored[name] = "FP32", _vectors(name, matrix[order])

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        names = [name for stored in self.stored.values() for name in stored]
        given = [column for name in self.context for column in (name, state_of(name))]
        return input_schema.select_by_name([self.user_id, *names, *given])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        row = columns[row_of(self.user_id)]
        completed = {self.user_id: columns[self.user_id]}
        for name, stored in self.stored.items():
            take = (row < len(self.user_ids)) & (columns[state_of(name)] == ABSENT)
            if name in self.lists:
                known = split_rows(stored[name], stored[count_of(name)])
                given = split_rows(columns[name], columns[count_of(name)])
                lists = [known[row[i]] if take[i] else given[i] for i in range(len(row))]
                completed[name] = np.concatenate(lists)
                completed[count_of(name)] = np.array([len(each) for each in lists])
            for column in stored.keys() - completed:
                completed[column] = columns[column].copy()
                completed[column][take] = stored[column][row[take]]
        for name in self.context:
            completed |= {column: columns[column] for column in (name, state_of(name))}
        return TensorTable(completed)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        stems = {name: f"feature_{position}" for position, name in enumerate(self.stored)}
        for name, stored in self.stored.items():
            save_column(out / stems[name], stored[name])
            np.save(out / f"{stems[name]}.state.npy", stored[state_of(name)])
            if name in self.lists:
                np.save(out / f"{stems[name]}.count.npy", stored[count_of(name)])
        return {
            "user_id": self.user_id,
            "features": stems,
            "dtypes": self.features,
            "lists": list(self.lists),
            "context": self.context,
        }


OBJECTS = {
    "string": "BYTES",
    "empty": "BYTES",
    "integer": "INT64",
    "floating": "FP64",
    "mixed-integer-float": "FP64",
}
"""What pandas infers of a column of objects -> Triton data type."""


def _triton_type(column: pd.Series, name: str) -> str:
    """Return the Triton data type of a raw feature column; `name` is for error messages."""
    types = pd.api.types
    if types.is_bool_dtype(column) or types.is_categorical_dtype(column):
        kind = str(column.dtype)
    elif types.is_integer_dtype(column):
        return "INT64"
    elif types.is_float_dtype(column):
        return "FP32" if column.dtype == np.float32 else "FP64"
    else:
        kind = types.infer_dtype(column, skipna=True)
        if kind in OBJECTS:
            return OBJECTS[kind]
    raise ServingError(
        f"user feature '{name}' is {kind}; the served model takes integers, floats and "
        "strings: convert the column in the user data"
    )


def _column(column: pd.Series, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Return a feature's Triton data type and its stored columns: values and states int8."""
    dtype, null = _triton_type(column, name), column.isna()
    values = column.where(~null, FILLER[dtype]).astype(NUMPY_DTYPES[dtype]).to_numpy()
    state = np.where(null, NULL, VALUE).astype(np.int8)
    return dtype, {column.name: values, state_of(column.name): state}


def _lists(column: pd.Series, length: int, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Return the same for a list feature: values of all rows, counts int64 and states int8."""
    rows = column.where(column.notna(), pd.Series([()] * len(column), column.index))
    for row in rows:
        if not isinstance(row, (list, tuple, np.ndarray)):
            raise ServingError(f"user feature '{name}' holds {row!r}; expected a list")
    every = _every_value(rows)
    dtype = _triton_type(every, name)
    no_value = NO_VALUE[dtype]
    if (every == no_value).any():
        raise ServingError(
            f"user feature '{name}' holds the value {no_value!r}, which means 'no value' in "
            "requests; replace it in the user data"
        )
    # Within a list, both a null and `NO_VALUE` are out of vocabulary.
    values = every.where(every.notna(), no_value).to_numpy(NUMPY_DTYPES[dtype])
    values, counts = first_values(values, np.array([len(row) for row in rows]), length)
    return dtype, {
        column.name: values,
        count_of(column.name): counts,
        state_of(column.name): np.full(len(column), VALUE, np.int8),
    }


def _every_value(rows: pd.Series) -> pd.Series:
    """Return the values of all lists one after another."""
    filled = [row for row in rows if len(row)]
    # Many lists of integers would take a gigabyte as objects.
    if filled and all(isinstance(row, np.ndarray) and row.dtype == np.int64 for row in filled):
        return pd.Series(np.concatenate(filled))
    # As objects, because pandas would convert integers to floats if there is a null among them.
    return pd.Series([*chain.from_iterable(rows)], dtype=object)


def _vectors(name: str, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return the stored columns of vectors float32 [n, length]; see `_lists`."""
    known = matrix.any(axis=1)
    return {
        name: np.ravel(matrix[known]),
        count_of(name): np.where(known, matrix.shape[1], 0),
        state_of(name): np.full(len(matrix), VALUE, np.int8),
    }


def _check_users(users: pd.DataFrame, user_id: str, names: Mapping[str, str]) -> None:
    missing = [names.get(name, name) for name in [user_id, *names] if name not in users]
    if missing:
        raise ServingError(f"the user table has no column '{missing[0]}'")
    if not len(users):
        raise ServingError("the user table is empty")
    if not pd.api.types.is_integer_dtype(users[user_id]) or users[user_id].isna().any():
        raise ServingError(f"'{user_id}' of the user table must be int64 without nulls")
    twice = users[user_id][users[user_id].duplicated()]
    if len(twice):
        raise ServingError(f"user {twice.iloc[0]} occurs more than once in the user table")
