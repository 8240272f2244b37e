"""Embeddings of binned numbers."""

from __future__ import annotations

from statistics import NormalDist

import merlin.models.tf as mm
import tensorflow as tf
from merlin.schema import Schema, Tags


def bucket_branches(schema: Schema, buckets: int, dim: int) -> dict[str, mm.SequentialBlock]:
    """Create a branch of a tower's inputs for each number of the schema: its bucket's embedding.

    Parameters
    ----------
    schema : Schema
        The columns of one tower.
    buckets : int
        Number of buckets per number; 0 for no branches.
    dim : int
        Size of an embedding.

    Returns
    -------
    dict of str to SequentialBlock
    """
    if not buckets:
        return {}
    # Merlin combines branches and columns in one dictionary: no column may have the same name.
    return {
        f"bucket of {name}": mm.ContinuousProjection(
            schema.select_by_name(name), BucketEmbedding(buckets, dim)
        )
        for name in schema.select_by_tag(Tags.CONTINUOUS).column_names
    }


@tf.keras.utils.register_keras_serializable(package="twotower")
class BucketEmbedding(tf.keras.layers.Layer):
    """Embedding of the bucket of a number: float32 [n, 1] -> [n, dim].

    The edges are quantiles of the standard normal distribution, so that normalised numbers fall
    into all buckets about equally often. Bucket i starts at the quantile i / buckets, inclusive.

    Parameters
    ----------
    buckets : int
        2 or more.
    dim : int
        Size of an embedding.
    """

    def __init__(self, buckets: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.buckets, self.dim = buckets, dim

    def build(self, input_shape):
        """Create the embeddings, float32 [buckets, dim]."""
        # The initial range of the embeddings of categories.
        self.embeddings = self.add_weight(
            "embeddings", shape=[self.buckets, self.dim], initializer="uniform"
        )
        super().build(input_shape)

    def call(self, inputs):
        # Uses only operations that ONNX has.
        edges = tf.constant(NormalDist().quantiles(self.buckets), inputs.dtype)
        bucket = tf.reduce_sum(tf.cast(inputs >= edges, tf.int32), axis=-1)
        return tf.matmul(tf.one_hot(bucket, self.buckets), self.embeddings)

    def compute_output_shape(self, input_shape):
        """Return [n, dim]."""
        return tf.TensorShape([input_shape[0], self.dim])

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "buckets": self.buckets, "dim": self.dim}
