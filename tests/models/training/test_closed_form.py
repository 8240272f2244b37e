"""Towers in closed form, compared with EASE, a truncated SVD and the written-out formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import EASE
from twotower.models.training.closed_form import _first_eigenvectors, set_closed_form_weights, solve
from twotower.models.training.config import ClosedFormConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.model import create
from twotower.models.two_tower import TowerScorer, embed, embedding_tables

PLAIN = ClosedFormConfig(l2=5, popularity_l2=0, user_power=0)
TOWERS = TwoTowerConfig(dim=6, history_pooling="sum", normalize=False)
USERS, ITEMS, OOV = 50, 12, 2


@pytest.fixture(scope="module")
def train() -> csr_matrix:
    draw = np.random.default_rng(0)
    taste, kind = draw.normal(size=(USERS, 3)), draw.normal(size=(ITEMS, 3))
    return csr_matrix(taste @ kind.T + draw.normal(size=(USERS, ITEMS)) > 0.7)


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


def schema(*, history: bool = True):
    """Users with a history, items with a kind."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, size, *tags, **properties):
        domain = {"min": 0, "max": size - 1, "name": name}
        return ColumnSchema(
            name,
            dtype=np.int32,
            tags=[Tags.CATEGORICAL, *tags],
            properties={"domain": domain, **properties},
        )

    columns = [
        column("user", USERS + 3, Tags.USER, Tags.USER_ID, Tags.ID),
        column("film", ITEMS + 3, Tags.ITEM, Tags.ITEM_ID, Tags.ID),
        column("kind", 5, Tags.ITEM),
    ]
    if history:
        seen = column("seen", ITEMS + 3, Tags.USER, Tags.SEQUENCE)
        columns.append(seen.with_shape(((0, None), (0, ITEMS))))
    return Schema(columns)


@pytest.fixture(scope="module")
def data(train) -> TrainingData:
    """Item row r has the code ITEMS + 2 - r; the last user is unknown and has no items."""
    codes = np.arange(ITEMS + 2, 2, -1)
    users, items = train.nonzero()
    seen = np.zeros((USERS + 1, ITEMS), np.int32)
    for user in range(USERS):
        own = codes[train[user].indices]
        seen[user, : len(own)] = own
    return TrainingData(
        {
            "user": np.append(np.arange(3, USERS + 3), OOV).astype(np.int32)[:, None],
            "seen": seen,
        },
        {"film": codes.astype(np.int32)[:, None], "kind": np.full((ITEMS, 1), 3, np.int32)},
        users.astype(np.int32),
        items.astype(np.int32),
    )


def scores(tower, data):
    return TowerScorer.of(tower.model, data.users, data.items).score(np.arange(USERS + 1))


def test_towers_score_as_the_solution_and_unknown_users_get_the_mean(train, data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, PLAIN)
    history, candidates = solve(train, 6, PLAIN)
    expected = train @ history @ candidates.T
    found = scores(tower, data)
    np.testing.assert_allclose(found[:USERS], expected, rtol=1e-4, atol=1e-5)
    of_all = expected.sum(axis=0) / train.nnz
    np.testing.assert_allclose(found[USERS], of_all, rtol=1e-4, atol=1e-5)


def test_aligned_to_existing_vectors_the_scores_are_the_same(data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, PLAIN)
    before, vectors = scores(tower, data), embed(tower.model.candidate_encoder, data.items)
    random = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    table = embedding_tables(tower.model)["film"].table.embeddings
    table.assign(table.numpy() @ random)
    set_closed_form_weights(tower, data, PLAIN, align=True)
    np.testing.assert_allclose(scores(tower, data), before, rtol=1e-3, atol=1e-4)
    turned = embed(tower.model.candidate_encoder, data.items)
    np.testing.assert_allclose(turned, vectors @ random, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes, history, missing",
    [
        ({"history_pooling": "mean"}, True, r"model\.history_pooling: sum"),
        ({"normalize": True}, True, r"model\.normalize: false"),
        ({"hidden": [8]}, True, r"model\.hidden: \[\]"),
        ({"shared": [8]}, True, r"model\.shared: \[\]"),
        ({}, False, r"features\.history: a number"),
    ],
)
def test_unsuitable_towers_are_refused_naming_the_setting(data, changes, history, missing):
    users = {name: data.users[name] for name in ("user", "seen")[: 1 + history]}
    given = TrainingData(users, data.items, data.user_rows, data.item_rows)
    tower = create(schema(history=history), given, TOWERS.copy(update=changes), seed=1)
    with pytest.raises(ModelError, match=missing):
        set_closed_form_weights(tower, given, PLAIN)


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


def test_the_towers_are_solved_for_the_weights(data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, PLAIN)
    plain = scores(tower, data)
    ones = replace(data, weights=np.ones(len(data.user_rows), np.float32))
    set_closed_form_weights(tower, ones, PLAIN)
    np.testing.assert_array_equal(scores(tower, data), plain)
    draw = np.random.default_rng(1).uniform(0.2, 4, len(data.user_rows)).astype(np.float32)
    set_closed_form_weights(tower, replace(data, weights=draw), PLAIN)
    assert np.abs(scores(tower, data) - plain).max() > 1e-3
