"""Caches the query vectors of known users, and of users with events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contract import ABSENT, Table, state_of

MAX_USERS = 1 << 14
"""Largest number of cached users: 4 MB at 64 dimensions. The oldest entry is replaced first."""
NO_SLOT = -1
MIN_GROWTH = 1024
"""Smallest number of users with events for whom room is made."""


class VectorCache:
    """The most recently computed query vectors, by row of the user table.

    A vector depends only on the user's row and on the tower, neither of which changes within a
    version. A user with events has a row of their own, beyond the table, which is forgotten at each
    event. Requests that give features neither read nor write the cache. The memory of the vectors
    is allocated at the first `put`, during warm-up, and does not grow.

    Parameters
    ----------
    features : sequence of str
        Names of the features that a request may give.
    users : int
        Number of rows of the user table; also the row of unknown users.

    Attributes
    ----------
    users_found : int
        Number of users answered from the cache.
    """

    vectors: np.ndarray  # float32 [slots, D], allocated by `put`

    def __init__(self, features: Sequence[str], users: int) -> None:
        self.states, self.users = [state_of(name) for name in features], users
        self.slots = np.full(users + 1, NO_SLOT, np.int32)  # by row: the slot of its vector
        self.rows = np.full(min(MAX_USERS, users), users)  # by slot: the row whose vector it holds
        self.next = 0
        self.users_found = 0

    def get(self, table: Table, rows: np.ndarray) -> np.ndarray | None:
        """Return the vectors float32 [n, D] of rows int64 [n], or None if one is not cached.

        The row of a user with events is that of `row_of_slot`.
        """
        for state in self.states:
            if state in table:
                return None
        slots = self.slots.take(rows)
        if NO_SLOT in slots.tolist():
            return None
        self.users_found += len(rows)
        return self.vectors.take(slots, axis=0)

    def put(self, table: Table, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Cache the vectors [n, D] of known users for whom the request gives no feature."""
        if not hasattr(self, "vectors"):
            self.vectors = np.full((len(self.rows), vectors.shape[1]), 0, np.float32)
        keep = (rows != self.users) & (self.slots[rows] == NO_SLOT)
        for state in self.states:
            if state in table:
                keep &= table[state] == ABSENT
        fresh, position = np.unique(rows[keep], return_index=True)
        fresh, position = fresh[: len(self.rows)], position[: len(self.rows)]
        slots = (self.next + np.arange(len(fresh))) % len(self.rows)
        self.slots[self.rows[slots]] = NO_SLOT
        self.slots[fresh], self.rows[slots] = slots, fresh
        self.vectors[slots] = vectors[keep][position]
        self.next = (self.next + len(fresh)) % len(self.rows)

    def row_of_slot(self, slots: np.ndarray) -> np.ndarray:
        """Return the rows of users with events, by their slots int64 [n]."""
        return self.users + 1 + slots

    def forget(self, slot: int) -> None:
        """Drop the vector of a user with events; make room for the user if it is a new one."""
        row = self.users + 1 + slot
        if row < len(self.slots):
            self.slots[row] = NO_SLOT
        else:
            more = np.full(max(MIN_GROWTH, len(self.slots) // 2), NO_SLOT, np.int32)
            self.slots = np.append(self.slots, more)
