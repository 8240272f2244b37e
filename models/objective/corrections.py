"""Corrections for how items are sampled as negatives (logQ), and for how they are exposed to users.

A softmax over sampled negatives estimates the softmax over all rows of the item table, so Q is
always the sampling probability of one row. Vectors of log Q are indexed by id, because candidates
have ids. A known id belongs to one row. All items outside the vocabulary share the
out-of-vocabulary id, whose Q is the probability of one of their rows, not the sum. log Q is
subtracted from the scores.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def log_q(counts: tf.Tensor, power: float, rows: tf.Tensor) -> tf.Tensor:
    """Logarithm of counts ** power / sum of rows ** power.

    Parameters
    ----------
    counts : Tensor of int or float, shape (cardinality,)
        Number of positives of one row of each id, 0 or more.
    power : float
        1 for in-batch negatives, 0 for uniform ones, which gives -log(number of rows) for all; in
        between for negatives by popularity (word2vec: Mikolov et al., NIPS 2013, uses 0.75).
    rows : Tensor of int or float, shape (n_items,)
        Number of positives of each row, 0 or more, at least one above 0.

    Returns
    -------
    Tensor of float32, shape (cardinality,)
        -inf for an id that is never drawn: a count of 0, if the power is above 0.
    """
    share = tf.pow(tf.cast(counts, tf.float64), power)
    every = tf.pow(tf.cast(rows, tf.float64), power)
    return tf.cast(tf.math.log(share / tf.reduce_sum(every)), tf.float32)


def mixture_log_q(
    log_q: tf.Tensor, in_batch: int | tf.Tensor, uniform: int | tf.Tensor, n_items: int
) -> tf.Tensor:
    """Logarithm of the expected share of an item among in-batch and uniform negatives together.

    Parameters
    ----------
    log_q : Tensor of float32, shape (n,)
        Logarithm of the probability Q that an in-batch negative is each of n rows.
    in_batch : int or scalar Tensor of int
        Number B of in-batch negatives.
    uniform : int or scalar Tensor of int
        Number U of uniform negatives; B + U is above 0.
    n_items : int
        Number of rows of the item table.

    Returns
    -------
    Tensor of float32, shape (n,)
        log((B * Q + U / n_items) / (B + U)).

    Notes
    -----
    Mixed negative sampling: Yang et al., WWW 2020.
    """
    in_batch, uniform = tf.cast(in_batch, tf.float32), tf.cast(uniform, tf.float32)
    mixed = in_batch * tf.exp(log_q) + uniform / n_items
    return tf.math.log(mixed / (in_batch + uniform))


class StreamingFrequency(tf.Module):
    """Sampling probabilities of items, estimated from the batches during training.

    Parameters
    ----------
    cardinality : int
        Number of item ids, above 0.
    alpha : float
        Weight of the latest distance, above 0 and up to 1; 0.05 averages over about twenty.
    shared : int
        The id that stands for several items: those whose id is hidden at random in training, and
        those that are not in the vocabulary.
    sharing : int
        Number of these items. The probability of `shared` is that of one of them.

    Notes
    -----
    Algorithm 2 of Yi et al. (RecSys 2019) keeps for each item the place A in the stream of
    interactions where it was last, and the average distance between its places, B = (1 - alpha) * B
    + alpha * (place - A). The next interaction is with the item with the probability 1 / B. The
    estimate follows a distribution that changes, and needs no counts beforehand.

    The paper counts places in steps. With batches as large as the catalogue, every step would
    contain all popular items, which would then seem equally likely, so here places are counted in
    interactions. If an item occurs k times in a batch, its mean distance has the weight of k single
    occurrences, 1 - (1 - alpha)^k. Ids are not hashed.
    """

    def __init__(
        self,
        cardinality: int,
        *,
        alpha: float = 0.05,
        shared: int = -1,
        sharing: int = 1,
        name: str | None = None,
    ):
        super().__init__(name)
        self.alpha, self.shared, self.sharing = alpha, shared, float(max(sharing, 1))
        self.place = tf.Variable(tf.constant(0, tf.int64), trainable=False)
        self.last = tf.Variable(tf.zeros([cardinality], tf.int64), trainable=False)
        # All ids are equally likely until they are seen.
        self.distance = tf.Variable(tf.fill([cardinality], float(cardinality)), trainable=False)

    def update(self, ids: tf.Tensor) -> None:
        """Update the estimates with the next interactions.

        Parameters
        ----------
        ids : Tensor of int, shape (n,)
            Their item ids, in order.
        """
        hit, at, times = tf.unique_with_counts(tf.cast(ids, tf.int64))
        n = tf.size(ids, tf.int64)
        places = self.place + tf.range(1, n + 1)
        latest = tf.math.unsorted_segment_max(places, at, tf.size(hit))
        times = tf.cast(times, tf.float32)
        distance = tf.cast(latest - tf.gather(self.last, hit), tf.float32) / times
        kept = tf.pow(1.0 - self.alpha, times)
        distance = kept * tf.gather(self.distance, hit) + (1.0 - kept) * distance
        self.distance.scatter_nd_update(hit[:, None], distance)
        self.last.scatter_nd_update(hit[:, None], latest)
        self.place.assign_add(n)

    def log_q(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the logarithms of the probabilities of item ids int [n], float32 [n]."""
        items = tf.where(tf.cast(ids, tf.int64) == self.shared, self.sharing, 1.0)
        return -tf.math.log(tf.gather(self.distance, ids) * items)


