"""Keras layers that Merlin lacks: features by row inside the model, mean over a multi-hot row."""

from __future__ import annotations

from collections.abc import Mapping

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from tensorflow.random.experimental import stateless_fold_in

PADDING, OUT_OF_VOCABULARY = 0, 2  # NVTabular's Categorify: 0 padding, 1 null, 2 out of vocabulary
USER_ROW, ITEM_ROW = "user_row", "item_row"  # what a training batch holds: positions in the tables


@tf.keras.utils.register_keras_serializable(package="twotower")
class MultiHotEmbedding(mm.EmbeddingTable):
    """An embedding table whose padded rows are averaged over the values that are there.

    Input int [n, 1] -> float32 [n, dim], one value a row; input int [n, length, 1] (what Merlin
    makes of [n, length]), padded with 0 -> float32 [n, dim], the mean over the known values,
    zeros when there are none. Merlin's own combiner for dense rows would average the padding in;
    its ragged path is slow on a CPU. Unknown values are left out: they were never trained.
    """

    def _call_table(self, inputs, **kwargs):
        if inputs.shape.rank < 3:
            return super()._call_table(inputs, **kwargs)
        inputs = tf.squeeze(inputs, axis=-1)
        known = tf.logical_and(inputs != PADDING, inputs != OUT_OF_VOCABULARY)
        known = tf.cast(known, self.table.embeddings.dtype)[..., None]
        vectors = tf.gather(self.table.embeddings, inputs) * known
        mean = tf.reduce_sum(vectors, axis=1) / tf.maximum(tf.reduce_sum(known, axis=1), 1.0)
        if self.l2_batch_regularization_factor > 0:
            self.add_loss(self.l2_batch_regularization_factor * tf.reduce_sum(tf.square(mean)))
        return mean


class FeatureLookup(tf.keras.layers.Layer):
    """Rows in, features out: {user_row, item_row} int [n] -> every encoded column [n, w].

    Passed to `fit(pre=...)`, so that batches carry two integers an interaction and features cost
    a gather in the training graph; the saved towers know nothing of it.

    So that what answers for unknown users, cold items and unseen values is trained, values become
    out-of-vocabulary at random: the item id with its row's probability in `hide_item_id`, every
    other single code with probability `dropout`. Numbers (float32) stay: an unknown one is 0, the
    mean. What is hidden in a step follows from `seed` and the number of the step, a variable.
    """

    def __init__(
        self,
        users: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
        item_id: str,
        hide_item_id: np.ndarray,
        dropout: float,
        seed: int,
        step: tf.Variable,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed, self.step = seed, step
        self.tables = {
            USER_ROW: {name: tf.constant(values) for name, values in users.items()},
            ITEM_ROW: {name: tf.constant(values) for name, values in items.items()},
        }
        self.item_id = item_id
        self.hide_item_id = tf.constant(hide_item_id[:, None])
        self.dropout = dropout

    def call(self, inputs, training=False):
        features = {}
        seed = stateless_fold_in([self.seed, 0], self.step)
        for rows, tables in self.tables.items():
            positions = tf.reshape(inputs[rows], [-1])
            for name, table in tables.items():
                values = tf.gather(table, positions)
                if training and values.dtype.is_integer and values.shape[-1] == 1:
                    rate = (
                        tf.gather(self.hide_item_id, positions)
                        if name == self.item_id
                        else self.dropout
                    )
                    values = _hide(values, rate, stateless_fold_in(seed, len(features)))
                features[name] = values
        return features


def _hide(values: tf.Tensor, rate: tf.Tensor | float, seed: tf.Tensor) -> tf.Tensor:
    """`values` [n, 1], each out-of-vocabulary with probability `rate`."""
    oov = tf.constant(OUT_OF_VOCABULARY, values.dtype)
    return tf.where(tf.random.stateless_uniform(tf.shape(values), seed) < rate, oov, values)
