"""Baselines without gradient descent: popularity, random, ItemKNN and EASE.

To add a baseline, write a class with `fit` that is a `Scorer` or a `Ranker` once fitted, and add it
to `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.linalg import inv
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.evaluation.ranking import Ranker, Scorer, binary

EASE_MAX_ITEMS = 20_000  # takes 4.8 GB and minutes to invert; both grow steeply beyond
BLOCK = 1024  # items per block when counting the users that two items have in common
MAX_BLOCK_NEIGHBOURS = 1 << 23  # neighbours of all items of a block: 64 MB
# ItemKNN counts about 2e8 pairs of items per second, and ranks about 5e7 scores per second.
MAX_DEFAULT_PAIRS, MAX_DEFAULT_SCORES = 10**9, 10**9


class Baseline(Protocol):
    """A model that is fitted on the training interactions alone."""

    def fit(self, train: csr_matrix) -> Scorer | Ranker:
        """Fit the model and return it.

        Parameters
        ----------
        train : csr_matrix, shape (n_users, n_items)
            Every nonzero entry counts as one interaction.
        """
        ...


@runtime_checkable
class FromItems(Protocol):
    """A fitted baseline that scores from the items of each user."""

    def know(self, items: csr_matrix) -> None:
        """Score from these items of each user, instead of those in the training part.

        Parameters
        ----------
        items : csr_matrix, shape (n_users, n_items)
        """
        ...


class Popularity:
    """Rank items by the number of users who interacted with them, the same for every user."""

    def fit(self, train: csr_matrix) -> Popularity:
        """Sort the items by their number of users; equally popular ones by row."""
        counts = np.bincount(binary(train).indices, minlength=train.shape[1])
        self.order = np.argsort(-counts, kind="stable")
        return self

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the k best candidates of each user; see `Ranker.rank`."""
        order = self.order[candidates[self.order]]
        # Position of each item in the order; items that are not candidates come after it.
        position = np.full(len(candidates), len(order))
        position[order] = np.arange(len(order))
        rows = np.repeat(np.arange(len(users)), np.diff(seen.indptr))
        pairs = np.sort(rows * len(candidates) + position[seen.indices])  # by position in each row
        positions = pairs % len(candidates)
        # Number of unseen items before each seen item; every later item moves up by one.
        before = positions - (np.arange(len(pairs)) - seen.indptr[rows])
        moves = (positions < len(order)) & (before < k)
        moved = np.bincount(rows[moves] * k + before[moves], minlength=len(users) * k)
        ranks = np.arange(k) + moved.reshape(-1, k).cumsum(axis=1)
        return np.append(order, -1)[np.minimum(ranks, len(order))]


class Random:
    """Rank items in a random order that depends only on the seed and the user.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, train: csr_matrix) -> Random:
        """Return the model, which learns nothing."""
        return self

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return k random candidates of each user; see `Ranker.rank`.

        The time does not depend on the number of candidates, unless k is a large part of them.
        """
        items = np.flatnonzero(candidates)
        ranked = np.full((len(users), k), -1)
        for row, user in enumerate(users):
            draws = np.random.default_rng((self.seed, user))
            own = seen.indices[seen.indptr[row] : seen.indptr[row + 1]]
            left_out = own[candidates[own]]
            drawn = _distinct(draws, len(items), min(len(items), k + len(left_out)))
            unseen = items[drawn][~np.isin(items[drawn], left_out)][:k]
            ranked[row, : len(unseen)] = unseen
        return ranked


def _distinct(draws: np.random.Generator, n: int, count: int) -> np.ndarray:
    """Draw `count` different numbers below n in a random order."""
    if 2 * count >= n:
        return draws.permutation(n)[:count]
    numbers = draws.integers(0, n, 2 * count)
    while True:
        _, first = np.unique(numbers, return_index=True)
        if len(first) >= count:
            return numbers[np.sort(first)[:count]]
        numbers = np.append(numbers, draws.integers(0, n, count))


