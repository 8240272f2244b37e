"""Alternating least squares, compared with the normal equations over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.training.closed_form import factorization
from twotower.models.training.closed_form.factorization import (
    factorize,
    regress_on_items,
    solve_rows,
)


@pytest.fixture(scope="module")
def targets(train) -> csr_matrix:
    values = np.random.default_rng(2).uniform(0.1, 1, train.shape)
    values[7] = 0
    return csr_matrix(train.toarray() * values, dtype=np.float32)


def normal_equations(targets: np.ndarray, columns: np.ndarray, unobserved, l2) -> np.ndarray:
    """Solve a weighted ridge regression per row, over all pairs."""
    rows = []
    for row in targets:
        weight = (row > 0) + unobserved
        n_solved = columns.any(axis=1).sum()
        ridge = l2 * ((row > 0).sum() + unobserved * n_solved) * np.eye(columns.shape[1])
        matrix = columns.T @ np.diag(weight) @ columns + ridge
        rows.append(np.linalg.solve(matrix, columns.T @ row))
    return np.array(rows)


@pytest.mark.parametrize("batch", [512, 3], ids=["one batch", "many batches"])
def test_rows_solve_the_normal_equations(targets, batch, monkeypatch):
    monkeypatch.setattr(factorization, "MAX_BATCH_ROWS", batch)
    columns = np.random.default_rng(1).normal(size=(12, 4))
    found = solve_rows(targets, columns.astype(np.float32), 0.1, 0.05)
    expected = normal_equations(targets.toarray(), columns, 0.1, 0.05)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not found[7].any()


def test_after_many_sweeps_both_sides_solve_their_equations(targets):
    rows, columns = factorize(targets, 3, unobserved=0.1, l2=0.05, sweeps=300)
    dense = targets.toarray()
    expected = normal_equations(dense, columns.astype(float), 0.1, 0.05)
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    expected = normal_equations(dense.T, rows.astype(float), 0.1, 0.05)
    np.testing.assert_allclose(columns, expected, atol=1e-3)


def test_a_stored_matrix_of_low_rank_is_reproduced():
    draw = np.random.default_rng(3)
    dense = draw.uniform(1, 2, (30, 3)) @ draw.uniform(1, 2, (3, 20))
    rows, columns = factorize(csr_matrix(dense), 3, unobserved=1e-6, l2=1e-6, sweeps=3)
    np.testing.assert_allclose(rows @ columns.T, dense, rtol=1e-2)


def test_it_starts_from_the_singular_vectors(targets):
    found = factorization._first_factors(targets, targets.T.tocsr(), 3)
    _, values, vectors = np.linalg.svd(targets.toarray(), full_matrices=False)
    expected = vectors[:3].T * np.sqrt(values[:3])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_dimensions_beyond_the_rank_are_zero(targets):
    rows, columns = factorize(targets, 15, unobserved=0.1, l2=0.05, sweeps=2)
    assert rows.shape == (50, 15) and columns.shape == (12, 15)
    assert not rows[:, 12:].any() and not columns[:, 12:].any()


def test_equations_that_float32_cannot_solve_are_refused(targets):
    with pytest.raises(ModelError, match="l2 1e-30; raise it"):
        solve_rows(targets, np.ones((12, 4), np.float32), 0.1, 1e-30)


def test_items_are_a_ridge_regression_of_the_users_vectors(train):
    users = np.random.default_rng(4).normal(size=(50, 3)).astype(np.float32)
    found = regress_on_items(csr_matrix(train, dtype=np.float32), users)
    x = train.toarray().astype(float)
    expected = np.linalg.solve(x.T @ x + factorization.HISTORY_L2 * np.eye(12), x.T @ users)
    np.testing.assert_allclose(found, expected, atol=1e-4)
