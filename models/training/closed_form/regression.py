"""The exact solution: a regression of users' items on each other, cut to a low rank.

The query tower sums embeddings of the user's items, and the candidate tower is an embedding of the
item. Their inner product is a low-rank regression of a user's items on each other, and its best
solution has a closed form.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackError, eigsh

from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import gram_matrix, item_item_weights
from twotower.models.training.config import ClosedFormConfig


def solve(train: csr_matrix, dim: int, config: ClosedFormConfig) -> tuple[np.ndarray, np.ndarray]:
    """Solve for the item embeddings of both towers.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        The weights of the positives, True or 1 where they have none.
    dim : int
        Dimension of the vectors. Dimensions beyond the number of items are 0.
    config : ClosedFormConfig

    Returns
    -------
    history : ndarray of float32, shape (n_items, dim)
        Embeddings of the user's items in the query tower.
    candidates : ndarray of float32, shape (n_items, dim)
        Embeddings in the candidate tower. Items without positives, and those that are not among
        the `most_items` most popular, have zeros in both.

    Raises
    ------
    ModelError
        If no two items have a user in common.

    Notes
    -----
    EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019) with weighted
    users and the denoising of EDLAE (Steck, "Autoencoders that don't overfit towards the
    identity", NeurIPS 2020). With G = X'WX and P = (G + diag(l2 + popularity_l2 * diag G))^-1 the
    item-item weights are B = -P / diag P, column by column, with a zero diagonal. Among all
    projections of the scores X B to `dim` dimensions, X B V V' has the smallest weighted squared
    error, where V are the first eigenvectors of B'GB. `history` is B V and `candidates` is V.

    X has the square root of each weight, so that a user whose positives all weigh w counts as w
    users. G = X'X then has the total weight of each item on its diagonal, and is the Gram matrix of
    the unweighted positives if all weigh 1. (A regression that weights each error would have
    another Gram matrix for each item.)
    """
    train = csr_matrix(train, dtype=float, copy=True)
    train.sum_duplicates()
    train.eliminate_zeros()
    train.data = np.sqrt(train.data)
    n_items = train.shape[1]
    n_users = np.bincount(train.indices, minlength=n_items)
    popular = np.argsort(-n_users, kind="stable")[: config.most_items]
    popular = np.sort(popular[n_users[popular] > 0])
    weights = np.maximum(np.diff(train.indptr), 1.0) ** -config.user_power
    gram = gram_matrix(csr_matrix(diags(np.sqrt(weights / weights.mean())) @ train[:, popular]))
    l2 = config.l2 + config.popularity_l2 * np.diag(gram)
    regression = item_item_weights(gram.copy(order="F"), l2)
    history, candidates = np.zeros((2, n_items, dim), np.float32)
    squares = regression.T @ (gram @ regression)
    if not squares.any():
        raise ModelError(
            "training.start: no two items have a user in common, so there is nothing to solve; "
            "remove this setting"
        )
    vectors = _first_eigenvectors(squares, dim) if dim < len(popular) else np.eye(len(popular))
    width = vectors.shape[1]
    history[popular, :width] = regression @ vectors
    candidates[popular, :width] = vectors
    return history, candidates


def _first_eigenvectors(matrix: np.ndarray, k: int) -> np.ndarray:
    """The k eigenvectors of a symmetric matrix [n, n] with the largest eigenvalues, descending."""
    try:
        # A fixed start vector makes the result reproducible.
        _, vectors = eigsh(matrix, k, v0=np.ones(len(matrix)))
    except ArpackError:  # the start vector is orthogonal to the matrix, or the rank is low
        n = len(matrix)
        _, vectors = eigh(matrix, subset_by_index=(n - k, n - 1))
    return vectors[:, ::-1]
