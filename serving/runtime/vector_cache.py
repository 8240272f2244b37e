"""Query vectors of known users, kept while nothing about them can have changed."""

from __future__ import annotations

import numpy as np

from .arrays import find
from .contract import ABSENT, Table, state_of

SLOTS = 1 << 16
"""Users whose vectors are kept: 16 MB at 64 dimensions."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: neighbouring ids fall far apart (Knuth, TAOCP 3, 6.4)."""
CACHED = ("twotower_users_cached_total", "", "")


class VectorCache:
    """One slot a hash value, the latest user in it wins.

    A vector follows from the user's row in the user table and from the tower, both of which belong
    to the version: the cache lives and dies with the version's process. A request that gives
    features of its own neither reads nor writes it.

    Parameters
    ----------
    user_id : name of the column of raw ids
    features : names of the features a request may give
    user_ids : int64 [u], ascending: the known users
    """

    def __init__(self, user_id: str, features: list[str], user_ids: np.ndarray) -> None:
        self.user_id, self.states = user_id, [state_of(name) for name in features]
        self.user_ids = user_ids
        self.keys = np.zeros(SLOTS, np.int64)
        self.filled = np.zeros(SLOTS, bool)
        self.vectors: np.ndarray | None = None
        self.counts = {CACHED: 0}

    def get(self, table: Table) -> np.ndarray | None:
        """Vectors float32 [n, D] if those of all rows are kept, else None."""
        if self.vectors is None or any(table[state].min() != ABSENT for state in self.states):
            return None
        ids = table[self.user_id]
        slots = _slots(ids)
        hit = self.filled[slots] & (self.keys[slots] == ids)
        if not hit.all():
            return None
        self.counts[CACHED] += len(ids)
        return self.vectors[slots]

    def put(self, table: Table, vectors: np.ndarray) -> None:
        """Keep the vectors [n, D] of the rows that are known users as the user table has them."""
        ids = table[self.user_id]
        keep = find(self.user_ids, ids)[1]
        for state in self.states:
            keep &= table[state] == ABSENT
        ids = ids[keep]
        slots = _slots(ids)
        if self.vectors is None:
            self.vectors = np.zeros((SLOTS, vectors.shape[1]), np.float32)
        # Of two users who share a slot, NumPy keeps the last: the same one in both arrays.
        self.keys[slots], self.filled[slots] = ids, True
        self.vectors[slots] = vectors[keep]


def _slots(ids: np.ndarray) -> np.ndarray:
    return (ids.view(np.uint64) * MULTIPLIER) >> np.uint64(64 - (SLOTS.bit_length() - 1))
