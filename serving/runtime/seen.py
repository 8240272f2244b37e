"""The items every user has seen, as one compressed sparse row matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import find
from .errors import ServingError


@dataclass(frozen=True)
class SeenItems:
    """Row r, `item_ids[indptr[r]:indptr[r + 1]]`, is what user `user_ids[r]` has seen.

    Attributes
    ----------
    user_ids : int64 [u], ascending
    indptr : int64 [u + 1]
    item_ids : int64 [m], ascending and unique within a row
    """

    user_ids: np.ndarray
    indptr: np.ndarray
    item_ids: np.ndarray

    @classmethod
    def from_pairs(cls, user_ids: np.ndarray, item_ids: np.ndarray) -> SeenItems:
        """From int64 [m] user ids beside int64 [m] item ids, in any order, repeated or not."""
        users, items = np.asarray(user_ids, np.int64), np.asarray(item_ids, np.int64)
        order = np.lexsort((items, users))
        users, items = users[order], items[order]
        first = np.ones(len(users), bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        ids, starts = np.unique(users[first], return_index=True)
        return cls(ids, np.append(starts, first.sum()).astype(np.int64), items[first])

    def of(self, user_ids: np.ndarray) -> SeenItems:
        """The same with a row for each of the ascending `user_ids`.

        Raises ServingError when they lack a user who has seen something.
        """
        position, known = find(user_ids, self.user_ids)
        if not known.all():
            raise ServingError(
                f"user {self.user_ids[~known][0]} has seen items, but the user table lacks them; "
                "add a row for each user who has seen something"
            )
        counts = np.zeros(len(user_ids), np.int64)
        counts[position] = np.diff(self.indptr)
        return SeenItems(user_ids, np.append(0, np.cumsum(counts)), self.item_ids)

    def rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """The items in each of the rows int64 [n]; row u, for unknown users, has none."""
        starts = np.append(self.indptr, self.indptr[-1])
        return [self.item_ids[starts[row] : starts[row + 1]] for row in rows]

    def positions(self, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows as positions int32 [m] in the ascending `item_ids`, and where each row starts.

        Items that `item_ids` lacks are left out. The starts are int64 [u + 2]: row u, for unknown
        users, is empty.
        """
        position, known = find(item_ids, self.item_ids)
        indptr = np.append(0, np.cumsum(known))[self.indptr]
        return position[known].astype(np.int32), np.append(indptr, indptr[-1])
