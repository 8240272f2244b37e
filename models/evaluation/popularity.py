"""Metrics by popularity: recall in head, middle and tail, and how popular recommendations are."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from twotower.models.errors import ModelError
from twotower.models.evaluation.ranking import (
    Ranker,
    Scorer,
    binary,
    is_relevant,
    rank_in_batches,
)

THIRDS = ("head", "middle", "tail")


def thirds(counts: np.ndarray) -> np.ndarray:
    """Divide the items into head, middle and tail, each with a third of the interactions.

    Items are sorted by their number of train interactions, the most popular first, equal ones by
    row. An item is in the third that contains the first of its own interactions: the head is the
    few items with the first third of all interactions, the tail the many items with the last
    third, including items without interactions.

    Parameters
    ----------
    counts : ndarray of int, shape (n_items,)
        Number of train interactions of each item.

    Returns
    -------
    ndarray of int64, shape (n_items,)
        0 for the head, 1 for the middle, 2 for the tail: indices into `THIRDS`.

    Raises
    ------
    ModelError
        If there are no interactions.
    """
    total = int(counts.sum())
    if not total:
        raise ModelError(
            "head, middle and tail are thirds of the train interactions; there are none"
        )
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.empty(len(counts), dtype=np.int64)
    third[order] = np.minimum(3 * before // total, 2)
    return third


def percentiles(counts: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return each item's popularity as the fraction of candidates that are less popular.

    Half of the equally popular candidates count as less popular. The mean over all candidates is
    therefore 0.5, which is also what random recommendations reach.

    Parameters
    ----------
    counts : ndarray of int, shape (n_items,)
        Number of train interactions of each item.
    candidates : ndarray of bool, shape (n_items,)
        Items that may be recommended.

    Returns
    -------
    ndarray of float64, shape (n_items,)
        In [0, 1]; NaN for items that are not candidates.
    """
    shares = np.full(len(counts), np.nan)
    shares[candidates] = (rankdata(counts[candidates]) - 0.5) / candidates.sum()
    return shares


def popularity_metrics(
    scorer: Scorer | Ranker,
    relevant: csr_matrix,
    seen: csr_matrix,
    train: csr_matrix,
    k: int,
    candidates: np.ndarray | None = None,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Compute recall@k in head, middle and tail, and the popularity of the recommended items.

    Parameters
    ----------
    scorer, relevant, seen, candidates, batch_size
        As in `twotower.models.evaluation.metrics.evaluate`.
    train : csr_matrix, shape (n_users, n_items)
        The interactions that define popularity.
    k : int
        Cutoff.

    Returns
    -------
    dict of str to float
        - head_recall@k, middle_recall@k, tail_recall@k: the fraction of a user's relevant items in
          this third (see `thirds`) that are among the user's k best, averaged over the users with
          such items. Left out if there are no such users.
        - popularity@k: the mean of `percentiles` over all recommended items of all users with a
          relevant item.
    """
    relevant, seen = binary(relevant), binary(seen)
    counts = np.bincount(binary(train).indices, minlength=train.shape[1])
    if candidates is None:
        candidates = np.ones(len(counts), dtype=bool)
    users = np.flatnonzero(np.diff(relevant.indptr))
    in_third = thirds(counts)[:, None] == np.arange(len(THIRDS))  # [n_items, 3]
    popularity = percentiles(counts, candidates)
    n_relevant, n_found_batches = relevant[users] @ in_third.astype(np.int64), []
    recommended = np.zeros(len(counts), dtype=np.int64)
    for batch, ranked in rank_in_batches(scorer, users, seen, k, candidates, batch_size):
        hits = is_relevant(relevant[batch], ranked)
        n_found_batches.append((hits[:, :, None] & in_third[ranked]).sum(axis=1))
        recommended += np.bincount(ranked[ranked >= 0], minlength=len(counts))
    n_found, values = np.vstack(n_found_batches), {}
    for column, name in enumerate(THIRDS):
        some = n_relevant[:, column] > 0
        if some.any():
            recalls = n_found[some, column] / n_relevant[some, column]
            values[f"{name}_recall@{k}"] = float(recalls.mean())
    values[f"popularity@{k}"] = float(
        np.average(popularity[candidates], weights=recommended[candidates])
    )
    return values
