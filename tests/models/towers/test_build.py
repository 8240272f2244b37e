"""Towers with hidden layers and attention: against NumPy, saved, converted to ONNX, trained."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.columns import code_column
from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, save, save_tower
from twotower.models.two_tower import build_two_tower, embed


@pytest.fixture(scope="module")
def schema():
    """A user with a history of up to 4 of 300 films, and a film."""
    from merlin.schema import Schema, Tags

    seen = code_column("seen", 300, Tags.USER, Tags.SEQUENCE, value_count={"min": 4, "max": 4})
    return Schema(
        [
            code_column("user", 10, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            code_column("film", 300, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


USERS = {
    "user": np.array([[3], [4], [2]], np.int32),
    "seen": np.array([[5, 260, 2, 9, 0], [0] * 5, [299, 4, 0, 0, 0]], np.int32),
}


def build(schema, config):
    """The model with random weights."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    model = build_two_tower(schema, np.ones(300), config)
    inputs = USERS | {"film": np.array([[3], [4], [5]], np.int32)}
    model({name: tf.constant(values) for name, values in inputs.items()})
    for weight in model.trainable_variables:
        weight.assign(tf.random.normal(weight.shape) * 0.5)
    return model


def test_a_tower_applies_its_layers_and_a_projection(schema):
    hidden = {"dim": 4, "feature_dim": 2, "hidden": [5, 6], "normalize": False, "dropout": 0.5}
    for layers in ("residual", "cross"):
        model = build(schema, TwoTowerConfig(layers=layers, **hidden))
        film = np.array([[7], [9]], np.int32)
        table, *w = (weight.numpy() for weight in model.candidate_encoder.trainable_variables)
        x = first = table[film[:, 0]]
        if layers == "residual":
            for w1, b1, w2, b2 in (w[:4], w[4:8]):
                x = x + np.maximum(x @ w1 + b1, 0) @ w2 + b2
        else:
            for kernel, bias in (w[:2], w[2:4]):
                x = x + first * (x @ kernel + bias)
        expected = x @ w[-2] + w[-1]
        vectors = embed(model.candidate_encoder, {"film": film})
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": "cross", "hidden": [3, 99], "dropout": 0.1},
        {"layers": "residual", "hidden": [8, 8], "dropout": 0.1},
        pytest.param(
            {
                "history_pooling": "self_attention",
                "hidden": [8],
                "shared": [6],
                "mimic_weight": 0.5,
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_saved_tower_and_its_onnx_model_return_the_same_vectors(schema, settings, tmp_path):
    import tensorflow as tf

    from twotower.serving.operators.query_tower import QueryTower

    settings = {"history_pooling": "attention", **settings}
    model = build(schema, TwoTowerConfig(dim=4, **settings))
    expected = embed(model.query_encoder, USERS)
    save_tower(model.query_encoder, schema, tmp_path / "tower")
    signature = tf.saved_model.load(str(tmp_path / "tower")).signatures["serving_default"]
    (vectors,) = signature(**{name: tf.constant(v) for name, v in USERS.items()}).values()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    (tmp_path / "onnx").mkdir()
    # `compile` compares the two on random lists.
    QueryTower(tmp_path / "tower").compile(tmp_path / "onnx", schema)


@pytest.mark.slow
def test_a_tower_with_attention_and_layers_learns_and_is_restored(schema, tmp_path):
    """40 users, each of whom likes one half of the films; only their histories differ."""
    hidden = {"layers": "cross", "hidden": [8, 99], "feature_dim": 8, "dropout": 0.05}
    config = TwoTowerConfig(dim=8, history_pooling="attention", **hidden)
    rows = np.argwhere(np.add.outer(np.arange(40), np.arange(297)) % 2 == 0)
    draw = np.random.default_rng(0)
    rows = rows[draw.permutation(len(rows))[:2048]].astype(np.int32)
    halves = draw.integers(0, 148, (40, 4)) * 2 + 3
    seen = (halves + np.arange(40)[:, None] % 2).astype(np.int32)
    users = {"user": np.full((40, 1), 2, np.int32), "seen": seen}
    films = {"film": np.arange(3, 300, dtype=np.int32)[:, None]}
    data = TrainingData(users, films, *rows.T)

    def right(model):
        scores = embed(model.query_encoder, users) @ embed(model.candidate_encoder, films).T
        own = np.add.outer(np.arange(40), np.arange(297)) % 2 == 0
        return {"ndcg@10": float(((scores > np.median(scores, axis=1)[:, None]) == own).mean())}

    tower = create(schema, data, config, seed=1)
    training = TrainingConfig(batch_size=128, epochs=6, patience=6, learning_rate=0.02)
    assert max(fit(tower, data, training, right, tmp_path / "state")["val_ndcg@10"]) > 0.9
    learnt = tower.model.query_encoder.trainable_variables
    assert all(np.abs(weight.numpy()).max() > 0 for weight in learnt), "the query vector moved"
    save(tower, tmp_path)
    assert right(load(tmp_path).model) == right(tower.model)
    expected = embed(tower.model.query_encoder, users)
    grown = grow(tower, schema, data, seed=2)
    np.testing.assert_array_equal(embed(grown.model.query_encoder, users), expected)
