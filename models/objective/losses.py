"""Training losses other than the softmax over a whole batch: one loss a row, or the whole matrix.

All but `whole_data_squared` read the scores of n interactions and return a loss for each of them;
weights and the mean over rows are the caller's. Their arguments:

positive : float32 [n], the score of each row's positive
negative : float32 [n, m], the scores of each row's negatives
valid : bool [n, m], False for a false negative or padding, which has no part in the value, the
    gradient or any count, whatever its score, NaN included

A row without a valid negative has the loss of its positive alone, 0 where only differences count.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def binary_cross_entropy(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """-log sigmoid(s+) - sum over the negatives of log(1 - sigmoid(s-)), float32 [n].

    The pointwise loss of He et al. (Neural Collaborative Filtering, WWW 2017). It is a sum: m
    negatives weigh m times a positive, so that m is the ratio that the paper tunes (best 3 to 6).
    """
    return tf.nn.softplus(-positive) + _sum(tf.nn.softplus, negative, valid)


def gbce(
    positive: tf.Tensor,
    negative: tf.Tensor,
    valid: tf.Tensor,
    *,
    candidates: int,
    t: float = 0.75,
) -> tf.Tensor:
    """-beta * log sigmoid(s+) - sum over the negatives of log(1 - sigmoid(s-)), float32 [n].

    Generalised cross-entropy (gSASRec: Petrov and Macdonald, RecSys 2023). Of the items alpha = m /
    (candidates - 1) are drawn, uniformly, as negatives, which makes a trained model overconfident;
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha) = 1 - t * (1 - alpha) undoes that.

    Parameters
    ----------
    positive, negative, valid : see above; m is counted for each row, over its valid negatives
    candidates : items of the catalogue, above 1
    t : 0 for the binary cross-entropy, 1 for probabilities as calibrated as without sampling
    """
    alpha = tf.minimum(_count(valid) / (candidates - 1), 1.0)
    beta = 1.0 - t * (1.0 - alpha)
    return beta * tf.nn.softplus(-positive) + _sum(tf.nn.softplus, negative, valid)


def cosine_regression(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """(1 - c+)^2 + sum over the negatives of (-1 - c-)^2, float32 [n]; scores are cosines.

    Least squares with the targets 1 and -1. It is a sum: with m negatives the parts of positives
    and negatives are 1 : m.
    """
    return tf.square(1.0 - positive) + _sum(lambda c: tf.square(1.0 + c), negative, valid)


def bpr(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Mean over the negatives of -log sigmoid(s+ - s-), float32 [n].

    Bayesian personalised ranking (Rendle et al., UAI 2009), without its L2 penalty.
    """
    return _mean(lambda s: tf.nn.softplus(s - positive[:, None]), negative, valid)


def hinge(
    positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor, *, margin: float = 1.0
) -> tf.Tensor:
    """Mean over the negatives of max(0, margin - s+ + s-), float32 [n].

    The triplet loss (Weinberger and Saul, JMLR 2009; Schroff et al., FaceNet, CVPR 2015) on
    similarities in place of distances. margin is in units of the scores, above 0.
    """
    # The difference first: large scores would round the margin off.
    return _mean(lambda s: tf.nn.relu(margin + (s - positive[:, None])), negative, valid)


def cosine_contrastive(
    positive: tf.Tensor,
    negative: tf.Tensor,
    valid: tf.Tensor,
    *,
    margin: float = 0.9,
    weight: float = 50.0,
) -> tf.Tensor:
    """(1 - c+) + weight * mean over the negatives of max(0, c- - margin), float32 [n].

    SimpleX (Mao et al., CIKM 2021); scores are cosines. Negatives below the margin (-1 to 1) are
    let alone. The defaults are about the paper's for MovieLens-1M.
    """
    return 1.0 - positive + weight * _mean(lambda c: tf.nn.relu(c - margin), negative, valid)