def corrected_log_q(positive_log_q: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """What the corrected logQ correction subtracts from the score of a positive.

    Parameters
    ----------
    positive_log_q : Tensor of float32, shape (n,)
        Logarithm of the probability Q, below 1, that a negative is the positive's item.
    others : Tensor of float32, shape (n,)
        Number m of negatives that are another item.

    Returns
    -------
    Tensor of float32, shape (n,)
        log((1 - Q) / m).

    Notes
    -----
    The logQ correction subtracts log Q from the positive's score as if the positive had been drawn
    like the negatives, but it is always present. Khrylchenko et al. (RecSys 2025, "Correcting the
    LogQ Correction") sum over negatives only, drawn from Q' = Q / (1 - Q(positive)), and weight the
    loss of each row by the model's probability of not choosing its positive:

        sg(1 - P) * log(sum over j of exp(s(j) - log Q'(j)) / exp s(+)),
        P = exp s(+) / (exp s(+) + sum over j of exp(s(j) - log Q'(j)) / m),

    with m negatives other than the positive, where sg stops the gradient. Its gradient is that of
    -log P: a softmax in which log(Q'(j) * m) is subtracted from the negatives, and nothing from the
    positive. Subtracting only log Q from the negatives and log((1 - Q(positive)) / m) from the
    positive gives the same softmax, if the positive is not its own negative. The value of the loss
    is then -log P, an estimate of the full softmax's loss.
    """
    # Without another negative the loss is 0, whatever is subtracted.
    return tf.math.log1p(-tf.exp(positive_log_q)) - tf.math.log(tf.maximum(others, 1.0))


def inverse_propensity(counts: np.ndarray, power: float, max_weight: float) -> np.ndarray:
    """Weights of interactions by item that compensate for how often items are exposed to users.

    Parameters
    ----------
    counts : ndarray of int or float, shape (n_items,)
        Number of interactions of each item, at least one above 0.
    power : float
        An item is assumed to be exposed with the propensity (n / max n) ** power (Saito et al.,
        WSDM 2020, use 0.5), and an interaction weighs 1 / propensity. 0 weights all alike.
    max_weight : float
        Upper limit of a weight before normalisation, 1 or more, so that a few interactions do not
        outweigh all others.

    Returns
    -------
    ndarray of float32, shape (n_items,)
        Normalised to a mean of 1 over all interactions.
    """
    counts = np.asarray(counts, np.float64)
    propensity = (counts / counts.max()) ** power
    weight = 1.0 / np.maximum(propensity, 1.0 / max_weight)
    return (weight * (counts.sum() / (weight @ counts))).astype(np.float32)
