"""Corrections for how candidates come to be seen: sampled often as negatives, shown often at all.

Everything that says Q is a probability by row of the catalogue. What samplers prefer is taken off
the scores as its logarithm: `contrastive_softmax(positive_bias=-log_q, negative_bias=-log_q)`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def log_q(counts: tf.Tensor, power: float = 1.0) -> tf.Tensor:
    """Logarithm of the share of counts ** power, float32 [catalogue].

    In-batch negatives are drawn with power 1, uniform ones with power 0, which is -log(catalogue)
    for all; in between are word2vec's (Mikolov et al., NIPS 2013: 0.75). -inf where nothing is
    drawn: for power > 0 at a count of 0.

    Parameters
    ----------
    counts : int or float [catalogue], 0 or more, some above 0
    """
    share = tf.pow(tf.cast(counts, tf.float64), power)
    return tf.cast(tf.math.log(share / tf.reduce_sum(share)), tf.float32)


class StreamingFrequency(tf.Module):
    """How often items are interacted with, learnt from the stream of interactions itself.

    Algorithm 2 of Yi et al. (RecSys 2019): for each item the place A in the stream where it was
    last, and the estimated distance between two of its places, B = (1 - alpha) * B + alpha *
    (place - A). An interaction is of the item with the probability 1 / B. It follows a distribution
    that drifts, and needs no counts beforehand.

    The paper counts in steps, of which each has an item or not. With batches as large as the
    catalogue every step has the popular ones, and they would all be equally likely; here places are
    interactions. The k of a batch that are of one item count with their mean distance, and with the
    weight that k single ones would have, 1 - (1 - alpha)^k. Rows are not hashed to fewer.

    Parameters
    ----------
    cardinality : above 0, of the rows
    alpha : above 0 to 1, the weight of the latest distance; 0.05 averages over about twenty
    shared : the row that stands for each item now and then, as an id that is hidden in training
        does: its probability is that of one of the rows that have been seen, not of all together
    """

    def __init__(self, cardinality: int, *, alpha: float = 0.05, shared: int = -1, name=None):
        super().__init__(name)
        self.alpha, self.shared = alpha, shared
        self.place = tf.Variable(tf.constant(0, tf.int64), trainable=False)
        self.last = tf.Variable(tf.zeros([cardinality], tf.int64), trainable=False)
        # What has not been seen is as likely as anything else.
        self.distance = tf.Variable(tf.fill([cardinality], float(cardinality)), trainable=False)

    def update(self, rows: tf.Tensor) -> None:
        """Learn from the next interactions, of the item rows int [n], in their order."""
        hit, at, times = tf.unique_with_counts(tf.cast(rows, tf.int64))
        n = tf.size(rows, tf.int64)
        places = self.place + tf.range(1, n + 1)
        latest = tf.math.unsorted_segment_max(places, at, tf.size(hit))
        times = tf.cast(times, tf.float32)
        distance = tf.cast(latest - tf.gather(self.last, hit), tf.float32) / times
        kept = tf.pow(1.0 - self.alpha, times)
        distance = kept * tf.gather(self.distance, hit) + (1.0 - kept) * distance
        self.distance.scatter_nd_update(hit[:, None], distance)
        self.last.scatter_nd_update(hit[:, None], latest)
        self.place.assign_add(n)

    def log_q(self, rows: tf.Tensor) -> tf.Tensor:
        """Logarithm of the probability of each of the item rows int [n], float32 [n]."""
        seen = tf.math.count_nonzero(self.last, dtype=tf.float32)
        items = tf.where(tf.cast(rows, tf.int64) == self.shared, tf.maximum(seen - 1.0, 1.0), 1.0)
        return -tf.math.log(tf.gather(self.distance, rows) * items)


def corrected_log_q(
    positive_log_q: tf.Tensor, positive_id: tf.Tensor, negative_id: tf.Tensor
) -> tf.Tensor:
    """What to take off the positives' scores when the negatives' have their log_q taken off.

    The logQ correction takes its own log_q off the positive as if it had been drawn like the
    negatives, but it is there for certain. Khrylchenko et al. (RecSys 2025, "Correcting the LogQ
    Correction") let the sampled sum be over negatives only, drawn from Q' = Q / (1 - Q(positive)),
    and weigh each row's loss by how unlikely the model holds its positive,

        sg(1 - P) * log(sum over j of exp(s(j) - log Q'(j)) / exp s(+)),
        P = exp s(+) / (exp s(+) + sum over j of exp(s(j) - log Q'(j)) / m),

    of m negatives other than the positive, where sg stops the gradient. The gradient is that of
    -log P, a softmax in which Q'(j) * m is taken off the negatives and nothing off the positive.
    Relative to negatives without their log Q alone that takes log((1 - Q(positive)) / m) off the
    positive: all of the paper is `contrastive_softmax` with both ids (the positive must be no
    negative of itself), negative_bias = -log Q, and minus the result for positive_bias. The value
    is then -log P, an estimate of the full softmax's loss.

    Parameters
    ----------
    positive_log_q : float32 [n], log of the probability that a negative that is drawn is this one,
        below 0
    positive_id, negative_id : int [n] and [m]

    Returns
    -------
    float32 [n], log((1 - Q(positive)) / m).
    """
    pool = tf.sort(tf.cast(tf.reshape(negative_id, [-1]), tf.int64))
    own = tf.cast(tf.reshape(positive_id, [-1]), tf.int64)
    same = tf.searchsorted(pool, own, side="right") - tf.searchsorted(pool, own, side="left")
    return corrected_for(positive_log_q, tf.cast(tf.size(pool) - same, tf.float32))


def corrected_for(positive_log_q: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """`corrected_log_q`, given for each row how many negatives are another item: float32 [n]."""
    # Without any other negative the loss is 0, whatever is taken off.
    return tf.math.log1p(-tf.exp(positive_log_q)) - tf.math.log(tf.maximum(others, 1.0))


def inverse_propensity(counts: np.ndarray, power: float, largest: float) -> np.ndarray:
    """Weights of interactions by their item, float32 [catalogue], of mean 1 over interactions.

    An item is taken to be seen with the propensity (n / max n) ** power (Saito et al., WSDM 2020:
    power 0.5), so that an interaction stands for one over it; power 0 weighs all the same.

    Parameters
    ----------
    counts : int or float [catalogue], the interactions n of each item, some above 0
    largest : 1 or more, bounds a weight before all are divided by their mean: few interactions
        would outweigh all others
    """
    counts = np.asarray(counts, np.float64)
    propensity = (counts / counts.max()) ** power
    weight = 1.0 / np.maximum(propensity, 1.0 / largest)
    return (weight * (counts.sum() / (weight @ counts))).astype(np.float32)
