"""Rows to features, and hiding values."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def lookup():
    import tensorflow as tf

    from models.layers import FeatureLookup

    users = {
        "user": np.arange(3, 13, dtype=np.int32)[:, None],
        "height": np.linspace(-1, 1, 10, dtype=np.float32)[:, None],
    }
    items = {
        "film": np.arange(3, 7, dtype=np.int32)[:, None],
        "genres": np.array([[3, 4], [5, 0], [6, 7], [0, 0]], np.int32),
    }
    hide = np.array([0.0, 1.0, 0.5, 0.0], np.float32)
    return FeatureLookup(users, items, "film", hide, 0.1, seed=3, step=tf.Variable(0))


def test_features_are_the_rows_of_the_tables(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.constant([2, 0]), "item_row": tf.constant([3, 1])}
    out = {name: values.numpy() for name, values in lookup(rows).items()}
    np.testing.assert_array_equal(out["user"], [[5], [3]])
    np.testing.assert_allclose(out["height"], [[-5 / 9], [-1]], rtol=1e-6)
    assert out["height"].dtype == np.float32
    np.testing.assert_array_equal(out["film"], [[6], [4]])
    np.testing.assert_array_equal(out["genres"], [[0, 0], [5, 0]])


def test_training_hides_ids_at_their_own_rate_and_values_at_the_common_one(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.zeros([20000], tf.int32), "item_row": tf.range(20000) % 4}
    out = {name: v.numpy() for name, v in lookup(rows, training=True).items()}
    hidden = (out["film"][:, 0] == 2).reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(hidden, [0, 1, 0.5, 0], atol=0.03)
    assert (out["user"] == 2).mean() == pytest.approx(0.1, abs=0.01)
    assert not (out["genres"] == 2).any(), "multi-hot values are never hidden"
    assert (out["height"] == -1).all(), "numbers are never hidden"


def test_what_is_hidden_follows_from_the_step(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.zeros([2000], tf.int32), "item_row": tf.fill([2000], 2)}

    def hidden(step):
        lookup.step.assign(step)
        return {name: v.numpy() == 2 for name, v in lookup(rows, training=True).items()}

    first, second, again = hidden(5), hidden(6), hidden(5)
    for name in ("user", "film"):
        assert (first[name] == again[name]).all()
        assert (first[name] != second[name]).any()
    assert (first["user"] != first["film"]).any(), "columns are hidden independently"
