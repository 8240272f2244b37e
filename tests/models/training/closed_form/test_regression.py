"""The exact solution, compared with EASE, a truncated SVD and the written-out formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import EASE
from twotower.models.training.closed_form.regression import _first_eigenvectors, solve
from twotower.models.training.config import ClosedFormConfig

PLAIN = ClosedFormConfig(l2=5, popularity_l2=0, user_power=0)
USERS, ITEMS = 50, 12


def test_all_dimensions_equal_ease(train):
    history, candidates = solve(train, ITEMS, PLAIN)
    expected = EASE(l2=5).fit(train).score(np.arange(USERS))
    np.testing.assert_allclose(train @ history @ candidates.T, expected, rtol=1e-4, atol=1e-5)


def test_fewer_dimensions_equal_the_truncated_svd(train):
    history, candidates = solve(train, 4, PLAIN)
    u, s, v = np.linalg.svd(EASE(l2=5).fit(train).score(np.arange(USERS)), full_matrices=False)
    expected = (u[:, :4] * s[:4]) @ v[:4]
    np.testing.assert_allclose(train @ history @ candidates.T, expected, rtol=1e-3, atol=1e-4)


def test_user_weights_and_denoising_follow_the_formula(train):
    config = ClosedFormConfig(l2=2, popularity_l2=0.5, user_power=1)
    history, candidates = solve(train, ITEMS, config)
    x = train.toarray().astype(float)
    w = 1 / np.maximum(x.sum(axis=1), 1)
    gram = x.T @ np.diag(w / w.mean()) @ x
    p = np.linalg.inv(gram + 2 * np.eye(ITEMS) + 0.5 * np.diag(np.diag(gram)))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(history @ candidates.T, b, rtol=1e-4, atol=1e-5)


def test_items_beyond_the_most_popular_have_zeros(train):
    history, candidates = solve(train, 4, PLAIN.copy(update={"most_items": 7}))
    counts = np.asarray(train.sum(axis=0)).ravel()
    solved = np.argsort(-counts, kind="stable")[:7]
    assert set(np.flatnonzero(candidates.any(axis=1))) == set(solved)
    alone = solve(train[:, np.sort(solved)], 4, PLAIN)
    np.testing.assert_allclose(history[np.sort(solved)], alone[0], rtol=1e-5, atol=1e-6)


def test_dimensions_beyond_the_items_are_zero(train):
    history, candidates = solve(train, ITEMS + 3, PLAIN)
    assert history.shape == candidates.shape == (ITEMS, ITEMS + 3)
    assert not history[:, ITEMS:].any() and not candidates[:, ITEMS:].any()


def test_items_without_common_users_are_refused():
    with pytest.raises(ModelError, match="no two items have a user in common"):
        solve(csr_matrix(np.eye(5)), 2, PLAIN)


def test_eigenvectors_orthogonal_to_the_start_vector_are_found():
    one = np.array([[3.0, -3.0], [-3.0, 3.0]])  # its product with the start vector of ones is 0
    matrix = np.block([[one, np.zeros((2, 2))], [np.zeros((2, 2)), one / 3]])
    found = _first_eigenvectors(matrix, 2)
    expected = np.array([[1, -1, 0, 0], [0, 0, 1, -1]]).T / np.sqrt(2)
    np.testing.assert_allclose(np.abs(found.T @ expected), np.eye(2), atol=1e-12)


def test_a_user_of_weight_3_is_three_users(train):
    weights = train.toarray().astype(float)
    weights[7] *= 3
    thrice = csr_matrix(np.vstack([train.toarray(), *[train.toarray()[7:8]] * 2]))
    found = solve(csr_matrix(weights), ITEMS, PLAIN)
    expected = solve(thrice, ITEMS, PLAIN)
    without = solve(train, ITEMS, PLAIN)
    weights = [history @ candidates.T for history, candidates in (found, expected, without)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    assert np.abs(weights[0] - weights[2]).max() > 1e-3


def test_weights_follow_the_formula(train):
    config = ClosedFormConfig(l2=2, popularity_l2=0.5, user_power=1)
    weights = train.toarray() * np.random.default_rng(1).uniform(0.2, 4, train.shape)
    history, candidates = solve(csr_matrix(weights), ITEMS, config)
    gram = np.zeros((ITEMS, ITEMS))
    users = 1 / np.maximum((weights > 0).sum(axis=1), 1)
    for user, row in zip(users / users.mean(), weights, strict=True):
        gram += user * np.sqrt(np.outer(row, row))
    p = np.linalg.inv(gram + 2 * np.eye(ITEMS) + 0.5 * np.diag(np.diag(gram)))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(history @ candidates.T, b, rtol=1e-4, atol=1e-5)
