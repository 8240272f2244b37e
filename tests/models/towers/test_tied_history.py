"""A history whose items have the embeddings of the candidate tower: one table, both gradients."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.towers.test_build import USERS, build, schema  # noqa: F401
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow, limit_change
from twotower.models.training.model import create
from twotower.models.training.saving import load, save
from twotower.models.two_tower import build_two_tower, embed, embedding_tables

ITEMS = {"film": np.array([[5], [4], [299]], np.int32)}
CONFIG = TwoTowerConfig(dim=4, tie_history=True, history_pooling="sqrtn", normalize=False)


def test_the_history_and_the_items_have_one_table(schema):  # noqa: F811
    model = build(schema, CONFIG)
    tables = embedding_tables(model)
    assert tables["seen"].table is tables["film"].table
    assert len(model.trainable_variables) == 2
    users, films = (tables[name].table.embeddings.numpy() for name in ("user", "film"))
    lists = [films[[5, 260, 9]].sum(0) / 3**0.5, 0, films[[299, 4]].sum(0) / 2**0.5]
    expected = users[USERS["user"][:, 0]] + np.stack([np.zeros(4) + each for each in lists])
    np.testing.assert_allclose(embed(model.query_encoder, USERS), expected, rtol=1e-5)
    np.testing.assert_array_equal(embed(model.candidate_encoder, ITEMS), films[[5, 4, 299]])


def test_the_gradient_of_the_table_is_the_sum_of_both_uses(schema):  # noqa: F811
    """The score of user 3 and film 5 is <u + (v5 + v260 + v9) / sqrt 3, v5>."""
    import tensorflow as tf

    model = build(schema, CONFIG)
    tables = embedding_tables(model)
    table = tables["film"].table.embeddings
    with tf.GradientTape() as tape:
        query = model.query_encoder(
            {k: tf.constant(v[:1]) for k, v in USERS.items()}, training=True
        )
        score = tf.reduce_sum(query * model.candidate_encoder({"film": tf.constant([[5]])}))
    found = tf.convert_to_tensor(tape.gradient(score, table)).numpy()
    v = table.numpy().astype(np.float64)
    expected = np.zeros_like(v)
    expected[[5, 260, 9]] = v[5] / 3**0.5
    expected[5] += tables["user"].table.embeddings.numpy()[3] + v[[5, 260, 9]].sum(0) / 3**0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)


def planted():
    """40 users, each of whom likes the even or the odd films."""
    rows = np.argwhere(np.add.outer(np.arange(40), np.arange(60)) % 2 == 0)
    rows = rows[np.random.default_rng(0).permutation(len(rows))[:640]].astype(np.int32)
    seen = np.zeros((40, 30), np.int32)
    for user in range(40):
        own = rows[rows[:, 0] == user, 1]
        seen[user, : len(own)] = own + 3
    codes = np.minimum(np.arange(3, 43), 9)
    codes[6:] = 2  # most users are unknown, and have nothing but their history
    users = {"user": codes.astype(np.int32)[:, None], "seen": seen}
    return TrainingData(users, {"film": np.arange(3, 63, dtype=np.int32)[:, None]}, *rows.T)


def right(data):
    own = np.add.outer(np.arange(40), np.arange(60)) % 2 == 0

    def measure(model):
        vectors = embed(model.query_encoder, data.users), embed(model.candidate_encoder, data.items)
        scores = vectors[0] @ vectors[1].T
        return {"ndcg@10": float(((scores > np.median(scores, axis=1)[:, None]) == own).mean())}

    return measure


def test_a_tied_tower_learns_by_user_and_survives_saving_onnx_and_growth(schema, tmp_path):  # noqa: F811
    import tensorflow as tf

    from twotower.serving.operators.query_tower import QueryTower

    data = planted()
    objective = {"negatives": "uniform", "drawn": 64}
    config = TwoTowerConfig(dim=8, tie_history=True, history_pooling="sqrtn", objective=objective)
    training = TrainingConfig(
        batch_size=64, epochs=8, patience=8, order="by_user", learning_rate=0.05
    )
    tower = create(schema, data, config, seed=1)
    assert right(data)(tower.model)["ndcg@10"] < 0.6
    assert max(fit(tower, data, training, right(data), tmp_path / "state")["val_ndcg@10"]) > 0.95
    save(tower, tmp_path)
    expected = embed(tower.model.query_encoder, data.users)
    loaded = load(tmp_path)
    np.testing.assert_array_equal(embed(loaded.model.query_encoder, data.users), expected)
    tables = embedding_tables(loaded.model)
    assert tables["seen"].table is tables["film"].table
    signature = tf.saved_model.load(str(tmp_path / "query_tower")).signatures["serving_default"]
    (vectors,) = signature(**{name: tf.constant(v) for name, v in data.users.items()}).values()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    (tmp_path / "onnx").mkdir()
    # `compile` compares the two on random lists.
    QueryTower(tmp_path / "query_tower").compile(tmp_path / "onnx", schema)
    grown = grow(tower, schema, data, seed=2)
    np.testing.assert_array_equal(embed(grown.model.query_encoder, data.users), expected)
    film = embedding_tables(grown.model)["film"].table.embeddings
    film.assign_add(np.ones(film.shape))
    limit_change(grown, tower, 0.25)
    before = embedding_tables(tower.model)["film"].table.embeddings
    np.testing.assert_allclose(film, before + 0.25, rtol=1e-5)


def test_new_items_start_with_the_embedding_of_unknown_items(schema):  # noqa: F811
    from merlin.schema import Schema

    data = planted()
    tower = create(schema, data, CONFIG, seed=1)
    larger = Schema(
        [
            each.with_properties({"domain": {**each.properties["domain"], "max": 301}})
            if each.name in ("film", "seen")
            else each
            for each in schema
        ]
    )
    grown = grow(tower, larger, data, seed=2)
    table = embedding_tables(grown.model)["film"].table.embeddings.numpy()
    assert len(table) == 302
    np.testing.assert_array_equal(table[300:], table[[2, 2]])
    np.testing.assert_array_equal(
        embed(grown.model.query_encoder, data.users), embed(tower.model.query_encoder, data.users)
    )


def test_it_needs_a_history(schema):  # noqa: F811
    with pytest.raises(ModelError, match=r"model\.tie_history needs a history"):
        build_two_tower(schema.excluding_by_name(["seen"]), np.ones(300), CONFIG)
