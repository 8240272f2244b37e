"""The items with the highest inner products with each user's vector, block by block.

A matrix of the scores of all users and items is never in memory: a block has at most `MAX_SCORES`
scores, which are masked and then taken into the users' heaps.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.evaluation.top_k import BestColumns

# 64 MB of float32. With smaller blocks BLAS is slower, because it repacks the vectors more often.
MAX_SCORES = 1 << 24


class ItemVectors:
    """The vectors of the items that may be recommended.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n_items, dim)
        The vectors of all items.
    candidates : ndarray of bool, shape (n_items,)
        Items that may be recommended. If some may not, the vectors of the others are copied.
    """

    def __init__(self, vectors: np.ndarray, candidates: np.ndarray):
        self.candidates = candidates.copy()
        self.rows = np.flatnonzero(candidates)
        kept = vectors if len(self.rows) == len(vectors) else vectors[self.rows]
        self.vectors = np.ascontiguousarray(kept, np.float32)
        self.largest = _largest(self.vectors)

    def best(self, users: np.ndarray, vectors: np.ndarray, seen: csr_matrix, k: int) -> np.ndarray:
        """Rank the items for some users; equal scores are ordered by row, lower first.

        Parameters
        ----------
        users : ndarray of int, shape (n,)
            Rows of the user table, for error messages.
        vectors : ndarray of float32, shape (n, dim)
            The vectors of these users.
        seen : csr_matrix of bool, shape (n, n_items)
            Items to leave out.
        k : int
            Length of the lists.

        Returns
        -------
        ndarray of int64, shape (n, k)
            Item rows, best first, padded with -1.

        Raises
        ------
        ModelError
            If a score could be NaN, because a vector is not finite or too large.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._check(users, vectors)
        n, n_items = len(vectors), len(self.rows)
        best = BestColumns(rows=n, columns=n_items, k=k)
        rows, columns = self._masked(seen)
        width = max(1, min(MAX_SCORES // max(n, 1), n_items))
        memory = np.empty(n * width, np.float32)
        for start in range(0, n_items, width):
            block = self.vectors[start : start + width]
            scores = memory[: n * len(block)].reshape(n, len(block))
            np.matmul(vectors, block.T, out=scores)
            first, end = np.searchsorted(columns, (start, start + len(block)))
            scores[rows[first:end], columns[first:end] - start] = -np.inf
            best.add(scores)
        places, _ = best.result()
        return np.where(places < 0, -1, self.rows[places])

    def _masked(self, seen: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """The row and the place among the candidates of each seen one, ascending by place."""
        rows = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))
        kept = self.candidates[seen.indices]
        columns = np.searchsorted(self.rows, seen.indices[kept])
        order = np.argsort(columns, kind="stable")
        return rows[kept][order], columns[order]

    def _check(self, users: np.ndarray, vectors: np.ndarray) -> None:
        """Raise ModelError unless all scores, and all sums on the way to them, are finite."""
        limit = float(np.finfo(np.float32).max)
        if _largest(vectors) * self.largest * vectors.shape[1] < limit:  # False for NaN
            return
        for kind, rows, table in (("user", users, vectors), ("item", self.rows, self.vectors)):
            bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
            if len(bad):
                raise ModelError(
                    f"the vector of {kind} row {rows[bad[0]]} is not finite (nor are "
                    f"{len(bad) - 1} more of this batch): did training diverge?"
                )
        raise ModelError(
            f"the vectors have numbers up to {max(_largest(vectors), self.largest):.3g}, whose "
            "products are beyond float32: did training diverge?"
        )


def _largest(vectors: np.ndarray) -> float:
    """The largest absolute number, NaN if one is NaN; without a copy of the array."""
    return max(float(vectors.max(initial=0)), -float(vectors.min(initial=0)))
