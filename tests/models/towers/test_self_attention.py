"""Self-attention over a history against NumPy: masking, gradients, and the order of values."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.two_tower import build_two_tower

LENGTH, DIM = 5, 3
LISTS = np.array(
    [
        [3, 7, 2, 3, 0],  # 2 is unknown
        [0, 9, 0, 4, 5],  # with gaps, where training removes values
        [0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0],
        [5, 0, 0, 0, 0],
    ],
    np.int32,
)


def column(length, rows=20):
    from merlin.schema import ColumnSchema, Tags

    return ColumnSchema(
        "seen",
        dtype=np.int32,
        is_list=True,
        is_ragged=False,
        tags=[Tags.CATEGORICAL, Tags.USER, Tags.SEQUENCE],
        properties={
            "domain": {"min": 0, "max": rows - 1, "name": "seen"},
            "value_count": {"min": length, "max": length},
        },
    )


def attended(rows=20, drawn=True):
    """A table of `rows` values with self-attention, and its weights, random if `drawn`."""
    import tensorflow as tf

    from twotower.models.towers.embeddings import MultiHotEmbedding
    from twotower.models.towers.options import POOLINGS

    seen = column(LENGTH, rows)
    layer = MultiHotEmbedding(DIM, seen, sequence_combiner=POOLINGS["self_attention"].make(seen))
    layer(tf.zeros([1, 2, 1], tf.int32))
    if drawn:
        draw = np.random.default_rng(1)
        layer.set_weights([draw.normal(size=w.shape) for w in layer.get_weights()])
    return layer, layer.get_weights()


def pooled(values, table, positions, queries, keys, matrix):
    """The vector of one list, from the formula."""
    known = [place for place, value in enumerate(values) if value not in (0, 2)]
    if not known:
        return np.zeros(DIM)
    x = np.stack([table[values[place]] + positions[min(place, LENGTH - 1)] for place in known])
    exps = np.exp((x @ queries) @ (x @ keys).T / np.sqrt(DIM))
    return (x + exps / exps.sum(axis=1, keepdims=True) @ x @ matrix).mean(axis=0)


@pytest.mark.parametrize("rows", [20, 2000])
def test_every_known_value_attends_to_the_known_ones(rows):
    layer, weights = attended(rows)
    expected = [pooled(values, *weights) for values in LISTS]
    for more in (0, 4):
        lists = np.pad(LISTS, [(0, 0), (0, more)])[..., None]
        for training in (False, True):
            np.testing.assert_allclose(
                layer(lists, training=training), expected, rtol=1e-4, atol=1e-6
            )
    longer = np.array([[3, 7, 4, 3, 5, 9, 6]], np.int32)
    np.testing.assert_allclose(layer(longer[..., None]), [pooled(longer[0], *weights)], rtol=1e-4)
    assert layer(np.zeros([2, 0, 1], np.int32)).numpy().tolist() == [[0] * DIM] * 2


def test_it_starts_as_the_mean_and_later_depends_on_the_order():
    there, turned = np.array([[3, 7, 4]]), np.array([[4, 7, 3]])
    layer, (table, *_) = attended(drawn=False)
    for lists in (there, turned):
        np.testing.assert_allclose(layer(lists[..., None]), [table[[3, 4, 7]].mean(0)], rtol=1e-5)
    layer, _ = attended()
    assert np.abs(layer(there[..., None]) - layer(turned[..., None])).max() > 0.01


@pytest.mark.parametrize("rows", [20, 2000])
def test_padding_and_unknown_values_have_no_gradient(rows):
    import tensorflow as tf

    layer, weights = attended(rows)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(LISTS[..., None], training=True) ** 3)
    gradients = tape.gradient(loss, layer.trainable_weights)
    of_table, *others = (tf.convert_to_tensor(each).numpy() for each in gradients)
    assert set(np.nonzero(of_table)[0]) == {3, 4, 5, 7, 9}
    assert all(np.abs(each).max() > 1e-3 for each in others)
    step, (table, *rest) = 1e-3, weights

    def at(change):
        moved = table.astype(float)
        moved[7, 1] += change
        return sum((pooled(values, moved, *rest) ** 3).sum() for values in LISTS)

    assert of_table[7, 1] == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-3)


def test_it_is_restored_from_its_config():
    import tensorflow as tf

    layer, _ = attended()
    combiner = layer.sequence_combiner
    again = tf.keras.layers.deserialize(tf.keras.layers.serialize(combiner))
    embeddings, known = np.float32(np.arange(24).reshape(2, 4, 3) / 24), np.ones([2, 4], np.float32)
    again(embeddings, known)
    again.set_weights(combiner.get_weights())
    np.testing.assert_array_equal(again(embeddings, known), combiner(embeddings, known))


def test_a_history_too_long_for_self_attention_is_an_error():
    from merlin.schema import ColumnSchema, Schema, Tags

    def one(name, *tags):
        properties = {"domain": {"min": 0, "max": 9, "name": name}}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties=properties)

    ids = [one("user", Tags.USER_ID, Tags.USER), one("film", Tags.ITEM_ID, Tags.ITEM)]
    config = TwoTowerConfig(history_pooling="self_attention")
    build_two_tower(Schema([*ids, column(200)]), np.ones(10), config)
    with pytest.raises(ModelError, match=r"seen has up to 201: set features\.history to at most"):
        build_two_tower(Schema([*ids, column(201)]), np.ones(10), config)
