"""The feature lookup: rows of tables become features, and values are hidden in training."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def lookup():
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

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


def test_training_features_have_distinct_users_and_items(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.constant([7, 1, 7, 7]), "item_row": tf.constant([2, 3, 3, 0])}
    out = at(lookup, 0, rows)
    np.testing.assert_array_equal(out["_query_of"], [0, 1, 0, 0])
    np.testing.assert_array_equal(out["_positive_of"], [0, 1, 1, 2])
    np.testing.assert_array_equal(out["_count"], [1, 2, 1])
    np.testing.assert_array_equal(out["_row"], [2, 3, 0])
    np.testing.assert_allclose(out["height"][:, 0], np.linspace(-1, 1, 10)[[7, 1]], rtol=1e-6)
    np.testing.assert_array_equal(out["genres"], [[6, 7], [0, 0], [3, 4]])


def test_training_hides_item_ids_at_their_own_rates_and_other_codes_at_one_rate(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.range(40) % 10, "item_row": tf.range(40) % 4}
    steps = [at(lookup, step, rows) for step in range(1000)]
    hidden = np.mean([out["film"][:, 0] == 2 for out in steps], axis=0)
    np.testing.assert_allclose(hidden, [0, 1, 0.5, 0], atol=0.05)
    assert np.mean([out["user"] == 2 for out in steps]) == pytest.approx(0.1, abs=0.01)
    for out in steps[:9]:
        assert not (out["genres"] == 2).any(), "multi-hot values are never hidden"
        assert (out["height"][:, 0] == steps[0]["height"][:, 0]).all(), "numbers are never hidden"


def test_hidden_values_depend_on_the_step_alone(lookup):
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

    from twotower.models.feature_lookup import FeatureLookup

    users = {
        "user": np.arange(3, 6, dtype=np.int32)[:, None],
        "seen": np.array([[3, 4, 5, 0, 0], [5, 3, 0, 0, 0], [7, 6, 5, 4, 0]], np.int32),
    }
    items = {"film": np.arange(3, 8, dtype=np.int32)[:, None]}
    hide = np.zeros(5, np.float32)
    return FeatureLookup(
        users,
        items,
        item_id="film",
        hide_item_id=hide,
        dropout=0.0,
        seed=3,
        step=lambda: tf.constant(0),
        history="seen",
    )


def test_positives_are_removed_from_histories_in_training_only(with_history):
    import tensorflow as tf

    # User 2 with the codes 6 and 4, user 0 with 5. Each has the other's items in the
    # history, too.
    rows = {"user_row": tf.constant([2, 0, 2]), "item_row": tf.constant([3, 2, 1])}
    np.testing.assert_array_equal(
        at(with_history, 0, rows)["seen"], [[7, 0, 5, 0], [3, 4, 0, 0]], "as long as the longest"
    )
    whole = with_history(rows)["seen"].numpy()
    np.testing.assert_array_equal(whole, [[7, 6, 5, 4, 0], [3, 4, 5, 0, 0], [7, 6, 5, 4, 0]])


def test_a_positive_is_removed_even_if_its_item_id_is_hidden(with_history):
    import tensorflow as tf

    with_history.hide_item_id = tf.ones([5, 1])
    rows = {"user_row": tf.constant([1]), "item_row": tf.constant([2])}
    out = at(with_history, 0, rows)
    np.testing.assert_array_equal(out["film"], [[2]])
    np.testing.assert_array_equal(out["seen"], [[0, 3]])


@pytest.mark.slow
def test_other_items_of_a_history_are_hidden_at_history_dropout(with_history):
    import tensorflow as tf

    with_history.history_dropout = 0.25
    rows = {"user_row": tf.constant([2]), "item_row": tf.constant([0])}
    steps = np.stack([at(with_history, step, rows)["seen"][0] for step in range(1000)])
    np.testing.assert_allclose((steps == 2).mean(axis=0), 0.25, atol=0.05)


def test_a_query_is_a_user_in_one_context():
    """The same user in another context is another query; the context replaces the user's column."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    lookup = FeatureLookup(
        {"user": np.arange(3, 7, dtype=np.int32)[:, None], "month": np.full((4, 1), 2, np.int32)},
        {"film": np.arange(3, 9, dtype=np.int32)[:, None]},
        item_id="film",
        hide_item_id=np.zeros(6, np.float32),
        dropout=0.0,
        seed=1,
        step=lambda: tf.constant(0),
        contexts={
            "month": np.array([[4], [3], [5]], np.int32),
            "size": np.array([[0.5], [0.25], [1.0]], np.float32),
        },
        known=np.array([0 * 6 + 2, 3 * 6 + 1]),
    )
    batch = {
        "user_row": tf.constant([3, 0, 3, 3]),
        "item_row": tf.constant([1, 2, 2, 1]),
        "context_row": tf.constant([1, 1, 2, 1]),
        "_weight": tf.constant([1.0, 2.0, 3.0, 4.0]),
    }
    features = lookup(batch, training=True)
    assert features["_query_of"].numpy().tolist() == [0, 1, 2, 0]
    assert features["user"].numpy()[:, 0].tolist() == [6, 3, 6]
    assert features["month"].numpy()[:, 0].tolist() == [3, 3, 5]
    assert features["size"].numpy()[:, 0].tolist() == [0.25, 0.25, 1.0]
    assert features["_weight"].numpy().tolist() == [1, 2, 3, 4]
    assert features["_known"].numpy().tolist() == [[True, False], [False, True], [True, False]]
    plain = lookup(batch, training=False)
    assert plain["month"].numpy()[:, 0].tolist() == [3, 3, 5, 3]


def test_a_positive_of_weight_0_is_not_counted_in_its_users_share():
    """It fills up a worker's last batch; see `shuffled_batches`."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    users, items = ({name: np.arange(3, 8, dtype=np.int32)[:, None]} for name in ("user", "film"))
    lookup = FeatureLookup(
        users,
        items,
        "film",
        np.zeros(5, np.float32),
        0.0,
        seed=3,
        step=lambda: tf.constant(0),
        positives_per_user=np.full(5, 4.0),
    )
    rows = {"user_row": tf.constant([2, 0, 2, 2]), "item_row": tf.constant([0, 1, 2, 3])}
    assert at(lookup, 0, rows)["_share"].tolist() == [0.75, 0.25]
    weighted = {**rows, "_weight": tf.constant([0.5, 0.0, 2.0, 0.0])}
    assert at(lookup, 0, weighted)["_share"].tolist() == [0.5, 0.0]


def test_workers_hide_other_values_in_the_same_step(lookup):
    import tensorflow as tf

    rows = {"user_row": tf.range(10) % 10, "item_row": tf.constant([1, 2] * 5)}
    lookup.dropout = 0.5
    first = at(lookup, 0, rows)["user"]
    np.testing.assert_array_equal(at(lookup, 0, rows)["user"], first)
    lookup.worker = 1
    assert (at(lookup, 0, rows)["user"] != first).any()
