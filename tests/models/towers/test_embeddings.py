"""Embedding tables, small and large: look-up, pooling of lists, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest


def table(rows, pooling=None):
    """An embedding table of `rows` values for the column `genres`, and its weights."""
    from merlin.schema import ColumnSchema, Tags

    from twotower.models.towers.embeddings import MultiHotEmbedding

    domain = {"min": 0, "max": rows - 1, "name": "genres"}
    column = ColumnSchema(
        "genres", dtype=np.int32, tags=[Tags.CATEGORICAL], properties={"domain": domain}
    )
    layer = MultiHotEmbedding(4, column, sequence_combiner=pooling)
    layer.build((None, 1))
    weights = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    layer.table.set_weights([weights])
    return layer, weights


@pytest.mark.parametrize("rows", [20, 2000])
def test_small_and_large_tables_have_equal_outputs_and_gradients(rows):
    import tensorflow as tf

    layer, weights = table(rows)
    single = np.array([[3], [7], [2], [7]], np.int32)
    lists = np.array([[3, 7, 0], [2, 0, 0], [5, 2, 7], [0, 0, 0]], np.int32)[..., None]
    means = np.stack([weights[[3, 7]].mean(0), np.zeros(4), weights[[5, 7]].mean(0), np.zeros(4)])
    with tf.GradientTape() as tape:
        of_single, of_lists = layer(tf.constant(single)), layer(tf.constant(lists))
        total = tf.reduce_sum(of_single[1]) + tf.reduce_sum(of_lists[0]) + of_lists[2, 0]
    np.testing.assert_allclose(of_single, weights[single[:, 0]], rtol=1e-6)
    np.testing.assert_allclose(of_lists, means, rtol=1e-5, atol=1e-7)
    gradient = tape.gradient(total, layer.table.trainable_weights[0])
    expected = np.zeros_like(weights)
    expected[3] = 0.5
    expected[7] = 1.5
    expected[[5, 7], 0] += 0.5
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, rtol=1e-6)
    assert isinstance(gradient, tf.IndexedSlices) == (rows > 256)


@pytest.mark.parametrize("rows", [20, 2000])
@pytest.mark.parametrize("pooling, divisor", [("sum", 1), ("mean", 3), ("sqrtn", 3**0.5)])
def test_pooling_is_the_same_in_training_and_inference(rows, pooling, divisor):
    import tensorflow as tf

    layer, weights = table(rows, pooling)
    lists = tf.constant([[[3], [7], [2], [3], [0]], [[0]] * 5], tf.int32)
    expected = [weights[[3, 7, 3]].sum(0) / divisor, np.zeros(4)]
    for training in (False, True):
        with tf.GradientTape() as tape:
            out = layer(lists, training=training)
        np.testing.assert_allclose(out, expected, rtol=1e-5)
    gradient = tf.convert_to_tensor(tape.gradient(out, layer.table.trainable_weights[0]))
    np.testing.assert_allclose(gradient[3], np.full(4, 2 / divisor), rtol=1e-5)
    np.testing.assert_allclose(gradient[7], np.full(4, 1 / divisor), rtol=1e-5)
    assert np.count_nonzero(gradient) == 8
