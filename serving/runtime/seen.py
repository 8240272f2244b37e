"""The items every user has seen, as one compressed sparse row matrix."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from .arrays import find


@dataclass(frozen=True)
class SeenItems:
    """Row r, `item_ids[indptr[r]:indptr[r + 1]]`, is what user `user_ids[r]` has seen.

    Attributes
    ----------
    user_ids : int64 [u], ascending
    indptr : int64 [u + 1]
    item_ids : int64 [m], ascending and unique within a row; or positions int32, see `positions`
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

    def rows(self, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each user's row starts and stops in `item_ids`; empty for an unknown user."""
        row, known = find(self.user_ids, user_ids)
        if not len(self.user_ids):
            return row, row
        return self.indptr[row], self.indptr[row + known]

    def positions(self, item_ids: np.ndarray) -> SeenItems:
        """The same rows as positions int32 in the ascending `item_ids`; others are dropped."""
        position, known = find(item_ids, self.item_ids)
        indptr = np.append(0, np.cumsum(known))[self.indptr]
        return SeenItems(self.user_ids, indptr, position[known].astype(np.int32))

    def save(self, folder: Path) -> list[Path]:
        """Write one .npy an array; return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{field.name}.npy" for field in fields(self)]
        for path in paths:
            np.save(path, getattr(self, path.stem))
        return paths

    @classmethod
    def load(cls, folder: Path) -> SeenItems:
        return cls(*(np.load(folder / f"{field.name}.npy") for field in fields(cls)))
