"""Buckets of numbers: their edges, and their embeddings in a tower, saved and trained."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, save, save_tower
from twotower.models.two_tower import build_two_tower, embed

QUARTILE = 0.67448975  # of the normal distribution, above 0


def buckets_of(numbers, buckets: int) -> np.ndarray:
    """The bucket of each number, from a layer in which bucket i has the embedding [i, 1]."""
    import tensorflow as tf

    from twotower.models.towers.buckets import BucketEmbedding

    layer = BucketEmbedding(buckets, 2)
    column = tf.constant(numbers, tf.float32)[:, None]
    layer(column)
    layer.set_weights([np.array([[i, 1] for i in range(buckets)], np.float32)])
    embeddings = layer(column).numpy()
    np.testing.assert_array_equal(embeddings[:, 1], 1)
    return embeddings[:, 0].astype(int)


def test_quarters_of_the_normal_distribution():
    edge = np.float32(QUARTILE)
    below = np.nextafter(edge, np.float32(0))
    numbers = [-9, -0.7, -edge, -below, -1e-9, 0, 0.6, below, edge, 0.7, 9]
    # A number at an edge belongs to the upper bucket, as does null, which is 0.
    assert buckets_of(numbers, 4).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("buckets", [2, 3, 7, 100])
def test_buckets_are_equally_likely(buckets):
    numbers = norm.ppf((np.arange(100 * buckets) + 0.5) / (100 * buckets))
    assert np.bincount(buckets_of(numbers, buckets)).tolist() == [100] * buckets


def test_the_layer_is_restored_from_its_config():
    import tensorflow as tf

    from twotower.models.towers.buckets import BucketEmbedding

    layer, numbers = BucketEmbedding(5, 3), tf.constant([[-2.0], [0.1], [2.0]])
    expected = layer(numbers)
    assert np.abs(layer.get_weights()[0]).max() <= 0.05, "as small as other embeddings"
    again = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    again(numbers)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(numbers), expected)


@pytest.mark.parametrize("buckets", [1, -1])
def test_one_bucket_is_an_error(buckets):
    with pytest.raises(ValueError, match="buckets"):
        TwoTowerConfig(buckets=buckets)


@pytest.fixture(scope="module")
def schema():
    """A user with an age and a height, and a film with a price."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def code(name, *tags):
        domain = {"min": 0, "max": 42, "name": name}
        return ColumnSchema(
            name, dtype=np.int32, tags=[Tags.CATEGORICAL, *tags], properties={"domain": domain}
        )

    def number(name, tag):
        return ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS, tag])

    return Schema(
        [
            code("user", Tags.USER_ID, Tags.USER),
            *(number("age", Tags.USER), number("height", Tags.USER)),
            code("film", Tags.ITEM_ID, Tags.ITEM),
            number("price", Tags.ITEM),
        ]
    )


USERS = {
    "user": np.array([[3], [4], [2], [4]], np.int32),
    "age": np.array([[-1], [0], [0.6], [QUARTILE]], np.float32),
    "height": np.array([[0.1], [-3], [-0.1], [2]], np.float32),
}
AGE_BUCKETS, HEIGHT_BUCKETS = [0, 2, 2, 3], [2, 0, 1, 3]


