"""The softmax over a batch's candidates, without a [batch, batch] matrix in memory.

Stock Merlin holds the [batch, batch] matrix of scores, its mask, its softmax and their gradients in
memory. Here scores are computed for some queries at a time, and summed into the loss and its
gradient, so memory grows with the batch size and not with its square.
"""

from __future__ import annotations

import tensorflow as tf

MAX_SCORES_IN_MEMORY = 1 << 21
"""Scores computed at a time, 8 MB: more do not fit the processor's cache, fewer are slower."""
MIN_ROWS = 128
"""Minimum number of queries per chunk, even if their scores are more than that."""


def grouped_softmax(
    query: tf.Tensor,
    candidate: tf.Tensor,
    query_of: tf.Tensor,
    positive_of: tf.Tensor,
    count: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    bias: tf.Tensor | None = None,
    weight: tf.Tensor | None = None,
    known: tf.Tensor | None = None,
    precision: tf.DType = tf.float32,
) -> tf.Tensor:
    """Mean cross-entropy of every interaction's positive among it and all other candidates.

    Each distinct user and item in a batch is scored once; candidates are weighted by their count.

    Parameters
    ----------
    query : Tensor of float32, shape (q, dim)
        The vectors of the distinct users.
    candidate : Tensor of float32, shape (c, dim)
        The vectors of the distinct items.
    query_of, positive_of : Tensor of int, shape (n,)
        The rows of `query` and `candidate` of each interaction.
    count : Tensor of int or float, shape (c,)
        Number of negatives that a candidate stands for: in-batch, how often it is a positive.
    temperature : float or scalar Tensor
    bias : Tensor of float32, shape (c,), optional
        Added to the logits: for logQ minus the logarithm of a candidate's probability.
    weight : Tensor of float32, shape (n,), optional
        Weights of the interactions, by default 1.
    known : Tensor of bool, shape (q, c), optional
        The candidates that are not negatives of a query.
    precision : DType
        Type of the factors of the matrix products; tf.bfloat16 changes scores by up to 1/256.

    Returns
    -------
    Tensor of float32, shape ()
        Differentiable in query, candidate and temperature; memory is O((n + q + c) * dim).

    Notes
    -----
    With s(u, c) = <query u, candidate c> / temperature + bias c, the loss is the mean over the
    interactions i, with query u and positive p, of weight i * (log(exp s(u, p) + sum over c of
    n_c * exp s(u, c)) - s(u, p)), where n_c is `count`, and 0 for p itself, which would be a false
    negative. All interactions of a query share one sum over the candidates.
    """
    bias = tf.zeros([tf.shape(candidate)[0]]) if bias is None else tf.reshape(bias, [-1])
    weight = tf.ones_like(query_of, tf.float32) if weight is None else weight
    weight /= tf.cast(tf.size(query_of), tf.float32)
    scale = 1.0 / tf.convert_to_tensor(temperature, tf.float32)

    @tf.custom_gradient
    def loss(query, candidate, scale):
        return _loss_and_gradient(
            query,
            candidate,
            scale,
            query_of=tf.cast(query_of, tf.int32),
            positive_of=tf.cast(positive_of, tf.int32),
            count=tf.cast(count, tf.float32),
            bias=bias,
            weight=weight,
            known=known,
            precision=precision,
        )

    return loss(query, candidate, scale)


