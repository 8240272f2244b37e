"""Choose how the positives are split, so that valid and test are large enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from twotower.pipelines.errors import ConfigError
from twotower.workflows.errors import DataError
from twotower.workflows.order import ORDER
from twotower.workflows.profile import DAY, FIRST_TIME
from twotower.workflows.split import SplitConfig, split

MIN_PART = 50
"""Positives that valid and test should have at least, of users with training positives."""
MIN_KNOWN = 0.5
MIN_DAYS = 2
MAX_TIES = 0.5
"""Share of users whose last two positives have the same time, above which these are baskets."""


class Split(NamedTuple):
    """How the positives are split, and why."""

    method: str
    reason: str


def choose_split(
    users: np.ndarray,
    items: np.ndarray,
    seconds: np.ndarray | None,
    order: np.ndarray | None = None,
) -> tuple[Split, int]:
    """Choose the method of the split.

    Parameters
    ----------
    users, items : ndarray of int64, shape (n,)
        The codes of the positives.
    seconds : ndarray of int64, shape (n,), optional
        Their times.
    order : ndarray of float64, shape (n,), optional
        Their order, if they have no times.

    Returns
    -------
    split : Split
    positives : int
        The number of different pairs.

    Raises
    ------
    ConfigError
        If no method leaves something to validate and to test on.
    """
    rows = pd.DataFrame({"user_id": users, "item_id": items})
    if seconds is not None:
        rows["timestamp"] = seconds
    if order is not None:
        rows[ORDER] = order
    smallest: dict[Split, int] = {}
    for choice in _preferred(rows):
        try:
            smallest[choice] = _smallest_part(rows, choice.method)
        except DataError:  # too many positives have the same time
            continue
        if smallest[choice] >= MIN_PART:
            break
    best = max(smallest, key=lambda each: smallest[each])
    if not smallest[best]:
        raise ConfigError(
            "nothing is left to validate and test on: no user has three different items. Each user "
            "may be a visit or an order: name the column of the person, --user COLUMN"
        )
    return best, len(rows.drop_duplicates(["user_id", "item_id"]))


def _smallest_part(rows: pd.DataFrame, method: Any) -> int:
    """Count the positives of the smaller of valid and test, of users with training positives.

    0 if these are few of the part: it would mostly measure what unknown users get.
    """
    parts = split(rows, SplitConfig(method=method))
    known = parts["user_id"].isin(parts.loc[parts["part"] == "train", "user_id"])
    sizes = []
    for part in ("valid", "test"):
        inside = parts["part"] == part
        enough = (inside & known).sum() >= MIN_KNOWN * inside.sum()
        sizes.append(int((inside & known).sum()) if enough else 0)
    return min(sizes)


def _preferred(rows: pd.DataFrame) -> list[Split]:
    """Return the methods that fit, the best first."""
    randomly = Split("random", "each user's positives are split at random, 80:10:10")
    last = Split("leave_last_out", "each user's last item is test, the one before it valid")
    if ORDER in rows:
        return [last, randomly._replace(reason=f"few users have three items, so {randomly.reason}")]
    if "timestamp" not in rows:
        return [randomly._replace(reason=f"there is no time, so {randomly.reason}")]
    times = rows["timestamp"].to_numpy()
    if times.max() >= FIRST_TIME and times.max() - times.min() < MIN_DAYS * DAY:
        reason = f"the times span less than {MIN_DAYS} days, so {randomly.reason}"
        return [randomly._replace(reason=reason)]
    few = f"splits by time leave too few positives of known users, so {randomly.reason}"
    randomly = randomly._replace(reason=few)
    cut = Split("temporal", "the last tenth of the time is test, the tenth before it valid")
    ties = _ties(rows)
    if ties > MAX_TIES:
        reason = f"{ties:.0%} of the users have baskets, several items at one time, so {cut.reason}"
        return [cut._replace(reason=reason), randomly]
    return [last, cut, randomly]


def _ties(rows: pd.DataFrame) -> float:
    """Return the share of the users with two items or more whose last two have the same time."""
    pairs = rows.drop_duplicates(["user_id", "item_id"], keep="last")
    latest = pairs.sort_values("timestamp", kind="stable").groupby("user_id")["timestamp"].nth
    first, second = latest(-1), latest(-2)
    both = pd.concat([first, second], axis=1, join="inner")
    return float((both.iloc[:, 0] == both.iloc[:, 1]).mean()) if len(both) else 0.0
