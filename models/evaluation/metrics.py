"""Ranking metrics over the full catalogue, the same code for the model and every baseline.

Users and items are positions (0-based rows) in the user and the item table; interactions are
sparse matrices [n_users, n_items]. Per user the whole catalogue is ranked, items already seen
are left out, and each metric is averaged over the users with at least one relevant item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, Field, conint
from rich.table import Table
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError

BaselineName = Literal["popularity", "random", "itemknn", "ease"]
METRICS = ("recall", "ndcg", "mrr", "hit", "precision", "map", "coverage")
# 128 MB; with smaller blocks BLAS repacks the item matrix too often.
SCORES_AT_ONCE = 1 << 25
SMALL_CATALOGUE, MIN_VALID_USERS = 10_000, 2048
# Scores that can be ranked in a tenth of the time a training row takes.
VALID_SCORES_PER_ROW = 100


class EvaluationConfig(BaseModel, extra="forbid"):
    """What is measured, over which catalogue, and beside which baselines."""

    ks: list[conint(gt=0, le=1_000_000)] = Field(
        [10, 20, 50, 100], min_items=1, unique_items=True, description="cutoffs of every metric@k"
    )
    batch_size: int = Field(
        1024,
        gt=0,
        le=1_000_000,
        description="users ranked at once; with more than 32,000 items fewer, so that their scores "
        "take at most 128 MB",
    )
    valid_users: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="validation during training ranks the catalogue for this many users, always "
        "the same random ones; by default all users up to 10,000 items, and for a larger catalogue "
        "so many that a validation takes about a tenth of an epoch, but at least 2,048. The test "
        "part is always measured on all users",
    )
    catalogue: Literal["interactions", "items"] = Field(
        "interactions",
        description="what is ranked: 'interactions', the items that occur in any part of the "
        "split (the protocol of published tables), or 'items', the whole item table, also items "
        "nobody interacted with (what the server answers from)",
    )
    baselines: list[BaselineName] = Field(
        ["popularity", "random"], unique_items=True, description="models to compare with"
    )


class Scorer(Protocol):
    """Anything that can rank the catalogue for users."""

    def score(self, users: np.ndarray) -> np.ndarray:
        """Scores float32 or float64 [len(users), n_items] of the user rows `users` (int [n]).

        Higher is better, -inf is "never recommend", NaN is refused. A user's scores must not
        depend on who else is in the batch. The caller overwrites the array.
        """
        ...


class Ranker(Protocol):
    """What ranks the catalogue without scoring all of it."""

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """The k best candidates (bool [n_items]) of each of `users` (int [n]), int64 [n, k].

        `seen` has a row for each of `users`, items to leave out. A list that is shorter than k
        ends in -1.
        """
        ...


@dataclass(frozen=True)
class Metrics:
    """Averages over users: `values` maps "ndcg@10" and the like to a number in [0, 1]."""

    values: dict[str, float]
    users: int  # users averaged over: those with a relevant item
    candidates: int  # items ranked, before each user's seen items are left out

    def to_dict(self) -> dict[str, float]:
        """One flat record for a JSON report."""
        return {"users": self.users, "candidates": self.candidates, **self.values}


def evaluate(
    scorer: Scorer | Ranker,
    relevant: csr_matrix,
    seen: csr_matrix,
    ks: Sequence[int],
    candidates: np.ndarray | None = None,
    batch_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Rank the candidates for every user with a relevant item and average the metrics.

    Parameters
    ----------
    relevant, seen
        Nonzero entries of [n_users, n_items]: what should be found, and what is left out of a
        user's ranking (testing: train and valid). They must not overlap.
    candidates
        bool [n_items], the items that may be recommended; all when None. A relevant item
        outside them cannot be found but still counts as relevant.
    batch_size
        Users scored at once; the metrics do not depend on it.
    progress
        Called with (users done, users in all) after each batch.

    Equal scores rank by item position, lower first. A user with fewer candidates left than k
    gets a shorter list: the missing places are neither hits nor coverage.

    Per user, with `R` the relevant items and ranks from 1:

    - recall: hits / |R|; precision: hits / k; hit: 1 if there is a hit;
    - mrr: 1 / rank of the first hit in the top k, else 0;
    - ndcg: sum over hits of 1/log2(rank + 1), over the same sum of an ideal list of
      min(|R|, k) hits (binary gain; Järvelin and Kekäläinen 2002);
    - map: sum over hits of precision@rank, over min(|R|, k), as RecBole's `MAP`;

    and over all of them coverage: distinct items recommended / candidates.

    Raises
    ------
    ModelError
        On shapes that do not fit, a pair both relevant and seen, nothing to evaluate, or a
        NaN score.
    """
    relevant, seen = binary(relevant), binary(seen)
    cutoffs = np.asarray(ks, dtype=np.int64)
    if candidates is None:
        candidates = np.ones(relevant.shape[1], dtype=bool)
    _check(relevant, seen, cutoffs, candidates, batch_size)
    sizes = np.diff(relevant.indptr)
    users = np.flatnonzero(sizes)
    # One row a user, averaged at the end: the sum is then the same for every batch size.
    per_user = np.empty((len(users), len(METRICS) - 1, len(cutoffs)))
    recommended = np.zeros((len(cutoffs), relevant.shape[1]), dtype=bool)
    done = 0
    for batch, ranked in rankings(scorer, users, seen, int(cutoffs.max()), candidates, batch_size):
        listed = ranked >= 0
        hits = is_relevant(relevant[batch], ranked)
        per_user[done : done + len(batch)] = _at_cutoffs(hits, sizes[batch], cutoffs)
        for row, k in zip(recommended, cutoffs, strict=True):
            row[ranked[:, :k][listed[:, :k]]] = True
        done += len(batch)
        if progress is not None:
            progress(done, len(users))
    n_candidates = int(candidates.sum())
    table = np.vstack([per_user.mean(axis=0), recommended.sum(axis=1) / n_candidates])
    values = {
        f"{name}@{k}": float(table[row, column])
        for column, k in enumerate(cutoffs)
        for row, name in enumerate(METRICS)
    }
    return Metrics(values, users=len(users), candidates=n_candidates)


