"""Projections of pretrained vectors: by hand, in a tower, saved, converted to ONNX and grown."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, save
from twotower.models.two_tower import embed
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.vectors import vector_schema

FEATURES = FeaturesConfig(user_vectors={"mood": 2}, item_vectors={"image": 3, "text": 2})


def schema_of(films: int):
    from merlin.schema import ColumnSchema, Schema, Tags

    def code(name, size, *tags):
        domain = {"min": 0, "max": size - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties={"domain": domain})

    ids = [code("user", 9, Tags.USER_ID, Tags.USER), code("film", films, Tags.ITEM_ID, Tags.ITEM)]
    return Schema(ids) + vector_schema(FEATURES.sides)


def data_of(films: int) -> TrainingData:
    draw = np.random.default_rng(0)
    users = {"user": np.arange(3, 9, dtype=np.int32)[:, None], "mood": draw.normal(size=(6, 2))}
    items = {
        "film": np.arange(3, films, dtype=np.int32)[:, None],
        "image": draw.normal(size=(films - 3, 3)),
        "text": draw.normal(size=(films - 3, 2)),
    }
    items["image"][1] = 0
    tables = [
        {name: v.astype(np.float32) if v.dtype.kind == "f" else v for name, v in table.items()}
        for table in (users, items)
    ]
    rows = draw.integers(0, 6, 64).astype(np.int32), draw.integers(0, 5, 64).astype(np.int32)
    return TrainingData(*tables, *rows)


def test_a_projection_by_hand():
    import tensorflow as tf

    from twotower.models.towers.vectors import VectorProjection

    layer = VectorProjection("image", 2)
    vectors = tf.Variable([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    assert np.abs(layer({"image": vectors})).max() <= 0.05 * 2**0.5, "as small as an embedding"
    layer.set_weights([np.array([[1.0, 10.0], [2.0, 0.0]]), np.array([[7.0, 8.0]])])
    with tf.GradientTape() as tape:
        answer = layer({"image": vectors})
        loss = tf.reduce_sum(answer[:, 0])
    # (0.6, 0.8) and (0, -1) times the matrix; the vector of those that are missing.
    np.testing.assert_allclose(answer, [[2.2, 6.0], [7.0, 8.0], [-2.0, 0.0]], rtol=1e-6)
    kernel, missing = tape.gradient(loss, layer.trainable_variables)
    np.testing.assert_allclose(kernel, [[0.6, 0], [-0.2, 0]], atol=1e-6)
    np.testing.assert_allclose(missing, [[1, 0]])


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=pytest.mark.slow), {"hidden": [6], "feature_dim": 4}]
)
def test_towers_with_vectors_are_saved_converted_and_grown(settings, tmp_path):
    from twotower.serving.operators.query_tower import QueryTower

    data, config = data_of(8), TwoTowerConfig(dim=4, **settings)
    tower = create(schema_of(8), data, config, seed=1)
    training = TrainingConfig(batch_size=16, epochs=2, learning_rate=0.05, warmup=0)
    fit(tower, data, training, lambda model: {"ndcg@10": 0.5}, tmp_path / "state")
    vectors = embed(tower.model.candidate_encoder, data.items)
    (tmp_path / "model").mkdir()
    save(tower, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(embed(again.model.candidate_encoder, data.items), vectors)
    # The vectors count, each of them, and so does the lack of one.
    for name in ("image", "text"):
        other = {**data.items, name: np.roll(data.items[name], 1, axis=0)}
        assert np.abs(embed(tower.model.candidate_encoder, other) - vectors).max() > 1e-3
    (tmp_path / "onnx").mkdir()
    # `compile` compares the two on random vectors.
    QueryTower(tmp_path / "model" / "query_tower").compile(tmp_path / "onnx", tower.schema)
    grown = grow(tower, schema_of(12), data_of(12), seed=2)
    np.testing.assert_array_equal(embed(grown.model.candidate_encoder, data.items), vectors)


def test_the_sum_tower_adds_the_projections_to_the_embedding():
    data = data_of(8)
    tower = create(schema_of(8), data, TwoTowerConfig(dim=4, normalize=False), seed=1)
    table, *others = (w.numpy() for w in tower.model.candidate_encoder.trainable_variables)
    shapes = {each.shape: each for each in others}
    image, text = shapes[3, 4], shapes[2, 4]
    expected = table[data.items["film"][:, 0]]
    for name, kernel in (("image", image), ("text", text)):
        vectors = data.items[name]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        expected = expected + vectors / np.where(norms > 0, norms, 1) @ kernel
    found = embed(tower.model.candidate_encoder, data.items)
    np.testing.assert_allclose(found, expected, atol=1e-6)
