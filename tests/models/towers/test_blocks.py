"""Residual, cross and shared layers against NumPy; dropout with a state."""

from __future__ import annotations

import numpy as np
import pytest

X = np.array([[1.0, -2, 3], [0, 4, -1]], np.float32)


def filled(layer):
    """The layer with small whole numbers as weights, and these weights."""
    import tensorflow as tf

    layer(tf.constant(X))
    draw = np.random.default_rng(0)
    weights = [draw.integers(-2, 3, w.shape).astype(np.float32) for w in layer.get_weights()]
    layer.set_weights(weights)
    return layer, weights


def test_a_residual_layer_adds_to_its_input():
    from twotower.models.towers.blocks import ResidualLayer

    layer, (w1, b1, w2, b2) = filled(ResidualLayer(5))
    assert w1.shape == (3, 5) and w2.shape == (5, 3)
    expected = X + np.maximum(X @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(layer(X), expected, rtol=1e-6)


def test_cross_layers_multiply_by_the_first_input():
    from twotower.models.towers.blocks import CrossLayers

    layer, (w, b, u, v, c) = filled(CrossLayers([3, 2]))
    assert w.shape == (3, 3) and u.shape == (3, 2) and v.shape == (2, 3)
    once = X * (X @ w + b) + X
    np.testing.assert_allclose(layer(X), X * (once @ u @ v + c) + once, rtol=1e-6)


def test_dropout_applies_to_what_is_added():
    import tensorflow as tf

    from twotower.models.towers.blocks import CrossLayers, ResidualLayer

    ones = tf.ones([2000, 3])
    for layer in (ResidualLayer(4, 0.25), CrossLayers([3], 0.25)):
        layer(ones)
        # With random weights all four ReLUs may be 0, so that nothing could be dropped.
        for weight in layer.trainable_weights:
            weight.assign(tf.ones_like(weight))
        added = layer(ones) - 1
        kept = layer(ones, training=True) - 1
        whole = np.isclose(kept, added / 0.75, atol=1e-6)
        assert whole.mean() == pytest.approx(0.75, abs=0.03)
        np.testing.assert_array_equal(kept.numpy()[~whole], 0)


def test_layers_are_restored_from_their_config():
    import tensorflow as tf

    from twotower.models.towers.blocks import CrossLayers, ResidualLayer, SharedLayers
    from twotower.models.towers.pooling import AttentionScore

    shared = SharedLayers([4, 2], 3, 0.5)
    for layer in (ResidualLayer(5, 0.5), CrossLayers([3, 2]), AttentionScore(), shared):
        layer, weights = filled(layer)
        again = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
        again(X)
        again.set_weights(weights)
        np.testing.assert_array_equal(again(X), layer(X))


def test_dropout_continues_from_a_saved_state():
    import tensorflow as tf

    from twotower.models.towers.blocks import ResumableDropout

    layer, ones = ResumableDropout(0.25), tf.ones([4000, 1])
    assert (layer(ones) == ones).numpy().all(), "nothing is dropped when not training"
    first = layer(ones, training=True).numpy()
    assert set(np.unique(first)) == {0, np.float32(4 / 3)}
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.03)
    kept = layer.get_weights()
    second = layer(ones, training=True).numpy()
    assert (second != first).any()
    layer.set_weights(kept)
    np.testing.assert_array_equal(layer(ones, training=True), second)
