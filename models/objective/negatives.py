"""Where negatives come from, other than from a row's own batch, and which of them are false.

Pure functions of tensors, to be called inside or outside of a graph. What is drawn follows from a
seed alone (int32 [2], as `stateless_fold_in` of a seed and a step makes it), so that training that
goes on where it was stopped sees what it would have seen.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def sample_uniform(n: int | tf.Tensor, n_items: int, seed: tf.Tensor) -> tf.Tensor:
    """n rows of the item table, all as likely, with replacement: int32 [n]."""
    return tf.random.stateless_uniform([n], seed, 0, n_items, tf.int32)


def sample_popularity(
    n: int | tf.Tensor, counts: tf.Tensor, power: float, seed: tf.Tensor
) -> tf.Tensor:
    """n rows, each with a probability of counts ** power, with replacement: int32 [n].

    Their log probabilities are `log_q(counts, power)`. Inverts the cumulative distribution in
    O(rows + n log rows), without [n, rows] noise, and in float64, which resolves ten million rows.

    Parameters
    ----------
    counts : int or float [rows], 0 or more, some above 0; a constant is summed only once per
        graph and not at every step
    power : 0 or more; above 0 rows with a count of 0 are never drawn
    """
    upper = tf.cumsum(tf.pow(tf.cast(counts, tf.float64), power))
    place = tf.random.stateless_uniform([n], seed, dtype=tf.float64) * upper[-1]
    # "right": the first row whose upper end is beyond the place, so that no empty one is.
    return tf.searchsorted(upper, place, side="right")


class CrossBatchQueue(tf.keras.layers.Layer):
    """The candidates of the last batches as negatives: a ring of `size` slots, the oldest go first.

    Cross-batch negative sampling (Wang et al., SIGIR 2021): embeddings change slowly after the
    first steps, so that those of some batches ago still serve. The slots are weights that are not
    trained: checkpoints have them, and a run that goes on finds the queue as it was.
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
        """Replace the oldest candidates by n new ones; of more than `size` only the last are kept.

        Parameters
        ----------
        embeddings : float32 [n, dim]
        rows : int [n], of the item table: ids tell items apart only if the vocabulary has them
        log_q : float32 [n], the log of how likely each was drawn into its batch
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

    def read(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Embeddings [size, dim] without a gradient, rows int64 [size], log_q [size], valid [size].

        A slot that was never filled is not valid and has the row -1 and log_q inf: corrected by it
        a score is -inf, and has no part in a softmax.
        """
        valid = tf.range(self.size, dtype=tf.int64) < self.pushed
        slots = (tf.convert_to_tensor(each) for each in (self.rows, self.log_q))
        return tf.stop_gradient(self.embeddings), *slots, valid


def hard_negatives(scores: tf.Tensor, valid: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Of each row the columns of the k highest valid scores, highest first.

    Parameters
    ----------
    scores : float32 [n, m]
    valid : bool [n, m], False for a column that is no negative of the row, whatever its score
    k : at most m

    Returns
    -------
    int32 [n, k] columns, and bool [n, k]: False where the row has no more valid scores.
    """
    # Valid ones are above what is not even if they are -inf.
    ranked = tf.where(valid, tf.maximum(scores, tf.float32.min), float("-inf"))
    columns = tf.math.top_k(ranked, k).indices
    return columns, tf.gather(valid, columns, batch_dims=1)


def known_pairs(user_rows: np.ndarray, item_rows: np.ndarray, items: int) -> np.ndarray:
    """The interactions as `false_negatives` looks them up: sorted int64 user * items + item.

    user_rows, item_rows : int [n] of every train interaction; items : rows of the catalogue
    """
    return np.unique(user_rows.astype(np.int64) * items + item_rows)


def false_negatives(
    user_rows: tf.Tensor, candidate_rows: tf.Tensor, known: tf.Tensor, items: int
) -> tf.Tensor:
    """Which candidates are a known positive of which user, bool [n, m].

    Users' positives are looked up among the candidates, which are fewer than pairs: the time is
    O(h log m) for h positives of these users, and the copying of the answer.

    Parameters
    ----------
    user_rows, candidate_rows : int [n] and [m]; rows may repeat
    known : int64 [p], `known_pairs`
    items : rows of the catalogue
    """
    first = tf.cast(user_rows, tf.int64) * items
    begin, end = tf.searchsorted(known, first), tf.searchsorted(known, first + items)
    own = tf.ragged.range(begin, end)
    # What own.value_rowids() is, in a quarter of its time.
    row = tf.range(tf.size(own.values, tf.int64))
    row = tf.searchsorted(own.row_splits[1:], row, side="right", out_type=tf.int64)
    item = tf.gather(known, own.values) - tf.gather(first, row)
    candidates = tf.cast(candidate_rows, tf.int64)
    different = tf.unique(tf.sort(candidates)).y
    there = tf.searchsorted(different, item)
    # One more column, for what is not among the candidates.
    beyond = tf.size(different, tf.int64)
    found = tf.gather(tf.concat([different, [-1]], 0), there) == item
    place = tf.stack([row, tf.where(found, tf.cast(there, tf.int64), beyond)], axis=1)
    empty = tf.zeros([tf.size(first, tf.int64), beyond + 1], tf.bool)
    mask = tf.tensor_scatter_nd_update(empty, place, tf.ones_like(found))
    return tf.gather(mask, tf.searchsorted(different, candidates), axis=1)
