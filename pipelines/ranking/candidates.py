"""What the towers find for the users of a part of the split, with the features of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from twotower.models.evaluation.queries import RankerOfUsers
from twotower.models.evaluation.ranking import binary, is_relevant, rank_in_batches
from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.pipelines.evaluation.evaluator import Evaluator, load_histories
from twotower.pipelines.run import Run
from twotower.pipelines.steps.processed import ITEMS, SPLIT
from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.ranking.features import CandidateFeatures, History

if TYPE_CHECKING:
    from collections.abc import Callable

    from twotower.models.two_tower import TowerScorer

USERS_AT_ONCE = 1024


def candidate_features(run: Run, vectors: np.ndarray) -> CandidateFeatures:
    """Prepare the features of candidates, for all items of the item table.

    Parameters
    ----------
    run : Run
        With the step `preprocess` done.
    vectors : ndarray of float32, shape (n_items, D)
        The items' vectors.
    """
    profile, item_id = run.config.ranking.profile, run.config.features.item_id
    items = pq.read_table(run.path / "data" / ITEMS, columns=[item_id, *profile])
    columns = item_columns(items.sort_by(item_id), profile)
    parts = pd.read_parquet(run.path / "processed" / SPLIT, columns=["part", "item_row"])
    rows = parts.loc[parts["part"] == "train", "item_row"]
    return CandidateFeatures.of(vectors, np.bincount(rows, minlength=len(vectors)), columns)


def history_before(evaluator: Evaluator) -> csr_matrix:
    """The items that both stages know of each user, before the part of an evaluator.

    Returns
    -------
    csr_matrix of bool, shape (n_users, n_items)
    """
    if evaluator.histories is not None:
        return _as_matrix(evaluator.histories, evaluator.train.shape)
    return evaluator.train if evaluator.known is None else evaluator.known


def served_history(run: Run, shape: tuple[int, int]) -> csr_matrix:
    """The items that a server knows of each user: csr_matrix of bool, of this shape.

    They are those of the training part or, if the split leaves the last items out, of all parts, as
    in the histories that the query tower reads.
    """
    histories = load_histories(run)
    if histories is not None:
        return _as_matrix(histories, shape)
    parts = pd.read_parquet(run.path / "processed" / SPLIT)
    if run.config.split.method != "leave_last_out":
        parts = parts[parts["part"] == "train"]
    places = (parts["user_row"].to_numpy(), parts["item_row"].to_numpy())
    return binary(csr_matrix((np.ones(len(parts), bool), places), shape=shape))


def history_of(matrix: csr_matrix, users: np.ndarray) -> History:
    """Return the histories of some users, rows of a matrix as `history_before` returns it."""
    rows = matrix[users]
    return History(rows.indices, np.diff(rows.indptr).astype(np.int64))


class CandidateSource:
    """Finds candidates with the towers, and computes their features.

    Parameters
    ----------
    evaluator : Evaluator
        Of the part whose items are to be found.
    scorer : TowerScorer
    features : CandidateFeatures
        Of all items.
    count : int
        Number of candidates per user.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        scorer: TowerScorer,
        features: CandidateFeatures,
        count: int,
    ) -> None:
        self.evaluator, self.scorer, self.features = evaluator, scorer, features
        self.count, self.history = count, binary(history_before(evaluator))
        self.relevant = binary(evaluator.relevant)

    def found(
        self, users: np.ndarray, seen: csr_matrix, k: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best items of users, their scores, and the features of the first ones.

        Parameters
        ----------
        users : ndarray of int, shape (n,)
        seen : csr_matrix of bool, shape (n, n_items)
            Items that are left out.
        k : int
            Number of items; at least `count` are returned.
        allowed : ndarray of bool, shape (n_items,)

        Returns
        -------
        items : ndarray of int64, shape (n, max(k, count))
            Rows of the item table; `NO_ITEM` is padding.
        scores : ndarray of float32, of this shape
            -inf for padding.
        features : ndarray of float32, shape (n, count, n_features)
        """
        size = max(k, self.count)
        items = np.full((len(users), size), NO_ITEM, np.int64)
        done = 0
        part = RankerOfUsers(self.scorer, users)
        for batch, ranked in rank_in_batches(
            part, np.arange(len(users)), seen, size, allowed, USERS_AT_ONCE
        ):
            items[done : done + len(batch), : ranked.shape[1]] = ranked
            done += len(batch)
        known = np.maximum(items, 0)
        scores = np.einsum("nd,ncd->nc", self.scorer.users[users], self.scorer.items[known])
        scores = np.where(items == NO_ITEM, -np.inf, scores).astype(np.float32)
        first = slice(None, self.count)
        features = self.features.compute(
            known[:, first], scores[:, first], history_of(self.history, users)
        )
        return items, scores, features

    def candidates(
        self, users: np.ndarray, progress: Callable[[int, int], Any] = lambda done, total: None
    ) -> Candidates:
        """Return the candidates of users, with what is relevant in the part as labels."""
        allowed = self.evaluator.candidates
        if allowed is None:
            allowed = np.ones(self.relevant.shape[1], bool)
        items, features = [], []
        for start in range(0, len(users), USERS_AT_ONCE):
            batch = users[start : start + USERS_AT_ONCE]
            found, _, numbers = self.found(batch, self.evaluator.seen[batch], 0, allowed)
            items.append(found)
            features.append(numbers)
            progress(start + len(batch), len(users))
        rows = np.concatenate(items)
        relevant = self.relevant[users]
        return Candidates(
            users=users,
            items=rows,
            features=np.concatenate(features),
            labels=is_relevant(relevant, rows),
            relevant=np.diff(relevant.indptr),
        )


def _as_matrix(histories: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """Return histories, item rows padded with -1, as a matrix."""
    rows, places = np.nonzero(histories >= 0)
    pairs = (rows, histories[rows, places])
    return binary(csr_matrix((np.ones(len(rows), bool), pairs), shape=shape))
