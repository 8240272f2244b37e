"""Rows to features, and hiding values."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def lookup():
    import tensorflow as tf

    from twotower.models.towers.layers import FeatureLookup

    users = {
        "user": np.arange(3, 13, dtype=np.int32)[:, None],
        "height": np.linspace(-1, 1, 10, dtype=np.float32)[:, None],
    }
    items = {
        "film": np.arange(3, 7, dtype=np.int32)[:, None],
        "genres": np.array([[3, 4], [5, 0], [6, 7], [0, 0]], np.int32),
    }
    hide = np.array([0.0, 1.0, 0.5, 0.0], np.float32)
    return FeatureLookup(
        users, items, "film", hide, 0.1, seed=3, step=lambda: tf.constant(0), lists=["genres"]
    )


def test_features_are_the_rows_of_the_tables(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.constant([2, 0]), "item_row": tf.constant([3, 1])}
    out = {name: values.numpy() for name, values in lookup(rows).items()}
    np.testing.assert_array_equal(out["user"], [[5], [3]])
    np.testing.assert_allclose(out["height"], [[-5 / 9], [-1]], rtol=1e-6)
    assert out["height"].dtype == np.float32
    np.testing.assert_array_equal(out["film"], [[6], [4]])
    np.testing.assert_array_equal(out["genres"], [[0, 0], [5, 0]])


def at(lookup, step, rows):
    """The features of a training batch in step `step`."""
    import tensorflow as tf

    lookup.step = lambda: tf.constant(step)
    return {name: v.numpy() for name, v in lookup(rows, training=True).items()}


def test_training_gives_every_user_and_item_once(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.constant([7, 1, 7, 7]), "item_row": tf.constant([2, 3, 3, 0])}
    out = at(lookup, 0, rows)
    np.testing.assert_array_equal(out["_query_of"], [0, 1, 0, 0])
    np.testing.assert_array_equal(out["_positive_of"], [0, 1, 1, 2])
    np.testing.assert_array_equal(out["_count"], [1, 2, 1])
    np.testing.assert_array_equal(out["_row"], [2, 3, 0])
    np.testing.assert_allclose(out["height"][:, 0], np.linspace(-1, 1, 10)[[7, 1]], rtol=1e-6)
    np.testing.assert_array_equal(out["genres"], [[6, 7], [0, 0], [3, 4]])


def test_training_hides_ids_at_their_own_rate_and_values_at_the_common_one(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.range(40) % 10, "item_row": tf.range(40) % 4}
    steps = [at(lookup, step, rows) for step in range(1000)]
    hidden = np.mean([out["film"][:, 0] == 2 for out in steps], axis=0)
    np.testing.assert_allclose(hidden, [0, 1, 0.5, 0], atol=0.05)
    assert np.mean([out["user"] == 2 for out in steps]) == pytest.approx(0.1, abs=0.01)
    for out in steps[:9]:
        assert not (out["genres"] == 2).any(), "multi-hot values are never hidden"
        assert (out["height"][:, 0] == steps[0]["height"][:, 0]).all(), "nor are numbers"


def test_what_is_hidden_follows_from_the_step(lookup):
    import tensorflow as tf

    lookup.hide_item_id = tf.fill([4, 1], 0.5)
    lookup.dropout = 0.5
    rows = {"user_row": tf.range(40) % 10, "item_row": tf.range(40) % 4}

    def hidden(step):
        out = at(lookup, step, rows)
        return np.append(out["user"], out["film"]) == 2

    first = hidden(5)
    np.testing.assert_array_equal(hidden(5), first)
    assert len({tuple(hidden(step)) for step in range(5, 15)}) > 8


@pytest.fixture
def with_history():
    """Three users with the items 3 to 7 in their histories; item row r has the code r + 3."""
    import tensorflow as tf

    from twotower.models.towers.layers import FeatureLookup

    users = {
        "user": np.arange(3, 6, dtype=np.int32)[:, None],
        "seen": np.array([[3, 4, 5, 0, 0], [5, 3, 0, 0, 0], [7, 6, 5, 4, 0]], np.int32),
    }
    items = {"film": np.arange(3, 8, dtype=np.int32)[:, None]}
    hide = np.zeros(5, np.float32)
    return FeatureLookup(
        *(users, items, "film", hide, 0.0),
        **{"seed": 3, "step": lambda: tf.constant(0), "history": "seen"},
    )


def test_a_history_lacks_the_positives_of_the_batch_in_training_only(with_history):
    import tensorflow as tf

    # User 2 with the items of the codes 6 and 4, user 0 with 5; the items of one are in the
    # history of the other too.
    rows = {"user_row": tf.constant([2, 0, 2]), "item_row": tf.constant([3, 2, 1])}
    np.testing.assert_array_equal(
        at(with_history, 0, rows)["seen"], [[7, 0, 5, 0], [3, 4, 0, 0]], "as long as the longest"
    )
    whole = with_history(rows)["seen"].numpy()
    np.testing.assert_array_equal(whole, [[7, 6, 5, 4, 0], [3, 4, 5, 0, 0], [7, 6, 5, 4, 0]])


def test_the_answer_is_in_the_history_even_if_the_item_id_is_hidden(with_history):
    import tensorflow as tf

    with_history.hide_item_id = tf.ones([5, 1])
    rows = {"user_row": tf.constant([1]), "item_row": tf.constant([2])}
    out = at(with_history, 0, rows)
    np.testing.assert_array_equal(out["film"], [[2]])
    np.testing.assert_array_equal(out["seen"], [[0, 3]])


def test_others_of_a_history_are_left_out_at_the_rate_asked_for(with_history):
    import tensorflow as tf

    with_history.history_dropout = 0.25
    rows = {"user_row": tf.constant([2]), "item_row": tf.constant([0])}
    steps = np.stack([at(with_history, step, rows)["seen"][0] for step in range(1000)])
    np.testing.assert_allclose((steps == 2).mean(axis=0), 0.25, atol=0.05)


def table(rows, pooling=None):
    """An embedding table of `rows` values for the column `genres`, and its weights."""
    from merlin.schema import ColumnSchema, Tags

    from twotower.models.towers.layers import MultiHotEmbedding

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
def test_a_small_table_and_a_large_one_answer_and_learn_alike(rows):
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
def test_a_list_is_pooled_as_asked_in_training_and_after(rows, pooling, divisor):
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


def test_dropout_goes_on_where_its_state_was_kept():
    import tensorflow as tf

    from twotower.models.towers.layers import ResumableDropout

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
