"""Orders the candidates of each user by the ranking model, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import find, ranges
from ..contract import ABSENT, Table, count_of, state_of
from ..index import ApproximateIndex, ItemIndex
from ..live.users import LIVE, NO_SLOT, LiveUsers
from ..operators.base import share
from ..operators.query_tower import QueryTower, single_threaded
from .features import CandidateFeatures, History

HEAD, USER_PART, ITEM_PART = "head.onnx", "user_part.onnx", "item_part.npy"
HISTORY, STARTS = "history.npy", "starts.npy"
USERS, ITEMS, FEATURES = "users", "items", "features"
"""Names of the inputs of the head's ONNX graph."""
PART = "part"
"""The column with the user part."""
MIN_SHARE = 2048
"""Smallest number of candidates per thread."""
ROWS_AT_ONCE = 8192
"""Number of candidates whose features are computed at a time, as far as whole users allow it."""


class RankCandidates:
    """The ranking model: features of the candidates, and the probability that each is a positive.

    Parameters
    ----------
    folder : Path
    entry : dict of str to Any
        The operator's entry in plan.json.
    index : ItemIndex or ApproximateIndex
        The items. Its vectors are shared, not copied.
    threads : int
    pool : Executor
        Runs the other threads' shares.
    """

    def __init__(
        self,
        folder: Path,
        entry: Mapping[str, Any],
        index: ItemIndex | ApproximateIndex,
        threads: int,
        pool: Executor,
    ) -> None:
        # The rows are divided among threads here instead, with their features.
        self.head = single_threaded(folder / HEAD)
        self.user_part = None
        if entry["user_columns"]:
            self.user_part = QueryTower(folder, {"model": USER_PART, "vector": PART}, threads)
        self.item_part = np.load(folder / ITEM_PART)
        self.features = CandidateFeatures.load(folder, entry["profiles"], index.vectors)
        self.item_ids, self.history_name = index.item_ids, entry["history"]
        self.history = np.load(folder / HISTORY)
        self.starts = np.load(folder / STARTS)
        self.threads, self.pool = threads, pool
        self.live: LiveUsers | None = None

    def parts(self, columns: Table) -> np.ndarray:
        """Return the user parts float32 [n, d] of encoded columns."""
        if self.user_part is None:
            raise ValueError("the ranking model reads no columns of users")
        return self.user_part.run(columns)[PART]

    def probabilities(
        self,
        positions: np.ndarray,
        scores: np.ndarray,
        parts: np.ndarray,
        rows: np.ndarray,
        table: Table,
    ) -> np.ndarray:
        """Return the probabilities of candidates.

        Parameters
        ----------
        positions : ndarray of int64, shape (n, c)
            Positions of items in the index, best first.
        scores : ndarray of float32, shape (n, c)
            -inf for padding.
        parts : ndarray of float32, shape (n, d)
        rows : ndarray of int64, shape (n,)
            Rows of the users in the user table.
        table : dict of str to ndarray
            The request, whose history replaces the stored one.

        Returns
        -------
        ndarray of float32, shape (n, c)
            -inf for padding.
        """
        history = self.histories(rows, table)
        ends = np.append(0, np.cumsum(history.counts))
        count, width = positions.shape
        answer = np.full(positions.shape, -np.inf, np.float32)
        size = max(1, ROWS_AT_ONCE // width)

        def fill(first: int, last: int) -> None:
            for begin in range(first, last, size):
                part = slice(begin, min(begin + size, last))
                own = History(
                    history.positions[ends[part.start] : ends[part.stop]], history.counts[part]
                )
                answer[part] = self._block(positions[part], scores[part], parts[part], own)

        share(fill, count, max(1, min(self.threads, count * width // MIN_SHARE)), self.pool)
        return answer

    def _block(
        self, positions: np.ndarray, scores: np.ndarray, parts: np.ndarray, history: History
    ) -> np.ndarray:
        """Do what `probabilities` does for a few users."""
        features = self.features.compute(positions, scores, history)
        width = positions.shape[1]
        found = self.probabilities_of(
            parts.repeat(width, axis=0),
            self.item_part.take(positions.ravel(), axis=0),
            features.reshape(-1, features.shape[2]),
        ).reshape(positions.shape)
        return np.where(np.isneginf(scores), -np.inf, found)

    def probabilities_of(
        self, users: np.ndarray, items: np.ndarray, features: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities float32 [m] of user parts, item parts and features [m, ...]."""
        inputs = {USERS: users, ITEMS: items, FEATURES: features}
        given = {each.name for each in self.head.get_inputs()}  # not those that have no columns
        return self.head.run(None, {name: inputs[name] for name in given})[0]

    def histories(self, rows: np.ndarray, table: Table) -> History:
        """Return the histories of users: those of the request where it gives them.

        Row u of unknown users has none. An item that the index does not have is left out.
        """
        counts = self.starts[rows + 1] - self.starts[rows]
        stored = History(self.history[ranges(self.starts[rows], counts)], counts)
        if LIVE in table and self.live:
            stored = self._with_events(stored, table[LIVE], self.live)
        name = self.history_name
        if name is None or name not in table:
            return stored
        counts = stored.counts
        given = table[state_of(name)] != ABSENT
        position, known = find(self.item_ids, table[name])
        user = np.repeat(np.arange(len(rows)), table[count_of(name)])
        # Each item counts once, and the order has no effect.
        pairs = np.unique(user[known] * len(self.item_ids) + position[known])
        of_request = History(
            pairs % len(self.item_ids),
            np.bincount(pairs // len(self.item_ids), minlength=len(rows)),
        )
        if given.all():
            return of_request
        both = np.where(given, of_request.counts, counts)
        values = np.empty(both.sum(), np.int64)
        from_request = np.repeat(given, both)
        values[from_request] = of_request.positions[np.repeat(given, of_request.counts)]
        values[~from_request] = stored.positions[np.repeat(~given, counts)]
        return History(values, both)

    @staticmethod
    def _with_events(stored: History, slots: np.ndarray, live: LiveUsers) -> History:
        """Add the items of events to the histories of the users who have some."""
        lists = np.split(stored.positions, np.cumsum(stored.counts)[:-1])
        for row in np.flatnonzero(slots != NO_SLOT).tolist():
            lists[row] = np.union1d(lists[row], live.new_positions(int(slots[row])))
        return History(np.concatenate(lists), np.array([len(each) for each in lists]))
