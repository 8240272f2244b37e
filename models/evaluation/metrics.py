"""Ranking metrics over the full catalogue, computed in the same way for every model.

For each user the whole catalogue is ranked without the items the user has already seen. Each
metric is averaged over the users with at least one relevant item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.evaluation.ranking import (
    Ranker,
    Scorer,
    binary,
    is_relevant,
    rank_in_batches,
)

METRICS = ("recall", "ndcg", "mrr", "hit", "precision", "map", "coverage")
USER_METRICS = METRICS[:-1]
"""The metrics that each user has. Coverage is a property of all recommendations together."""

OnUsers = Callable[[np.ndarray, np.ndarray], None]
"""Called after each batch with the users (int, shape (n,)) and their metrics (float64, shape
(n, len(USER_METRICS), number of cutoffs))."""


@dataclass(frozen=True)
class Metrics:
    """Metrics averaged over users.

    Attributes
    ----------
    values : dict of str to float
        Metric and cutoff, such as "ndcg@10", to a number in [0, 1].
    users : int
        Number of users averaged over: those with a relevant item.
    candidates : int
        Number of items ranked, including those a user has already seen.
    errors : dict of str to float
        The standard error of each metric except coverage: the deviation between the users, divided
        by the root of their number. Empty for one user.
    """

    values: dict[str, float]
    users: int
    candidates: int
    errors: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """Return all numbers as one flat record for a JSON report."""
        return {"users": self.users, "candidates": self.candidates, **self.values}


def evaluate(
    scorer: Scorer | Ranker,
    relevant: csr_matrix,
    seen: csr_matrix,
    ks: Sequence[int],
    candidates: np.ndarray | None = None,
    batch_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
    on_users: OnUsers | None = None,
    user_of: np.ndarray | None = None,
    repeats: bool = False,
) -> Metrics:
    """Rank the candidates for every user with a relevant item and average the metrics.

    Parameters
    ----------
    scorer : Scorer or Ranker
        The model. Items with equal scores are ranked by row, lower first.
    relevant : csr_matrix, shape (n_users, n_items)
        Nonzero where the item should be found.
    seen : csr_matrix, shape (n_users, n_items)
        Nonzero where the item is left out of the user's ranking; overlaps `relevant` if `repeats`.
    ks : sequence of int
        Cutoffs.
    candidates : ndarray of bool, shape (n_items,), optional
        Items that may be recommended; all by default. A relevant item that is not a candidate
        cannot be found but still counts as relevant.
    batch_size : int
        Maximum number of users ranked at once. The metrics do not depend on it.
    progress : callable (done, total), optional
        Called after each batch with the number of users done and the number of all users.
    on_users : callable (users, values), optional
        Called after each batch, with `user_of` once at the end; see `OnUsers`.
    user_of : ndarray of int, shape (n_users,), optional
        If the rows are queries, the user of each. Metrics are averaged over each user's first.
    repeats : bool
        Whether a relevant item may be a seen one, which is never found but counts as relevant.

    Returns
    -------
    Metrics
        See `_metrics_of_users` for the formulas. coverage@k is the number of distinct items
        recommended to anyone, divided by the number of candidates. If a user has fewer than k
        candidates, the missing places are neither hits nor covered items.

    Raises
    ------
    ModelError
        If shapes do not fit, a pair is both relevant and seen, there is nothing to evaluate, or a
        score is NaN.
    """
    relevant, seen, cutoffs = binary(relevant), binary(seen), np.asarray(ks, dtype=np.int64)
    candidates = np.ones(relevant.shape[1], dtype=bool) if candidates is None else candidates
    _check_input(relevant, seen, cutoffs, candidates, batch_size, repeats)
    users = np.flatnonzero(sizes := np.diff(relevant.indptr))
    per_user = np.empty((len(users), len(USER_METRICS), len(cutoffs)))
    covered = np.zeros((len(cutoffs), relevant.shape[1]), dtype=bool)
    k_max, done = int(cutoffs.max()), 0
    for batch, ranked in rank_in_batches(scorer, users, seen, k_max, candidates, batch_size):
        own = per_user[done : done + len(batch)]
        own[:] = _metrics_of_users(is_relevant(relevant[batch], ranked), sizes[batch], cutoffs)
        if on_users is not None and user_of is None:
            on_users(batch, own)
        _cover(covered, ranked, cutoffs)
        done += len(batch)
        if progress is not None:
            progress(done, len(users))
    if user_of is not None:
        users, per_user = _mean_by_user(user_of[users], per_user, on_users)
    return _averaged(per_user, covered, candidates, cutoffs)


def _averaged(
    per_user: np.ndarray, covered: np.ndarray, candidates: np.ndarray, cutoffs: np.ndarray
) -> Metrics:
    """Average the metrics of all users at once: the sum is then the same for every batch size."""
    return Metrics(
        values=_by_name(per_user.mean(axis=0), covered.sum(axis=1) / candidates.sum(), cutoffs),
        users=len(per_user),
        candidates=int(candidates.sum()),
        errors=_standard_errors(per_user, cutoffs),
    )


def _cover(covered: np.ndarray, ranked: np.ndarray, cutoffs: np.ndarray) -> None:
    """Mark in `covered`, bool [c, n_items], the items of `ranked` [n, k] up to each cutoff."""
    for row, k in zip(covered, cutoffs, strict=True):
        best = ranked[:, :k]
        row[best[best >= 0]] = True


def _by_name(means: np.ndarray, coverage: np.ndarray, cutoffs: np.ndarray) -> dict[str, float]:
    """Name the means of the users' metrics (shape (6, c)) and the coverage (shape (c,))."""
    table = np.vstack([means, coverage])
    return {
        f"{name}@{k}": float(table[row, column])
        for column, k in enumerate(cutoffs)
        for row, name in enumerate(METRICS)
    }


