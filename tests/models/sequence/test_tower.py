"""The query tower of a sequence model: against NumPy, on odd lists, saved, and as ONNX."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.sequence.conftest import ITEMS, OFFSET
from twotower.models.config import TwoTowerConfig
from twotower.models.sequence.tower import sequence_tower
from twotower.models.training.saving import save_tower
from twotower.models.two_tower import build_two_tower, embed

KINDS = {
    "mean": {"kind": "mean"},
    "decay": {"kind": "decay", "decay_time": 2.0, "decay_floor": 0.4, "last_item": True},
    "gru": {"kind": "gru"},
    "transformer": {"kind": "transformer", "blocks": 1},
    "absolute": {"kind": "transformer", "positions": "absolute", "gated": True, "heads": 1},
}


def build(schema, dim=4, **sequence):
    """The model with random weights."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    config = TwoTowerConfig(dim=dim, normalize=False, sequence=sequence)
    model = build_two_tower(schema, np.ones(ITEMS + OFFSET), config)
    one = np.ones((2, 1), np.int32)
    inputs = {"user": one, "seen": np.array([[5, 4], [4, 0]], np.int32), "film": one}
    model({name: tf.constant(values) for name, values in inputs.items()})
    for weight in model.query_encoder.weights:
        weight.assign(tf.random.normal(weight.shape))
    return model


def vectors(model, *lists):
    """The vectors of lists of codes, padded on the right."""
    width = max(map(len, lists))
    seen = np.array([[*each, *[0] * (width - len(each))] for each in lists], np.int32)
    return embed(model.query_encoder, {"seen": seen})


def test_a_mean_is_that_of_the_known_items(schema):
    model = build(schema, kind="mean")
    tower = sequence_tower(model)
    x = tower.items.numpy() * 4**0.5
    answer = vectors(model, [5, 9, 7], [22])
    np.testing.assert_allclose(answer, [x[[5, 9, 7]].mean(axis=0), x[22]], rtol=1e-5)


def test_a_decay_weighs_by_age_and_adds_the_newest_item(schema):
    model = build(schema, **KINDS["decay"])
    items = sequence_tower(model).items.numpy()
    x, last = items[:, :4], items[:, 4:]
    # exp(-2 / 2) = 0.368 is below the floor.
    expected = x[5] + np.exp(-0.5) * x[9] + 0.4 * x[7] + last[5]
    np.testing.assert_allclose(vectors(model, [5, 9, 7])[0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_and_surplus_items_are_left_out(schema, kind):
    model = build(schema, **KINDS[kind])
    expected = vectors(model, [5, 9, 7], [4, 8, 6, 11, 12, 13], [])
    odd = vectors(model, [2, 5, 0, 1, 9, 7], [4, 8, 2, 6, 11, 12, 13, 19, 20], [2, 0, 1])
    np.testing.assert_allclose(odd, expected, rtol=1e-5)
    np.testing.assert_allclose(odd[2], sequence_tower(model).start.numpy())
    assert np.abs(vectors(model, [4, 8, 6, 11, 12, 14]) - expected[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_its_rows(schema, kind):
    model = build(schema, **KINDS[kind])
    lists = [5, 9, 7], [4], [], [8, 6, 11, 12, 13, 19]
    alone = np.concatenate(
        [vectors(model, each) if each else vectors(model, [0]) for each in lists]
    )
    np.testing.assert_allclose(vectors(model, *lists), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_vector_at_each_position_is_that_of_the_older_items(schema, kind):
    """What training computes in one pass equals what serving computes for each prefix."""
    import tensorflow as tf

    model = build(schema, **{**KINDS[kind], "dropout": 0})
    tower = sequence_tower(model)
    codes = np.array([[0, 0, 5, 9, 7, 5], [3, 4, 8, 9, 10, 11]], np.int32)
    x, known = tf.gather(tower.items, codes) * tower.scale, (codes > 2).astype(np.float32)
    every = tower.layer.every(x * known[..., None], known, tf.constant([0, 0])).numpy()
    for row, first in ((0, 2), (1, 0)):
        for place in range(first, 6):
            one = vectors(model, codes[row, place:])[0]
            np.testing.assert_allclose(every[row, place], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        "decay",
        pytest.param("gru", marks=pytest.mark.slow),
        "transformer",
        pytest.param("absolute", marks=pytest.mark.slow),
    ],
)
def test_a_saved_tower_and_its_onnx_model_return_the_same_vectors(schema, kind, tmp_path):
    import tensorflow as tf

    from twotower.serving.operators.query_tower import QueryTower

    model = build(schema, **KINDS[kind])
    seen = np.array([[5, 9, 7, 0, 0, 0], [2, 4, 1, 22, 3, 0]], np.int32)
    save_tower(model.query_encoder, schema, tmp_path / "tower")
    signature = tf.saved_model.load(str(tmp_path / "tower")).signatures["serving_default"]
    (answer,) = signature(seen=tf.constant(seen)).values()
    np.testing.assert_allclose(answer, embed(model.query_encoder, {"seen": seen}), atol=1e-6)
    (tmp_path / "onnx").mkdir()
    # `compile` compares the two on random lists.
    QueryTower(tmp_path / "tower").compile(tmp_path / "onnx", schema)
