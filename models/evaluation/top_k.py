"""Exact selection of the k highest scores of each row; equal scores are ordered by column."""

from __future__ import annotations

import faiss
import numpy as np


def topk(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best columns of each row, best first; equal scores by column, lower first.

    FAISS's heaps select from float32 at about the speed of reading memory, on all threads; equal
    scores do not slow them down. Float64 scores are first selected in float32. All columns that
    are not below the k-th of these are then sorted in float64, row by row, which takes longer the
    more scores are equal to the k-th.

    Parameters
    ----------
    scores : ndarray of float32 or float64, shape (n, m)
        Without NaN. -inf marks a column that must not be returned. In float32 scores, the lowest
        finite float32 counts as -inf.
    k : int
        At least 1.

    Returns
    -------
    columns : ndarray of int64, shape (n, k)
    values : ndarray, shape (n, k)
        The scores of the columns. If a row has fewer than k columns, the rest is -1 and -inf.
    """
    k = int(k)  # SWIG does not accept NumPy integers
    if scores.dtype == np.float32:
        return _select(scores, k)
    bounds = np.finfo(np.float32)
    rounded = np.clip(scores, bounds.min, bounds.max).astype(np.float32)
    lowest = _select(rounded, k)[1][:, -1]
    columns, values = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf)
    for row, own in enumerate(scores):
        some = np.flatnonzero((rounded[row] >= lowest[row]) & (own > -np.inf))
        best = some[np.argsort(-own[some], kind="stable")[:k]]
        columns[row, : len(best)], values[row, : len(best)] = best, own[best]
    return columns, values


def _select(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`topk` of float32 scores."""
    best = BestColumns(rows=len(scores), columns=scores.shape[1], k=k)
    best.add(np.ascontiguousarray(scores))
    return best.result()


class BestColumns:
    """The k best columns of each row, of scores that come in blocks of columns.

    Parameters
    ----------
    rows, columns : int
        Shape of all scores together.
    k : int
        At least 1.

    Notes
    -----
    FAISS fills a row's heap from left to right, replaces the worst entry only by a higher score,
    and treats the lowest id as the worst of equal scores. Ids that fall from left to right
    therefore make it drop the rightmost of equal columns first.
    """

    def __init__(self, rows: int, columns: int, k: int):
        self.columns, self.added = columns, 0
        self.values = np.full((rows, k), -np.inf, np.float32)
        self.ids = np.full((rows, k), -1, np.int64)
        self.heaps = faiss.float_minheap_array_t()
        self.heaps.nh, self.heaps.k = rows, int(k)
        self.heaps.val, self.heaps.ids = faiss.swig_ptr(self.values), faiss.swig_ptr(self.ids)

    def add(self, scores: np.ndarray) -> None:
        """Take in the next columns.

        Parameters
        ----------
        scores : ndarray of float32, shape (rows, m), C-contiguous
            Without NaN; see `topk` for -inf.
        """
        width = scores.shape[1]
        last = self.columns - 1 - self.added
        falling = np.arange(last, last - width, -1)
        self.heaps.addn_with_ids(width, faiss.swig_ptr(scores), faiss.swig_ptr(falling), 0)
        self.added += width

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return columns and values as `topk` does, when all columns are added; call it once."""
        self.heaps.reorder()
        missing = self.ids < 0
        self.values[missing] = -np.inf  # FAISS writes the lowest finite number there
        return np.where(missing, -1, self.columns - 1 - self.ids), self.values
