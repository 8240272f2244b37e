"""Cold items: the ridge regression against brute force, in a tower with every kind of feature."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.columns import code_column
from twotower.models.cold_items import fill_cold_items, put_vectors_into_ids
from twotower.models.config import TwoTowerConfig
from twotower.models.feature_regression import FOLDS, L2, Sums, ridge
from twotower.models.training.data import TrainingData
from twotower.models.training.model import create
from twotower.models.two_tower import embed, embedding_tables
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.vectors import vector_schema

N, COLD, DIM = 60, 6, 2
FEATURES = FeaturesConfig(item_vectors={"image": 4})


def schema_of():
    from merlin.schema import ColumnSchema, Schema, Tags

    def number(name):
        return ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS, Tags.ITEM])

    tags = code_column("tags", 300, Tags.ITEM, value_count={"min": 3, "max": 3})
    seen = code_column("seen", N, Tags.USER, Tags.SEQUENCE, value_count={"min": 4, "max": 4})
    columns = [
        code_column("user", 9, Tags.USER_ID, Tags.USER),
        seen.with_dtype(np.int32, is_list=True, is_ragged=False),
        code_column("film", N + 3 - COLD, Tags.ITEM_ID, Tags.ITEM),
        code_column("genre", 7, Tags.ITEM),
        tags.with_dtype(np.int32, is_list=True, is_ragged=False),
        number("price"),
        number("age"),
    ]
    return Schema(columns) + vector_schema(FEATURES.sides)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """60 items, the last 6 without positives: their id is out of vocabulary."""
    draw = np.random.default_rng(0)
    film = np.arange(3, N + 3, dtype=np.int32)
    film[-COLD:] = 2
    tags = draw.integers(2, 300, (N, 3)).astype(np.int32)
    tags[::4, 2] = 0
    tags[5] = 0
    image = draw.normal(size=(N, 4)).astype(np.float32)
    image[[3, N - 1]] = 0
    items = {
        "film": film[:, None],
        "genre": draw.integers(3, 7, (N, 1)).astype(np.int32),
        "tags": tags,
        "price": draw.normal(size=(N, 1)).astype(np.float32),
        "age": draw.normal(size=(N, 1)).astype(np.float32) * 3,
        "image": image,
    }
    users = {"user": np.full((4, 1), 3, np.int32), "seen": np.zeros((4, 4), np.int32)}
    rows = np.arange(N - COLD, dtype=np.int32)
    return TrainingData(users, items, rows % 4, rows)


def design(data: TrainingData) -> np.ndarray:
    """Every feature by hand, without the constant."""
    items = data.items
    norms = np.linalg.norm(items["image"], axis=1, keepdims=True)
    images = items["image"] / np.where(norms > 0, norms, 1)
    genres = (items["genre"] == np.arange(7)).astype(float)
    tags = np.zeros((N, 300))
    for row, values in enumerate(items["tags"]):
        known = [value for value in values if value not in (0, 2)]
        for value in known:
            tags[row, value] += 1 / len(known)
    return np.hstack([images, norms == 0, genres, tags, items["price"], items["age"]])


def tower_with(data: TrainingData, solved: np.ndarray):
    """A tower whose items have these vectors, by their ids alone."""
    config = TwoTowerConfig(dim=DIM, normalize=False, history_pooling="sum")
    tower = create(schema_of(), data, config, seed=1)
    for weight in tower.model.candidate_encoder.trainable_variables:
        weight.assign(np.zeros(weight.shape))
    table = np.zeros((N + 3 - COLD, DIM), np.float32)
    table[3:] = solved[: N - COLD]
    embedding_tables(tower.model)["film"].table.embeddings.assign(table)
    return tower


def test_cold_items_get_the_brute_force_prediction_and_others_stay(data):
    draw = np.random.default_rng(1)
    x = design(data)
    noise = draw.normal(size=(N, DIM)) * 0.5
    solved = (x[:, :5] @ draw.normal(size=(5, DIM)) + x[:, -1:] + noise).astype(np.float32)
    tower = tower_with(data, solved)
    l2 = fill_cold_items(tower, data)
    assert 0.1 <= l2 <= 10
    found = embed(tower.model.candidate_encoder, data.items)
    np.testing.assert_allclose(found[:-COLD], solved[:-COLD], atol=1e-5)
    warm, y = x[:-COLD] - x[:-COLD].mean(axis=0), solved[:-COLD]
    w = np.linalg.solve(warm.T @ warm + l2 * np.eye(x.shape[1]), warm.T @ (y - y.mean(axis=0)))
    expected = (x[-COLD:] - x[:-COLD].mean(axis=0)) @ w + y.mean(axis=0)
    np.testing.assert_allclose(found[-COLD:], expected, atol=1e-4)
    # As before a new solution is aligned, and after the same solution again.
    put_vectors_into_ids(tower, data)
    table = embedding_tables(tower.model)["film"].table.embeddings.numpy()
    np.testing.assert_allclose(table[3:], solved[:-COLD], atol=1e-5)


def test_a_planted_taste_is_found(data):
    draw = np.random.default_rng(2)
    planted = draw.normal(size=(4, DIM))
    images = data.items["image"]
    norms = np.linalg.norm(images, axis=1, keepdims=True)
    solved = (images / np.where(norms > 0, norms, 1) @ planted).astype(np.float32)
    tower = tower_with(data, solved)
    l2 = fill_cold_items(tower, data)
    cold = embed(tower.model.candidate_encoder, data.items)[-COLD:-1]
    assert l2 == L2[0]
    np.testing.assert_allclose(cold, solved[-COLD:-1], atol=0.25)
    assert np.corrcoef(cold.ravel(), solved[-COLD:-1].ravel())[0, 1] > 0.98


def test_items_without_features_stay_as_they_are(data):
    from merlin.schema import Tags

    schema = schema_of()
    ids = schema.select_by_tag(Tags.USER) + schema.select_by_tag(Tags.ITEM_ID)
    alone = TrainingData(data.users, {"film": data.items["film"]}, data.user_rows, data.item_rows)
    tower = create(ids, alone, TwoTowerConfig(dim=DIM, normalize=False), seed=1)
    before = embed(tower.model.candidate_encoder, alone.items)
    assert fill_cold_items(tower, alone) is None
    np.testing.assert_array_equal(embed(tower.model.candidate_encoder, alone.items), before)


def test_the_regularization_is_that_of_a_cross_validation_by_hand():
    draw = np.random.default_rng(3)
    x = np.hstack([draw.normal(size=(50, 5)), np.ones((50, 1))])
    y = x[:, :5] @ draw.normal(size=(5, 3)) + 4 + draw.normal(size=(50, 3)) * 3
    folds = np.arange(50) % FOLDS

    def solve(rows, l2):
        mean, target = x[rows, :5].mean(axis=0), y[rows].mean(axis=0)
        a = x[rows, :5] - mean
        w = np.linalg.solve(a.T @ a + l2 * np.eye(5), a.T @ (y[rows] - target))
        return np.vstack([w, target - mean @ w])

    errors = [
        sum(
            np.square(y[folds == fold] - x[folds == fold] @ solve(folds != fold, l2)).sum()
            for fold in range(FOLDS)
        )
        for l2 in L2
    ]
    sums = [
        Sums(x[f].T @ x[f], x[f].T @ y[f], float(np.square(y[f]).sum()))
        for f in (folds == fold for fold in range(FOLDS))
    ]
    coefficients, l2 = ridge(sums)
    assert l2 == L2[int(np.argmin(errors))] and l2 not in (L2[0], L2[-1])
    np.testing.assert_allclose(coefficients, solve(np.ones(50, bool), l2), atol=1e-6)
