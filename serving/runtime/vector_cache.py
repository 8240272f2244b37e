"""Query vectors of known users, kept while nothing about them can have changed."""

from __future__ import annotations

import numpy as np

from .arrays import find
from .contract import ABSENT, Table, state_of

MOST = 1 << 16
"""Users whose vectors are kept: 16 MB at 64 dimensions. The one kept longest makes room."""
CACHED = ("twotower_users_cached_total", "", "")
ABSENT_BYTE = bytes([ABSENT])


class VectorCache:
    """A vector follows from the user's row in the user table and from the tower.

    Both belong to the version, so the cache lives and dies with the version's process. A request
    that gives features of its own neither reads nor writes it.

    Parameters
    ----------
    user_id : name of the column of raw ids
    features : names of the features a request may give
    user_ids : int64 [u], ascending: the known users
    """

    def __init__(self, user_id: str, features: list[str], user_ids: np.ndarray) -> None:
        self.user_id, self.states = user_id, [state_of(name) for name in features]
        self.user_ids = user_ids
        self.rows: dict[int, int] = {}  # id -> row of `vectors`, oldest first
        self.vectors: np.ndarray | None = None
        self.counts = {CACHED: 0}

    def get(self, table: Table) -> np.ndarray | None:
        """Vectors float32 [n, D] if those of all rows are kept, else None."""
        for state in self.states:
            # For one user a tenth of what NumPy's comparison takes.
            if table[state].tobytes().strip(ABSENT_BYTE):
                return None
        row_of = self.rows.get
        rows = [row_of(user) for user in table[self.user_id].tolist()]
        if None in rows:
            return None
        self.counts[CACHED] += len(rows)
        return self.vectors[rows]

    def put(self, table: Table, vectors: np.ndarray) -> None:
        """Keep the vectors [n, D] of the rows that are known users as the user table has them."""
        if self.vectors is None:
            self.vectors = np.empty((MOST, vectors.shape[1]), np.float32)
        ids = table[self.user_id]
        keep = find(self.user_ids, ids)[1]
        for state in self.states:
            keep &= table[state] == ABSENT
        for user, vector in zip(ids[keep].tolist(), vectors[keep], strict=True):
            if user not in self.rows:
                room = len(self.rows)
                if room == MOST:
                    room = self.rows.pop(next(iter(self.rows)))
                self.rows[user] = room
                self.vectors[room] = vector
