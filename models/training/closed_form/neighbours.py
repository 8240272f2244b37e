"""A neighbourhood model of large catalogues, and the items that it recommends to each user.

The model is a sparse matrix of item-item weights. It is computed in blocks, and only the largest
weights of each item are kept, so memory and time grow about linearly with the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

from twotower.models.training.config import SparseConfig

MAX_BLOCK_ENTRIES = 1 << 23
"""Upper bound on the entries of a block of products: 12 bytes each."""
TARGET_POWER = 0.5
"""Targets are the scores, relative to the user's highest, to this power; 1 was worse on valid."""


def item_neighbours(train: csr_matrix, config: SparseConfig, user_power: float) -> csr_matrix:
    """Compute item-item weights.

    Parameters
    ----------
    train : csr_matrix of float32, shape (n_users, n_items)
        The values of the positives.
    config : SparseConfig
    user_power : float
        See `ClosedFormConfig`.

    Returns
    -------
    csr_matrix of float32, shape (n_items, n_items)
        Row j has the `neighbours` largest weights of item j: what it adds to the scores of others.

    Notes
    -----
    The weights are D^-h X'WX D^-c, where X is `train`, W the weights of the users, D the number of
    users of each item, h the `history_power` and c the `candidate_power`. With h = c = 1/2 and
    users weighted by 1/n it is the linear graph filter of GF-CF (Shen et al., CIKM 2021).
    """
    by_item = train.T.tocsr()
    n_positives = np.diff(train.indptr)
    n_users = np.maximum(np.diff(by_item.indptr), 1)
    left = csr_matrix(diags(n_users**-config.history_power) @ by_item, dtype=np.float32)
    right = diags(np.maximum(n_positives, 1) ** -user_power) @ train
    right = csr_matrix(right @ diags(n_users**-config.candidate_power), dtype=np.float32)
    # The number of products is an upper bound on the number of an item's neighbours.
    sizes = np.minimum((by_item != 0) @ n_positives.astype(np.float64), train.shape[1])
    blocks = []
    for rows in _blocks(sizes):
        product = csr_matrix(left[rows] @ right)
        items = np.repeat(np.arange(rows.start, rows.stop), np.diff(product.indptr))
        product.data[product.indices == items] = 0  # an item is not its own neighbour
        product.eliminate_zeros()
        blocks.append(keep_largest(product, config.neighbours))
    return csr_matrix(vstack(blocks, format="csr"))


def neighbour_targets(
    train: csr_matrix, neighbours: csr_matrix, config: SparseConfig
) -> csr_matrix:
    """List what each user should be recommended.

    Parameters
    ----------
    train : csr_matrix of float32, shape (n_users, n_items)
        The values of the positives.
    neighbours : csr_matrix of float32, shape (n_items, n_items)
        The result of `item_neighbours`.
    config : SparseConfig

    Returns
    -------
    csr_matrix of float32, shape (n_users, n_items)
        1 for the user's own items, and a number in (0, 1] for the `targets` items with the highest
        scores among the others: (score / highest) ** TARGET_POWER.
    """
    sizes = (train != 0) @ np.diff(neighbours.indptr).astype(np.float64)
    sizes = np.minimum(sizes, train.shape[1])
    blocks = []
    for rows in _blocks(sizes):
        positives = csr_matrix(train[rows] != 0, dtype=np.float32)
        scores = csr_matrix(train[rows] @ neighbours)
        scores -= scores.multiply(positives)
        scores.eliminate_zeros()
        scores = keep_largest(scores, config.targets)
        highest = scores.max(axis=1).toarray()[:, 0]
        scores.data /= np.repeat(highest, np.diff(scores.indptr))
        scores.data **= TARGET_POWER
        blocks.append(csr_matrix(scores + positives))
    return csr_matrix(vstack(blocks, format="csr"))


def keep_largest(matrix: csr_matrix, k: int) -> csr_matrix:
    """Keep the k largest stored values of each row.

    Parameters
    ----------
    matrix : csr_matrix, shape (n, m)
    k : int

    Returns
    -------
    csr_matrix, shape (n, m)
    """
    lengths = np.diff(matrix.indptr)
    keep = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(lengths > k):
        values = slice(matrix.indptr[row], matrix.indptr[row + 1])
        keep[values.start + np.argpartition(matrix.data[values], -k)[:-k]] = False
    starts = np.append(0, np.minimum(lengths, k).cumsum())
    return csr_matrix((matrix.data[keep], matrix.indices[keep], starts), matrix.shape)


def _blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Divide rows into slices whose `sizes` sum to at most MAX_BLOCK_ENTRIES, or of one row."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        limit = (ends[start - 1] if start else 0) + MAX_BLOCK_ENTRIES
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield slice(start, stop)
        start = stop
