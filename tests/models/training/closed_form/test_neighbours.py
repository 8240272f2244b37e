"""Neighbours of items and targets of users, compared with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.models.training.closed_form import neighbours
from twotower.models.training.closed_form.neighbours import (
    item_neighbours,
    keep_largest,
    neighbour_targets,
)
from twotower.models.training.config import SparseConfig

ALL = SparseConfig(neighbours=12, history_power=0.7, candidate_power=0.2, targets=3)


@pytest.fixture(params=[1 << 20, 30], ids=["one block", "many blocks"], autouse=True)
def blocks(request, monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_BLOCK_ENTRIES", request.param)


def dense_weights(train: csr_matrix) -> np.ndarray:
    x = train.toarray().astype(float)
    counts, lengths = np.maximum((x > 0).sum(axis=0), 1), np.maximum((x > 0).sum(axis=1), 1)
    gram = x.T @ np.diag(lengths**-0.6) @ x
    np.fill_diagonal(gram, 0)
    return np.diag(counts**-0.7) @ gram @ np.diag(counts**-0.2)


def test_the_weights_follow_the_formula(train):
    weights = csr_matrix(train.multiply(np.random.default_rng(1).uniform(0.5, 2, train.shape)))
    found = item_neighbours(weights.astype(np.float32), ALL, 0.6)
    np.testing.assert_allclose(found.toarray(), dense_weights(weights), rtol=1e-4)


def test_only_the_nearest_neighbours_of_an_item_are_kept(train):
    found = item_neighbours(train.astype(np.float32), ALL.copy(update={"neighbours": 2}), 0.6)
    expected = dense_weights(train)
    for item, row in enumerate(found.toarray()):
        assert set(np.flatnonzero(row)) == set(np.argsort(-expected[item])[:2])


def test_targets_are_the_users_items_and_the_best_others(train):
    weights = item_neighbours(train.astype(np.float32), ALL, 0.6)
    found = neighbour_targets(train.astype(np.float32), weights, ALL).toarray()
    x = train.toarray()
    scores = np.where(x, 0, x @ dense_weights(train))
    for user, own in enumerate(x):
        best = np.argsort(-scores[user])[:3]
        expected = own.astype(float)
        expected[best] = np.sqrt(scores[user, best] / max(scores[user].max(), 1e-9))
        np.testing.assert_allclose(found[user], expected, rtol=1e-4)


def test_the_largest_values_are_kept():
    matrix = csr_matrix([[0, 3, 1, 2], [0, 0, 5, 0], [0, 0, 0, 0], [4, 1, 2, 3]])
    found = keep_largest(matrix, 2)
    expected = [[0, 3, 0, 2], [0, 0, 5, 0], [0, 0, 0, 0], [4, 0, 0, 3]]
    np.testing.assert_array_equal(found.toarray(), expected)