def build(schema, config):
    """The model with random weights."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    model = build_two_tower(schema, np.ones(43), config)
    films = {"film": np.array([[3]] * 4, np.int32), "price": np.ones([4, 1], np.float32)}
    model({name: tf.constant(values) for name, values in {**USERS, **films}.items()})
    for weight in model.trainable_variables:
        weight.assign(tf.random.normal(weight.shape) * 0.5)
    return model


def bucket_table(encoder, column: str) -> np.ndarray:
    return encoder.blocks[0][f"bucket of {column}"].layers[-1].embeddings.numpy()


def test_the_embeddings_of_buckets_add_to_the_sum(schema):
    model = build(schema, TwoTowerConfig(dim=3, normalize=False, buckets=4))
    encoder = model.query_encoder
    weights = {weight.shape[0]: weight.numpy() for weight in encoder.trainable_variables}
    age, height = bucket_table(encoder, "age"), bucket_table(encoder, "height")
    expected = (
        weights[43][USERS["user"][:, 0]]
        + np.hstack([USERS["age"], USERS["height"]]) @ weights[2]
        + age[AGE_BUCKETS]
        + height[HEIGHT_BUCKETS]
    )
    np.testing.assert_allclose(embed(encoder, USERS), expected, rtol=1e-5, atol=1e-6)
    assert bucket_table(model.candidate_encoder, "price").shape == (4, 3)


def test_with_hidden_layers_bucket_embeddings_are_concatenated(schema):
    config = TwoTowerConfig(dim=3, feature_dim=2, hidden=[5], normalize=False, buckets=4)
    encoder = build(schema, config).query_encoder
    kernel, bias, out, out_bias = (weight.numpy() for weight in encoder.trainable_variables[-4:])
    user = next(w.numpy() for w in encoder.trainable_variables if w.shape[0] == 43)
    age, height = bucket_table(encoder, "age"), bucket_table(encoder, "height")
    parts = [  # by name, as Merlin concatenates them
        *(USERS["age"], age[AGE_BUCKETS], height[HEIGHT_BUCKETS], USERS["height"]),
        user[USERS["user"][:, 0]],
    ]
    expected = np.maximum(np.hstack(parts) @ kernel + bias, 0) @ out + out_bias
    np.testing.assert_allclose(embed(encoder, USERS), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [[], [5]])
def test_a_saved_tower_and_its_onnx_model_return_the_same_vectors(schema, hidden, tmp_path):
    import tensorflow as tf

    from twotower.serving.operators.query_tower import QueryTower
    from twotower.serving.runtime.operators import query_tower

    model = build(schema, TwoTowerConfig(dim=4, hidden=hidden, buckets=4))
    expected = embed(model.query_encoder, USERS)
    save_tower(model.query_encoder, schema, tmp_path / "tower")
    signature = tf.saved_model.load(str(tmp_path / "tower")).signatures["serving_default"]
    (vectors,) = signature(**{name: tf.constant(v) for name, v in USERS.items()}).values()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    (tmp_path / "onnx").mkdir()
    operator = QueryTower(tmp_path / "tower")
    entry = operator.compile(tmp_path / "onnx", schema)
    served = query_tower.QueryTower(tmp_path / "onnx", entry, threads=1)
    columns = {name: values[:, 0] for name, values in USERS.items()}
    columns["user"] = columns["user"].astype(np.int64)
    np.testing.assert_allclose(served.run(columns)[operator.vector], expected, atol=1e-5)


@pytest.mark.slow
def test_a_preference_for_numbers_near_the_mean_is_learnt(schema, tmp_path):
    """40 unknown users: those with an age near the mean like odd films, the others even ones."""
    age = np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
    colour = np.abs(age) < QUARTILE
    own = (np.arange(40) % 2 == 1) == colour
    rows = np.argwhere(own).astype(np.int32)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    nothing = np.zeros([40, 1], np.float32)
    users = {"user": np.full((40, 1), 2, np.int32), "age": age, "height": nothing}
    films = {"film": np.arange(3, 43, dtype=np.int32)[:, None], "price": nothing}
    data = TrainingData(users, films, *rows.T)

    def right(model):
        scores = embed(model.query_encoder, users) @ embed(model.candidate_encoder, films).T
        return {"ndcg@10": float(((scores > np.median(scores, axis=1)[:, None]) == own).mean())}

    training = TrainingConfig(batch_size=64, epochs=8, patience=8, learning_rate=0.05)
    best = {}
    for buckets in (0, 4):
        config = TwoTowerConfig(dim=8, buckets=buckets)
        tower = create(schema, data, config, seed=1)
        best[buckets] = max(
            fit(tower, data, training, right, tmp_path / f"{buckets}")["val_ndcg@10"]
        )
    assert best[0] < 0.8 and best[4] > 0.95
    save(tower, tmp_path)
    assert right(load(tmp_path).model) == right(tower.model)
    grown = grow(tower, schema, data, seed=2)
    expected = embed(tower.model.query_encoder, users)
    np.testing.assert_array_equal(embed(grown.model.query_encoder, users), expected)
