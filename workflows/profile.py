"""Describe interactions in numbers: how many, how dense, how long, how much of them is new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field

from twotower.workflows.stored import Rows

DAY = 86_400
FIRST_TIME = 10**8
"""Smaller times, in seconds since 1970, are places in an order: no log is from before 1973."""
LATE_SHARE = 0.1
"""The part at the end of the log in which `Profile.new_users` and `new_items` are counted."""
MAX_PAIRS = 1 << 24
"""Interactions whose pairs `stored_profile` compares at a time: some 400 MB."""


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
    counts = _Counts(int(user_codes.max()) + 1, int(item_codes.max()) + 1)
    counts.add(user_codes, item_codes)
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
    return counts.profile(**late)


def stored_profile(rows: Rows, users: np.ndarray, items: np.ndarray) -> Profile:
    """Describe interactions that may not fit in memory, without their times.

    Parameters
    ----------
    rows : Rows
        With the columns user_id and item_id, int64.
    users, items : ndarray of int64
        The different ids of each column, ascending.

    Returns
    -------
    Profile

    Notes
    -----
    Pairs are counted for some of the users at a time, because repeated ones can be anywhere.
    """
    counts = _Counts(len(users), len(items))
    parts = -(-len(rows) // MAX_PAIRS)
    for part in range(parts):
        blocks = []
        for batch in rows.batches(["user_id", "item_id"]):
            pairs = np.stack([batch[name].to_numpy() for name in ("user_id", "item_id")])
            blocks.append(pairs[:, pairs[0] % parts == part])
        user_ids, item_ids = np.concatenate(blocks, axis=1)
        counts.add(np.searchsorted(users, user_ids), np.searchsorted(items, item_ids))
    return counts.profile()


class _Counts:
    """How often users, items and pairs of them occur.

    Parameters
    ----------
    n_users, n_items : int
    """

    def __init__(self, n_users: int, n_items: int):
        self.rows, self.pairs = 0, 0
        self.items_of_user = np.zeros(n_users, np.int64)
        self.users_of_item = np.zeros(n_items, np.int64)
        self.rows_of_item = np.zeros(n_items, np.int64)

    def add(self, users: np.ndarray, items: np.ndarray) -> None:
        """Count interactions: numbers from 0, int64 [n]. A user's rows must be added at once."""
        n_users, n_items = len(self.items_of_user), len(self.users_of_item)
        pairs = users * n_items + items
        pairs.sort()
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])] if len(pairs) else pairs
        self.rows += len(users)
        self.pairs += len(pairs)
        self.items_of_user += np.bincount(pairs // n_items, minlength=n_users)
        self.users_of_item += np.bincount(pairs % n_items, minlength=n_items)
        self.rows_of_item += np.bincount(items, minlength=n_items)

    def profile(self, **times: Any) -> Profile:
        """Return the profile; `times` are its fields on the time."""
        per_user, per_item = self.items_of_user, self.users_of_item
        most = np.sort(self.rows_of_item)[::-1][: max(len(per_item) // 10, 1)]
        return Profile(
            rows=self.rows,
            users=len(per_user),
            items=len(per_item),
            repeats=self.rows - self.pairs,
            density=self.pairs / (len(per_user) * len(per_item)),
            per_user=float(np.median(per_user)),
            per_item=float(np.median(per_item)),
            single_users=float((per_user == 1).mean()),
            single_items=float((per_item == 1).mean()),
            top_items=float(most.sum() / self.rows),
            **times,
        )


def _new_share(codes: np.ndarray, is_late: np.ndarray) -> float:
    """Return the share of the late rows whose code has no other row."""
    known = np.zeros(codes.max() + 1, dtype=bool)
    known[codes[~is_late]] = True
    return float((~known[codes[is_late]]).mean())
