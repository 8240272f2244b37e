"""Features of a time: the arithmetic that training and the served model have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds since 1970 at the begin of the year 1 and at the end of the year 9999."""


class TimeFeatures:
    """Makes columns from times: int64 for categories, float64 for `number`.

    Parameters
    ----------
    input : str
        Name of the times in requests.
    columns : mapping of str to str
        Kind, a key of `KINDS`, to the name of its column.
    edges : sequence of int
        Ascending times. A bucket begins at each, inclusive; the first one has no begin and the last
        one no end.
    low, high : int
        Smallest and largest `number`; other times are replaced by the nearer one.
    shifts : sequence of int
        Seconds that the time zone is ahead of UTC, before the first of `changes` and from each.
    changes : sequence of int
        Ascending times at which this difference changes.
    """

    def __init__(
        self,
        input: str,
        columns: Mapping[str, str],
        edges: Sequence[int],
        low: int,
        high: int,
        shifts: Sequence[int],
        changes: Sequence[int],
    ) -> None:
        self.input, self.columns, self.low, self.high = input, columns, low, high
        self.edges = np.array(edges, np.int64)
        self.shifts, self.changes = np.array(shifts, np.int64), np.array(changes, np.int64)

    def encode(self, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns [n] of times, in seconds since 1970, int64 [n].

        Monday is day 0, January is month 1.
        """
        local = seconds + self.shifts[np.searchsorted(self.changes, seconds, side="right")]
        return {column: KINDS[kind](self, seconds, local) for kind, column in self.columns.items()}


def _hour_of_day(features: TimeFeatures, seconds: np.ndarray, local: np.ndarray) -> np.ndarray:
    return local // 3600 % 24


def _day_of_week(features: TimeFeatures, seconds: np.ndarray, local: np.ndarray) -> np.ndarray:
    return (local // 86_400 + 3) % 7  # 1 January 1970 was a Thursday


def _month(features: TimeFeatures, seconds: np.ndarray, local: np.ndarray) -> np.ndarray:
    months = local.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    return months % 12 + 1


def _bucket(features: TimeFeatures, seconds: np.ndarray, local: np.ndarray) -> np.ndarray:
    return features.edges.searchsorted(seconds, side="right")


def _number(features: TimeFeatures, seconds: np.ndarray, local: np.ndarray) -> np.ndarray:
    return np.clip(seconds, features.low, features.high).astype(np.float64)


KINDS: Mapping[str, Callable[[TimeFeatures, np.ndarray, np.ndarray], np.ndarray]] = {
    "hour_of_day": _hour_of_day,
    "day_of_week": _day_of_week,
    "month": _month,
    "bucket": _bucket,
    "number": _number,
}
"""Kind -> its values [n] from seconds since 1970, int64 [n], in UTC and in the time zone."""
