"""Weighted factorisation of a large sparse matrix by alternating least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg.lapack import sposv
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError

MAX_BATCH_ROWS = 512
MAX_BATCH_VALUES = 1 << 15
"""Stored values of a batch of rows: 16 MB of vectors with 128 dimensions."""
OVERSAMPLING, POWER_ITERATIONS = 16, 2
"""Of the randomised decomposition. Alternating least squares corrects what it leaves."""
HISTORY_L2, HISTORY_ITERATIONS = 0.3, 15
"""Of the regression of users' vectors on their items."""


def factorize(
    targets: csr_matrix,
    dim: int,
    unobserved: float,
    l2: float,
    sweeps: int,
    progress: Callable[[int], None] = lambda sweep: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Factorise a sparse matrix into vectors of its rows and columns.

    Parameters
    ----------
    targets : csr_matrix of float32, shape (n, m)
    dim : int
    unobserved : float
        Weight of the pairs that are not stored, whose target is 0. Stored pairs weigh 1 more.
    l2 : float
        Regularization, relative to the weight of all pairs of a row or column.
    sweeps : int
        Number of times that the vectors of the rows, and then of the columns, are solved for.
    progress : callable (sweep)
        Called before each sweep.

    Returns
    -------
    rows : ndarray of float32, shape (n, dim)
        Solved for the final vectors of the columns.
    columns : ndarray of float32, shape (m, dim)
        Rows and columns without stored values have zeros.

    Notes
    -----
    Minimises the sum of (t - x_i.y_j)^2 over the stored values t, plus `unobserved` times that of
    (x_i.y_j)^2 over all pairs, plus `l2` times the sum of (n_i + unobserved * m) |x_i|^2 and of
    (m_j + unobserved * n) |y_j|^2, where n_i and m_j count the stored values, and n and m the rows
    and columns that have some (iALS: Hu et al., ICDM 2008; scaling of l2: Rendle et al., RecSys
    2022). Starts from the singular vectors.
    """
    targets = csr_matrix(targets, dtype=np.float32)
    transposed = targets.T.tocsr()
    columns = _first_factors(targets, transposed, dim)
    for sweep in range(sweeps):
        progress(sweep)
        rows = solve_rows(targets, columns, unobserved, l2)
        columns = solve_rows(transposed, rows, unobserved, l2)
    return solve_rows(targets, columns, unobserved, l2), columns


def solve_rows(
    targets: csr_matrix, columns: np.ndarray, unobserved: float, l2: float
) -> np.ndarray:
    """Solve for the vectors of the rows, given those of the columns; see `factorize`.

    Parameters
    ----------
    targets : csr_matrix of float32, shape (n, m)
    columns : ndarray of float32, shape (m, dim)
    unobserved, l2 : float

    Returns
    -------
    ndarray of float32, shape (n, dim)
        Zeros for rows without stored values.

    Raises
    ------
    ModelError
        If `l2` is too small for the precision of float32.
    """
    n_rows, n_columns = targets.shape
    dim, n_solved = columns.shape[1], np.count_nonzero(columns.any(axis=1))
    diagonal = np.arange(dim)
    gram = unobserved * (columns.T @ columns)
    padded = np.concatenate([columns, np.zeros((1, dim), np.float32)])
    solved = np.zeros((n_rows, dim), np.float32)
    for rows, lengths in _batches(targets):
        places = np.arange(lengths.max())
        stored = places < lengths[:, None]
        where = (targets.indptr[rows][:, None] + places)[stored]
        indices = np.full(stored.shape, n_columns)
        indices[stored] = targets.indices[where]
        values = np.zeros(stored.shape, np.float32)
        values[stored] = targets.data[where]
        vectors = padded[indices]
        matrices = np.matmul(vectors.transpose(0, 2, 1), vectors) + gram
        matrices[:, diagonal, diagonal] += (l2 * (lengths + unobserved * n_solved))[:, None]
        right = np.matmul(values[:, None], vectors)[:, 0]
        # One call per row is three times as fast as numpy.linalg.solve on all of them.
        for row, matrix, vector in zip(rows, matrices, right, strict=True):
            _, solved[row], failed = sposv(matrix.T, vector, overwrite_a=True, overwrite_b=True)
            if failed:
                raise ModelError(f"the equations of a vector are singular with l2 {l2:g}; raise it")
    return solved


def regress_on_items(train: csr_matrix, users: np.ndarray) -> np.ndarray:
    """Find vectors of items whose sum over a user's items is near the user's vector.

    Parameters
    ----------
    train : csr_matrix of float32, shape (n_users, n_items)
        1 for each positive.
    users : ndarray of float32, shape (n_users, dim)

    Returns
    -------
    ndarray of float32, shape (n_items, dim)

    Notes
    -----
    Ridge regression, (X'X + l2 I) H = X'U, by conjugate gradients with the diagonal as
    preconditioner. They are stopped early, which regularises as well.
    """
    by_item = train.T.tocsr()
    scale = (1 / (np.diff(by_item.indptr) + HISTORY_L2)).astype(np.float32)[:, None]
    residual = by_item @ users
    found = np.zeros_like(residual)
    direction = scale * residual
    error = (residual * direction).sum(axis=0)
    for _ in range(HISTORY_ITERATIONS):
        product = by_item @ (train @ direction) + np.float32(HISTORY_L2) * direction
        curvature = (direction * product).sum(axis=0)
        step = np.divide(error, curvature, out=np.zeros_like(error), where=curvature > 0)
        found += step * direction
        residual -= step * product
        scaled = scale * residual
        previous, error = error, (residual * scaled).sum(axis=0)
        ratio = np.divide(error, previous, out=np.zeros_like(error), where=previous > 0)
        direction = scaled + ratio * direction
    return found


def _first_factors(targets: csr_matrix, transposed: csr_matrix, dim: int) -> np.ndarray:
    """The first right singular vectors times the roots of their singular values, [m, dim].

    Randomised subspace iteration (Halko et al., SIAM Review 2011), always with the same numbers.
    """
    width = min(dim + OVERSAMPLING, *targets.shape)
    basis = np.random.default_rng(0).normal(size=(targets.shape[1], width)).astype(np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(targets @ basis)[0]
        basis = np.linalg.qr(transposed @ basis)[0]
    image = targets @ basis
    squares, rotation = np.linalg.eigh(image.T @ image)
    largest = np.argsort(-squares)[:dim]
    factors = np.zeros((targets.shape[1], dim), np.float32)
    roots = np.maximum(squares[largest], 0) ** 0.25
    factors[:, : len(largest)] = basis @ (rotation[:, largest] * roots)
    return factors


def _batches(targets: csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of similar length, and their lengths, except rows without stored values."""
    lengths = np.diff(targets.indptr)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        longest = lengths[order[min(start + MAX_BATCH_ROWS, len(order)) - 1]]
        rows = order[start : start + max(1, min(MAX_BATCH_ROWS, MAX_BATCH_VALUES // longest))]
        yield rows, lengths[rows]
        start += len(rows)
