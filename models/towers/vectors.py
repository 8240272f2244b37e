"""Projections of pretrained vectors, such as embeddings of texts and images."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from merlin.schema import Schema, Tags


def vector_branches(schema: Schema, dim: int) -> dict[str, VectorProjection]:
    """Create the branches of a tower's inputs that read pretrained vectors.

    Parameters
    ----------
    schema : Schema
        The columns of one tower.
    dim : int
        Size of the result.

    Returns
    -------
    dict of str to VectorProjection
        Arguments of Merlin's `InputBlockV2`. The first one replaces its own branch for such
        columns, which would pass the vectors on as they are.
    """
    columns = schema.select_by_tag(Tags.EMBEDDING).column_names
    names = ["pretrained_embeddings", *(f"vector of {name}" for name in columns[1:])]
    return {
        branch: VectorProjection(column, dim)
        for branch, column in zip(names, columns, strict=False)
    }


class VectorProjection(tf.keras.layers.Layer):
    """Scale a vector to length 1 and project it: features by name -> float32 [n, dim].

    A vector of zeros means that there is none. It gives a learned vector, so that the items without
    one need not look like the average of the others.

    Parameters
    ----------
    column : str
        The feature with the vectors, float32 [n, d].
    dim : int
        Size of the result.
    """

    def __init__(self, column: str, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.column, self.dim = column, dim

    def build(self, input_shape):
        """Create the matrix, float32 [d, dim], and the vector of missing ones, float32 [dim]."""
        # Merlin passes on lists of fixed length as [n, d, 1].
        length = input_shape[self.column][1]
        # Initially a result is as large as an embedding.
        self.kernel = self.add_weight("kernel", shape=[length, self.dim], initializer="uniform")
        self.missing = self.add_weight("missing", shape=[1, self.dim], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        # Uses only operations that ONNX has.
        vectors = tf.reshape(inputs[self.column], [-1, self.kernel.shape[0]])
        square = tf.reduce_sum(tf.square(vectors), axis=1, keepdims=True)
        none = tf.cast(square <= 0, vectors.dtype)
        scaled = vectors / tf.sqrt(square + none)
        return tf.matmul(scaled, self.kernel) + tf.matmul(none, self.missing)

    def compute_output_shape(self, input_shape):
        """Return [n, dim]."""
        return tf.TensorShape([input_shape[self.column][0], self.dim])
