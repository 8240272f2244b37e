"""Baselines without gradient descent: popularity, random, ItemKNN and EASE.

Each is fitted on the training interactions, a matrix [n_users, n_items] whose nonzero entries
count as 1, and is a `models.evaluation.Scorer`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import inv
from scipy.sparse import csr_matrix

from models.errors import ModelError
from models.evaluation import BaselineName, Scorer, binary, topk

EASE_MAX_ITEMS = 20_000  # 4.8 GB and minutes of inversion; both grow steeply from there
BLOCK = 1024  # items whose co-occurrence counts are dense at once


class Popularity:
    """The number of users who interacted with the item, the same for everybody."""

    def fit(self, train: csr_matrix) -> Popularity:
        """Count the users of each item."""
        self.counts = np.bincount(binary(train).indices, minlength=train.shape[1]).astype(float)
        return self

    def score(self, users: np.ndarray) -> np.ndarray:
        """float64 [len(users), n_items], a read-only view."""
        return np.broadcast_to(self.counts, (len(users), len(self.counts)))


class Random:
    """Uniform scores; a user's row depends on the seed and on the user alone."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, train: csr_matrix) -> Random:
        """Learn the number of items."""
        self.n_items = train.shape[1]
        return self

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items] in [0, 1)."""
        scores = np.empty((len(users), self.n_items), dtype=np.float32)
        for row, user in zip(scores, users, strict=True):
            np.random.default_rng((self.seed, user)).random(dtype=np.float32, out=row)
        return scores


class ItemKNN:
    """Nearest items by cosine (Sarwar et al. 2001; as RecBole's `ItemKNN` with shrink 0).

    score(u, i) = sum of cos(i, j) over the user's items j that are among the `neighbours`
    items nearest to the scored item i. An item is not its own neighbour.
    """

    def __init__(self, neighbours: int = 250):
        self.neighbours = neighbours

    def fit(self, train: csr_matrix) -> ItemKNN:
        """Keep each item's nearest items; memory is BLOCK x n_items, then items x neighbours."""
        self.train = binary(train).astype(np.float32)
        n_items = train.shape[1]
        users_of = self.train.getnnz(axis=0).astype(float)
        nearest, similarities = [], []
        for items, together in _cooccurrence(self.train):
            # An item without users meets nobody: 0/1 instead of 0/0.
            cosine = together / np.sqrt(np.maximum(np.outer(users_of[items], users_of), 1))
            cosine[np.arange(len(items)), items] = 0
            cosine[cosine == 0] = -np.inf  # no neighbour at all
            columns, values = topk(cosine, min(self.neighbours, n_items))
            nearest.append(columns)
            similarities.append(values)
        columns, values = np.vstack(nearest), np.vstack(similarities)
        rows, slots = np.nonzero(columns >= 0)
        # Entry [j, i]: what the user's item j adds to item i.
        self.weights = csr_matrix(
            (values[rows, slots].astype(np.float32), (columns[rows, slots], rows)),
            shape=(n_items, n_items),
        )
        return self

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items]; 0 where no neighbour of the item is the user's."""
        return (self.train[users] @ self.weights).toarray()


class EASE:
    """Embarrassingly shallow autoencoder (Steck 2019, arXiv:1905.03375).

    P = (X'X + l2 I)^-1, B = -P / diag(P) column by column with a zero diagonal, scores X B.
    Fitting needs 12 bytes x n_items^2 and time of order n_items^3, so more than
    EASE_MAX_ITEMS items are refused with a ModelError.
    """

    def __init__(self, l2: float = 1000.0):
        self.l2 = l2

    def fit(self, train: csr_matrix) -> EASE:
        """Solve for the item-to-item weights, float32 [n_items, n_items]."""
        n_items = train.shape[1]
        if n_items > EASE_MAX_ITEMS:
            raise ModelError(
                f"EASE on {n_items} items would need {12 * n_items**2 / 1e9:.0f} GB of memory; "
                f"it is refused above {EASE_MAX_ITEMS} items: take 'ease' out of the baselines "
                "(itemknn has no such limit)"
            )
        self.train = binary(train).astype(np.float32)
        weights = items_to_items(gram(self.train), self.l2)
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)
        return self

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items]."""
        return self.train[users] @ self.weights


def fit_baseline(name: BaselineName, train: csr_matrix, seed: int) -> Scorer:
    """The baseline `name` with its default settings, fitted; `seed` is for `random` only."""
    models = {"popularity": Popularity(), "random": Random(seed), "itemknn": ItemKNN()}
    models["ease"] = EASE()
    if name not in models:
        raise ModelError(f"unknown baseline {name!r}; there are {', '.join(models)}")
    return models[name].fit(train)


def gram(train: csr_matrix) -> np.ndarray:
    """X'X, float64 [n_items, n_items] in Fortran order."""
    product = np.empty((train.shape[1],) * 2, order="F")
    for items, together in _cooccurrence(train):
        product[:, items] = together.T
    return product


def items_to_items(gram: np.ndarray, l2: float | np.ndarray) -> np.ndarray:
    """EASE's weights -P / diag P, P = (gram + diag l2)^-1, with a zero diagonal.

    gram : float64 [n, n] in Fortran order, which lets LAPACK invert it in place: it is overwritten
    l2 : above 0, one for all or [n]
    """
    gram[np.diag_indices(len(gram))] += l2
    weights = inv(gram, overwrite_a=True, check_finite=False)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights


def _cooccurrence(train: csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of X'X: item positions [b] and, for each, its common users with all items [b, n].

    float32 counts are exact up to 16.7 million users of one pair.
    """
    by_item = train.T.tocsr()
    for start in range(0, train.shape[1], BLOCK):
        items = np.arange(start, min(start + BLOCK, train.shape[1]))
        yield items, (by_item[items] @ train).toarray()
