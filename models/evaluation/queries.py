"""Evaluation with a context: a query is a user in one context, and a user may have several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from twotower.models.evaluation.ranking import Ranker, Scorer
from twotower.models.two_tower import TowerScorer, embed


@dataclass(frozen=True)
class Queries:
    """The different pairs of user and context among the pairs to be found.

    Attributes
    ----------
    users, contexts : ndarray of int, shape (n,)
        The row of the user and of the context of each query, ascending.
    relevant : csr_matrix of bool, shape (n, n_items)
        The items to be found in each query.
    columns : mapping of str to ndarray
        The encoded contexts.
    """

    users: np.ndarray
    contexts: np.ndarray
    relevant: csr_matrix
    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, pairs: pd.DataFrame, columns: Mapping[str, np.ndarray], n_items: int) -> Queries:
        """Group pairs, with user_row, context_row and item_row, by the user and the context."""
        rows = pairs[["user_row", "context_row"]].to_numpy()
        both, query = np.unique(rows, axis=0, return_inverse=True)
        ones, places = np.ones(len(pairs), bool), (query.ravel(), pairs["item_row"].to_numpy())
        relevant = csr_matrix((ones, places), shape=(len(both), n_items))
        return cls(both[:, 0], both[:, 1], relevant, columns)

    def of_users(self, users: np.ndarray) -> Queries:
        """Return the queries of some `users`, int [u], ascending; their new rows are 0 to u - 1."""
        kept = np.isin(self.users, users)
        rows = np.searchsorted(users, self.users[kept])
        return Queries(rows, self.contexts[kept], self.relevant[kept], self.columns)

    def tower_scorer(
        self, model: Any, users: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]
    ) -> QueryScorer:
        """Create the scorer of the towers `model`, from the encoded users and items."""
        features = {name: column[self.users] for name, column in users.items()}
        features |= {name: column[self.contexts] for name, column in self.columns.items()}
        return QueryScorer(
            embed(model.query_encoder, features), embed(model.candidate_encoder, items)
        )

    def by_user(self, scorer: Scorer | Ranker) -> Scorer | Ranker:
        """Return a scorer of the queries that answers each as `scorer` answers its user."""
        if isinstance(scorer, QueryScorer):
            return scorer
        if isinstance(scorer, Ranker):
            return RankerOfUsers(scorer, self.users)
        return _ScorerOfUsers(scorer, self.users)


class QueryScorer(TowerScorer):
    """Scores of queries for all items: its users 0, 1, ... are the rows of `Queries`."""


class _ScorerOfUsers:
    """The scores of each query's user, whatever the context."""

    def __init__(self, scorer: Scorer, users: np.ndarray):
        self.scorer, self.users = scorer, users

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scorer.score(self.users[users])


class RankerOfUsers:
    """The rankings of some users, whose rows are 0, 1, ...: those of queries, or a part of all.

    Parameters
    ----------
    ranker : Ranker
    users : ndarray of int, shape (n,)
        The user that `ranker` ranks for, of each row.
    """

    def __init__(self, ranker: Ranker, users: np.ndarray):
        self.ranker, self.users = ranker, users

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the k best candidates of each of the users, see `Ranker.rank`."""
        return self.ranker.rank(self.users[users], seen, k, candidates)
