"""Residual and cross layers, and attention over a history, against NumPy; in a tower, saved."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, save, save_tower
from twotower.models.two_tower import build_two_tower, embed

X = np.array([[1.0, -2, 3], [0, 4, -1]], np.float32)


def filled(layer):
    """The layer after a call, with small whole numbers for weights; these."""
    import tensorflow as tf

    layer(tf.constant(X))
    draw = np.random.default_rng(0)
    weights = [draw.integers(-2, 3, w.shape).astype(np.float32) for w in layer.get_weights()]
    layer.set_weights(weights)
    return layer, weights


def test_a_residual_layer_adds_to_its_input():
    from twotower.models.towers.build import ResidualLayer

    layer, (w1, b1, w2, b2) = filled(ResidualLayer(5))
    assert w1.shape == (3, 5) and w2.shape == (5, 3)
    expected = X + np.maximum(X @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(layer(X), expected, rtol=1e-6)


def test_cross_layers_multiply_by_the_first_input():
    from twotower.models.towers.build import CrossLayers

    layer, (w, b, u, v, c) = filled(CrossLayers([3, 2]))
    assert w.shape == (3, 3) and u.shape == (3, 2) and v.shape == (2, 3)
    once = X * (X @ w + b) + X
    np.testing.assert_allclose(layer(X), X * (once @ u @ v + c) + once, rtol=1e-6)


def test_dropout_is_of_what_is_added():
    import tensorflow as tf

    from twotower.models.towers.build import CrossLayers, ResidualLayer

    ones = tf.ones([2000, 3])
    for layer in (ResidualLayer(4, 0.25), CrossLayers([3], 0.25)):
        layer(ones)
        # Not random ones: all four ReLUs may be dead, and nothing is added that could be dropped.
        for weight in layer.trainable_weights:
            weight.assign(tf.ones_like(weight))
        added = layer(ones) - 1
        kept = layer(ones, training=True) - 1
        whole = np.isclose(kept, added / 0.75, atol=1e-6)
        assert whole.mean() == pytest.approx(0.75, abs=0.03)
        np.testing.assert_array_equal(kept.numpy()[~whole], 0)


def test_layers_come_back_from_their_config():
    import tensorflow as tf

    from twotower.models.towers.build import (
        AttentionScore,
        CrossLayers,
        ResidualLayer,
        SharedLayers,
    )

    shared = SharedLayers([4, 2], 3, 0.5)
    for layer in (ResidualLayer(5, 0.5), CrossLayers([3, 2]), AttentionScore(), shared):
        layer, weights = filled(layer)
        again = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
        again(X)
        again.set_weights(weights)
        np.testing.assert_array_equal(again(X), layer(X))


def attended(rows):
    """A table of `rows` values pooled by attention; embeddings, W and w."""
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Tags

    from twotower.models.towers.build import AttentionScore
    from twotower.models.towers.layers import MultiHotEmbedding

    domain = {"min": 0, "max": rows - 1, "name": "seen"}
    column = ColumnSchema(
        "seen", dtype=np.int32, tags=[Tags.CATEGORICAL], properties={"domain": domain}
    )
    layer = MultiHotEmbedding(3, column, sequence_combiner=AttentionScore())
    layer(tf.zeros([1, 2, 1], tf.int32))
    draw = np.random.default_rng(1)
    weights = [draw.normal(size=w.shape).astype(np.float32) for w in layer.get_weights()]
    layer.set_weights(weights)
    return layer, weights


LISTS = np.array([[3, 7, 2, 3, 0], [0, 0, 0, 0, 0], [2, 0, 0, 0, 0], [5, 0, 0, 0, 0]], np.int32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rows", [20, 2000])
def test_attention_is_the_softmax_over_the_known_values(rows, training):
    import tensorflow as tf

    layer, (table, keys, query) = attended(rows)
    score = np.exp(np.tanh(table @ keys) @ query)[:, 0]
    three, seven = 2 * score[3], score[7]
    mean = (three * table[3] + seven * table[7]) / (three + seven)
    expected = np.stack([mean, np.zeros(3), np.zeros(3), table[5]])
    for width in (5, 9):
        lists = np.pad(LISTS, [(0, 0), (0, width - 5)])[..., None]
        np.testing.assert_allclose(
            layer(tf.constant(lists), training=training), expected, rtol=1e-5, atol=1e-7
        )
    assert layer(tf.zeros([2, 0, 1], tf.int32), training=training).numpy().tolist() == [[0] * 3] * 2


def test_attention_learns_the_same_from_small_and_large_tables():
    import tensorflow as tf

    (small, weights), (large, _) = attended(20), attended(2000)
    large.set_weights([np.pad(weights[0], [(0, 1980), (0, 0)]), *weights[1:]])
    gradients = []
    for layer in (small, large):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.constant(LISTS[..., None]), training=True) ** 3)
        found = tape.gradient(loss, layer.trainable_weights)
        gradients.append([tf.convert_to_tensor(each).numpy() for each in found])
    (of_small, *others), (of_large, *large_others) = gradients
    np.testing.assert_allclose(of_large[:20], of_small, atol=1e-5)
    assert set(np.nonzero(of_large)[0]) == {3, 5, 7}, "neither padding nor unknown values learn"
    for one, other in zip(others, large_others, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.fixture(scope="module")
def schema():
    """A user with a history of up to 4 of 300 films, and a film."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags, **properties):
        domain = {"min": 0, "max": cardinality - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(
            name, dtype=np.int32, tags=tags, properties={"domain": domain, **properties}
        )

    seen = column("seen", 300, Tags.USER, Tags.SEQUENCE, value_count={"min": 4, "max": 4})
    return Schema(
        [
            column("user", 10, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            column("film", 300, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


USERS = {
    "user": np.array([[3], [4], [2]], np.int32),
    "seen": np.array([[5, 260, 2, 9, 0], [0] * 5, [299, 4, 0, 0, 0]], np.int32),
}


def build(schema, config):
    """The model, its weights drawn."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    model = build_two_tower(schema, np.ones(300), config)
    inputs = USERS | {"film": np.array([[3], [4], [5]], np.int32)}
    model({name: tf.constant(values) for name, values in inputs.items()})
    for weight in model.trainable_variables:
        weight.assign(tf.random.normal(weight.shape) * 0.5)
    return model


def test_a_tower_passes_its_layers_and_a_projection(schema):
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
        {"history_pooling": "self_attention", "hidden": [8], "shared": [6], "mimic_weight": 0.5},
    ],
)
def test_a_saved_tower_answers_the_same_as_does_its_onnx(schema, settings, tmp_path):
    import tensorflow as tf

    from twotower.serving.operators import QueryTower

    settings = {"history_pooling": "attention", **settings}
    model = build(schema, TwoTowerConfig(dim=4, **settings))
    expected = embed(model.query_encoder, USERS)
    save_tower(model.query_encoder, schema, tmp_path / "tower")
    signature = tf.saved_model.load(str(tmp_path / "tower")).signatures["serving_default"]
    (vectors,) = signature(**{name: tf.constant(v) for name, v in USERS.items()}).values()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    (tmp_path / "onnx").mkdir()
    # Compiling compares the two, on lists of any codes.
    QueryTower(tmp_path / "tower").compile(tmp_path / "onnx", schema)


def test_what_is_fitted_with_attention_and_layers_learns_and_comes_back(schema, tmp_path):
    """40 users of one half of the films each, known by their histories alone."""
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
