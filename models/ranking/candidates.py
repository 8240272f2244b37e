"""The candidates that the ranking model learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from twotower.models.ranking.metrics import auc

NO_ITEM = -1


@dataclass(frozen=True)
class Candidates:
    """What retrieval has found for some users, with features and labels.

    Attributes
    ----------
    users : ndarray of int, shape (n,)
        Rows of the user table.
    items : ndarray of int, shape (n, c)
        Rows of the item table, in the order of retrieval; `NO_ITEM` is padding at the end.
    features : ndarray of float32, shape (n, c, n_features)
        Features of each candidate.
    labels : ndarray of bool, shape (n, c)
        Whether a candidate is a positive.
    relevant : ndarray of int, shape (n,)
        Number of positives of each user, with those that retrieval has not found.
    clicks : ndarray of bool, shape (n, c), or None
        Whether the user interacted with a candidate, which every positive implies: the first label
        of networks with two labels.
    positions : ndarray of int, shape (n, c), or None
        The number of the position at which each row of a log was shown, below that of positions.
    """

    users: np.ndarray
    items: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    relevant: np.ndarray
    clicks: np.ndarray | None = None
    positions: np.ndarray | None = None

    @classmethod
    def without_labels(
        cls, users: np.ndarray, items: np.ndarray, features: np.ndarray
    ) -> Candidates:
        """Return candidates to be judged, of which nobody knows which are positives."""
        labels, relevant = np.zeros(items.shape, bool), np.zeros(len(users), np.int64)
        return cls(users, items, features, labels, relevant)

    def take(self, rows: np.ndarray) -> Candidates:
        """Return those of some users, by their places here."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            features=self.features[rows],
            labels=self.labels[rows],
            relevant=self.relevant[rows],
            clicks=None if self.clicks is None else self.clicks[rows],
            positions=None if self.positions is None else self.positions[rows],
        )

    @property
    def mask(self) -> np.ndarray:
        """Which candidates are not padding, as bool [n, c]."""
        return self.items != NO_ITEM

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of each feature, float32 [n_features]; 1 instead of 0."""
        rows = self.features[self.mask].astype(np.float64)
        if not len(rows):
            return np.zeros(rows.shape[1], np.float32), np.ones(rows.shape[1], np.float32)
        deviations = rows.std(axis=0)
        deviations[deviations == 0] = 1
        return rows.mean(axis=0).astype(np.float32), deviations.astype(np.float32)


def ndcg(candidates: Candidates, scores: np.ndarray, k: int = 10) -> float:
    """Mean NDCG@k of the candidates in the order of scores, of the users with a positive.

    Parameters
    ----------
    candidates : Candidates
    scores : ndarray of float, shape (n, c)
        Equal scores keep the order of retrieval.
    k : int

    Returns
    -------
    float
        With the formula of `models.evaluation.metrics`: positives that are no candidates count.
    """
    found = np.where(candidates.mask, scores, -np.inf)
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(candidates.labels & candidates.mask, order, axis=1)
    discount = 1 / np.log2(np.arange(k) + 2)
    ideal = discount.cumsum()[np.minimum(candidates.relevant, k) - 1]
    gains = (hits * discount[: hits.shape[1]]).sum(axis=1) / ideal
    return float(gains[candidates.relevant > 0].mean())


def row_auc(candidates: Candidates, scores: np.ndarray) -> float:
    """AUC of the scores [n, c] of all candidates together, see `metrics.auc`."""
    return auc(candidates.labels[candidates.mask], scores[candidates.mask])


Table = Mapping[str, np.ndarray]
"""Encoded columns of users or items: int32 of shape (rows, width)."""
