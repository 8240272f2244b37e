"""Corrections for how candidates come to be seen: sampled often as negatives, shown often at all.

A softmax over samples estimates the softmax over all rows of the item table, so Q always means the
sampling probability of one row. Vectors of Q are indexed by id, because candidates have ids. A
known id has one row. All ids that are not in the vocabulary share the out-of-vocabulary id; its Q
is the probability of one of these rows, not their sum. log Q is subtracted from the scores.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def log_q(counts: tf.Tensor, power: float = 1.0, rows: tf.Tensor | None = None) -> tf.Tensor:
    """Logarithm of counts ** power over the sum of rows ** power, float32, as long as `counts`.

    In-batch negatives are drawn with power 1, uniform ones with power 0, which is -log(number of
    rows) for all; in between are word2vec's (Mikolov et al., NIPS 2013: 0.75). -inf where nothing
    is drawn: for power > 0 at a count of 0.

    Parameters
    ----------
    counts : int or float [cardinality], 0 or more: by id, how often one row of it counts
    rows : int or float [n_items], 0 or more, some above 0: how often each row counts, by default
        `counts`, one row per id
    """
    share = tf.pow(tf.cast(counts, tf.float64), power)
    every = share if rows is None else tf.pow(tf.cast(rows, tf.float64), power)
    return tf.cast(tf.math.log(share / tf.reduce_sum(every)), tf.float32)


def mixture_log_q(
    log_q: tf.Tensor, in_batch: int | tf.Tensor, uniform: int | tf.Tensor, n_items: int
) -> tf.Tensor:
    """Logarithm of the expected share of a pool of mixed negatives, float32 [n].

    log((B * Q + U / n_items) / (B + U)), of B = `in_batch` negatives that come as positives do,
    with the probability Q, and U = `uniform` rows of the item table (mixed negative sampling: Yang
    et al., WWW 2020). log_q : float32 [n], log Q of some rows; B + U above 0.
    """
    in_batch, uniform = tf.cast(in_batch, tf.float32), tf.cast(uniform, tf.float32)
    mixed = in_batch * tf.exp(log_q) + uniform / n_items
    return tf.math.log(mixed / (in_batch + uniform))


class StreamingFrequency(tf.Module):
    """How often items are interacted with, learnt from the stream of interactions itself.

    Algorithm 2 of Yi et al. (RecSys 2019): for each item the place A in the stream where it was
    last, and the estimated distance between two of its places, B = (1 - alpha) * B + alpha *
    (place - A). An interaction is of the item with the probability 1 / B. It follows a distribution
    that drifts, and needs no counts beforehand.

    The paper counts in steps. With batches as large as the catalogue every step would contain all
    popular items, which would then be equally likely, so places are counted in interactions here. k
    interactions of one item in a batch enter with their mean distance and the weight of k single
    ones, 1 - (1 - alpha)^k. Ids are not hashed.

    Parameters
    ----------
    cardinality : above 0, of the item ids
    alpha : above 0 to 1, the weight of the latest distance; 0.05 averages over about twenty
    shared : the id that stands for many items: for items whose id is hidden at random in training,
        and for items that are not in the vocabulary
    sharing : number of these items; the probability of `shared` is that of one of them
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
        # Until they are seen, all ids are equally likely.
        self.distance = tf.Variable(tf.fill([cardinality], float(cardinality)), trainable=False)

    def update(self, ids: tf.Tensor) -> None:
        """Learn from the next interactions, of the item ids int [n], in their order."""
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
        """Logarithm of the probability of each of the item ids int [n], float32 [n]."""
        items = tf.where(tf.cast(ids, tf.int64) == self.shared, self.sharing, 1.0)
        return -tf.math.log(tf.gather(self.distance, ids) * items)


def corrected_log_q(positive_log_q: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """What to subtract from the scores of positives when log_q is subtracted from negatives.

    The logQ correction subtracts the positive's own log_q as if it had been drawn like the
    negatives, but it is always there. Khrylchenko et al. (RecSys 2025, "Correcting the LogQ
    Correction") let the sampled sum be over negatives only, drawn from Q' = Q / (1 - Q(positive)),
    and weigh each row's loss by how unlikely the model holds its positive,

        sg(1 - P) * log(sum over j of exp(s(j) - log Q'(j)) / exp s(+)),
        P = exp s(+) / (exp s(+) + sum over j of exp(s(j) - log Q'(j)) / m),

    of m negatives other than the positive, where sg stops the gradient. The gradient is that of
    -log P, a softmax in which log(Q'(j) * m) is subtracted from the negatives and nothing from the
    positive. If only log Q is subtracted from the negatives, the same softmax results when
    log((1 - Q(positive)) / m) is subtracted from the positive (which must be no negative of
    itself). The value is then -log P, an estimate of the full softmax's loss.

    Parameters
    ----------
    positive_log_q : float32 [n], log of the probability that a negative that is drawn is this one,
        below 0
    others : float32 [n], m: number of negatives that are another item

    Returns
    -------
    float32 [n], log((1 - Q(positive)) / m).
    """
    # Without any other negative the loss is 0, whatever is taken off.
    return tf.math.log1p(-tf.exp(positive_log_q)) - tf.math.log(tf.maximum(others, 1.0))


def inverse_propensity(counts: np.ndarray, power: float, largest: float) -> np.ndarray:
    """Weights of interactions by their item, float32 [n_items], of mean 1 over interactions.

    An item is taken to be seen with the propensity (n / max n) ** power (Saito et al., WSDM 2020:
    power 0.5), so that an interaction stands for one over it; power 0 weighs all the same.

    Parameters
    ----------
    counts : int or float [n_items], the interactions n of each item, some above 0
    largest : 1 or more, bounds a weight before all are divided by their mean: few interactions
        would outweigh all others
    """
    counts = np.asarray(counts, np.float64)
    propensity = (counts / counts.max()) ** power
    weight = 1.0 / np.maximum(propensity, 1.0 / largest)
    return (weight * (counts.sum() / (weight @ counts))).astype(np.float32)
