"""The items that each user has seen, as a compressed sparse row matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.serving.runtime.arrays import find
from twotower.serving.runtime.errors import ServingError


@dataclass(frozen=True)
class SeenItems:
    """The seen items of user `user_ids[r]` are `item_ids[indptr[r]:indptr[r + 1]]`.

    Attributes
    ----------
    user_ids : ndarray of int64, shape (u,)
        Ascending.
    indptr : ndarray of int64, shape (u + 1,)
    item_ids : ndarray of int64, shape (m,)
        Ascending and unique within a row.
    """

    user_ids: np.ndarray
    indptr: np.ndarray
    item_ids: np.ndarray

    @classmethod
    def from_pairs(cls, user_ids: np.ndarray, item_ids: np.ndarray) -> SeenItems:
        """Build the matrix from pairs of user and item, in any order and possibly repeated.

        Parameters
        ----------
        user_ids, item_ids : ndarray of int64, shape (m,)
        """
        users, items = np.asarray(user_ids, np.int64), np.asarray(item_ids, np.int64)
        order = np.lexsort((items, users))
        users, items = users[order], items[order]
        first = np.ones(len(users), bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        ids, starts = np.unique(users[first], return_index=True)
        return cls(ids, np.append(starts, first.sum()).astype(np.int64), items[first])

    def of(self, user_ids: np.ndarray) -> SeenItems:
        """Return the matrix with one row for each of `user_ids`.

        Parameters
        ----------
        user_ids : ndarray of int64, shape (u,)
            Ascending.

        Raises
        ------
        ServingError
            If a user who has seen items is not among them.
        """
        position, known = find(user_ids, self.user_ids)
        if not known.all():
            raise ServingError(
                f"user {self.user_ids[~known][0]} has seen items, but is not in the user table; "
                "add a row for each user who has seen items"
            )
        counts = np.zeros(len(user_ids), np.int64)
        counts[position] = np.diff(self.indptr)
        return SeenItems(user_ids, np.append(0, np.cumsum(counts)), self.item_ids)

    def rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the items of each of the rows int64 [n]; row u, of unknown users, has none."""
        starts = np.append(self.indptr, self.indptr[-1])
        return [self.item_ids[starts[row] : starts[row + 1]] for row in rows]

    def positions(self, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert the seen items to positions in a catalogue.

        Parameters
        ----------
        item_ids : ndarray of int64, shape (n,)
            Ids of the catalogue, ascending. Seen items that are not in it are dropped.

        Returns
        -------
        positions : ndarray of int32
            The positions of all rows, one row after the other.
        starts : ndarray of int64, shape (u + 2,)
            Where each row starts. The last row, of unknown users, is empty.
        """
        position, known = find(item_ids, self.item_ids)
        indptr = np.append(0, np.cumsum(known))[self.indptr]
        return position[known].astype(np.int32), np.append(indptr, indptr[-1])
