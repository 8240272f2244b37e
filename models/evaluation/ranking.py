"""Full-catalogue ranking: the candidates of each user by score, without the items already seen.

Users and items are rows (from 0) of the user and the item table. Interactions are sparse matrices
of shape (n_users, n_items).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError

# 128 MB of float32. With smaller blocks BLAS repacks the item matrix too often.
MAX_SCORES = 1 << 25


class Scorer(Protocol):
    """A model that scores the whole catalogue for a user."""

    def score(self, users: np.ndarray) -> np.ndarray:
        """Score every item for each of the users.

        A user's scores must not depend on the other users in the batch.

        Parameters
        ----------
        users : ndarray of int, shape (n,)
            Rows of the user table.

        Returns
        -------
        ndarray of float32 or float64, shape (n, n_items)
            Higher is better; -inf means "never recommend"; NaN is an error. The caller may
            overwrite the array.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """A model that ranks the catalogue without scoring every item."""

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the k best candidates of each of the users.

        Parameters
        ----------
        users : ndarray of int, shape (n,)
            Rows of the user table.
        seen : csr_matrix of bool, shape (n, n_items)
            Items to leave out, one row per entry of `users`.
        k : int
            Length of the lists.
        candidates : ndarray of bool, shape (n_items,)
            Items that may be recommended.

        Returns
        -------
        ndarray of int64, shape (n, k)
            Item rows, best first. Lists with fewer than k items are padded with -1.
        """
        ...


def rank_in_batches(
    scorer: Scorer | Ranker,
    users: np.ndarray,
    seen: csr_matrix,
    k: int,
    candidates: np.ndarray,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the k best candidates of each user, batch by batch.

    Parameters
    ----------
    scorer : Scorer or Ranker
    users : ndarray of int, shape (n,)
        Rows of the user table.
    seen : csr_matrix of bool, shape (n_users, n_items)
        Items to leave out.
    k : int
        Length of the lists; reduced to the number of candidates if that is smaller.
    candidates : ndarray of bool, shape (n_items,)
        Items that may be recommended.
    batch_size : int
        Maximum number of users per batch. A batch also has at most `MAX_SCORES` scores.

    Yields
    ------
    users : ndarray of int, shape (b,)
        The users of the batch.
    ranked : ndarray of int64, shape (b, k)
        Their item rows, best first, padded with -1.

    Raises
    ------
    ModelError
        If a score is NaN or the scores have the wrong shape.
    """
    from twotower.models.evaluation.top_k import topk

    k = min(k, int(candidates.sum()))
    width = k if isinstance(scorer, Ranker) else len(candidates)
    batch_size = max(1, min(batch_size, MAX_SCORES // width))
    excluded = np.flatnonzero(~candidates)
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        if isinstance(scorer, Ranker):
            yield batch, scorer.rank(batch, seen[batch], k, candidates)
        else:
            yield batch, topk(_masked_scores(scorer, batch, seen[batch], excluded), k)[0]


def is_relevant(relevant: csr_matrix, ranked: np.ndarray) -> np.ndarray:
    """Tell which ranked items are relevant to their user.

    Parameters
    ----------
    relevant : csr_matrix of bool, shape (n, n_items)
        A matrix as `binary` returns it.
    ranked : ndarray of int, shape (n, k)
        Item rows of the same n users, padded with -1.

    Returns
    -------
    ndarray of bool, shape (n, k)
    """
    n, n_items = relevant.shape
    rows = np.repeat(np.arange(n), np.diff(relevant.indptr))
    # The extra pair is above all others, so that searchsorted always returns a valid index.
    pairs = np.append(rows * n_items + relevant.indices, n * n_items)
    wanted = np.arange(n)[:, None] * n_items + ranked
    return (pairs[np.searchsorted(pairs, wanted)] == wanted) & (ranked >= 0)


def binary(matrix: csr_matrix) -> csr_matrix:
    """Copy a matrix as bool: duplicates merged, explicit zeros dropped, columns sorted.

    Parameters
    ----------
    matrix : csr_matrix

    Returns
    -------
    csr_matrix of bool
    """
    copy = csr_matrix(matrix, dtype=bool, copy=True)
    copy.sum_duplicates()
    copy.eliminate_zeros()
    return copy


def _masked_scores(
    scorer: Scorer, users: np.ndarray, seen: csr_matrix, excluded: np.ndarray
) -> np.ndarray:
    """The checked scores, with -inf for the items `seen` by the user and the `excluded` ones."""
    answer = np.asarray(scorer.score(users))
    if answer.shape != seen.shape:
        raise ModelError(
            f"{type(scorer).__name__}.score returned {answer.shape} for {len(users)} users "
            f"and {seen.shape[1]} items"
        )
    scores = np.require(answer, np.result_type(answer, np.float32), ["C", "W"])
    if np.isnan(scores.max()):  # the maximum is NaN if any score is
        bad = np.argwhere(np.isnan(scores))
        raise ModelError(
            f"{type(scorer).__name__} scored NaN for user row {users[bad[0, 0]]}, item row "
            f"{bad[0, 1]} (and {len(bad) - 1} more in this batch): did training diverge?"
        )
    scores[:, excluded] = -np.inf
    scores[np.repeat(np.arange(len(users)), np.diff(seen.indptr)), seen.indices] = -np.inf
    return scores
