"""Recall and speed of an index against an exact search of the same vectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from twotower.serving.runtime.index.kinds import MEASURED_K, one_thread

TIMED_QUERIES, IN_TURN = 50, 10
BLOCK = 1 << 18
"""Number of items that a query is compared with at a time: 64 MB at 64 dimensions."""
Search = Callable[[np.ndarray], Any]
"""Answers queries float32 [n, D]."""


def exact_answers(
    vectors: np.ndarray, queries: np.ndarray, k: int, report: Callable[[int, int], None]
) -> np.ndarray:
    """Return the positions of the k best items of each query, by brute force.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, D)
        May be on the disk.
    queries : ndarray of float32, shape (m, D)
    k : int
        At most n.
    report : callable
        Called with the number of items done, and of all items.

    Returns
    -------
    ndarray of int64, shape (m, k)
        Best first.
    """
    scores = np.empty((len(queries), 0), np.float32)
    positions = np.empty((len(queries), 0), np.int64)
    for first in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[first : first + BLOCK])
        best, found = faiss.knn(
            queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([scores, best], axis=1)
        positions = np.concatenate([positions, found + first], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        report(first + len(block), len(vectors))
    return positions


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean fraction of the exact answers that were found; both int64 [m, k].

    >>> recall(np.array([[3, 1], [5, 7]]), np.array([[1, 2], [5, 7]]))
    0.75
    """
    pairs = zip(found, exact, strict=True)
    return float(np.mean([np.isin(own, other).mean() for other, own in pairs]))


def exact_search(vectors: np.ndarray) -> Search:
    """Return a search as that of `IndexFlatIP`, without a copy of vectors in memory."""
    metric = faiss.METRIC_INNER_PRODUCT
    return lambda query: faiss.knn(query, vectors, min(MEASURED_K, len(vectors)), metric=metric)


def median_ms(searches: dict[str, Search], queries: np.ndarray) -> dict[str, float]:
    """Return the median milliseconds per query of searches, on one thread.

    The searches alternate, so that another program on the machine slows all of them down. Each has
    `IN_TURN` queries at a time, because an exact search drives what another one reads out of the
    processor's cache, which no server does.

    Parameters
    ----------
    searches : dict of str to callable
        Each answers one query, float32 [1, D].
    queries : ndarray of float32, shape (m, D)
    """
    spent: dict[str, list[float]] = {name: [] for name in searches}
    with one_thread():
        for first in range(0, len(queries), IN_TURN):
            for name, search in searches.items():
                for row in range(first, min(first + IN_TURN, len(queries))):
                    started = time.perf_counter()
                    search(queries[row : row + 1])
                    spent[name].append(time.perf_counter() - started)
    return {name: float(np.median(each)) * 1e3 for name, each in spent.items()}
