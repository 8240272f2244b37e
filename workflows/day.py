"""The data of a day merged with the tables before, and checks that it looks like them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.sides import Side
from twotower.workflows.tables import Tables, frame

MIN_ROWS = 20
"""Minimum number of known rows for the check."""
MIN_SHARE = 0.5
"""Share of changed columns from which a row counts as another entity."""
SMALL_CHANGE = 0.1
"""Change of a number, relative to the typical range, that is ignored."""


class Day(NamedTuple):
    """The tables before a day, what the day has, and both merged.

    appended : how many interactions are new, the last rows of the merged ones
    """

    before: Tables
    new: Tables
    merged: Tables
    appended: int


def suspicions(
    day: Day,
    features: FeaturesConfig,
    positives: PositivesConfig,
    max_changed: float,
    max_shift: float,
) -> list[str]:
    """Suspected mistakes in a day's data, one sentence with figures per mistake.

    Two mistakes are looked for before the model learns from the data:

    - ids that were numbered anew: more than the share `max_changed` of the known users (or items)
      in the day's interactions have other values than before in at least half of their columns.
      A day without interactions may list only changed users (or items): the share is then one of
      all known ones.
    - numbers in another unit: the median of the day's new or changed values of a feature in
      `user_numeric` or `item_numeric`, or of `positives.column`, lies outside the range of the
      values before (without 1 % at either end) by more than `max_shift` times its width.
    """
    found = []
    for side, name in zip(features.sides, ("users", "items"), strict=True):
        rows = _Rows(side, *(getattr(each, name) for each in day[:3]))
        found += rows.changed(name, day.new.interactions, max_changed)
        for column in side.numeric:
            found += _shifted(f"{name}: column {column}", *rows.numbers(column), max_shift)
    if positives.column in day.new.interactions.column_names:
        tables = (day.before.interactions, day.new.interactions)
        numbers = [_numbers(table[positives.column].to_pandas()) for table in tables]
        found += _shifted(f"interactions: column {positives.column}", *numbers, max_shift)
    return found


class _Rows:
    """The rows of a table that a day has: the known ones before and after, and the new ones."""

    def __init__(self, side: Side, before: pa.Table, new: pa.Table, merged: pa.Table):
        self.side, self.table = side, before
        ids = new[0].to_numpy()
        known = np.isin(ids, before[0].to_numpy())
        self.ids = ids[known]
        self.before, self.after = (_of(table, self.ids) for table in (before, merged))
        self.new = _of(merged, ids[~known])
        # Of all columns but the id: whether a known row has another value now.
        self.differ = {
            column: self._differs(column) for column in before.column_names if column != side.id
        }

    def changed(self, name: str, interactions: pa.Table, max_changed: float) -> list[str]:
        """The sentence on rows that describe another entity, if there are too many."""
        if not self.differ:
            return []
        share = np.mean(list(self.differ.values()), axis=0)
        wholly, total = share >= MIN_SHARE, len(self.table)
        if len(interactions):
            named = np.isin(self.ids, interactions[self.side.id].to_numpy())
            wholly, total = wholly & named, int(named.sum())
        count = int(wholly.sum())
        if total < MIN_ROWS or count <= max_changed * total:
            return []
        row = int(wholly.argmax())
        column = next(column for column, differ in self.differ.items() if differ[row])
        return [
            f"{name}: {count:,} of {total:,} known ones have other values than before in half of "
            f"their columns or more ({count / total:.0%}; update.max_changed is "
            f"{max_changed:.0%}), such as {self.side.id} {self.ids[row]}: {column} was "
            f"{_shown(self.before[column][row])}, is {_shown(self.after[column][row])}. Were the "
            "ids numbered anew?"
        ]

    def numbers(self, column: str) -> tuple[pd.Series, pd.Series]:
        """The values before, and the day's: of new rows and of those that have another value."""
        changed = _numbers(self.before[column]) != _numbers(self.after[column])
        fresh = [_numbers(self.after[column])[changed], _numbers(self.new[column])]
        return self._all(column), pd.concat(fresh)

    def _all(self, column: str) -> pd.Series:
        return _numbers(frame(self.table.select([column]))[column])

    def _differs(self, column: str) -> np.ndarray:
        before, after = self.before[column], self.after[column]
        if pa.types.is_nested(self.table.schema.field(column).type):
            pairs = zip(before, after, strict=True)
            return np.array([not _equal(*pair) for pair in pairs], bool)
        differ = before.isna() != after.isna()
        if column in self.side.numeric:
            low, high = _typical(self._all(column).dropna())
            apart = (_numbers(before) - _numbers(after)).abs()
            return (differ | (apart > SMALL_CHANGE * (high - low))).to_numpy(bool)
        both = before.notna() & after.notna()
        differ[both] = (before[both] != after[both]).to_numpy(bool)
        return differ.to_numpy(bool)


def _shifted(where: str, before: pd.Series, fresh: pd.Series, max_shift: float) -> list[str]:
    """The sentence on numbers far outside the range of those before, if they are."""
    before, fresh = before.dropna(), fresh.dropna()
    if not len(before) or not len(fresh):
        return []
    low, high = _typical(before)
    middle = fresh.median()
    shift = max(low - middle, middle - high) / ((high - low) or (before.max() - before.min()) or 1)
    if shift <= max_shift:
        return []
    return [
        f"{where}: the {len(fresh):,} new values have the median {middle:,.6g}, from "
        f"{fresh.min():,.6g} to {fresh.max():,.6g}; those before lie typically between {low:,.6g} "
        f"and {high:,.6g}, a range whose width the median lies {shift:,.1f} times away from it "
        f"(update.max_shift is {max_shift:g}). Are they in another unit?"
    ]


def _typical(values: pd.Series) -> tuple[float, float]:
    """The range of 98 % of the values."""
    low, high = np.quantile(values, [0.01, 0.99]) if len(values) else (0.0, 0.0)
    return float(low), float(high)


def _numbers(column: pd.Series) -> pd.Series:
    return column.astype(np.float64)


def _of(table: pa.Table, ids: np.ndarray) -> pd.DataFrame:
    """The rows of `ids` in a table that has them, by ascending id."""
    return frame(table.take(np.searchsorted(table[0].to_numpy(), ids)))


def _equal(one: object, other: object) -> bool:
    """Whether two lists have the same values, or both are null."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        a == b or (pd.isna(a) and pd.isna(b)) for a, b in zip(one, other, strict=True)
    )


def _shown(value: object) -> str:
    return repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
