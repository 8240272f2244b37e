"""Towers whose weights are set to a solution in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.columns import code_column
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.training.closed_form.regression import solve
from twotower.models.training.closed_form.sparse import solve_sparse
from twotower.models.training.closed_form.towers import set_closed_form_weights, uses_exact
from twotower.models.training.config import ClosedFormConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.model import create
from twotower.models.two_tower import TowerScorer, embed, embedding_tables

PLAIN = ClosedFormConfig(l2=5, popularity_l2=0, user_power=0)
TOWERS = TwoTowerConfig(dim=6, history_pooling="sum", normalize=False)
USERS, ITEMS, OOV = 50, 12, 2


def schema(*, history: bool = True):
    """Users with a history, items with a kind."""
    from merlin.schema import Schema, Tags

    columns = [
        code_column("user", USERS + 3, Tags.USER, Tags.USER_ID, Tags.ID),
        code_column("film", ITEMS + 3, Tags.ITEM, Tags.ITEM_ID, Tags.ID),
        code_column("kind", 5, Tags.ITEM),
    ]
    if history:
        seen = code_column("seen", ITEMS + 3, Tags.USER, Tags.SEQUENCE)
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


SPARSE = ClosedFormConfig(
    method="sparse", user_power=0, sparse={"unobserved": 0.1, "l2": 0.05, "targets": 3}
)


def test_sparse_towers_score_as_the_solution_and_unknown_users_get_the_mean(train, data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, SPARSE)
    solution = solve_sparse(train, 6, SPARSE)
    found = scores(tower, data)
    expected = solution.users @ solution.candidates.T
    known = np.diff(train.indptr) > 0
    np.testing.assert_allclose(found[:USERS][known], expected[known], rtol=1e-4, atol=1e-5)
    mean = (train @ solution.history).sum(axis=0) / train.nnz
    np.testing.assert_allclose(found[USERS], mean @ solution.candidates.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:USERS][~known], found[[USERS]], rtol=1e-4, atol=1e-5)
    assert 0 < known.sum() < USERS


def test_a_shortened_history_does_not_change_the_sparse_towers(data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, SPARSE)
    expected = scores(tower, data)
    short = replace(data, users={**data.users, "seen": data.users["seen"][:, :3]})
    set_closed_form_weights(tower, short, SPARSE)
    np.testing.assert_allclose(scores(tower, short), expected, rtol=1e-4, atol=1e-5)


def test_a_new_item_of_a_known_user_adds_its_vector(train, data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, SPARSE)
    before = scores(tower, data)[0]
    item = np.flatnonzero(train[0].toarray()[0] == 0)[0]
    seen = data.users["seen"].copy()
    seen[0, train[0].nnz] = data.items["film"][item, 0]
    after = scores(tower, replace(data, users={**data.users, "seen": seen}))[0]
    solution = solve_sparse(train, 6, SPARSE)
    added = solution.history[item] @ solution.candidates.T
    np.testing.assert_allclose(after - before, added, rtol=1e-3, atol=1e-4)


def test_sparse_towers_are_aligned_to_existing_vectors(data):
    tower = create(schema(), data, TOWERS, seed=1)
    set_closed_form_weights(tower, data, SPARSE)
    before, vectors = scores(tower, data), embed(tower.model.candidate_encoder, data.items)
    random = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    table = embedding_tables(tower.model)["film"].table.embeddings
    table.assign(table.numpy() @ random)
    set_closed_form_weights(tower, data, SPARSE, align=True)
    np.testing.assert_allclose(scores(tower, data), before, rtol=1e-3, atol=1e-4)
    turned = embed(tower.model.candidate_encoder, data.items)
    np.testing.assert_allclose(turned, vectors @ random, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "method, most_items, exact",
    [("auto", ITEMS, True), ("auto", ITEMS - 1, False), ("exact", 2, True), ("sparse", 99, False)],
)
def test_the_method_depends_on_the_number_of_items(method, most_items, exact):
    assert uses_exact(ITEMS, ClosedFormConfig(method=method, most_items=most_items)) == exact


def test_an_exact_solution_beyond_the_memory_is_refused_naming_the_settings(data):
    tower = create(schema(), data, TOWERS, seed=1)
    with pytest.raises(
        ModelError, match=r"3\.5e-06 GB for 12 items, .*max_memory, 1e-06; .*sparse"
    ):
        set_closed_form_weights(tower, data, PLAIN.copy(update={"max_memory": 1e-6}))
