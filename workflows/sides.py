"""The columns of one tower: which there are, whether a table has them so, and their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from workflows.errors import DataError
from workflows.text import words


class Side(NamedTuple):
    """The columns of one tower, all of one table."""

    name: str  # "user" or "item"
    id: str
    categorical: list[str]
    multi_hot: dict[str, int]
    numeric: list[str]
    history: str | None = None  # the one of `multi_hot` that lists the user's own items
    text: Sequence[str] = ()  # those of `multi_hot` that are texts in the table

    @property
    def columns(self) -> list[str]:
        """The id, then the features by kind."""
        return [self.id, *self.categorical, *self.multi_hot, *self.numeric]


def side_rows(table: pd.DataFrame, side: Side) -> pd.DataFrame:
    """The side's columns of its table, checked and of the types that NVTabular wants."""
    _check_table(table, side)
    return typed(table[side.columns], list(side.multi_hot), side.numeric)


def _check_table(table: pd.DataFrame, side: Side) -> None:
    """Every column is there and has the kind of values that its place in the config promises."""
    missing = [column for column in side.columns if column not in table]
    if missing:
        raise DataError(
            f"features: the {side.name}s table has no column {', '.join(missing)}; "
            f"it has {', '.join(table.columns)}"
        )
    for column in side.multi_hot:
        check = _check_texts if column in side.text else _check_lists
        check(table[column].dropna(), side)
    for column in side.numeric:
        where, values = f"features.{side.name}_numeric: column {column}", table[column].dropna()
        if not pd.api.types.is_numeric_dtype(values):
            example = f"{values.iloc[0]!r}, not a number" if len(values) else "no value"
            raise DataError(
                f"{where} has {example}; store numbers, or name it under features.{side.name}"
            )
        infinite = values[np.isinf(values.to_numpy(np.float64))]
        if len(infinite):
            raise DataError(f"{where} has {infinite.iloc[0]}; use null for an unknown value")


def _check_lists(values: pd.Series, side: Side) -> None:
    bad = [value for value in values if not isinstance(value, (list, np.ndarray))]
    if bad:
        has_words = side.name == "item" and isinstance(bad[0], str)
        raise DataError(
            f"features.{side.name}_multi_hot: column {values.name} has {bad[0]!r}, not a list; "
            f"store lists, or name it under features.{side.name}"
            + (" or, for its words, under features.item_text" if has_words else "")
        )


def _check_texts(values: pd.Series, side: Side) -> None:
    bad = [value for value in values if not isinstance(value, str)]
    if bad:
        found, place = repr(bad[0]), f"{side.name} or {side.name}_numeric"
        if isinstance(bad[0], (list, np.ndarray)):
            found, place = "a list", f"{side.name}_multi_hot"
        raise DataError(
            f"features.{side.name}_text: column {values.name} has {found}, not a text; store "
            f"texts, or name it under features.{place}"
        )


def check_training(wide: pd.DataFrame, side: Side) -> None:
    """Every list column has a value, every numeric one two, else there is nothing to learn."""
    for column in side.multi_hot:
        if not any(len(row) for row in wide[column]):
            kind, found = "multi_hot", "only empty lists"
            if column in side.text:
                kind, found = "text", "no word"
            raise DataError(
                f"features.{side.name}_{kind}: column {column} has {found} in the training part; "
                "leave it out"
            )
    for column in side.numeric:
        # By rounding, Normalize may find a tiny deviation and blow other values up with it.
        if wide[column].nunique() < 2:
            raise DataError(
                f"features.{side.name}_numeric: column {column} has no two different values in "
                "the training part; leave it out"
            )


def typed(table: pd.DataFrame, lists: list[str], numbers: list[str]) -> pd.DataFrame:
    """`table` with numbers as float64, a text where a list is due as its words, no list null.

    Only a column of texts has them there: the tables were checked for that.
    """
    columns = {column: table[column].astype(np.float64) for column in numbers}
    for column in lists:
        values = table[column]
        if any(isinstance(value, str) for value in values):
            values = values.map(words, na_action="ignore")
        null = values.isna()
        if null.any():  # NVTabular wants lists
            values = values.where(~null, pd.Series([[]] * len(table), table.index))
        columns[column] = values
    return table.assign(**columns)