class ItemKNN:
    """Nearest neighbours of items by cosine similarity.

    Parameters
    ----------
    neighbours : int
        Number of nearest items kept for each item.

    Notes
    -----
    score(u, i) is the sum of cos(i, j) over those items j of user u that are among the
    `neighbours` nearest items of i (Sarwar et al., 2001; RecBole's `ItemKNN` with shrink 0). An
    item is not its own neighbour.
    """

    def __init__(self, neighbours: int = 250):
        self.neighbours = neighbours

    def fit(self, train: csr_matrix) -> ItemKNN:
        """Find each item's nearest items, in blocks of items to limit the memory.

        A block takes `MAX_BLOCK_NEIGHBOURS` x 8 bytes (more if a single item has more neighbours);
        the result takes items x neighbours entries.
        """
        self.train = binary(train).astype(np.float32)
        by_item = self.train.T.tocsr()
        # Upper bound on the number of items that have a user in common with each item.
        bound = np.minimum(by_item @ np.diff(self.train.indptr), train.shape[1]).astype(np.int64)
        order = np.argsort(bound, kind="stable")
        order = order[np.searchsorted(bound[order], 1) :]  # the others have no users
        start, entries = 0, []
        while start < len(order):
            widest = bound[order[min(start + BLOCK, len(order)) - 1]]
            items = order[start : start + max(1, min(BLOCK, MAX_BLOCK_NEIGHBOURS // widest))]
            entries.append(self._nearest(by_item, items))
            start += len(items)
        values, columns, rows = (np.concatenate(part) for part in zip(*entries, strict=True))
        # Entry [j, i] is what the user's item j adds to the score of item i.
        self.weights = csr_matrix((values, (columns, rows)), shape=(train.shape[1],) * 2)
        return self

    def _nearest(
        self, by_item: csr_matrix, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return cosine, neighbour and item of each pair of one of `items` and a neighbour."""
        from twotower.models.evaluation.top_k import topk

        n_users = np.diff(by_item.indptr).astype(float)
        common = (by_item[items] @ self.train).tocsc().tocsr()  # sorts the columns in linear time
        rows = np.repeat(np.arange(len(items)), np.diff(common.indptr))
        cosine = common.data / np.sqrt(n_users[items[rows]] * n_users[common.indices])
        cosine[common.indices == items[rows]] = -np.inf  # an item is not its own neighbour
        # A dense row holds only the items with a common user, which are few of the catalogue.
        dense = np.full((len(items), np.diff(common.indptr).max()), -np.inf)
        dense[rows, np.arange(len(rows)) - common.indptr[rows]] = cosine
        columns, values = topk(dense, min(self.neighbours, dense.shape[1]))
        rows, slots = np.nonzero(columns >= 0)
        neighbours = common.indices[common.indptr[rows] + columns[rows, slots]]
        return values[rows, slots].astype(np.float32), neighbours, items[rows]

    def know(self, items: csr_matrix) -> None:
        """See `FromItems`."""
        self.train = binary(items).astype(np.float32)

    def score(self, users: np.ndarray) -> np.ndarray:
        """Return float32 scores, 0 where the user has no neighbour of the item."""
        return (self.train[users] @ self.weights).toarray()


class EASE:
    """Embarrassingly shallow autoencoder: an item-item regression in closed form.

    Items without positives have no weights and score 0. Fitting takes 12 n^2 bytes and time of
    order n^3 for n items with positives.

    Parameters
    ----------
    l2 : float
        Regularization.

    Notes
    -----
    With P = (X'X + l2 I)^-1 the item-item weights are B = -P / diag(P), column by column, with a
    zero diagonal. The scores are X B (Steck, 2019, arXiv:1905.03375).
    """

    def __init__(self, l2: float = 1000.0):
        self.l2 = l2

    def fit(self, train: csr_matrix) -> EASE:
        """Solve for the weights of the items that have positives.

        Raises
        ------
        ModelError
            If there are more than `EASE_MAX_ITEMS` such items.
        """
        train = binary(train).astype(np.float32)
        self.n_items, self.items = train.shape[1], np.flatnonzero(train.getnnz(axis=0))
        n = len(self.items)
        if n > EASE_MAX_ITEMS:
            raise ModelError(
                f"EASE on {n} items would need {12 * n**2 / 1e9:.0f} GB of memory; it is limited "
                f"to {EASE_MAX_ITEMS} items: remove 'ease' from evaluation.baselines "
                "(itemknn has no such limit)"
            )
        self.train = train[:, self.items]
        weights = item_item_weights(gram_matrix(self.train), self.l2)
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)
        return self

    def know(self, items: csr_matrix) -> None:
        """See `FromItems`."""
        self.train = binary(items).astype(np.float32)[:, self.items]

    def score(self, users: np.ndarray) -> np.ndarray:
        """Return float32 scores; see `Scorer.score`."""
        scores = np.zeros((len(users), self.n_items), np.float32)
        scores[:, self.items] = self.train[users] @ self.weights
        return scores


BASELINES: dict[str, Callable[[int], Baseline]] = {
    "popularity": lambda seed: Popularity(),
    "random": Random,
    "itemknn": lambda seed: ItemKNN(),
    "ease": lambda seed: EASE(),
}
"""Name in the settings -> the unfitted baseline for a seed."""


def fit_baseline(name: str, train: csr_matrix, seed: int) -> Scorer | Ranker:
    """Fit a baseline with its default settings.

    Parameters
    ----------
    name : str
        A key of `BASELINES`.
    train : csr_matrix, shape (n_users, n_items)
        Every nonzero entry counts as one interaction.
    seed : int
        Random seed; only `random` uses it.

    Returns
    -------
    Scorer or Ranker

    Raises
    ------
    ModelError
        If there is no such baseline.
    """
    if name not in BASELINES:
        raise ModelError(f"unknown baseline {name!r}; choose from {', '.join(BASELINES)}")
    return BASELINES[name](seed).fit(train)


def default_baselines(train: csr_matrix, users: int) -> list[str]:
    """Return the baselines to measure if the settings name none.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        The interactions to fit them on.
    users : int
        Number of users to rank the items for.

    Returns
    -------
    list of str
        Popularity, random and, if it takes seconds, itemknn: it is the cheapest baseline that is
        personal. Its time grows with the pairs of items that a user has, and with the scores.
    """
    pairs = (np.diff(train.indptr).astype(float) ** 2).sum()
    cheap = pairs <= MAX_DEFAULT_PAIRS and users * train.shape[1] <= MAX_DEFAULT_SCORES
    return ["popularity", "random", *(["itemknn"] if cheap else [])]


def gram_matrix(train: csr_matrix) -> np.ndarray:
    """Compute X'X, block by block.

    Parameters
    ----------
    train : csr_matrix of float, shape (n_users, n_items)
        X. Counts in float32 are exact up to 16.7 million users per pair of items.

    Returns
    -------
    ndarray of float64, shape (n_items, n_items), in Fortran order
    """
    by_item = train.T.tocsr()
    product = np.empty((train.shape[1],) * 2, order="F")
    for start in range(0, len(product), BLOCK):
        items = slice(start, start + BLOCK)
        product[:, items] = (by_item[items] @ train).toarray().T
    return product


def item_item_weights(gram: np.ndarray, l2: float | np.ndarray) -> np.ndarray:
    """Solve for EASE's item-item weights; the formula is in the notes of `EASE`.

    Parameters
    ----------
    gram : ndarray of float64, shape (n, n), in Fortran order
        X'X. It is overwritten: the order lets LAPACK invert it in place.
    l2 : float or ndarray of float, shape (n,)
        Regularization, above 0, of all items or of each.

    Returns
    -------
    ndarray of float64, shape (n, n)
    """
    gram[np.diag_indices(len(gram))] += l2
    weights = inv(gram, overwrite_a=True, check_finite=False)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights
