"""Attention over the embeddings of a list, to combine them into one vector."""

from __future__ import annotations

import tensorflow as tf

# The score of masked values. Finite, because a softmax over -inf alone would be NaN.
MASKED_SCORE = -1e9


class ListPooling(tf.keras.layers.Layer):
    """Base class of layers that need all embeddings of a list at once to combine them.

    Subclasses are called with `inputs`, the embeddings float32 [n, length, d], and `known`, float32
    [n, length], which is 1 for known values and 0 for padding and unknown values. They return
    float32 [n, d].
    """


@tf.keras.utils.register_keras_serializable(package="twotower")
class AttentionScore(tf.keras.layers.Layer):
    """<w, tanh(W e)> of embeddings e: float32 [..., d] -> [...] (Yang et al., NAACL 2016).

    The softmax of these scores over a list gives the attention weights of its values. The query
    vector w is 0 at the start, so that pooling starts as the mean.
    """

    def build(self, input_shape):
        """Create W, float32 [d, d], and w, float32 [d, 1]."""
        dim = input_shape[-1]
        self.keys = self.add_weight("keys", shape=[dim, dim], initializer="glorot_uniform")
        self.query = self.add_weight("query", shape=[dim, 1], initializer="zeros")

    def call(self, inputs):
        return tf.matmul(tf.tanh(tf.matmul(inputs, self.keys)), self.query)[..., 0]


@tf.keras.utils.register_keras_serializable(package="twotower")
class SelfAttention(ListPooling):
    """Mean over a list's known values of x + softmax(Q K' / sqrt(d)) V, where x = e + position.

    Parameters
    ----------
    length : int
        Number of positions. Later values share the last position.

    Notes
    -----
    This is one block with one head of Vaswani et al. (NeurIPS 2017), applied to a user's items as
    by Kang and McAuley (ICDM 2018). e are the items' embeddings float32 [n, width, d]; Q, K and V
    are x times matrices of the shape (d, d). Unlike in that model, a value also attends to later
    ones, because the list is not used to predict its own next value. Padding and unknown values are
    masked; a list without known values gives zeros.

    The positions and the matrix of V are 0 at the start, so that pooling starts as the mean. Layer
    normalisation is left out: it stabilises deep stacks of blocks, and before a mean it would
    remove the lengths of the embeddings. Memory is O(n * width**2).
    """

    def __init__(self, length: int, **kwargs):
        super().__init__(**kwargs)
        self.length = length

    def build(self, input_shape):
        """Create the positions, float32 [length, d], and three matrices, float32 [d, d]."""
        d = input_shape[-1]
        self.positions = self.add_weight("positions", [self.length, d], initializer="zeros")
        self.queries = self.add_weight("queries", [d, d], initializer="glorot_uniform")
        self.keys = self.add_weight("keys", [d, d], initializer="glorot_uniform")
        self.values = self.add_weight("values", [d, d], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs, known):
        place = tf.minimum(tf.range(tf.shape(inputs)[1]), self.length - 1)
        x = inputs + tf.gather(self.positions, place)
        query, key = tf.tensordot(x, self.queries, 1), tf.tensordot(x, self.keys, 1)
        scores = tf.matmul(query, key, transpose_b=True) / inputs.shape[-1] ** 0.5
        weights = tf.nn.softmax(tf.where(known[:, None, :] > 0, scores, MASKED_SCORE))
        count = tf.maximum(tf.reduce_sum(known, axis=1, keepdims=True), 1.0)
        mean = (known / count)[:, None, :]
        # Taking the mean before the product with V's matrix gives the same result with one row per
        # list instead of one per value.
        attended = tf.matmul(tf.matmul(mean, weights), x)[:, 0]
        return tf.matmul(mean, x)[:, 0] + tf.matmul(attended, self.values)

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "length": self.length}
