"""Attention weights over a list against NumPy, for small and large embedding tables."""

from __future__ import annotations

import numpy as np
import pytest


def attended(rows):
    """A table of `rows` values with attention pooling; its embeddings, W and w."""
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Tags

    from twotower.models.towers.embeddings import MultiHotEmbedding
    from twotower.models.towers.pooling import AttentionScore

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


def test_attention_has_equal_gradients_for_small_and_large_tables():
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
    assert set(np.nonzero(of_large)[0]) == {3, 5, 7}, "padding and unknown values have no gradient"
    for one, other in zip(others, large_others, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-5)
