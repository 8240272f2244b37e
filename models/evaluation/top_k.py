"""The k highest scores of each row, exactly: equal scores in the order of their columns."""

from __future__ import annotations

import faiss
import numpy as np


def topk(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row, best first; equal scores by column, lower first.

    FAISS's heaps select from float32 at about the speed at which memory is read, on all threads;
    the cost does not depend on how many scores are equal. Scores of float64 are selected in
    float32 first; all that are not below the k-th of these are then sorted in float64, row by
    row: the more scores are equal to the k-th, the longer it takes.

    Parameters
    ----------
    scores : ndarray of float32 or float64, shape (n, m)
        Without NaN. -inf marks a column that must not be returned. The lowest finite float32 in
        scores of float32 counts as -inf.
    k : int, above 0

    Returns
    -------
    columns : ndarray of int64, shape (n, k)
    values : ndarray, shape (n, k)
        The scores of the columns. Where a row has fewer than k columns left, its tail is -1 and
        -inf.
    """
    k = int(k)  # SWIG takes no NumPy integer
    if scores.dtype == np.float32:
        return _select(np.ascontiguousarray(scores), k)
    bounds = np.finfo(np.float32)
    rounded = np.clip(scores, bounds.min, bounds.max).astype(np.float32)
    least = _select(rounded, k)[1][:, -1]
    columns, values = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf)
    for row, own in enumerate(scores):
        some = np.flatnonzero((rounded[row] >= least[row]) & (own > -np.inf))
        best = some[np.argsort(-own[some], kind="stable")[:k]]
        columns[row, : len(best)], values[row, : len(best)] = best, own[best]
    return columns, values


def _select(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`topk` of C-contiguous float32 scores.

    FAISS fills a row's heap from left to right, replaces the worst entry only by a higher score,
    and of equal scores regards the lowest id as the worst. With ids that fall from left to right
    the rightmost of equal columns is therefore the first to go.
    """
    n, m = scores.shape
    values, ids = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)
    falling = np.arange(m - 1, -1, -1, dtype=np.int64)
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = n, k
    heaps.val, heaps.ids = faiss.swig_ptr(values), faiss.swig_ptr(ids)
    heaps.addn_with_ids(m, faiss.swig_ptr(scores), faiss.swig_ptr(falling), 0)
    heaps.reorder()
    missing = ids < 0
    values[missing] = -np.inf  # FAISS writes the lowest finite number there
    return np.where(missing, -1, m - 1 - ids), values
