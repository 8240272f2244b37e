"""What a tower may be made of beside ReLU layers and means: residual, cross layers, attention."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from models.layers import ResumableDropout


@tf.keras.utils.register_keras_serializable(package="twotower")
class ResidualLayer(tf.keras.layers.Layer):
    """x + W2 relu(W1 x + b1) + b2: float32 [n, d] -> [n, d] (He et al., CVPR 2016).

    W1 is [d, width]. In training a share `dropout` of what is added to x is dropped.
    """

    def __init__(self, width: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.dropout = width, dropout

    def build(self, input_shape):
        """Make both matrices."""
        inner = tf.keras.layers.Dense(self.width, activation="relu")
        outer = tf.keras.layers.Dense(input_shape[-1])
        self.branch = [inner, outer, *_dropout(self.dropout)]
        super().build(input_shape)

    def call(self, inputs, training=False):
        return inputs + _pass(self.branch, inputs, training)

    def compute_output_shape(self, input_shape):
        """As the input's."""
        return input_shape

    def get_config(self):
        """What `from_config` needs."""
        return {**super().get_config(), "width": self.width, "dropout": self.dropout}


@tf.keras.utils.register_keras_serializable(package="twotower")
class CrossLayers(tf.keras.layers.Layer):
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l: float32 [n, d] -> [n, d] (Wang et al., WWW 2021).

    One layer for each of `ranks`: W_l is [d, d] where the rank is d or more, else the product of
    [d, rank] and [rank, d]. In training a share `dropout` of what is added to x_l is dropped.
    """

    def __init__(self, ranks: Sequence[int], dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.ranks, self.dropout = list(ranks), dropout

    def build(self, input_shape):
        """Make the matrices."""
        d, dense = input_shape[-1], tf.keras.layers.Dense
        self.products = []
        for rank in self.ranks:
            narrow = [dense(rank, use_bias=False)] if rank < d else []
            # Dropping what x_0 is multiplied with drops the product.
            self.products.append([*narrow, dense(d), *_dropout(self.dropout)])
        super().build(input_shape)

    def call(self, inputs, training=False):
        x = inputs
        for layers in self.products:
            x = inputs * _pass(layers, x, training) + x
        return x

    def compute_output_shape(self, input_shape):
        """As the input's."""
        return input_shape

    def get_config(self):
        """What `from_config` needs."""
        return {**super().get_config(), "ranks": self.ranks, "dropout": self.dropout}


def _dropout(rate: float) -> list[ResumableDropout]:
    return [ResumableDropout(rate)] if rate else []


def _pass(layers: Sequence[tf.keras.layers.Layer], x: tf.Tensor, training: bool) -> tf.Tensor:
    """`x` through `layers`. Keras's Sequential would call a layer of ours as if not training."""
    for layer in layers:
        x = layer(x, training=training)
    return x


@tf.keras.utils.register_keras_serializable(package="twotower")
class AttentionScore(tf.keras.layers.Layer):
    """<w, tanh(W e)> of embeddings float32 [..., dim] -> [...] (Yang et al., NAACL 2016).

    The softmax over a list of such scores says how much each value counts in the list's embedding.
    The query vector w is 0 at the start: the embedding is the mean.
    """

    def build(self, input_shape):
        """Make W, float32 [dim, dim], and w, float32 [dim, 1]."""
        dim = input_shape[-1]
        self.keys = self.add_weight("keys", shape=[dim, dim], initializer="glorot_uniform")
        self.query = self.add_weight("query", shape=[dim, 1], initializer="zeros")

    def call(self, inputs):
        return tf.matmul(tf.tanh(tf.matmul(inputs, self.keys)), self.query)[..., 0]
