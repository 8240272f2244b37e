"""What a tower may be made of: its layers, those that both towers share, attention over lists."""

from __future__ import annotations

from collections.abc import Sequence

import merlin.models.tf as mm
import tensorflow as tf
from merlin.schema import ColumnSchema

from twotower.models.config import MOST_COMPARED
from twotower.models.errors import ModelError
from twotower.models.towers.layers import LEAST_SCORE, ListPooling, ResumableDropout

"""Values of a list that self-attention takes: of 4,096 users their comparisons weigh 650 MB."""


def hidden_layers(kind: str, widths: Sequence[int], dropout: float) -> list[tf.keras.layers.Layer]:
    """A tower's own hidden layers: see `layers`, `hidden` and `dropout` of `TwoTowerConfig`."""
    if kind == "cross":
        return [CrossLayers(widths, dropout)]
    if kind == "residual":
        return [ResidualLayer(width, dropout) for width in widths]
    return [layer for width in widths for layer in (mm.MLPBlock([width]), *_dropout(dropout))]


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


@tf.keras.utils.register_keras_serializable(package="twotower")
class SharedLayers(tf.keras.layers.Layer):
    """ReLU layers of `widths` and a projection to `dim`: float32 [n, d] -> [n, dim].

    One of them stands in both towers, which so have the same weights. In training a share `dropout`
    of what each ReLU layer answers is dropped.
    """

    def __init__(self, widths: Sequence[int], dim: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.dim, self.dropout = list(widths), dim, dropout
        # Not made in build, which each of the towers calls: the second one would have its own.
        self.steps = []
        for width in self.widths:
            self.steps += [tf.keras.layers.Dense(width, activation="relu"), *_dropout(dropout)]
        self.steps.append(tf.keras.layers.Dense(dim))

    def call(self, inputs, training=False):
        return _pass(self.steps, inputs, training)

    def compute_output_shape(self, input_shape):
        """With `dim` columns."""
        return tf.TensorShape([*input_shape[:-1], self.dim])

    def get_config(self):
        """What `from_config` needs."""
        sizes = {"widths": self.widths, "dim": self.dim, "dropout": self.dropout}
        return {**super().get_config(), **sizes}


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


@tf.keras.utils.register_keras_serializable(package="twotower")
class SelfAttention(ListPooling):
    """Mean over a list's known values of x + softmax(Q K' / sqrt(d)) V, where x = e + position.

    One block with one head of what Vaswani et al. (NeurIPS 2017) stack, as Kang and McAuley (ICDM
    2018) have it for a user's items: e are their embeddings float32 [n, width, d]; Q, K and V are
    x times matrices [d, d]. Each known value attends to all known ones, later ones too: the list is
    read at once, not to foretell the next value of it. What is padding or unknown has no part; a
    list of nothing else is zeros. Values beyond the first `length` share the last position.

    The positions and V's matrix are 0 at the start: the embedding is the mean. There is no layer
    normalisation: it keeps the scale of many blocks in check, and in front of a mean it would take
    away how long each embedding is. Memory is n * width**2.
    """

    def __init__(self, length: int, **kwargs):
        super().__init__(**kwargs)
        self.length = length

    def build(self, input_shape):
        """Make the positions, float32 [length, d], and three matrices."""
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
        share = tf.nn.softmax(tf.where(known[:, None, :] > 0, scores, LEAST_SCORE))
        count = tf.maximum(tf.reduce_sum(known, axis=1, keepdims=True), 1.0)
        mean = (known / count)[:, None, :]
        # The mean comes first, V's matrix last: that is the same, and a row a list.
        attended = tf.matmul(tf.matmul(mean, share), x)[:, 0]
        return tf.matmul(mean, x)[:, 0] + tf.matmul(attended, self.values)

    def get_config(self):
        """What `from_config` needs."""
        return {**super().get_config(), "length": self.length}


def pooling(name: str, column: ColumnSchema) -> str | tf.keras.layers.Layer:
    """The `sequence_combiner` of `MultiHotEmbedding` for a `history_pooling` of the list `column`.

    Raises ModelError when the list is too long for it.
    """
    if name == "attention":
        return AttentionScore()
    if name != "self_attention":
        return name
    length = int(column.value_count.max)
    if length > MOST_COMPARED:
        raise ModelError(
            "model.history_pooling: self_attention compares all values of a list with each other; "
            f"{column.name} has up to {length}: set features.history to at most {MOST_COMPARED}"
        )
    return SelfAttention(length)
