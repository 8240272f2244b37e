"""Finds the row of each user in the user table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class UserRows:
    """Finds the row of each user in the user table, by which features and seen items are stored.

    Attributes
    ----------
    known, unknown : int
        Number of users asked for who are in the user table, and who are not.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.user_ids = np.load(folder / "user_ids.npy")
        # The last row is for unknown users. It may have any id: a user whom the search puts there
        # is unknown, whether or not the ids are equal.
        self.id_of_row = np.append(self.user_ids, 0)
        self.known = self.unknown = 0

    def rows(self, user_ids: np.ndarray) -> np.ndarray:
        """Return the rows of `user_ids` [n] as int64 [n].

        The row of a user who is not in the table is the table's number of rows.
        """
        rows = self.user_ids.searchsorted(user_ids)
        found = self.id_of_row.take(rows)
        if found.tolist() != user_ids.tolist():
            rows[found != user_ids] = len(self.user_ids)
            unknown = np.count_nonzero(rows == len(self.user_ids))
            self.unknown += unknown
            self.known -= unknown
        self.known += len(rows)
        return rows
