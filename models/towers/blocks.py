"""Hidden layers of a tower: residual, cross and shared layers, and dropout."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="twotower")
class ResidualLayer(tf.keras.layers.Layer):
    """x + W2 relu(W1 x + b1) + b2: float32 [n, d] -> [n, d] (He et al., CVPR 2016).

    Parameters
    ----------
    width : int
        W1 has the shape (d, width).
    dropout : float
        Dropout rate, in training, of what is added to x.
    """

    def __init__(self, width: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.dropout = width, dropout

    def build(self, input_shape):
        """Create both dense layers."""
        inner = tf.keras.layers.Dense(self.width, activation="relu")
        outer = tf.keras.layers.Dense(input_shape[-1])
        self.branch = [inner, outer, *dropout_layers(self.dropout)]
        super().build(input_shape)

    def call(self, inputs, training=False):
        return inputs + apply_layers(self.branch, inputs, training)

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "width": self.width, "dropout": self.dropout}


@tf.keras.utils.register_keras_serializable(package="twotower")
class CrossLayers(tf.keras.layers.Layer):
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l: float32 [n, d] -> [n, d] (Wang et al., WWW 2021).

    Parameters
    ----------
    ranks : sequence of int
        The rank of each layer's W_l. A rank below d factorises W_l into matrices of the shapes
        (d, rank) and (rank, d); otherwise W_l is one matrix of the shape (d, d).
    dropout : float
        Dropout rate, in training, of what is added to x_l.
    """

    def __init__(self, ranks: Sequence[int], dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.ranks, self.dropout = list(ranks), dropout

    def build(self, input_shape):
        """Create the dense layers."""
        d, dense = input_shape[-1], tf.keras.layers.Dense
        self.products = []
        for rank in self.ranks:
            narrow = [dense(rank, use_bias=False)] if rank < d else []
            # Dropping a factor of x_0 drops the product.
            self.products.append([*narrow, dense(d), *dropout_layers(self.dropout)])
        super().build(input_shape)

    def call(self, inputs, training=False):
        x = inputs
        for layers in self.products:
            x = inputs * apply_layers(layers, x, training) + x
        return x

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "ranks": self.ranks, "dropout": self.dropout}


@tf.keras.utils.register_keras_serializable(package="twotower")
class SharedLayers(tf.keras.layers.Layer):
    """ReLU layers and a projection that both towers share: float32 [n, d] -> [n, dim].

    One instance is part of both towers, so its weights are trained by both.

    Parameters
    ----------
    widths : sequence of int
        The widths of the ReLU layers.
    dim : int
        The size of the projection.
    dropout : float
        Dropout rate, in training, after each ReLU layer.
    """

    def __init__(self, widths: Sequence[int], dim: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.dim, self.dropout = list(widths), dim, dropout
        # Not created in `build`: each tower calls that, and the second call would create new ones.
        self.steps = []
        for width in self.widths:
            self.steps += [tf.keras.layers.Dense(width, activation="relu")]
            self.steps += dropout_layers(dropout)
        self.steps.append(tf.keras.layers.Dense(dim))

    def call(self, inputs, training=False):
        return apply_layers(self.steps, inputs, training)

    def compute_output_shape(self, input_shape):
        """Return the shape of the input with `dim` columns."""
        return tf.TensorShape([*input_shape[:-1], self.dim])

    def get_config(self):
        """Return the arguments of the constructor."""
        sizes = {"widths": self.widths, "dim": self.dim, "dropout": self.dropout}
        return {**super().get_config(), **sizes}


@tf.keras.utils.register_keras_serializable(package="twotower")
class ResumableDropout(tf.keras.layers.Layer):
    """Dropout whose random state is part of checkpoints, unlike that of Keras's dropout.

    A resumed training therefore drops what an uninterrupted one would have dropped. The state is a
    weight: a random stream, chosen at the start, and the number of calls in training.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, input_shape):
        """Choose the random stream."""
        self.state = self.add_weight(
            "state",
            shape=[2],
            dtype=tf.int32,
            trainable=False,
            initializer=lambda shape, dtype: tf.random.uniform([2], 0, 1 << 30, dtype),
        )

    def call(self, inputs, training=False):
        if not training:
            return inputs
        seed = self.state.assign_add([0, 1])
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate}


def dropout_layers(rate: float) -> list[ResumableDropout]:
    """Return one dropout layer, or none if `rate` is 0."""
    return [ResumableDropout(rate)] if rate else []


def apply_layers(
    layers: Sequence[tf.keras.layers.Layer], x: tf.Tensor, training: bool
) -> tf.Tensor:
    """Apply `layers` in order. Keras's Sequential does not pass `training` to custom layers."""
    for layer in layers:
        x = layer(x, training=training)
    return x
