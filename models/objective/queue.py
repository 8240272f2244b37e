"""A queue of the positives of earlier batches, for cross-batch negatives."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Queued(NamedTuple):
    """The content of a `CrossBatchQueue`.

    embeddings : Tensor of float32, shape (size, dim)
    rows : Tensor of int64, shape (size,); -1 for a slot that was never filled
    log_q : Tensor of float32, shape (size,); inf for a slot that was never filled, so that its
        corrected score is -inf
    valid : Tensor of bool, shape (size,); False for a slot that was never filled
    """

    embeddings: tf.Tensor
    rows: tf.Tensor
    log_q: tf.Tensor
    valid: tf.Tensor


class CrossBatchQueue(tf.keras.layers.Layer):
    """A ring of `size` slots that keeps the latest candidates as negatives.

    Embeddings change slowly after the first steps, so those of earlier batches remain useful as
    negatives (cross-batch negative sampling: Wang et al., SIGIR 2021). The slots are non-trainable
    weights: checkpoints contain them, and a resumed training continues with the same queue.

    Parameters
    ----------
    size : int
    dim : int
        Length of an embedding.
    """

    def __init__(self, size: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size

        def slots(name, shape, dtype, value):
            start = tf.keras.initializers.Constant(value)
            return self.add_weight(name, shape, dtype, start, trainable=False)

        self.embeddings = slots("embeddings", [size, dim], tf.float32, 0.0)
        self.rows = slots("rows", [size], tf.int64, -1)
        self.log_q = slots("log_q", [size], tf.float32, float("inf"))
        self.pushed = slots("pushed", [], tf.int64, 0)

    def push(self, embeddings: tf.Tensor, rows: tf.Tensor, log_q: tf.Tensor) -> None:
        """Replace the oldest candidates by n new ones; of more than `size`, keep the last `size`.

        Parameters
        ----------
        embeddings : Tensor of float32, shape (n, dim)
        rows : Tensor of int, shape (n,)
            Rows of the item table. Ids would not do: items outside the vocabulary share one.
        log_q : Tensor of float32, shape (n,)
            Logarithm of each candidate's sampling probability in its own batch.
        """
        n = tf.shape(rows, tf.int64)[0]
        self.pushed.assign_add(n)
        kept = tf.minimum(n, self.size)
        place = tf.range(self.pushed - kept, self.pushed) % self.size
        for slots, values in (
            (self.embeddings, embeddings),
            (self.rows, tf.cast(rows, tf.int64)),
            (self.log_q, log_q),
        ):
            slots.scatter_nd_update(place[:, None], values[n - kept :])

    def read(self) -> Queued:
        """Return the queued candidates; no gradient flows into their embeddings."""
        return Queued(
            embeddings=tf.stop_gradient(self.embeddings),
            rows=tf.convert_to_tensor(self.rows),
            log_q=tf.convert_to_tensor(self.log_q),
            valid=tf.range(self.size, dtype=tf.int64) < self.pushed,
        )
