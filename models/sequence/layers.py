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

    def every(self, x: tf.Tensor, known: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the query vector at each position, float32 [n, length, dim].

        Parameters
        ----------
        x : Tensor of float32, shape (n, length, d)
        known : Tensor of float32, shape (n, length)
            1 for items, 0 for the padding before them.
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

    def every(self, x, known, seed):
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

    def every(self, x, known, seed):
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


class GRU(SequenceLayer):
    """The state of a gated recurrent unit that has read the items, the oldest first.

    Parameters
    ----------
    dim : int

    Notes
    -----
    Cho et al. (EMNLP 2014), applied to a user's items as in GRU4Rec (Hidasi et al., ICLR 2016):
    h = z h + (1 - z) tanh(W x + r (U h) + b), where z and r are sigmoids of x and h.
    """

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.of_input = self.add_weight("of_input", [dim, 3 * dim])
        self.of_state = self.add_weight("of_state", [dim, 3 * dim], initializer="orthogonal")
        self.bias = self.add_weight("bias", [3 * dim], initializer="zeros")
        self.outputs = self.add_weight("outputs", [dim, dim])

    def every(self, x, known, seed):
        length = tf.shape(x)[1]
        states = tf.TensorArray(tf.float32, length, element_shape=[None, self.dim])

        def step(place, state, states):
            state = self._next(state, inputs[place])
            return place - 1, state, states.write(place, state)

        inputs = self._inputs(x)
        start = length - 1, tf.zeros_like(inputs[0, :, : self.dim]), states
        *_, states = tf.while_loop(lambda place, *_: place >= 0, step, start)
        return tf.tensordot(tf.transpose(states.stack(), [1, 0, 2]), self.outputs, 1)

    def newest(self, x, known):
        def step(place, state):
            is_known = known[:, place, None]
            state = is_known * self._next(state, inputs[place]) + (1.0 - is_known) * state
            return place - 1, state

        inputs = self._inputs(x)
        start = tf.shape(x)[1] - 1, tf.zeros_like(inputs[0, :, : self.dim])
        _, state = tf.while_loop(lambda place, _: place >= 0, step, start)
        return tf.matmul(state, self.outputs)

    def _inputs(self, x: tf.Tensor) -> tf.Tensor:
        """The products with the input, float32 [length, n, 3 * dim]."""
        return tf.transpose(tf.tensordot(x, self.of_input, 1) + self.bias, [1, 0, 2])

    def _next(self, state: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        keep_of_input, reset_of_input, new_of_input = tf.split(inputs, 3, axis=1)
        keep, reset, new = tf.split(tf.matmul(state, self.of_state), 3, axis=1)
        keep = tf.sigmoid(keep + keep_of_input)
        new = tf.tanh(tf.sigmoid(reset + reset_of_input) * new + new_of_input)
        return keep * state + (1.0 - keep) * new


def dropped(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Apply dropout to `x`; without a seed, return it unchanged."""
    if seed is None or not rate:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, seed, rng_alg="philox")
