"""Compares a column of candidates with the same column of the items in a history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..arrays import ranges
from ..filters.columns import ItemColumn

NUMBERS = ("INT64", "UINT64", "FP64")
SMOOTHING = 0.01
"""Added to the shares whose ratio is a feature, so that no logarithm is infinite."""
MAX_VALUES = 1000
"""Most frequent values of a column that are compared; the others count as no value."""


class Profile(Protocol):
    """One column of all items, prepared for the comparison."""

    names: tuple[str, ...]
    """What the features are."""
    arrays: Mapping[str, np.ndarray]
    """All that the profile has learned; its constructor takes them."""

    def fill(
        self, features: np.ndarray, candidates: np.ndarray, history: np.ndarray, users: np.ndarray
    ) -> None:
        """Fill the features of candidates.

        Parameters
        ----------
        features : ndarray of float32, shape (n, c, len(names))
            Zeros, which stay where nothing can be compared.
        candidates : ndarray of int, shape (n, c)
            Positions of items.
        history, users : ndarray of int, shape (m,)
            Positions of the items of the histories, and whose each is: the row of `candidates`.
        """

    def take(self, items: np.ndarray) -> Profile:
        """Return the profile of some of the items, bool [n_items]."""


class NumberProfile:
    """A column of numbers: the value, its distance to the history's mean, and their deviation.

    Parameters
    ----------
    values : ndarray of float32, shape (n_items,)
        Scaled to a mean of 0 and a deviation of 1; NaN if there is no value.
    """

    names = ("value", "value above the history's mean", "deviation of the history's values")

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.arrays = values, {"values": values}

    @classmethod
    def of(cls, column: ItemColumn, weights: np.ndarray) -> NumberProfile:
        """Prepare a column; its mean and deviation are weighted, by float [n_items]."""
        values = np.append(column.values.astype(np.float64), np.nan)[column.codes]
        known = ~np.isnan(values)
        total = weights[known].sum()
        if total == 0:
            return cls(np.where(known, 0, np.nan).astype(np.float32))
        mean = np.average(values[known], weights=weights[known])
        deviation = np.sqrt(np.average((values[known] - mean) ** 2, weights=weights[known]))
        return cls(((values - mean) / (deviation if deviation > 0 else 1)).astype(np.float32))

    def fill(
        self, features: np.ndarray, candidates: np.ndarray, history: np.ndarray, users: np.ndarray
    ) -> None:
        given = self.values[history].astype(np.float64)
        known = ~np.isnan(given)
        given, users, size = given[known], users[known], len(candidates)
        count = np.bincount(users, minlength=size)
        divisor = np.maximum(count, 1)
        mean = np.bincount(users, weights=given, minlength=size) / divisor
        spread = np.bincount(users, weights=(given - mean[users]) ** 2, minlength=size) / divisor
        values = self.values[candidates]
        has_value = ~np.isnan(values)
        np.copyto(features[..., 0], values, where=has_value)
        compared = has_value & (count > 0)[:, None]
        np.copyto(features[..., 1], values - mean[:, None].astype(np.float32), where=compared)
        features[..., 2] = np.sqrt(spread)[:, None]

    def take(self, items: np.ndarray) -> NumberProfile:
        return NumberProfile(self.values[items])


class ValueProfile:
    """A column of other values, or of lists: how much of the history has the candidate's values.

    Parameters
    ----------
    codes : ndarray of int32, shape (m,)
        Values of all items, one item after the other.
    starts : ndarray of int64, shape (n_items + 1,)
        Where each item's values start.
    log_shares : ndarray of float32, shape (v,)
        Logarithm of the share of all positives whose item has each value.
    """

    names = ("share of the history with its values", "log ratio of that share to everybody's")

    def __init__(self, codes: np.ndarray, starts: np.ndarray, log_shares: np.ndarray) -> None:
        self.codes, self.starts, self.log_shares = codes, starts, log_shares
        self.arrays = {"codes": codes, "starts": starts, "log_shares": log_shares}

    @classmethod
    def of(cls, column: ItemColumn, weights: np.ndarray) -> ValueProfile:
        """Prepare a column; the shares are those of items with weights [n_items]."""
        count = len(weights)
        starts = np.arange(count + 1) if column.starts is None else column.starts
        item_of = np.repeat(np.arange(count), np.diff(starts))
        frequency = np.bincount(column.codes, minlength=len(column.values) + 1)[:-1]
        kept = np.sort(np.argsort(-frequency, kind="stable")[:MAX_VALUES])
        new = np.full(len(column.values) + 1, -1, np.int32)
        new[kept] = np.arange(len(kept))
        codes = new[column.codes]
        given = codes >= 0
        counts = np.bincount(item_of[given], minlength=count)
        total = np.bincount(codes[given], weights=weights[item_of[given]], minlength=len(kept))
        share = total / max(weights.sum(), 1)
        return cls(
            codes[given],
            np.append(0, np.cumsum(counts)).astype(np.int64),
            np.log(share + SMOOTHING).astype(np.float32),
        )

    def fill(
        self, features: np.ndarray, candidates: np.ndarray, history: np.ndarray, users: np.ndarray
    ) -> None:
        size, values = len(candidates), len(self.log_shares)
        if not values:
            return
        counts = self._counts(history)
        keys = np.repeat(users, counts) * values + self.codes[ranges(self.starts[history], counts)]
        totals = np.bincount(keys, minlength=size * values).reshape(size, values)
        items = np.bincount(users, minlength=size)
        shares = totals / np.maximum(items, 1)[:, None]
        lifts = np.log(shares + SMOOTHING) - self.log_shares
        flat = candidates.ravel()
        own = self._counts(flat)
        codes = self.codes[ranges(self.starts[flat], own)]
        place = np.repeat(np.arange(len(flat)), own)
        user = place // candidates.shape[1]
        divisor = np.maximum(own, 1)
        compared = (items > 0)[:, None]
        for number, table in enumerate((shares, lifts)):
            sums = np.bincount(place, weights=table[user, codes], minlength=len(flat))
            means = (sums / divisor).reshape(candidates.shape).astype(np.float32)
            np.copyto(features[..., number], means, where=compared)

    def take(self, items: np.ndarray) -> ValueProfile:
        rows = np.flatnonzero(items)
        counts = self._counts(rows)
        codes = self.codes[ranges(self.starts[rows], counts)]
        starts = np.append(0, np.cumsum(counts)).astype(np.int64)
        return ValueProfile(codes, starts, self.log_shares)

    def _counts(self, items: np.ndarray) -> np.ndarray:
        """Return the number of values of each of some items."""
        return self.starts[items + 1] - self.starts[items]


PROFILES: dict[str, type[NumberProfile] | type[ValueProfile]] = {
    "numbers": NumberProfile,
    "values": ValueProfile,
}


def profile_of(column: ItemColumn, weights: np.ndarray) -> NumberProfile | ValueProfile:
    """Prepare a column for comparisons, by its kind."""
    if column.kind in NUMBERS:
        return NumberProfile.of(column, weights)
    return ValueProfile.of(column, weights)
