"""Query vectors of known users, kept while nothing about them can have changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .contract import ABSENT, Table, state_of

MAX_USERS = 1 << 14
"""Largest number of cached users: 4 MB at 64 dimensions. The oldest entry is replaced first."""
NOWHERE = -1


class VectorCache:
    """A vector follows from the user's row in the user table and from the tower.

    Both belong to the version, so the cache lives and dies with the version's process. A request
    that gives features of its own neither reads nor writes it. Its memory is taken at the first
    `put`, which the warm-up does, and does not grow.

    Parameters
    ----------
    features : names of the features a request may give
    users : number of rows of the user table, and so the row that stands for unknown users
    """

    def __init__(self, features: Sequence[str], users: int) -> None:
        self.states, self.users = [state_of(name) for name in features], users
        self.slots = np.full(users + 1, NOWHERE, np.int32)  # by row: where its vector lies
        self.rows = np.full(min(MAX_USERS, users), users)  # by slot: whose vector lies there
        self.vectors: np.ndarray | None = None
        self.next = 0
        self.users_found = 0

    def get(self, table: Table, rows: np.ndarray) -> np.ndarray | None:
        """Vectors float32 [n, D] of the users in rows int64 [n] if all are kept, else None."""
        for state in self.states:
            if state in table:
                return None
        slots = self.slots.take(rows)
        if NOWHERE in slots.tolist():
            return None
        self.users_found += len(rows)
        return self.vectors.take(slots, axis=0)

    def put(self, table: Table, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Keep the vectors [n, D] of the rows that are known users as the user table has them."""
        if self.vectors is None:
            self.vectors = np.full((len(self.rows), vectors.shape[1]), 0, np.float32)
        keep = (rows < self.users) & (self.slots[rows] == NOWHERE)
        for state in self.states:
            if state in table:
                keep &= table[state] == ABSENT
        fresh, position = np.unique(rows[keep], return_index=True)
        fresh, position = fresh[: len(self.rows)], position[: len(self.rows)]
        slots = (self.next + np.arange(len(fresh))) % len(self.rows)
        self.slots[self.rows[slots]] = NOWHERE
        self.slots[fresh], self.rows[slots] = slots, fresh
        self.vectors[slots] = vectors[keep][position]
        self.next = (self.next + len(fresh)) % len(self.rows)