def sampled_softmax(
    positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor, *, smoothing: float = 0.0
) -> tf.Tensor:
    """Cross-entropy of the softmax over the positive and its valid negatives, float32 [n].

    Parameters
    ----------
    positive, negative, valid : see above; logits divided by the temperature and corrected for
        how the negatives are sampled (Jean et al., ACL 2015; Yi et al., RecSys 2019)
    smoothing : from 0 to below 1, the part of the target that is spread evenly over the positive
        and the valid negatives (Szegedy et al., CVPR 2016)
    """
    # Relative to the positive's logit, which a large one would otherwise round off.
    excess = tf.where(valid, negative - positive[:, None], 0.0)
    masked = tf.where(valid, excess, float("-inf"))
    loss = tf.reduce_logsumexp(tf.pad(masked, [[0, 0], [1, 0]]), axis=1)
    return loss - smoothing * tf.reduce_sum(excess, axis=1) / (_count(valid) + 1.0)


def whole_data_squared(
    query: tf.Tensor,
    candidates: tf.Tensor,
    positive: tf.Tensor,
    query_of: tf.Tensor,
    positive_of: tf.Tensor,
    *,
    share: tf.Tensor,
    unobserved_weight: float,
) -> tf.Tensor:
    """Squared error over all pairs of a batch's users and the catalogue, without sampling.

    (sum over rows of (1 - s)^2 + sum over queries u of share u * unobserved_weight * (sum of
    s(u, c)^2 over the candidates c that are no positive of u in the batch)) / n. The sum over all
    candidates is u^T (V^T V) u, so that no [q, c] matrix is made; the batch's own pairs' squares
    are taken off it. (Implicit ALS: Hu et al., ICDM 2008; by gradient steps: ENMF, Chen et al.,
    TOIS 2020.)

    Parameters
    ----------
    query : float32 [q, D], the batch's users, each once
    candidates : float32 [c, D], all items of the catalogue
    positive : float32 [n], the scores of the batch's interactions
    query_of, positive_of : int [n], the rows of `query` and `candidates` of each interaction
    share : float32 [q], 0 to 1: the part of the user's positives that is in this batch
    unobserved_weight : above 0 to 1; 0.1 to 0.5 in ENMF

    Returns
    -------
    float32 scalar, differentiable in query, candidates and positive.
    """
    owner, item = tf.cast(query_of, tf.int64), tf.cast(positive_of, tf.int64)
    pair = owner * tf.shape(candidates, tf.int64)[0] + item
    _, place, count = tf.unique_with_counts(pair)
    once = 1.0 / tf.cast(tf.gather(count, place), tf.float32)
    observed = tf.math.unsorted_segment_sum(once * tf.square(positive), owner, tf.shape(query)[0])
    gram = tf.matmul(candidates, candidates, transpose_a=True)
    everything = tf.reduce_sum(tf.matmul(query, gram) * query, axis=1)
    unobserved = unobserved_weight * tf.reduce_sum(share * (everything - observed))
    fit = tf.reduce_sum(tf.square(1.0 - positive))
    return (fit + unobserved) / tf.cast(tf.size(positive), tf.float32)


def _sum(
    loss_of: Callable[[tf.Tensor], tf.Tensor], negative: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    """Sum of `loss_of` over the valid negatives of each row: [n, m] -> [n]."""
    # Masked before as well as after: 0 times the slope at an infinite score would be NaN.
    losses = loss_of(tf.where(valid, negative, 0.0))
    return tf.reduce_sum(tf.where(valid, losses, 0.0), axis=1)


def _mean(
    loss_of: Callable[[tf.Tensor], tf.Tensor], negative: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    """Mean of `loss_of` over the valid negatives of each row, 0 without any: [n, m] -> [n]."""
    return _sum(loss_of, negative, valid) / tf.maximum(_count(valid), 1.0)


def _count(valid: tf.Tensor) -> tf.Tensor:
    """How many valid negatives each row has: bool [n, m] -> float32 [n]."""
    return tf.reduce_sum(tf.cast(valid, tf.float32), axis=1)
