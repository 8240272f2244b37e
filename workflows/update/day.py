"""Check the data of an update against the tables before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.availability import AVAILABLE, is_available
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.sides import Side
from twotower.workflows.ids import Ids, RunIds
from twotower.workflows.sources.findings import Finding
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables, frame

MIN_ROWS = 20
"""Minimum number of known rows for the check of changed rows."""
MIN_SHARE = 0.5
"""Minimum share of changed columns for a row to count as describing another user or item."""
SMALL_CHANGE = 0.1
"""Maximum change of a number, as a share of its typical range, that is ignored."""


class Day(NamedTuple):
    """The data of an update.

    Attributes
    ----------
    before, merged : StoredTables
        The tables before, and with the new rows.
    new : Tables
        The new rows.
    appended : int
        The number of new interactions, which are the last rows of the merged ones.
    ids : RunIds
        The ids of the merged tables.
    findings : sequence of Finding
        What was found in the new data.
    """

    before: StoredTables
    new: Tables
    merged: StoredTables
    appended: int
    ids: RunIds
    findings: Sequence[Finding] = ()


def suspicions(
    day: Day,
    features: FeaturesConfig,
    positives: PositivesConfig,
    max_changed: float,
    max_shift: float,
) -> list[str]:
    """Look for likely mistakes in the data of an update, before the model is fitted on it.

    Parameters
    ----------
    day : Day
    features : FeaturesConfig
    positives : PositivesConfig
    max_changed : float
        Maximum share of the known users (or items) in the new interactions whose new row differs
        in at least half of its columns; more suggests that ids were renumbered. Without new
        interactions, it is the share of all known users (or items). Also the maximum share of the
        items that are withdrawn.
    max_shift : float
        Maximum distance between the median of the new or changed values of a numeric feature, of
        `positives.column` or of `positives.weight`, and the range of the values before (without 1 %
        at either end), in widths of that range; more suggests another unit.

    Returns
    -------
    list of str
        One sentence with figures per likely mistake.
    """
    found = _describe_withdrawn(day, max_changed)
    for side in features.sides:
        name = f"{side.name}s"
        rows = _Rows(
            side,
            before=getattr(day.before, name),
            new=getattr(day.new, name),
            merged=getattr(day.merged, name),
            names=getattr(day.ids, name),
        )
        found += rows.describe_changed(day.new.interactions, max_changed)
        for column in side.numeric:
            found += _describe_shift(
                f"{name}: column {column}",
                before=rows.numbers_before(column),
                new=rows.new_numbers(column),
                max_shift=max_shift,
            )
    # A column with `positives.values` has categories.
    compared = [
        None if positives.values else positives.column,
        positives.weight,
        *features.context_numeric,
    ]
    for shown in dict.fromkeys(compared):
        if shown is not None and shown in day.new.interactions.column_names:
            found += _describe_shift(
                f"interactions: column {shown}",
                before=_numbers(day.before.interactions[shown].to_pandas()),
                new=_numbers(day.new.interactions[shown].to_pandas()),
                max_shift=max_shift,
            )
    return found


def _describe_withdrawn(day: Day, max_changed: float) -> list[str]:
    """Describe the withdrawn items, if there are too many."""
    before, after = (is_available(tables.items) for tables in (day.before, day.merged))
    known = np.isin(day.merged.items["item_id"].to_numpy(), day.before.items["item_id"].to_numpy())
    count, total = int((before & ~after[known]).sum()), int(before.sum())
    if total < MIN_ROWS or count <= max_changed * total:
        return []
    return [
        f"items: {count:,} of {total:,} are withdrawn ({count / total:.0%}; update.max_changed is "
        f"{max_changed:.0%}). Is the catalogue complete?"
    ]


class _Rows:
    """The users (or items) in the new data: known ones, before and after, and new ones."""

    def __init__(self, side: Side, before: pa.Table, new: pa.Table, merged: pa.Table, names: Ids):
        self.side, self.table, self.names = side, before, names
        ids = new[0].to_numpy()
        known = np.isin(ids, before[0].to_numpy())
        self.ids = ids[known]
        self.before, self.after = (_rows_of(table, self.ids) for table in (before, merged))
        self.new = _rows_of(merged, ids[~known])
        # Per column except the id: whether the value of each known row has changed.
        self.differ = {
            column: self._differs(column)
            for column in before.column_names
            if column not in (side.id, AVAILABLE)
        }

    def describe_changed(self, interactions: pa.Table, max_changed: float) -> list[str]:
        """Describe the rows that seem to be of another user or item, if there are too many."""
        if not self.differ:
            return []
        share = np.mean(list(self.differ.values()), axis=0)
        changed, total = share >= MIN_SHARE, len(self.table)
        if len(interactions):
            named = np.isin(self.ids, interactions[self.side.id].to_numpy())
            changed, total = changed & named, int(named.sum())
        count = int(changed.sum())
        if total < MIN_ROWS or count <= max_changed * total:
            return []
        row = int(changed.argmax())
        column = next(column for column, differ in self.differ.items() if differ[row])
        shown_id = _shown(self.names.decode(self.ids[[row]])[0])
        return [
            f"{self.side.name}s: {count:,} of {total:,} known ones have other values than before "
            f"in half of their columns or more ({count / total:.0%}; update.max_changed is "
            f"{max_changed:.0%}), such as {self.side.id} {shown_id}: {column} was "
            f"{_shown(self.before[column][row])}, is {_shown(self.after[column][row])}. Were the "
            "ids renumbered?"
        ]

    def numbers_before(self, column: str) -> pd.Series:
        """All values of a column before."""
        return _numbers(frame(self.table.select([column]))[column])

    def new_numbers(self, column: str) -> pd.Series:
        """The changed values of known rows, and the values of new rows."""
        after = _numbers(self.after[column])
        changed = _numbers(self.before[column]) != after
        return pd.concat([after[changed], _numbers(self.new[column])])

    def _differs(self, column: str) -> np.ndarray:
        before, after = self.before[column], self.after[column]
        if column in self.side.vectors:
            pairs = zip(before, after, strict=True)
            return np.array([not np.array_equal(one, other) for one, other in pairs], bool)
        if pa.types.is_nested(self.table.schema.field(column).type):
            pairs = zip(before, after, strict=True)
            return np.array([not _equal(one, other) for one, other in pairs], bool)
        differ = before.isna() != after.isna()
        if column in self.side.numeric:
            low, high = _typical_range(self.numbers_before(column).dropna())
            change = (_numbers(before) - _numbers(after)).abs()
            return (differ | (change > SMALL_CHANGE * (high - low))).to_numpy(bool)
        both = before.notna() & after.notna()
        differ[both] = (before[both] != after[both]).to_numpy(bool)
        return differ.to_numpy(bool)


def _describe_shift(where: str, before: pd.Series, new: pd.Series, max_shift: float) -> list[str]:
    """Describe new numbers that are far outside the range of those before, if they are."""
    before, new = before.dropna(), new.dropna()
    if not len(before) or not len(new):
        return []
    low, high = _typical_range(before)
    median = new.median()
    width = (high - low) or (before.max() - before.min()) or 1
    shift = max(low - median, median - high) / width
    if shift <= max_shift:
        return []
    return [
        f"{where}: the {len(new):,} new values have the median {median:,.6g}, from "
        f"{new.min():,.6g} to {new.max():,.6g}; those before are typically between {low:,.6g} "
        f"and {high:,.6g}. The median is outside that range by {shift:,.1f} times its width "
        f"(update.max_shift is {max_shift:g}). Are the new values in another unit?"
    ]


def _typical_range(values: pd.Series) -> tuple[float, float]:
    """The range of the middle 98 % of the values."""
    low, high = np.quantile(values, [0.01, 0.99]) if len(values) else (0.0, 0.0)
    return float(low), float(high)


def _numbers(column: pd.Series) -> pd.Series:
    return column.astype(np.float64)


def _rows_of(table: pa.Table, ids: np.ndarray) -> pd.DataFrame:
    """The rows of `ids` in a table that is sorted by id and contains all of them."""
    return frame(table.take(np.searchsorted(table[0].to_numpy(), ids)))


def _equal(one: Sequence[Any] | None, other: Sequence[Any] | None) -> bool:
    """Whether two lists have the same values, or both are null."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        a == b or (pd.isna(a) and pd.isna(b)) for a, b in zip(one, other, strict=True)
    )


def _shown(value: object) -> str:
    return repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
