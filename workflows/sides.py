"""The columns of one tower: which there are, whether a table has them so, and their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from twotower.workflows.errors import DataError
from twotower.workflows.names import internal_name
from twotower.workflows.text import words

MAX_NUMBER = 1e150
NO_VALUE = {-(2**63), "\uffff"}
"""Values that stand for no value in a request's lists: see `serving.runtime.contract`."""


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

    @property
    def internal(self) -> Side:
        """The same columns by their internal names."""
        return self._replace(
            categorical=[internal_name(column) for column in self.categorical],
            multi_hot={internal_name(column): n for column, n in self.multi_hot.items()},
            numeric=[internal_name(column) for column in self.numeric],
            text=[internal_name(column) for column in self.text],
        )


def side_rows(table: pd.DataFrame, side: Side) -> pd.DataFrame:
    """The side's columns of its table, checked, by internal names, typed as NVTabular wants."""
    check_table(table, side)
    rows = typed(table[side.columns], list(side.multi_hot), side.numeric)
    return rows.rename(columns=internal_name)


def check_table(table: pd.DataFrame, side: Side) -> None:
    """Every column is there and has the kind of values that its place in the config promises.

    Raises DataError naming the column, a value and what to do.
    """
    missing = [column for column in side.columns if column not in table]
    if missing:
        raise DataError(
            f"features: the {side.name}s table has no column {', '.join(missing)}; "
            f"it has {', '.join(table.columns)}"
        )
    for column in side.categorical:
        _check_values(table[column], side)
    for column in side.multi_hot:
        check = _check_texts if column in side.text else _check_lists
        check(table[column].dropna(), side)
    for column in side.numeric:
        _check_numbers(table[column].dropna(), side)


def _check_values(values: pd.Series, side: Side) -> None:
    where, known = f"features.{side.name}: column {values.name}", values.notna().to_numpy()
    if not known.any():
        raise DataError(f"{where} has no value in any row; leave it out")
    # One is enough: a column of a parquet file has one type.
    if _is_list(values.iloc[int(known.argmax())]):
        raise DataError(
            f"{where} has lists; name it under features.{side.name}_multi_hot with the number of "
            "values to keep"
        )


def _check_numbers(values: pd.Series, side: Side) -> None:
    where = f"features.{side.name}_numeric: column {values.name}"
    if not len(values):
        raise DataError(f"{where} has no value; leave it out")
    if not pd.api.types.is_numeric_dtype(values):
        kind = f"{side.name}_multi_hot" if _is_list(values.iloc[0]) else side.name
        raise DataError(
            f"{where} has {values.iloc[0]!r}, not a number; store numbers, or name it under "
            f"features.{kind}"
        )
    numbers = values.to_numpy(np.float64)
    largest = numbers[np.abs(numbers).argmax()]
    if np.isinf(largest):
        raise DataError(f"{where} has {largest}; use null for an unknown value")
    if abs(largest) > MAX_NUMBER:
        raise DataError(
            f"{where} has {largest:g}, whose square is no float64; divide the numbers or take "
            "their logarithm"
        )


def _is_list(value: object) -> bool:
    return isinstance(value, (list, np.ndarray))


def _check_lists(values: pd.Series, side: Side) -> None:
    bad = [value for value in values if not _is_list(value)]
    if bad:
        has_words = side.name == "item" and isinstance(bad[0], str)
        raise DataError(
            f"features.{side.name}_multi_hot: column {values.name} has {bad[0]!r}, not a list; "
            f"store lists, or name it under features.{side.name}"
            + (" or, for its words, under features.item_text" if has_words else "")
        )
    rows = [row for row in values if len(row)]
    if not rows:
        return
    numbers = np.concatenate(rows)
    if side.name == "user":
        _check_no_value(numbers, str(values.name))
    if numbers.dtype.kind != "f":
        return
    if (fractions := numbers[numbers % 1 > 0]).size:
        raise DataError(
            f"features.{side.name}_multi_hot: column {values.name} has lists of fractions such as "
            f"{fractions[0]:g}, and each number would be a category. Of a vector store each number "
            f"in a column of its own, under features.{side.name}_numeric; where fractions are "
            "categories, such as sizes, store them as text"
        )


def _check_no_value(values: np.ndarray, column: str) -> None:
    """Refuse a value that a request could not give."""
    if values.dtype.kind in "iu":
        values = values[values == -(2**63)]
    kinds = (int, np.integer, str)
    found = next((each for each in values if isinstance(each, kinds) and each in NO_VALUE), None)
    if found is not None:
        raise DataError(
            f"features.user_multi_hot: column {column} has lists with {found!r}, which stands for "
            "no value in requests; replace it or leave it out"
        )


def _check_texts(values: pd.Series, side: Side) -> None:
    bad = [value for value in values if not isinstance(value, str)]
    if bad:
        found, place = repr(bad[0]), f"{side.name} or {side.name}_numeric"
        if _is_list(bad[0]):
            found, place = "a list", f"{side.name}_multi_hot"
        raise DataError(
            f"features.{side.name}_text: column {values.name} has {found}, not a text; store "
            f"texts, or name it under features.{place}"
        )


def check_training(wide: pd.DataFrame, side: Side) -> None:
    """Every list column has a value, every numeric one two, else there is nothing to learn.

    `wide` has the training part's columns by internal names.
    """
    for column in side.multi_hot:
        if not any(len(row) for row in wide[internal_name(column)]):
            kind, found = "multi_hot", "only empty lists"
            if column in side.text:
                kind, found = "text", "no word"
            raise DataError(
                f"features.{side.name}_{kind}: column {column} has {found} in the training part; "
                "leave it out"
            )
    for column in side.numeric:
        # By rounding, Normalize may find a tiny deviation and blow other values up with it.
        if wide[internal_name(column)].nunique() < 2:
            raise DataError(
                f"features.{side.name}_numeric: column {column} has no two different values in "
                "the training part; leave it out"
            )


def typed(table: pd.DataFrame, lists: list[str], numbers: list[str]) -> pd.DataFrame:
    """`table` with numbers as float64, a text where a list is due as its words, no list null.

    Only a column of texts has them there: the tables were checked for that.
    """
    table = table.copy()
    for column in numbers:
        table[column] = table[column].astype(np.float64)
    for column in lists:
        values = table[column]
        if any(isinstance(value, str) for value in values):
            values = values.map(words, na_action="ignore")
        null = values.isna()
        if null.any():  # NVTabular wants lists
            values = values.where(~null, pd.Series([[]] * len(table), table.index))
        table[column] = values
    return table
