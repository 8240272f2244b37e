"""The softmax over in-batch candidates, in memory that grows with the batch and not its square.

Stock Merlin materialises the [batch, batch] matrix of scores, its mask, its softmax and their
gradients. Here scores are computed a few rows at a time and summed into the loss and its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction
from merlin.models.tf.outputs.sampling.base import Candidate

from twotower.models.objective.build import LEAST_TEMPERATURE
from twotower.models.objective.corrections import StreamingFrequency

SCORES_AT_ONCE = 1 << 21
"""Scores in memory at a time, 8 MB: more would leave the cache, fewer cost more calls."""
LEAST_ROWS = 128
# Features of a batch with distinct users and items: the rows of each interaction, the number of
# times a candidate is a negative, and its row in the item table.
QUERY_OF, POSITIVE_OF, COUNT, ROW = "_query_of", "_positive_of", "_count", "_row"
# For other losses: int32 [2]; bool [q, c], whether a candidate is a train positive; float32 [q],
# the share of a query's positives that is in the batch.
SEED, KNOWN, SHARE = "_seed", "_known", "_share"
# int32 [n, m], the candidates that are an interaction's own negatives.
NEGATIVE_OF = "_negative_of"


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
    precision: tf.DType = tf.float32,
) -> tf.Tensor:
    """Mean cross-entropy of every interaction's positive among it and all other candidates.

    Each distinct user and item in a batch is scored once; candidates are weighted by their count.
    With s(u, c) = <query u, candidate c> / temperature + bias c the loss is the mean over the
    interactions i, with query u and positive p, of weight i * (log(exp s(u, p) + sum over c of
    n_c * exp s(u, c)) - s(u, p)), where n_c is `count`, and 0 for p itself, which would be a false
    negative. All interactions of a query share its sum.

    Parameters
    ----------
    query, candidate : float [q, D] and [c, D]
    query_of, positive_of : int [n], the rows of `query` and `candidate` of each interaction
    count : float [c], 0 or more, number of negatives that a candidate stands for; for in-batch
        negatives the number of times that it is a positive
    temperature : above 0; may be a learned scalar
    bias : float [c], by default 0: for the logQ correction minus the logarithm of the candidate's
        sampling probability (Yi et al., RecSys 2019)
    weight : float [n], by default 1
    precision : dtype of the factors of the three matrix products. tf.bfloat16 rounds them, with a
        relative error of scores up to 1/256; everything else stays float32

    Returns
    -------
    float32 scalar. It is differentiable in query, candidate and temperature, the gradients are
    computed along with it, and memory is O((n + q + c) * D).
    """
    bias = tf.zeros([tf.shape(candidate)[0]]) if bias is None else tf.reshape(bias, [-1])
    n = tf.cast(tf.size(query_of), tf.float32)
    weight = (tf.ones_like(query_of, tf.float32) if weight is None else weight) / n
    scale = 1.0 / tf.convert_to_tensor(temperature, tf.float32)
    places = (tf.cast(query_of, tf.int32), tf.cast(positive_of, tf.int32))
    batch = (*places, tf.cast(count, tf.float32), bias, weight)
    softmax = tf.custom_gradient(lambda *vectors: _grouped_softmax(*vectors, *batch, precision))
    return softmax(query, candidate, scale)


def _grouped_softmax(
    query, candidate, scale, query_of, positive_of, count, bias, weight, precision
):
    """`grouped_softmax` and its gradient; scale = 1 / temperature, weights are to be summed."""
    queries, candidates = tf.shape(query)[0], tf.shape(candidate)[0]
    scaled = query * scale
    own_query, own = tf.gather(scaled, query_of), tf.gather(candidate, positive_of)
    score = tf.reduce_sum(own_query * own, axis=1) + tf.gather(bias, positive_of)
    peak = tf.math.unsorted_segment_max(score, query_of, queries)
    addend = bias + tf.math.log(count)
    # The sum of a query contains the positive `count` times but should contain it once.
    # What is left is at least 1 / count of the sum: the loss is off by count * 1e-7 at most.
    surplus = tf.gather(count, positive_of) - 1.0
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
    precision : of the factors of matrix products, see `grouped_softmax`
    log_q : float [cardinality of the item id], the logarithm of each id's sampling probability
    logq : the weight of the correction, 0 for none
    frequency : learns from each batch what takes the place of `log_q`
    added : a function of the batch's features to a float32 scalar, which is added to the loss
    others : of ContrastiveOutput
    """

    def __init__(
        self,
        *args,
        temperature: float,
        log_q: np.ndarray,
        logq: float = 1.0,
        learn_temperature: bool = False,
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
        self.log_q = tf.constant(log_q, tf.float32)

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by."""
        return self.start if self.log_temperature is None else tf.exp(self.log_temperature)

    def outputs(self, query_embedding, positive: Candidate, negative: Candidate) -> Prediction:
        """The loss of the batch, as one row: all batches weigh the same in Keras's mean of them."""
        if self.frequency is not None:
            ids = tf.reshape(positive.id, [-1])
            self.frequency.update(tf.gather(ids, positive.metadata[POSITIVE_OF]))
        loss = self.loss_of(query_embedding, positive)
        if self.added is not None:
            loss += self.added(positive.metadata)
        return Prediction(tf.reshape(loss, [1, 1]), tf.ones([1, 1]))

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        """The loss of a batch of `FeatureLookup`, float32 scalar.

        Every different user and item is in it once: query [q, D], candidate [c, D].
        """
        batch = candidate.metadata
        return grouped_softmax(
            query,
            candidate.embedding,
            batch[QUERY_OF],
            batch[POSITIVE_OF],
            batch[COUNT],
            bias=self._bias(candidate),
            temperature=self.temperature,
            precision=self.precision,
        )

    def _bias(self, candidate: Candidate) -> tf.Tensor | None:
        """Minus the weighted logarithm of how likely each candidate is drawn, float32 [c]."""
        return -self.logq * self._log_q(candidate) if self.logq else None

    def _log_q(self, candidate: Candidate) -> tf.Tensor:
        """Logarithm of the probability that a negative is this candidate, float32 [c]."""
        ids = tf.reshape(candidate.id, [-1])
        return tf.gather(self.log_q, ids) if self.frequency is None else self.frequency.log_q(ids)
