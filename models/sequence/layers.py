"""Layers that turn the vectors of a history's items into query vectors: mean, decay and GRU.

All of them read vectors x float32 [n, length, d] with the newest item first. In training, `every`
returns the query vector at each position, which depends on this item and on older ones alone; lists
are padded on the left, where no item would see the padding. Elsewhere, `newest` returns the vector
of the whole list; lists are padded on the right, as in the user table.
"""

from __future__ import annotations

import tensorflow as tf


class SequenceLayer(tf.keras.layers.Layer):
    """Base class of the layers."""

    def every(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the query vector at each position, float32 [n, length, dim].

        Parameters
        ----------
        x : Tensor of float32, shape (n, length, d)
        seed : Tensor of int32, shape (2,)
            Of what is random in training.
        """
        raise NotImplementedError

    def newest(self, x: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Return the query vector of each list, float32 [n, dim].

        Parameters
        ----------
        x : Tensor of float32, shape (n, length, d)
        known : Tensor of float32, shape (n, length)
            1 for items, 0 for the padding that follows them.
        """
        raise NotImplementedError


class Mean(SequenceLayer):
    """The mean of the vectors."""

    def every(self, x, seed):
        # Padding is on the left, so the items from here on are all positions from here on.
        count = tf.range(tf.shape(x)[1], 0, -1)
        older = tf.cumsum(x, axis=1, reverse=True)
        return older / tf.cast(count, x.dtype)[:, None]

    def newest(self, x, known):
        count = tf.maximum(tf.reduce_sum(known, axis=1, keepdims=True), 1.0)
        return tf.matmul((known / count)[:, None, :], x)[:, 0]


class Decay(SequenceLayer):
    """Sum of the vectors with weights max(exp(-age / time), floor); the newest item has age 0.

    Parameters
    ----------
    dim : int
        Size of the query vectors. Vectors of 2 * dim have a second half, which is added for the
        newest item only.
    time, floor : float
    """

    def __init__(self, dim: int, time: float, floor: float, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.time, self.floor = dim, time, floor

    def every(self, x, seed):
        place = tf.range(tf.shape(x)[1])
        age = place[None, :] - place[:, None]
        weights = tf.where(age >= 0, self._weight(age), 0.0)
        return self._with_newest(tf.einsum("ij,njd->nid", weights, x[..., : self.dim]), x)

    def newest(self, x, known):
        weights = known * self._weight(tf.range(tf.shape(x)[1]))
        decayed = tf.matmul(weights[:, None, :], x[..., : self.dim])[:, 0]
        return self._with_newest(decayed, x[:, 0])

    def _weight(self, age: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tf.exp(tf.cast(age, tf.float32) / -self.time), self.floor)

    def _with_newest(self, decayed: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return decayed if x.shape[-1] == self.dim else decayed + x[..., self.dim :]