def rankings(
    scorer: Scorer | Ranker,
    users: np.ndarray,
    seen: csr_matrix,
    k: int,
    candidates: np.ndarray,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (user rows int [b], their k best items int64 [b, k]) for batches of the rows `users`.

    Items that are not `candidates` (bool [n_items]) or that the user has `seen` are left out; the
    tail of a list that is shorter than k is -1. Where there are fewer candidates than k, the lists
    are as long as there are candidates. A batch has at most `batch_size` users, and at most
    SCORES_AT_ONCE scores or places in lists. Raises ModelError on a NaN score.
    """
    from twotower.models.evaluation.top_k import topk

    k = min(k, int(candidates.sum()))
    width = k if hasattr(scorer, "rank") else len(candidates)
    batch_size = max(1, min(batch_size, SCORES_AT_ONCE // width))
    others = np.flatnonzero(~candidates)
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        if hasattr(scorer, "rank"):
            yield batch, scorer.rank(batch, seen[batch], k, candidates)
        else:
            yield batch, topk(_scores(scorer, batch, seen[batch], others), k)[0]


def is_relevant(relevant: csr_matrix, ranked: np.ndarray) -> np.ndarray:
    """Which of the items `ranked` (int [n, k], -1 for none) are `relevant` to their user.

    `relevant` has the same n rows, one for each user, and is a `binary` matrix. Returns bool
    [n, k].
    """
    n, n_items = relevant.shape
    rows = np.repeat(np.arange(n), np.diff(relevant.indptr))
    # Above all pairs there is one more, so that the place of each pair exists.
    pairs = np.append(rows * n_items + relevant.indices, n * n_items)
    asked = np.arange(n)[:, None] * n_items + ranked
    return (pairs[np.searchsorted(pairs, asked)] == asked) & (ranked >= 0)


def valid_users(setting: int | None, users: int, items: int, rows: int) -> int:
    """How many of the `users` of the valid part a validation ranks `items` for.

    `setting` is `EvaluationConfig.valid_users`, `rows` the number of training interactions. It
    depends on nothing that is measured, so that a repeated training validates on the same users.
    """
    if setting is None:
        affordable = max(MIN_VALID_USERS, VALID_SCORES_PER_ROW * rows // items)
        setting = users if items <= SMALL_CATALOGUE else affordable
    return min(setting, users)


def metrics_table(results: dict[str, Metrics], title: str, ks: Sequence[int]) -> Table:
    """Models side by side, a line for each metric at each of `ks`, the best in bold.

    Coverage has no best: random wins it.
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


def binary(matrix: csr_matrix) -> csr_matrix:
    """A bool copy: duplicate entries merged, explicit zeros dropped, columns sorted."""
    copy = csr_matrix(matrix, dtype=bool, copy=True)
    copy.sum_duplicates()
    copy.eliminate_zeros()
    return copy


def _check(
    relevant: csr_matrix,
    seen: csr_matrix,
    cutoffs: np.ndarray,
    candidates: np.ndarray,
    batch_size: int,
) -> None:
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
    if both.nnz:
        raise ModelError(
            f"{both.nnz} pairs are both relevant and seen, the first at user row {both.row[0]}, "
            f"item row {both.col[0]}: a masked item can never be found; "
            "take the pairs out of one of the two parts of the split"
        )


def _scores(scorer: Scorer, users: np.ndarray, seen: csr_matrix, others: np.ndarray) -> np.ndarray:
    """The scorer's answer, checked, with -inf for what the users have `seen` and for `others`."""
    answer = np.asarray(scorer.score(users))
    if answer.shape != seen.shape:
        raise ModelError(
            f"{type(scorer).__name__}.score returned {answer.shape} for {len(users)} users "
            f"and {seen.shape[1]} items"
        )
    scores = np.require(answer, np.result_type(answer, np.float32), ["C", "W"])
    if np.isnan(scores.max()):  # which NaN is, whatever else there is
        bad = np.argwhere(np.isnan(scores))
        raise ModelError(
            f"{type(scorer).__name__} scored NaN for user row {users[bad[0, 0]]}, item row "
            f"{bad[0, 1]} (and {len(bad) - 1} more in this batch): did training diverge?"
        )
    scores[:, others] = -np.inf
    scores[np.repeat(np.arange(len(users)), np.diff(seen.indptr)), seen.indices] = -np.inf
    return scores


def _at_cutoffs(hits: np.ndarray, sizes: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """Per user metrics [n, 6, len(cutoffs)] in the order of METRICS, without coverage.

    `hits` is bool [n, width] in rank order, with no hit after `width` places; `sizes` is the number
    of relevant items [n].
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    discount = 1 / np.log2(ranks + 1)
    found = hits.cumsum(axis=1)
    gain = (hits * discount).cumsum(axis=1)
    precisions = (hits * found / ranks).cumsum(axis=1)
    # 1/rank falls with rank, so the largest so far is the first hit's.
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
