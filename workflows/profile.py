"""Describe interactions in numbers: how many, how dense, how long, how much of them is new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field

DAY = 86_400
FIRST_TIME = 10**8
"""Smaller times, in seconds since 1970, are places in an order: no log is from before 1973."""
LATE_SHARE = 0.1
"""The part at the end of the log in which `Profile.new_users` and `new_items` are counted."""


class Profile(BaseModel):
    """What interactions look like, in numbers that decide what a model can learn from them."""

    rows: int = Field(..., description="Interactions.")
    users: int = Field(..., description="Users with interactions.")
    items: int = Field(..., description="Items with interactions.")
    repeats: int = Field(..., description="Rows whose user and item occur in an earlier row.")
    density: float = Field(..., description="Share of all pairs of user and item that occur.")
    per_user: float = Field(..., description="Median number of different items per user.")
    per_item: float = Field(..., description="Median number of different users per item.")
    single_users: float = Field(..., description="Share of the users with one item only.")
    single_items: float = Field(..., description="Share of the items with one user only.")
    top_items: float = Field(
        ..., description="Share of the interactions that the most popular tenth of the items has."
    )
    start: int | None = Field(None, description="First time, in seconds since 1970.")
    end: int | None = Field(None, description="Last time, in seconds since 1970.")
    new_users: float | None = Field(
        None, description="Share of the latest tenth of the rows whose user has no row before."
    )
    new_items: float | None = Field(
        None, description="Share of the latest tenth of the rows whose item has no row before."
    )

    @property
    def days(self) -> float | None:
        """The days between the first and the last interaction; None without real times."""
        if self.start is None or self.end is None or self.end < FIRST_TIME:
            return None
        return (self.end - self.start) / DAY


def profile(users: np.ndarray, items: np.ndarray, seconds: np.ndarray | None = None) -> Profile:
    """Describe interactions in numbers.

    Parameters
    ----------
    users, items : ndarray of int64, shape (n,)
        The ids or codes of each interaction; n is 1 or more.
    seconds : ndarray of int64, shape (n,), optional
        The times.

    Returns
    -------
    Profile

    Examples
    --------
    >>> found = profile(np.array([1, 1, 1, 2]), np.array([7, 8, 8, 7]))
    >>> found.users, found.items, found.repeats, found.density
    (2, 2, 1, 0.75)
    """
    user_codes, item_codes = pd.factorize(users)[0], pd.factorize(items)[0]
    pairs = user_codes * (item_codes.max() + 1) + item_codes
    pairs.sort()
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    per_user = np.bincount(pairs // (item_codes.max() + 1))
    per_item = np.bincount(pairs % (item_codes.max() + 1))
    rows_per_item = np.sort(np.bincount(item_codes))[::-1]
    late: dict[str, Any] = {}
    if seconds is not None:
        first = len(seconds) - max(round(len(seconds) * LATE_SHARE), 1)
        is_late = seconds >= np.partition(seconds, first)[first]
        late = {
            "start": int(seconds.min()),
            "end": int(seconds.max()),
            "new_users": _new_share(user_codes, is_late),
            "new_items": _new_share(item_codes, is_late),
        }
    return Profile(
        rows=len(users),
        users=len(per_user),
        items=len(per_item),
        repeats=len(users) - len(pairs),
        density=len(pairs) / (len(per_user) * len(per_item)),
        per_user=float(np.median(per_user)),
        per_item=float(np.median(per_item)),
        single_users=float((per_user == 1).mean()),
        single_items=float((per_item == 1).mean()),
        top_items=float(rows_per_item[: max(len(per_item) // 10, 1)].sum() / len(users)),
        **late,
    )


def _new_share(codes: np.ndarray, is_late: np.ndarray) -> float:
    """Return the share of the late rows whose code has no other row."""
    known = np.zeros(codes.max() + 1, dtype=bool)
    known[codes[~is_late]] = True
    return float((~known[codes[is_late]]).mean())