def _standard_errors(per_user: np.ndarray, cutoffs: np.ndarray) -> dict[str, float]:
    """Name the standard errors of the means of the users' metrics (shape (users, 6, c))."""
    if len(per_user) < 2:
        return {}
    errors = per_user.std(axis=0, ddof=1) / np.sqrt(len(per_user))
    return {
        f"{name}@{k}": float(errors[row, column])
        for column, k in enumerate(cutoffs)
        for row, name in enumerate(USER_METRICS)
    }


def _mean_by_user(
    user_of: np.ndarray, values: np.ndarray, on_users: OnUsers | None
) -> tuple[np.ndarray, np.ndarray]:
    """The different users of queries int [n], and their means [u, ...] of `values` [n, ...]."""
    users, place, count = np.unique(user_of, return_inverse=True, return_counts=True)
    sums = np.zeros((len(users), *values.shape[1:]))
    np.add.at(sums, place, values)
    means = sums / count.reshape(-1, *[1] * (values.ndim - 1))
    if on_users is not None:
        on_users(users, means)
    return users, means


def metrics_table(results: dict[str, Metrics], title: str, ks: Sequence[int]) -> Table:
    """Show models side by side, one line per metric and cutoff.

    The best value of a line is bold, except for coverage, which random ranking maximises.

    Parameters
    ----------
    results : dict of str to Metrics
        Name of each model to its metrics.
    title : str
        Title of the table.
    ks : sequence of int
        Cutoffs to show.

    Returns
    -------
    rich.table.Table
    """
    table = Table(title=title)
    table.add_column("metric")
    for name in results:
        table.add_column(name, justify="right")
    for k in ks:
        for metric in METRICS:
            values = [metrics.values[f"{metric}@{k}"] for metrics in results.values()]
            best = None if metric == "coverage" else max(values)
            cells = [f"[bold]{v:.4f}[/bold]" if v == best else f"{v:.4f}" for v in values]
            table.add_row(f"{metric}@{k}", *cells, end_section=metric == METRICS[-1])
    return table


def _check_input(
    relevant: csr_matrix,
    seen: csr_matrix,
    cutoffs: np.ndarray,
    candidates: np.ndarray,
    batch_size: int,
    repeats: bool,
) -> None:
    """Raise ModelError if the arguments of `evaluate` are invalid."""
    if relevant.shape != seen.shape:
        raise ModelError(
            f"relevant is {relevant.shape} and seen is {seen.shape}: "
            "both must be (users, items) of the same tables"
        )
    if not cutoffs.size or cutoffs.min() < 1 or batch_size < 1:
        raise ModelError(
            f"cutoffs and batch_size must be positive, got ks={cutoffs.tolist()} "
            f"and batch_size={batch_size}"
        )
    if candidates.dtype != bool or candidates.shape != relevant.shape[1:]:
        raise ModelError(
            f"candidates must be a bool mask of {relevant.shape[1]} items, "
            f"got {candidates.dtype} {candidates.shape}"
        )
    if not relevant.nnz or not candidates.any():
        raise ModelError(
            f"nothing to evaluate: {relevant.nnz} relevant pairs and {candidates.sum()} "
            "candidates; is the split empty, or were all its ids unknown?"
        )
    both = relevant.multiply(seen).tocoo()
    if both.nnz and not repeats:
        raise ModelError(
            f"{both.nnz} pairs are both relevant and seen, the first at user row {both.row[0]}, "
            f"item row {both.col[0]}: a seen item can never be found; "
            "remove the pairs from one of the two parts of the split"
        )


def _metrics_of_users(hits: np.ndarray, sizes: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """Compute every metric of every user, except coverage.

    Parameters
    ----------
    hits : ndarray of bool, shape (n, width)
        Whether the item at each rank is relevant; no item beyond `width` is.
    sizes : ndarray of int, shape (n,)
        Number of relevant items |R| of each user.
    cutoffs : ndarray of int, shape (c,)

    Returns
    -------
    ndarray of float64, shape (n, 6, c)
        The metrics in the order of `USER_METRICS`.

    Notes
    -----
    With ranks from 1:

    - recall: hits / |R|; precision: hits / k; hit: 1 if there is a hit, else 0
    - mrr: 1 / rank of the first hit in the top k, else 0
    - ndcg: sum over the hits of 1 / log2(rank + 1), divided by the same sum for an ideal list of
      min(|R|, k) hits (binary gain; Järvelin and Kekäläinen, 2002)
    - map: sum over the hits of precision@rank, divided by min(|R|, k), as RecBole's `MAP`
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    discount = 1 / np.log2(ranks + 1)
    found = hits.cumsum(axis=1)
    gain = (hits * discount).cumsum(axis=1)
    precisions = (hits * found / ranks).cumsum(axis=1)
    # 1 / rank falls with the rank, so the maximum so far is that of the first hit.
    reciprocal = np.maximum.accumulate(hits / ranks, axis=1)
    at, size = np.minimum(cutoffs, hits.shape[1]) - 1, sizes[:, None]
    reachable = np.minimum(size, cutoffs)
    ideal = (1 / np.log2(np.arange(reachable.max()) + 2)).cumsum()
    return np.stack(
        [
            found[:, at] / size,
            gain[:, at] / ideal[reachable - 1],
            reciprocal[:, at],
            found[:, at] > 0,
            found[:, at] / cutoffs,
            precisions[:, at] / reachable,
        ],
        axis=1,
    )
