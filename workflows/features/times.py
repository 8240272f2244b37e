"""The features of the time: what is learned for them, and which time is known to a query."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from twotower.workflows.features.config import FeaturesConfig

FIRST_YEAR, LAST_YEAR = 1900, 2100
"""The changes of a time zone are found between these; before and after them it does not change."""


def fit_times(times: np.ndarray, config: FeaturesConfig) -> dict[str, Any]:
    """Learn what `features.time` needs from the times of the training part.

    Parameters
    ----------
    times : ndarray of int64, shape (n,)
        Seconds since 1970.
    config : FeaturesConfig

    Returns
    -------
    dict
        Arguments of `serving.runtime.operators.times.TimeFeatures`, which makes the columns.
    """
    shifts, changes = zone_shifts(config.time_zone)
    return {
        "input": config.time_column,
        "columns": config.time_columns,
        "edges": bucket_edges(times, config.time_buckets),
        "low": int(times.min()),
        "high": int(times.max()),
        "shifts": shifts,
        "changes": changes,
    }


def bucket_edges(times: np.ndarray, buckets: int) -> list[int]:
    """Divide the times into intervals with about equally many rows.

    Parameters
    ----------
    times : ndarray of int64, shape (n,)
    buckets : int
        Number of intervals. There are fewer if many times are equal.

    Returns
    -------
    list of int
        The first time of each interval but the first, ascending.
    """
    in_order = np.sort(times)
    starts = len(times) * np.arange(1, buckets) // buckets
    edges = np.unique(in_order[starts])
    return edges[edges > in_order[0]].tolist()


def zone_shifts(name: str) -> tuple[list[int], list[int]]:
    """Find how far a time zone is ahead of UTC, so that serving needs no data base of zones.

    Parameters
    ----------
    name : str
        An IANA name.

    Returns
    -------
    shifts : list of int
        Seconds ahead of UTC, before the first change and from each.
    changes : list of int
        Seconds since 1970 of the changes, ascending.
    """
    if name == "UTC":
        return [0], []
    zone, epoch = ZoneInfo(name), datetime(1970, 1, 1, tzinfo=timezone.utc)

    def shift(second: int) -> int:
        moment = (epoch + timedelta(seconds=second)).astimezone(zone)
        return int(moment.utcoffset().total_seconds())  # type: ignore[union-attr]

    first, last = (
        int(datetime(year, 1, 1, tzinfo=timezone.utc).timestamp())
        for year in (FIRST_YEAR, LAST_YEAR)
    )
    shifts, changes = [shift(first)], []
    for day in range(first, last, 86_400):
        before, after = day, day + 86_400
        if shift(after) == shifts[-1]:
            continue
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if shift(middle) == shifts[-1] else (before, middle)
        shifts.append(shift(after))
        changes.append(after)
    return shifts, changes


def query_times(pairs: pd.DataFrame, parts: pd.Series, method: str) -> np.ndarray:
    """Say which time the query of each pair has.

    Parameters
    ----------
    pairs : DataFrame
        The columns user_id and timestamp; pairs of equal time in their order.
    parts : Series
        The part of each pair.
    method : str
        The method of the split.

    Returns
    -------
    ndarray of int64, shape (n,)
        Seconds since 1970.

    Notes
    -----
    The query of a training pair has the time of the pair, as a request has the time at which it is
    sent. In the evaluation that is the right time, too, if it is known when a user asks. With
    `leave_last_out` it is not: when the next item happens is a part of what is predicted, and
    published models of next items do not know it. There a query has the time of the user's pair
    before it, the latest that its history has.
    """
    times = pairs[FeaturesConfig.time_column]
    if method != "leave_last_out":
        return times.to_numpy(np.int64)
    users = pairs[FeaturesConfig.user_id]
    before = times.sort_values(kind="stable").groupby(users).shift(fill_value=0)
    return times.where(parts == "train", before).to_numpy(np.int64)
