"""The sparse solution on planted groups, and the memory that it takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random

from twotower.models.errors import ModelError
from twotower.models.training.closed_form import neighbours, sparse
from twotower.models.training.closed_form.sparse import solve_sparse, sparse_memory
from twotower.models.training.config import ClosedFormConfig

GROUPS, SIZE = 20, 10


@pytest.fixture(scope="module")
def groups() -> csr_matrix:
    """Users with 4 of the 10 items of their group."""
    draw = np.random.default_rng(0)
    users = np.arange(400)
    items = [draw.choice(SIZE, 4, replace=False) + SIZE * (user % GROUPS) for user in users]
    pairs = (np.repeat(users, 4), np.concatenate(items))
    return csr_matrix((np.ones(1600, bool), pairs), (400, GROUPS * SIZE))


def others_of_the_group(train: csr_matrix, scores: np.ndarray) -> float:
    """Share of a user's group among the 6 best items that the user does not have."""
    scores = np.where(train.toarray(), -np.inf, scores)
    best = np.argsort(-scores, axis=1)[:, :6]
    return float((best // SIZE == (np.arange(len(scores)) % GROUPS)[:, None]).mean())


def test_planted_groups_are_found_with_one_dimension_each(groups):
    users, history, candidates = solve_sparse(groups, GROUPS, ClosedFormConfig())
    assert others_of_the_group(groups, users @ candidates.T) > 0.99
    assert others_of_the_group(groups, groups @ history @ candidates.T) > 0.99
    assert others_of_the_group(groups, np.roll(users, 1, axis=0) @ candidates.T) < 0.1


def test_the_solution_is_the_same_every_time(groups):
    first, second = (solve_sparse(groups, 16, ClosedFormConfig()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_user_of_weight_3_is_three_users_in_the_neighbourhoods(groups, monkeypatch):
    seen = []

    def neighbourhoods(*arguments):
        seen.append(neighbours.item_neighbours(*arguments))
        return seen[-1]

    monkeypatch.setattr(sparse, "item_neighbours", neighbourhoods)
    one = {"history_power": 0, "candidate_power": 0, "sweeps": 1}
    dense = groups.toarray().astype(float)
    weights = np.where(np.arange(400) == 7, 3, 1)
    for train in (np.diag(weights) @ dense, np.vstack([dense, dense[7:8], dense[7:8]])):
        solve_sparse(csr_matrix(train), 4, ClosedFormConfig(sparse=one))
    np.testing.assert_allclose(seen[0].toarray(), seen[1].toarray(), rtol=1e-5)


def test_items_without_common_users_are_refused():
    with pytest.raises(ModelError, match="no two items have a user in common"):
        solve_sparse(csr_matrix(np.eye(5)), 2, ClosedFormConfig())


def test_more_than_the_memory_is_refused_naming_the_settings(groups):
    config = ClosedFormConfig(max_memory=0.001)
    with pytest.raises(
        ModelError, match=r"more than training\.start\.max_memory, 0\.001; .*targets"
    ):
        solve_sparse(groups, 16, config)


@pytest.mark.slow
def test_the_estimated_memory_is_enough(monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_BLOCK_ENTRIES", 1 << 17)
    monkeypatch.setattr(sparse, "MAX_BLOCK_ENTRIES", 1 << 17)
    train = random(4000, 3000, 0.01, "csr", np.float32, np.random.default_rng(0))
    config = ClosedFormConfig(sparse={"sweeps": 1})
    tracemalloc.start()
    solve_sparse(train, 32, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    estimate = sparse_memory(4000, 3000, train.nnz, 32, config.sparse)
    assert 0.3 * estimate < peak < estimate
