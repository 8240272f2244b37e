"""The softmax over in-batch candidates, in memory that grows with the batch and not its square.

Stock Merlin writes the [batch, batch] matrix of scores, its mask, its softmax and their gradients
out in full. Here a few rows at a time are scored, and what the loss and its gradient need of them
is added up before the next ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction
from merlin.models.tf.outputs.sampling.base import Candidate

from models.corrections import StreamingFrequency
from models.objective import LEAST_TEMPERATURE

SCORES_AT_ONCE = 1 << 21
"""Scores in memory at a time, 8 MB: more would leave the cache, fewer cost more calls."""
LEAST_ROWS = 128
# Features of a batch in which every user and item is once: the rows of each interaction, and how
# often a candidate is a positive.
QUERY_OF, POSITIVE_OF, COUNT = "_query_of", "_positive_of", "_count"
# For other losses: int32 [2]; bool [q, c], whether a candidate is a train positive; float32 [q],
# the share of a query's positives that is in the batch.
SEED, KNOWN, SHARE = "_seed", "_known", "_share"
# int32 [n, m], the candidates that are an interaction's own negatives.
NEGATIVE_OF = "_negative_of"


def contrastive_softmax(
    query: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    positive_id: tf.Tensor | None = None,
    negative_id: tf.Tensor | None = None,
    positive_bias: tf.Tensor | None = None,
    negative_bias: tf.Tensor | None = None,
    weight: tf.Tensor | None = None,
    precision: tf.DType = tf.float32,
) -> tf.Tensor:
    """Mean cross-entropy of every query's positive among it and all negatives.

    With s(i, j) = <query i, candidate j> / temperature + bias j, the mean over i of
    weight i * (log(exp s(i, i+) + sum over j of exp s(i, j)) - s(i, i+)), where negatives that are
    the query's own positive are left out: they would be false.

    Parameters
    ----------
    query, positive : float [n, D]; row i of one belongs to row i of the other
    negative : float [m, D], shared by all queries; `positive` itself for in-batch negatives
    temperature : above 0; may be a learned scalar
    positive_id, negative_id : int [n] and [m]; given both, equal ids are false negatives
    positive_bias, negative_bias : float [n] and [m], by default 0: for the logQ correction minus
        the logarithm of the candidate's sampling probability (Yi et al., RecSys 2019)
    weight : float [n], by default 1
    precision : of the factors of the three matrix products, tf.bfloat16 to round them: scores are
        then off by up to 1/256 of themselves; all else stays float32

    Returns
    -------
    float32 scalar. It is differentiable in query, positive, negative and temperature, the gradients
    are computed along with it, and memory is O((n + m) * D).
    """
    n, m = tf.shape(query)[0], tf.shape(negative)[0]
    if positive_id is None or negative_id is None:
        positive_id, negative_id = tf.fill([n], -1), tf.fill([m], -2)
    weight = tf.ones([n]) if weight is None else tf.cast(weight, tf.float32)
    inputs = (
        query,
        positive,
        negative,
        1.0 / tf.convert_to_tensor(temperature, tf.float32),
        tf.reshape(positive_id, [-1]),
        tf.reshape(negative_id, [-1]),
        _or_zeros(positive_bias, n),
        _or_zeros(negative_bias, m),
        tf.reshape(weight, [-1]) / tf.cast(n, tf.float32),
    )
    return tf.custom_gradient(lambda *tensors: _softmax(precision, *tensors))(*inputs)


def _or_zeros(bias: tf.Tensor | None, size: tf.Tensor) -> tf.Tensor:
    return tf.zeros([size]) if bias is None else tf.reshape(tf.cast(bias, tf.float32), [-1])


def _softmax(precision, query, positive, negative, scale, ids, other_ids, bias, other_bias, weight):
    """`contrastive_softmax` and its gradient; scale = 1 / temperature, weights are to be summed."""

    rows = tf.maximum(LEAST_ROWS, SCORES_AT_ONCE // tf.shape(negative)[0])
    rows = tf.minimum(rows, tf.shape(query)[0])
    n = tf.shape(query)[0]
    chunks = (n + rows - 1) // rows
    padding = chunks * rows - n
    # Every chunk is as long, as XLA needs it; what fills the last one up has no weight.
    chunked = [
        tf.reshape(
            tf.pad(each, [[0, padding]] + [[0, 0]] * (each.shape.rank - 1)),
            tf.concat([[chunks, rows], tf.shape(each)[1:]], 0),
        )
        for each in (query * scale, positive, ids, bias, weight)
    ]
    by_query = tf.TensorArray(query.dtype, chunks, element_shape=[None, query.shape[1]])
    by_positive = tf.TensorArray(tf.float32, chunks, element_shape=[None])

    def step(chunk, total, by_query, by_positive, by_negative):
        scaled, own, own_ids, own_bias, weights = (each[chunk] for each in chunked)
        scores = _product(scaled, negative, precision, transpose_b=True) + other_bias
        scores = tf.where(own_ids[:, None] == other_ids, float("-inf"), scores)
        score = tf.reduce_sum(scaled * own, axis=1) + own_bias
        highest = tf.maximum(tf.reduce_max(scores, axis=1), score)
        exps, exp = tf.exp(scores - highest[:, None]), tf.exp(score - highest)
        sums = tf.reduce_sum(exps, axis=1) + exp
        total += tf.reduce_sum(weights * (tf.math.log(sums) + highest - score))
        # The softmax is exps / sums; small matrices are divided in its place.
        share = weights / sums
        slope = share * exp - weights
        of_query = share[:, None] * _product(exps, negative, precision) + slope[:, None] * own
        by_negative += _product(exps, share[:, None] * scaled, precision, transpose_a=True)
        return (
            chunk + 1,
            total,
            by_query.write(chunk, of_query),
            by_positive.write(chunk, slope),
            by_negative,
        )

    start = (0, 0.0, by_query, by_positive, tf.zeros_like(negative))
    _, total, by_query, by_positive, of_negative = tf.while_loop(
        lambda chunk, *_: chunk < chunks, step, start, parallel_iterations=1
    )
    of_query = by_query.concat()[:n]
    slope = by_positive.concat()[:n, None]

    def gradient(upstream):
        of_scale = tf.reduce_sum(query * of_query)
        return (
            upstream * scale * of_query,
            upstream * scale * slope * query,
            upstream * of_negative,
            upstream * of_scale,
            *[None] * 5,
        )

    return total, gradient


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
    masked: bool = True,
    precision: tf.DType = tf.float32,
) -> tf.Tensor:
    """`contrastive_softmax` of a batch in which every query and every candidate is given once.

    A batch has a user and an item many times. With s(u, c) = <query u, candidate c> / temperature +
    bias c it is the mean over the interactions i, of query u and positive p, of weight i *
    (log(exp s(u, p) + sum over c of n_c * exp s(u, c)) - s(u, p)), where n_c is `count`, for p
    itself 0 if false negatives are `masked`. There are as many scores as different queries times
    different candidates, and all interactions of a query share its sum.

    Parameters
    ----------
    query, candidate : float [q, D] and [c, D]
    query_of, positive_of : int [n], the rows of `query` and `candidate` of each interaction
    count : float [c], above 0, how many negatives a candidate stands for: in-batch how often it is
        a positive
    temperature, bias, weight, precision : as there; bias [c], weight [n]

    Returns
    -------
    float32 scalar, differentiable in query, candidate and temperature.
    """
    bias = _or_zeros(bias, tf.shape(candidate)[0])
    n = tf.cast(tf.size(query_of), tf.float32)
    weight = (tf.ones_like(query_of, tf.float32) if weight is None else weight) / n
    scale = 1.0 / tf.convert_to_tensor(temperature, tf.float32)
    places = (tf.cast(query_of, tf.int32), tf.cast(positive_of, tf.int32))
    batch = (*places, tf.cast(count, tf.float32), bias, weight)
    softmax = tf.custom_gradient(
        lambda *vectors: _grouped_softmax(*vectors, *batch, masked, precision)
    )
    return softmax(query, candidate, scale)


def _grouped_softmax(
    query, candidate, scale, query_of, positive_of, count, bias, weight, masked, precision
):
    """`grouped_softmax` and its gradient; scale = 1 / temperature, weights are to be summed."""
    queries, candidates = tf.shape(query)[0], tf.shape(candidate)[0]
    scaled = query * scale
    own_query, own = tf.gather(scaled, query_of), tf.gather(candidate, positive_of)
    score = tf.reduce_sum(own_query * own, axis=1) + tf.gather(bias, positive_of)
    peak = tf.math.unsorted_segment_max(score, query_of, queries)
    addend = bias + tf.math.log(count)
    # The positive's exponential is in its query's sum `count` times, and has to be in it once.
    # What is left is at least 1 / count of the sum: the loss is off by count * 1e-7 at most.
    surplus = tf.gather(count, positive_of) - 1.0 if masked else -tf.ones_like(score)
    rows = tf.minimum(queries, tf.maximum(LEAST_ROWS, SCORES_AT_ONCE // candidates))
    chunks = (queries + rows - 1) // rows
    # The last chunk may be shorter.
    by_query = tf.TensorArray(tf.float32, chunks, infer_shape=False)

    def step(chunk, total, slope, by_query, by_candidate):
        first = chunk * rows
        here = scaled[first : first + rows]
        scores = _product(here, candidate, precision, transpose_b=True) + addend
        highest = tf.maximum(tf.reduce_max(scores, axis=1), peak[first : first + rows])
        exps = tf.exp(scores - highest[:, None])
        sums = tf.reduce_sum(exps, axis=1)
        inside = tf.logical_and(query_of >= first, query_of < first + rows)
        place = tf.where(inside, query_of - first, 0)
        high = tf.gather(highest, place)
        exp = tf.where(inside, tf.exp(score - high), 0.0)
        total_exp = tf.maximum(tf.gather(sums, place) - surplus * exp, exp)
        share = tf.where(inside, weight / total_exp, 0.0)
        losses = weight * (tf.math.log(total_exp) + high - score)
        total += tf.reduce_sum(tf.where(inside, losses, 0.0))
        slope += tf.where(inside, weight, 0.0) + share * surplus * exp
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


def _product(left: tf.Tensor, right: tf.Tensor, precision: tf.DType, **transposed) -> tf.Tensor:
    """A matrix product of factors rounded to `precision`, as float32."""
    factors = tf.cast(left, precision), tf.cast(right, precision)
    return tf.cast(tf.matmul(*factors, **transposed), tf.float32)


@tf.keras.utils.register_keras_serializable(package="twotower")
class AsGiven(tf.keras.losses.Loss):
    """The loss of a batch that the model has computed itself, its output."""

    def call(self, y_true, y_pred):
        return y_pred[:, 0]


class InBatchSoftmax(mm.ContrastiveOutput):
    """Merlin's ContrastiveOutput, the same loss, in memory that grows with the batch only.

    Parameters
    ----------
    temperature : the scores' divisor
    learn_temperature : whether that is only where it begins. Its logarithm is what is learnt
        (CLIP: Radford et al., ICML 2021), down to LEAST_TEMPERATURE, as there
    precision : of the factors of matrix products, see `contrastive_softmax`
    log_q : float [cardinality of the item id], the logarithm of each id's sampling probability;
        None for no correction
    logq : the weight of the correction
    frequency : learns from each batch what takes the place of `log_q`
    added : a function of the batch's features to a float32 scalar, which is added to the loss
    others : of ContrastiveOutput
    """

    def __init__(
        self,
        *args,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        log_q: np.ndarray | None = None,
        logq: float = 1.0,
        frequency: StreamingFrequency | None = None,
        precision: tf.DType = tf.float32,
        added: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(*args, default_loss=AsGiven(), **kwargs)
        self.precision, self.logq, self.frequency = precision, logq, frequency
        self.start, self.log_temperature, self.added = temperature, None, added
        if learn_temperature:
            self.log_temperature = self.add_weight(
                "log_temperature",
                shape=[],
                initializer=tf.keras.initializers.Constant(math.log(temperature)),
                constraint=lambda value: tf.maximum(value, math.log(LEAST_TEMPERATURE)),
            )
        self.log_q = None if log_q is None else tf.constant(log_q, tf.float32)

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by."""
        return self.start if self.log_temperature is None else tf.exp(self.log_temperature)

    def outputs(self, query_embedding, positive: Candidate, negative: Candidate) -> Prediction:
        """The loss of the batch, as one row: all batches weigh the same in Keras's mean of them."""
        if self.frequency is not None:
            ids = tf.reshape(positive.id, [-1])
            of_batch = positive.metadata.get(POSITIVE_OF)
            self.frequency.update(ids if of_batch is None else tf.gather(ids, of_batch))
        loss = self.loss_of(query_embedding, positive, negative)
        if self.added is not None:
            loss += self.added(positive.metadata)
        return Prediction(tf.reshape(loss, [1, 1]), tf.ones([1, 1]))

    def loss_of(self, query_embedding, positive: Candidate, negative: Candidate) -> tf.Tensor:
        """The loss of the batch, float32 scalar.

        Grouped when the features say which rows belong to an interaction, see `FeatureLookup`.
        """
        masked, batch = self.downscore_false_negatives, positive.metadata
        shared = {"temperature": self.temperature, "precision": self.precision}
        if QUERY_OF in batch:
            return grouped_softmax(
                query_embedding,
                positive.embedding,
                *(batch[QUERY_OF], batch[POSITIVE_OF], batch[COUNT]),
                bias=self._bias(positive),
                masked=masked,
                **shared,
            )
        return contrastive_softmax(
            query_embedding,
            positive.embedding,
            negative.embedding,
            positive_id=positive.id if masked else None,
            negative_id=negative.id if masked else None,
            positive_bias=self._bias(positive),
            negative_bias=self._bias(negative),
            **shared,
        )

    def _bias(self, candidate: Candidate) -> tf.Tensor | None:
        """Minus the logarithm of how likely each candidate is drawn, times the weight of that."""
        if not self.logq or (self.log_q is None and self.frequency is None):
            return None
        ids = tf.reshape(candidate.id, [-1])
        if self.frequency is not None:
            return -self.logq * self.frequency.log_q(ids)
        return -self.logq * tf.gather(self.log_q, ids)
