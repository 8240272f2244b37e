"""Numbers as categories: an embedding of the bucket that a number falls in."""

from __future__ import annotations

from statistics import NormalDist

import merlin.models.tf as mm
import tensorflow as tf
from merlin.schema import Schema, Tags


def bucket_branches(schema: Schema, buckets: int, dim: int) -> dict[str, mm.SequentialBlock]:
    """Branches of a tower's input: for each number of `schema` its bucket's embedding [n, dim]."""
    if not buckets:
        return {}
    # Merlin adds up or concatenates a dictionary of branches and columns: no column is so named.
    return {
        f"bucket of {name}": mm.ContinuousProjection(
            schema.select_by_name(name), BucketEmbedding(buckets, dim)
        )
        for name in schema.select_by_tag(Tags.CONTINUOUS).column_names
    }


@tf.keras.utils.register_keras_serializable(package="twotower")
class BucketEmbedding(tf.keras.layers.Layer):
    """The embedding of the bucket that a number falls in: float32 [n, 1] -> [n, dim].

    Bucket i of `buckets` holds what is at least the quantile i / buckets of the normal distribution
    of mean 0 and variance 1, and below the next: of numbers so distributed each has as many.
    """

    def __init__(self, buckets: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.buckets, self.dim = buckets, dim

    def build(self, input_shape):
        """Make the embeddings, float32 [buckets, dim]."""
        # As small at the start as those of categories are.
        self.embeddings = self.add_weight(
            "embeddings", shape=[self.buckets, self.dim], initializer="uniform"
        )
        super().build(input_shape)

    def call(self, inputs):
        # Plain enough for ONNX.
        edges = tf.constant(NormalDist().quantiles(self.buckets), inputs.dtype)
        bucket = tf.reduce_sum(tf.cast(inputs >= edges, tf.int32), axis=-1)
        return tf.matmul(tf.one_hot(bucket, self.buckets), self.embeddings)

    def compute_output_shape(self, input_shape):
        """[n, dim]."""
        return tf.TensorShape([input_shape[0], self.dim])

    def get_config(self):
        """What `from_config` needs."""
        return {**super().get_config(), "buckets": self.buckets, "dim": self.dim}
