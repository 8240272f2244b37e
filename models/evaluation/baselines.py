"""Baselines without gradient descent: popularity, random, ItemKNN and EASE.

Each is fitted on the training interactions, a matrix [n_users, n_items] whose nonzero entries
count as 1, and is a `models.evaluation.metrics.Scorer` or `Ranker`.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import inv
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.evaluation.metrics import BaselineName, Ranker, Scorer, binary

EASE_MAX_ITEMS = 20_000  # 4.8 GB and minutes of inversion; both grow steeply from there
BLOCK = 1024  # items per block when common users of items are counted
NEIGHBOURS_AT_ONCE = 1 << 23  # neighbours of the items of a block, 64 MB


class Popularity:
    """The number of users who interacted with the item, the same for everybody."""

    def fit(self, train: csr_matrix) -> Popularity:
        """Order the items by their users; equally popular ones by position."""
        counts = np.bincount(binary(train).indices, minlength=train.shape[1])
        self.order = np.argsort(-counts, kind="stable")
        return self

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """int64 [len(users), k], see `models.evaluation.metrics.Ranker`."""
        order = self.order[candidates[self.order]]
        # Place of each item in the order; items that are no candidates come after it.
        place = np.full(len(candidates), len(order))
        place[order] = np.arange(len(order))
        rows = np.repeat(np.arange(len(users)), np.diff(seen.indptr))
        pairs = np.sort(rows * len(candidates) + place[seen.indices])  # each row's by place
        places = pairs % len(candidates)
        # Number of unseen items before each seen item; every later item moves up one place.
        before = places - (np.arange(len(pairs)) - seen.indptr[rows])
        moves = (places < len(order)) & (before < k)
        moved = np.bincount(rows[moves] * k + before[moves], minlength=len(users) * k)
        ranks = np.arange(k) + moved.reshape(-1, k).cumsum(axis=1)
        return np.append(order, -1)[np.minimum(ranks, len(order))]


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
        """Keep each item's nearest items.

        A block takes NEIGHBOURS_AT_ONCE x 8 bytes, or a single item's neighbours if these are more;
        the result takes items x neighbours.
        """
        self.train = binary(train).astype(np.float32)
        by_item = self.train.T.tocsr()
        # Upper bound on the number of items that share a user with each item.
        met = np.minimum(by_item @ np.diff(self.train.indptr), train.shape[1]).astype(np.int64)
        order = np.argsort(met, kind="stable")
        order = order[np.searchsorted(met[order], 1) :]  # the others have no users
        start, entries = 0, []
        while start < len(order):
            widest = met[order[min(start + BLOCK, len(order)) - 1]]
            items = order[start : start + max(1, min(BLOCK, NEIGHBOURS_AT_ONCE // widest))]
            entries.append(self._nearest(by_item, items))
            start += len(items)
        values, columns, rows = (np.concatenate(part) for part in zip(*entries, strict=True))
        # Entry [j, i]: what the user's item j adds to item i.
        self.weights = csr_matrix((values, (columns, rows)), shape=(train.shape[1],) * 2)
        return self

    def _nearest(
        self, by_item: csr_matrix, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosines, neighbours and the items they belong to, of `items`, each [entries]."""
        from twotower.models.evaluation.top_k import topk

        users_of = np.diff(by_item.indptr).astype(float)
        together = (by_item[items] @ self.train).tocsc().tocsr()  # sorts, in linear time
        rows = np.repeat(np.arange(len(items)), np.diff(together.indptr))
        cosine = together.data / np.sqrt(users_of[items[rows]] * users_of[together.indices])
        cosine[together.indices == items[rows]] = -np.inf  # not its own neighbour
        # Each row holds only the items with a common user: few rows are as wide as the catalogue.
        side_by_side = np.full((len(items), np.diff(together.indptr).max()), -np.inf)
        side_by_side[rows, np.arange(len(rows)) - together.indptr[rows]] = cosine
        places, values = topk(side_by_side, min(self.neighbours, side_by_side.shape[1]))
        rows, slots = np.nonzero(places >= 0)
        neighbours = together.indices[together.indptr[rows] + places[rows, slots]]
        return values[rows, slots].astype(np.float32), neighbours, items[rows]

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items]; 0 where no neighbour of the item is the user's."""
        return (self.train[users] @ self.weights).toarray()


class EASE:
    """Embarrassingly shallow autoencoder (Steck 2019, arXiv:1905.03375).

    P = (X'X + l2 I)^-1, B = -P / diag(P) column by column with a zero diagonal, scores X B.
    Items without positives have no weights and score 0. Fitting needs 12 bytes x n^2 and time of
    order n^3 for n items with positives; more than EASE_MAX_ITEMS are refused with a ModelError.
    """

    def __init__(self, l2: float = 1000.0):
        self.l2 = l2

    def fit(self, train: csr_matrix) -> EASE:
        """Solve for the weights, float32 [n, n], of the n items that have positives."""
        train = binary(train).astype(np.float32)
        self.n_items, self.items = train.shape[1], np.flatnonzero(train.getnnz(axis=0))
        n = len(self.items)
        if n > EASE_MAX_ITEMS:
            raise ModelError(
                f"EASE on {n} items would need {12 * n**2 / 1e9:.0f} GB of memory; "
                f"it is refused above {EASE_MAX_ITEMS} items: take 'ease' out of the baselines "
                "(itemknn has no such limit)"
            )
        self.train = train[:, self.items]
        weights = items_to_items(gram(self.train), self.l2)
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)
        return self

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items]."""
        scores = np.zeros((len(users), self.n_items), np.float32)
        scores[:, self.items] = self.train[users] @ self.weights
        return scores


def fit_baseline(name: BaselineName, train: csr_matrix, seed: int) -> Scorer | Ranker:
    """The baseline `name` with its default settings, fitted; `seed` is for `random` only."""
    models = {"popularity": Popularity(), "random": Random(seed), "itemknn": ItemKNN()}
    models["ease"] = EASE()
    if name not in models:
        raise ModelError(f"unknown baseline {name!r}; there are {', '.join(models)}")
    return models[name].fit(train)


def gram(train: csr_matrix) -> np.ndarray:
    """X'X, float64 [n_items, n_items] in Fortran order.

    Counts of float32 are exact up to 16.7 million users of one pair.
    """
    by_item = train.T.tocsr()
    product = np.empty((train.shape[1],) * 2, order="F")
    for start in range(0, len(product), BLOCK):
        items = slice(start, start + BLOCK)
        product[:, items] = (by_item[items] @ train).toarray().T
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