def _loss_and_gradient(
    query, candidate, scale, *, query_of, positive_of, count, bias, weight, known, precision
):
    """Compute `grouped_softmax` and its gradient, with scale = 1 / temperature.

    Weights are already divided by the number of interactions: the loss is their weighted sum.
    """
    queries, candidates = tf.shape(query)[0], tf.shape(candidate)[0]
    scaled = query * scale
    own_query, own = tf.gather(scaled, query_of), tf.gather(candidate, positive_of)
    score = tf.reduce_sum(own_query * own, axis=1) + tf.gather(bias, positive_of)
    peak = tf.math.unsorted_segment_max(score, query_of, queries)
    addend = bias + tf.math.log(count)
    surplus = _surplus(query_of, positive_of, count, known)
    rows = tf.minimum(queries, tf.maximum(MIN_ROWS, MAX_SCORES_IN_MEMORY // candidates))
    chunks = (queries + rows - 1) // rows
    # The last chunk may be shorter.
    by_query = tf.TensorArray(tf.float32, chunks, infer_shape=False)

    def step(chunk, total, slope, by_query, by_candidate):
        first = chunk * rows
        here = scaled[first : first + rows]
        scores = _product(here, candidate, precision, transpose_b=True) + addend
        if known is not None:
            scores = tf.where(known[first : first + rows], float("-inf"), scores)
        highest = tf.maximum(tf.reduce_max(scores, axis=1), peak[first : first + rows])
        exps = tf.exp(scores - highest[:, None])
        sums = tf.reduce_sum(exps, axis=1)
        inside = tf.logical_and(query_of >= first, query_of < first + rows)
        place = tf.where(inside, query_of - first, 0)
        high = tf.gather(highest, place)
        exp = tf.where(inside, tf.exp(score - high), 0.0)
        in_sum = exp
        if precision != tf.float32:
            # The sum has a rounded score of the positive, and more than once: the difference of
            # the exact one would be as large as what is left.
            rounded = tf.gather_nd(exps, tf.stack([place, positive_of], axis=1))
            rounded /= tf.gather(count, positive_of)
            in_sum = tf.where(tf.logical_and(inside, surplus >= 0), rounded, exp)
        total_exp = tf.maximum(tf.gather(sums, place) - surplus * in_sum, exp)
        share = tf.where(inside, weight / total_exp, 0.0)
        losses = weight * (tf.math.log(total_exp) + high - score)
        total += tf.reduce_sum(tf.where(inside, losses, 0.0))
        slope += tf.where(inside, weight, 0.0) + share * surplus * in_sum
        shares = tf.math.unsorted_segment_sum(share, place, tf.shape(here)[0])[:, None]
        by_candidate += _product(exps, shares * here, precision, transpose_a=True)
        of_query = shares * _product(exps, candidate, precision)
        return chunk + 1, total, slope, by_query.write(chunk, of_query), by_candidate

    start = (0, 0.0, tf.zeros_like(score), by_query, tf.zeros_like(candidate))
    _, total, slope, by_query, by_candidate = tf.while_loop(
        lambda chunk, *_: chunk < chunks, step, start, parallel_iterations=1
    )
    slope = slope[:, None]
    of_query = tf.ensure_shape(by_query.concat(), query.shape)
    of_query -= tf.math.unsorted_segment_sum(slope * own, query_of, queries)
    of_candidate = by_candidate - tf.math.unsorted_segment_sum(
        slope * own_query, positive_of, candidates
    )

    def gradient(upstream):
        of_scale = tf.reduce_sum(query * of_query)
        return upstream * scale * of_query, upstream * of_candidate, upstream * of_scale

    return total, gradient


def _surplus(query_of, positive_of, count, known):
    """How often too many the sum of a query contains the positive of each interaction.

    It contains the positive `count` times but should contain it once. At least 1 / count of the sum
    remains, so the loss is off by count * 1e-7 at most. Known positives are not in the sum.
    """
    surplus = tf.gather(count, positive_of) - 1.0
    if known is None:
        return surplus
    is_known = tf.gather_nd(known, tf.stack([query_of, positive_of], axis=1))
    return tf.where(is_known, -1.0, surplus)


def _product(left: tf.Tensor, right: tf.Tensor, precision: tf.DType, **transposed) -> tf.Tensor:
    """Multiply matrices whose elements are rounded to `precision`; the result is float32."""
    factors = tf.cast(left, precision), tf.cast(right, precision)
    return tf.cast(tf.matmul(*factors, **transposed), tf.float32)
