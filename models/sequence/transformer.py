"""Query vectors by causal self-attention over the history's items (SASRec)."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.random.experimental import stateless_fold_in

from twotower.models.sequence.config import SequenceConfig
from twotower.models.sequence.layers import SequenceLayer, dropped

MASKED = -1e9
"""Added to the attention score of a newer item or of padding. Finite, so that softmax is too."""


class Transformer(SequenceLayer):
    """Blocks of attention to the item itself and to older ones, and a norm.

    Parameters
    ----------
    config : SequenceConfig
    dim : int
    length : int
        Maximum length of a list.

    Notes
    -----
    Kang and McAuley, "Self-attentive sequential recommendation" (ICDM 2018), with the norm before
    each part of a block (Xiong et al., ICML 2020), which trains without warm-up. The norm divides
    by the root mean square (Zhang and Sennrich, NeurIPS 2019). Relative positions are one learned
    number per head and distance (Raffel et al., JMLR 2020).
    """

    def __init__(self, config: SequenceConfig, dim: int, length: int, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.length = config.heads, length
        self.blocks = [Block(config, dim) for _ in range(config.blocks)]
        self.scale = self.add_weight("scale", shape=[dim], initializer="ones")
        self.distances = self.places = None
        if config.positions == "relative":
            self.distances = self.add_weight(
                "distances", [config.heads, length], initializer="zeros"
            )
        if config.positions == "absolute":
            self.places = self.add_weight("places", [length, dim], initializer="uniform")

    def every(self, x, known, seed):
        x, bias = self._with_places(x, known), self._bias(tf.shape(x)[1])
        for number, block in enumerate(self.blocks):
            x = block(x, bias, stateless_fold_in(seed, number))
        return _norm(x, self.scale)

    def newest(self, x, known):
        padding = MASKED * (1.0 - known)[:, None, None, :]
        x, bias = self._with_places(x, known), self._bias(tf.shape(x)[1]) + padding
        for block in self.blocks[:-1]:
            x = block(x, bias)
        # The other positions of the last block are not needed.
        x = self.blocks[-1](x, bias[..., :1, :], queries=1)
        return _norm(x[:, 0], self.scale)

    def _with_places(self, x: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        if self.places is None:
            return x
        older = tf.maximum(tf.cumsum(known, axis=1, reverse=True) - 1.0, 0.0)
        return x + tf.gather(self.places, tf.cast(older, tf.int32))

    def _bias(self, length: tf.Tensor) -> tf.Tensor:
        """What is added to the attention scores: float32 [1 or heads, length, length]."""
        place = tf.range(length)
        distance = place[None, :] - place[:, None]
        bias = tf.where(distance >= 0, 0.0, MASKED)[None]
        if self.distances is None:
            return bias
        return bias + tf.gather(self.distances, tf.maximum(distance, 0), axis=1)


class Block(tf.keras.layers.Layer):
    """x + attention(norm x), then x + W2 relu(W1 norm x): float32 [n, length, dim].

    If `gated`, sigmoid(x G) multiplies what is added (LiGR: Borisyuk et al., CIKM 2025).

    Parameters
    ----------
    config : SequenceConfig
    dim : int
    """

    def __init__(self, config: SequenceConfig, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.dropout, self.dim = config.heads, config.dropout, dim
        width, ones = config.feed_forward, {"shape": [dim], "initializer": "ones"}
        self.scales = [self.add_weight(f"scale{i}", **ones) for i in range(2)]
        # One product for queries, keys and values.
        self.inputs = self.add_weight("inputs", [dim, 3 * dim])
        self.output_weights = self.add_weight("outputs", [dim, dim])
        self.inner = self.add_weight("inner", [dim, width])
        self.inner_bias = self.add_weight("inner_bias", [width], initializer="zeros")
        self.outer = self.add_weight("outer", [width, dim])
        self.outer_bias = self.add_weight("outer_bias", [dim], initializer="zeros")
        self.gates = []
        if config.gated:
            self.gates = [self.add_weight(f"gate{i}", [dim, dim]) for i in range(2)]

    def call(self, x, bias, seed=None, queries=None):
        """Compute the block for the first `queries` positions, by default for all.

        Without a seed nothing is dropped out.
        """
        seeds = [None, None] if seed is None else [stateless_fold_in(seed, i) for i in (100, 101)]
        added = self._attention(_norm(x, self.scales[0]), bias, queries)
        x = self._sum(x[:, :queries], added, 0, seeds[0])
        hidden = _product(_norm(x, self.scales[1]), self.inner) + self.inner_bias
        added = _product(tf.nn.relu(hidden), self.outer) + self.outer_bias
        return self._sum(x, added, 1, seeds[1])

    def _attention(self, x: tf.Tensor, bias: tf.Tensor, queries: int | None) -> tf.Tensor:
        n, length = tf.shape(x)[0], tf.shape(x)[1]
        size = self.dim // self.heads
        parts = tf.reshape(_product(x, self.inputs), [n, length, 3, self.heads, size])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        scores = tf.matmul(query[:, :, :queries] * size**-0.5, key, transpose_b=True)
        values = tf.matmul(tf.nn.softmax(scores + bias), value)
        values = tf.reshape(tf.transpose(values, [0, 2, 1, 3]), [n, -1, self.dim])
        return _product(values, self.output_weights)

    def _sum(self, x: tf.Tensor, added: tf.Tensor, part: int, seed: tf.Tensor | None) -> tf.Tensor:
        if self.gates:
            added *= tf.sigmoid(_product(x, self.gates[part]))
        return x + dropped(added, self.dropout, seed)


def _product(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """x [n, length, d] times a matrix [d, m], as one product of two matrices."""
    n, length = tf.shape(x)[0], tf.shape(x)[1]
    out = tf.matmul(tf.reshape(x, [-1, weights.shape[0]]), weights)
    return tf.reshape(out, [n, length, weights.shape[1]])


def _norm(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Divide by the root mean square over the last axis, and multiply by `scale` [d]."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + 1e-6) * scale
