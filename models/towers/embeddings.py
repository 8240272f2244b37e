"""Embedding tables for single values and for padded lists of values."""

from __future__ import annotations

from typing import Any

import merlin.models.tf as mm
import tensorflow as tf

from twotower.models.batch_keys import OUT_OF_VOCABULARY, PADDING
from twotower.models.towers.pooling import MASKED_SCORE, ListPooling

# Number of rows up to which a matrix product is faster than a gather (measured on two cores with
# 1,024 rows per batch).
MAX_SMALL_TABLE = 256
DIVISORS = {"mean": lambda n: n, "sqrtn": tf.sqrt, "sum": tf.ones_like}


@tf.keras.utils.register_keras_serializable(package="twotower")
class MultiHotEmbedding(mm.EmbeddingTable):
    """An embedding table that also pools padded lists of values.

    Input int [n, 1], one value per row, gives float32 [n, dim]. Input int [n, length, 1] (Merlin's
    form of [n, length]), padded with 0, gives float32 [n, dim], zeros for a list without known
    values. Padding and unknown values are left out.

    Parameters
    ----------
    sequence_combiner : str or Layer, optional
        How a list is pooled: "mean" (the default), "sum" or "sqrtn" of its known values; a
        `ListPooling`; or another layer, which computes a score [...] of each embedding [..., dim],
        for the mean weighted by the softmax of the scores.
    *args, **kwargs
        The parameters of Merlin's EmbeddingTable.

    Notes
    -----
    Merlin's own combiner for dense lists averages the padding too, and its ragged path is slow on a
    CPU. Unknown values are left out because they are never trained.

    For a table of at most `MAX_SMALL_TABLE` rows the look-up is a product of counts with the table.
    The result is the same, but the gradient has one row per row of the table; the gradient of a
    gather has one row per value of the batch, which must be sorted and summed.
    """

    def _call_table(self, inputs, training=False, **kwargs):
        is_list, is_small = inputs.shape.rank > 2, self.input_dim <= MAX_SMALL_TABLE
        if not is_list and not is_small:
            return super()._call_table(inputs, **kwargs)
        values = tf.squeeze(inputs, axis=-1)
        if is_list:
            out = self._pool(values, is_small, training)
        else:
            out = tf.matmul(tf.one_hot(values, self.input_dim), self.table.embeddings)
        if self.l2_batch_regularization_factor > 0:
            self.add_loss(self.l2_batch_regularization_factor * tf.reduce_sum(tf.square(out)))
        return out

    def _pool(self, values: tf.Tensor, is_small: bool, training: bool) -> tf.Tensor:
        """Pool lists of values int [n, length] into vectors float32 [n, dim]."""
        table, combiner = self.table.embeddings, self._combiner
        known = tf.logical_and(values != PADDING, values != OUT_OF_VOCABULARY)
        known = tf.cast(known, table.dtype)
        if isinstance(combiner, ListPooling):
            return combiner(tf.gather(table, values), known)
        if isinstance(combiner, tf.keras.layers.Layer):
            scores = self._scores(values, is_small, training)
            weights = tf.nn.softmax(tf.where(known > 0, scores, MASKED_SCORE)) * known
        else:
            count = tf.maximum(tf.reduce_sum(known, axis=1, keepdims=True), 1.0)
            weights = known / DIVISORS[combiner](count)
        if is_small:
            parts = tf.reduce_sum(tf.one_hot(values, self.input_dim) * weights[..., None], axis=1)
            return tf.matmul(parts, table)
        if training:
            return _sparse_weighted_sum(table, values, weights)
        # Uses only operations that ONNX has.
        return tf.matmul(weights[:, None, :], tf.gather(table, values))[:, 0]

    @property
    def _combiner(self) -> Any:
        """The `sequence_combiner`, which Merlin declares to be a string."""
        return self.sequence_combiner or "mean"

    def _scores(self, values: tf.Tensor, is_small: bool, training: bool) -> tf.Tensor:
        """Score `values` [n, length]; in training each distinct value is scored once."""
        table = self.table.embeddings
        if is_small:
            return tf.gather(self._combiner(table), values)
        if not training:
            return self._combiner(tf.gather(table, values))
        distinct, place = tf.unique(tf.reshape(values, [-1]))
        scores = self._combiner(tf.gather(table, distinct))
        return tf.gather(scores, tf.reshape(place, tf.shape(values)))


def _sparse_weighted_sum(table: tf.Variable, values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum the rows `values` [n, length] of the table with `weights` [n, length], skipping zeros.

    Neither the embeddings of long lists nor their gradients are held in memory side by side.
    """
    places = tf.where(weights > 0)
    size = tf.shape(values, out_type=tf.int64)
    ids = tf.SparseTensor(places, tf.gather_nd(values, places), size)
    sparse_weights = tf.SparseTensor(places, tf.gather_nd(weights, places), size)
    return tf.nn.safe_embedding_lookup_sparse(table, ids, sparse_weights, combiner="sum")
