"""Columns of the items, stored so that a predicate is evaluated exactly and fast."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import load_column, save_column
from .predicate import (
    ALL,
    AND,
    EQ,
    EXISTS,
    GT,
    GTE,
    IN,
    LIST,
    LT,
    LTE,
    NE,
    NIN,
    NOT,
    OR,
    Predicate,
)


@dataclass(frozen=True)
class ItemColumn:
    """One column of n items.

    Attributes
    ----------
    kind : str
        See `predicate.parse`.
    values : ndarray, shape (v,)
        The different values, ascending; texts by code point, as str.
    codes : ndarray of int32, shape (n,) or (m,)
        The position of each item's value in `values`; v where there is none. In a column of lists,
        those of all values, one item after the other, ascending and each once.
    starts : ndarray of int64, shape (n + 1,), or None
        Where each item's list starts.
    """

    kind: str
    values: np.ndarray
    codes: np.ndarray
    starts: np.ndarray | None = None

    def having(self, chosen: np.ndarray) -> np.ndarray:
        """Return which items have one of the chosen values; bool [v] -> bool [n]."""
        hits = np.append(chosen, False)[self.codes]
        if self.starts is None:
            return hits
        before = np.append(0, np.cumsum(hits))  # how many hits come before each value
        return before[self.starts[1:]] > before[self.starts[:-1]]

    def between(self, first: int, last: int) -> np.ndarray:
        """Return which items have a value of the positions first <= p < last."""
        positions = np.arange(len(self.values))
        return self.having((positions >= first) & (positions < last))

    def left(self, value: Any) -> int:
        """Return how many of the values are less than `value`."""
        # Compared as numbers of Python, which is exact between whole numbers and floats.
        return bisect_left(self.values, value, key=_plain)

    def right(self, value: Any) -> int:
        """Return how many of the values are `value` or less."""
        return bisect_right(self.values, value, key=_plain)

    def one_of(self, values: tuple[Any, ...]) -> np.ndarray:
        """Return which items have one of some values."""
        chosen = np.zeros(len(self.values), bool)
        for value in values:
            chosen[self.left(value) : self.right(value)] = True
        return self.having(chosen)


class ItemColumns:
    """The columns that a predicate may name, of the items of an index in its order.

    Parameters
    ----------
    columns : mapping of str to ItemColumn
    count : int
        Number of items.
    """

    def __init__(self, columns: Mapping[str, ItemColumn], count: int) -> None:
        self.columns, self.count = dict(columns), count

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column."""
        return {name: column.kind for name, column in self.columns.items()}

    def matching(self, predicate: Predicate) -> np.ndarray:
        """Return which items satisfy a predicate, as bool [n]."""
        operator = predicate.operator
        if operator in (AND, OR):
            parts = [self.matching(part) for part in predicate.parts]
            # Of no parts: `{}` is a predicate that all items satisfy.
            found = np.reshape(parts, (len(parts), self.count))
            return found.all(axis=0) if operator == AND else found.any(axis=0)
        if operator == NOT:
            return ~self.matching(predicate.parts[0])
        return _holds(self.columns[predicate.column], operator, predicate.value)

    def save(self, folder: Path) -> None:
        """Write the columns to an empty or new folder, for `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        # Numbered, because the name of a column may be no name of a file.
        for number, column in enumerate(self.columns.values()):
            save_column(folder / f"{number}.values", column.values)
            np.save(folder / f"{number}.codes.npy", column.codes)
            if column.starts is not None:
                np.save(folder / f"{number}.starts.npy", column.starts)

    @classmethod
    def load(cls, folder: Path, kinds: Mapping[str, str], count: int) -> ItemColumns:
        """Read what `save` wrote; `kinds` are those of `ItemColumns.kinds`, in the same order."""
        columns = {}
        for number, (name, kind) in enumerate(kinds.items()):
            starts = np.load(folder / f"{number}.starts.npy") if kind.endswith(LIST) else None
            codes = np.load(folder / f"{number}.codes.npy")
            columns[name] = ItemColumn(
                kind, load_column(folder / f"{number}.values"), codes, starts
            )
        return cls(columns, count)


def _holds(column: ItemColumn, operator: str, value: Any) -> np.ndarray:
    """Return for which items a condition on a column holds."""
    last = len(column.values)
    if operator in (EQ, NE):
        found = column.one_of((value,))
        return found if operator == EQ else ~found
    if operator in (IN, NIN):
        found = column.one_of(value)
        return found if operator == IN else ~found
    if operator == ALL:
        return np.all([column.one_of((each,)) for each in value], axis=0)
    if operator == EXISTS:
        return column.between(0, last) == value
    first, last = {
        GT: lambda: (column.right(value), last),
        GTE: lambda: (column.left(value), last),
        LT: lambda: (0, column.left(value)),
        LTE: lambda: (0, column.right(value)),
    }[operator]()
    return column.between(first, last)


def _plain(value: Any) -> Any:
    """Return a value of an array as a value of Python."""
    return value.item() if isinstance(value, np.generic) else value
