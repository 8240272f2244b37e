"""The sparse solution: neighbourhoods of items, factorised into vectors of users and items."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.training.closed_form.factorization import (
    MAX_BATCH_ROWS,
    MAX_BATCH_VALUES,
    factorize,
    regress_on_items,
)
from twotower.models.training.closed_form.neighbours import (
    MAX_BLOCK_ENTRIES,
    item_neighbours,
    neighbour_targets,
)
from twotower.models.training.config import ClosedFormConfig, SparseConfig

ENTRY_BYTES = 8
"""A float32 and an int32 index of each stored value of a matrix."""


class SparseSolution(NamedTuple):
    """Vectors of users and items.

    Attributes
    ----------
    users : ndarray of float32, shape (n_users, dim)
        Zeros for users without positives.
    history : ndarray of float32, shape (n_items, dim)
        Their sum over a user's items is near the user's vector.
    candidates : ndarray of float32, shape (n_items, dim)
        Zeros for items without positives.
    """

    users: np.ndarray
    history: np.ndarray
    candidates: np.ndarray


def solve_sparse(
    train: csr_matrix,
    dim: int,
    config: ClosedFormConfig,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> SparseSolution:
    """Solve for the vectors of users and items of a catalogue of any size.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        The weights of the positives, True or 1 where they have none.
    dim : int
        Dimension of the vectors.
    config : ClosedFormConfig
    progress : callable (done, total, text)
        Called before each stage.

    Returns
    -------
    SparseSolution

    Raises
    ------
    ModelError
        If no two items have a user in common, or it would take more than `max_memory`.

    Notes
    -----
    A neighbourhood model (`item_neighbours`) recommends each user `targets` items. They and the
    user's own items are factorised with weights (`factorize`). The neighbourhoods have a high rank;
    cut to `dim` singular vectors they lose a quarter of their recall on sparse data. Fitted only
    where a user's best items are, `dim` dimensions suffice.

    The neighbourhoods are of the square roots of the weights, so that a user whose positives all
    weigh w counts as w users. The factorisation weighs all positives the same.
    """
    settings = config.sparse
    _check_memory(train, dim, config)
    train = csr_matrix(train, dtype=np.float32, copy=True)
    train.sum_duplicates()
    train.eliminate_zeros()
    train.data = np.sqrt(train.data)
    total = settings.sweeps + 3
    progress(0, total, "neighbours of the items")
    neighbours = item_neighbours(train, settings, config.user_power)
    progress(1, total, "targets of the users")
    targets = neighbour_targets(train, neighbours, settings)
    if targets.nnz == train.nnz:
        raise ModelError(
            "training.start: no two items have a user in common, so there is nothing to solve; "
            "remove this setting"
        )
    del neighbours
    users, candidates = factorize(
        targets=targets,
        dim=dim,
        unobserved=settings.unobserved,
        l2=settings.l2,
        sweeps=settings.sweeps,
        progress=lambda sweep: progress(2 + sweep, total, f"sweep {sweep + 1}"),
    )
    del targets
    progress(total - 1, total, "vectors of the histories")
    train.data = np.ones_like(train.data)
    return SparseSolution(users, regress_on_items(train, users), candidates)


def sparse_memory(
    n_users: int, n_items: int, n_positives: int, dim: int, config: SparseConfig
) -> float:
    """Estimate the memory that `solve_sparse` takes.

    Parameters
    ----------
    n_users, n_items, n_positives, dim : int
    config : SparseConfig

    Returns
    -------
    float
        Bytes at the peak.
    """
    data = 3 * ENTRY_BYTES * n_positives
    block = 6 * ENTRY_BYTES * MAX_BLOCK_ENTRIES
    neighbours = ENTRY_BYTES * n_items * min(config.neighbours, n_items)
    targets = ENTRY_BYTES * (n_positives + n_users * min(config.targets, n_items))
    vectors = 4 * dim * (n_users + n_items)
    batch = 4 * dim * (3 * (MAX_BATCH_VALUES + max(n_users, n_items)) + 2 * MAX_BATCH_ROWS * dim)
    stages = (
        2 * neighbours + block,
        neighbours + 2 * targets + block,
        3 * targets + 3 * vectors + batch,
    )
    return data + max(stages)


def _check_memory(train: csr_matrix, dim: int, config: ClosedFormConfig) -> None:
    """Raise ModelError if solving would take more than `max_memory`."""
    n_users, n_items = train.shape
    needed = sparse_memory(n_users, n_items, train.nnz, dim, config.sparse) / 1e9
    if needed > config.max_memory:
        raise ModelError(
            f"training.start would take about {needed:.2g} GB for {n_users:,} users, {n_items:,} "
            f"items and {train.nnz:,} positives, more than training.start.max_memory, "
            f"{config.max_memory:g}; raise that, or lower model.dim, "
            "training.start.sparse.neighbours or training.start.sparse.targets"
        )
