"""The outputs of the two-tower model: one class per kind of loss, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction
from merlin.models.tf.outputs.base import DotProduct
from merlin.models.tf.outputs.sampling.base import Candidate
from merlin.schema import Schema

from twotower.models.batch_keys import (
    COUNT,
    KNOWN,
    NEGATIVE_OF,
    POSITIVE_OF,
    QUERY_OF,
    ROW,
    SEED,
    SHARE,
    WEIGHT,
)
from twotower.models.distributed.negatives import gathered_candidates
from twotower.models.distributed.workers import Workers
from twotower.models.objective.config import MIN_LEARNED_TEMPERATURE, ObjectiveConfig
from twotower.models.objective.corrections import (
    StreamingFrequency,
    corrected_log_q,
    inverse_propensity,
)
from twotower.models.objective.losses import LOSSES, sampled_softmax, whole_data_squared
from twotower.models.objective.queue import CrossBatchQueue
from twotower.models.objective.sampling import hard_negatives, sample_popularity
from twotower.models.objective.softmax import grouped_softmax

MAX_PROPENSITY_WEIGHT = 10.0


@tf.keras.utils.register_keras_serializable(package="twotower")
class ComputedLoss(tf.keras.losses.Loss):
    """The loss that the model has already computed and returns as its prediction."""

    def call(self, y_true, y_pred):
        return y_pred[:, 0]


class InBatchSoftmax(mm.ContrastiveOutput):
    """Merlin's ContrastiveOutput with the same loss, but without a [batch, batch] matrix in memory.

    Parameters
    ----------
    schema : Schema
        The item id's column.
    temperature : float
        Scores are divided by it.
    log_q : ndarray of float, shape (cardinality,)
        Logarithm of the sampling probability of each item id.
    logq : float
        Weight of the logQ correction, 0 for none.
    learn_temperature : bool
        Whether the temperature is trained, from `temperature` on. Its logarithm is the weight, and
        its minimum is MIN_LEARNED_TEMPERATURE (as in CLIP: Radford et al., ICML 2021).
    frequency : StreamingFrequency, optional
        Estimates sampling probabilities from the batches, to replace `log_q`.
    precision : DType
        Type of the factors of the matrix products, see `grouped_softmax`.
    added : callable, optional
        Computes a scalar from the features of a batch, which is added to the loss.
    **kwargs
        Further parameters of ContrastiveOutput.
    """

    def __init__(
        self,
        *,
        schema: Schema,
        temperature: float,
        log_q: np.ndarray | tf.Tensor,
        logq: float = 1.0,
        learn_temperature: bool = False,
        frequency: StreamingFrequency | None = None,
        precision: tf.DType = tf.float32,
        added: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            DotProduct(),
            negative_samplers=["in-batch"],
            schema=schema,
            default_loss=ComputedLoss(),
            **kwargs,
        )
        self.precision, self.logq, self.frequency = precision, logq, frequency
        self.workers, self.gather_negatives = Workers(), False
        self.initial_temperature, self.log_temperature, self.added = temperature, None, added
        if learn_temperature:
            self.log_temperature = self.add_weight(
                "log_temperature",
                shape=[],
                initializer=tf.keras.initializers.Constant(math.log(temperature)),
                constraint=lambda value: tf.maximum(value, math.log(MIN_LEARNED_TEMPERATURE)),
            )
        self.log_q = tf.constant(log_q, tf.float32)

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by."""
        if self.log_temperature is None:
            return self.initial_temperature
        return tf.exp(self.log_temperature)

    def outputs(self, query_embedding, positive: Candidate, negative: Candidate) -> Prediction:
        """Return the loss of the batch, as one row: all batches have equal weight in Keras's mean.

        Merlin calls it, also with `negative`, its own in-batch negatives, which are not used.
        """
        if self.frequency is not None:
            ids = tf.reshape(positive.id, [-1])
            positives = tf.gather(ids, positive.metadata[POSITIVE_OF])
            self.frequency.update(self.workers.gather(positives, "positives"))
        if self.gather_negatives:
            positive = gathered_candidates(positive, self.workers)
        loss = self.loss_of(query_embedding, positive)
        if self.added is not None:
            loss += self.added(positive.metadata)
        return Prediction(tf.reshape(self.workers.mean(loss), [1, 1]), tf.ones([1, 1]))

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        query : Tensor of float32, shape (q, dim)
            The vectors of the batch's distinct users.
        candidate : Candidate
            The ids and vectors of its distinct items, shape (c, dim); its metadata is the batch
            from `FeatureLookup`.

        Returns
        -------
        Tensor of float32, shape ()
        """
        return self._grouped_softmax(query, candidate)

    def _weight(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        """The weight of each interaction, float32 [n]; None if all are equal."""
        return batch.get(WEIGHT)

    def _grouped_softmax(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        batch = candidate.metadata
        return grouped_softmax(
            query,
            candidate.embedding,
            batch[QUERY_OF],
            batch[POSITIVE_OF],
            batch[COUNT],
            bias=self._bias(candidate),
            weight=self._weight(batch),
            known=batch.get(KNOWN),
            temperature=self.temperature,
            precision=self.precision,
        )

    def _bias(self, candidate: Candidate) -> tf.Tensor | None:
        """Minus the weighted logarithm of each candidate's sampling probability, float32 [c]."""
        return -self.logq * self._log_q(candidate) if self.logq else None

    def _log_q(self, candidate: Candidate) -> tf.Tensor:
        """Logarithm of the probability that a negative is this candidate, float32 [c]."""
        ids = tf.reshape(candidate.id, [-1])
        return tf.gather(self.log_q, ids) if self.frequency is None else self.frequency.log_q(ids)


class ObjectiveOutput(InBatchSoftmax):
    """Base class of the outputs for objectives other than the default one.

    Parameters
    ----------
    objective : ObjectiveConfig
    counts : ndarray of float, shape (cardinality,)
        Number of positives of one row of each item id, above 0.
    positives : ndarray of int, shape (n_items,)
        Number of positives of each row of the item table.
    dim : int
        Size of the towers' vectors.
    **kwargs
        Further parameters of InBatchSoftmax.
    """

    def __init__(
        self,
        *,
        objective: ObjectiveConfig,
        counts: np.ndarray,
        positives: np.ndarray,
        dim: int,
        **kwargs: Any,
    ):
        sampler = objective.sampler(positives)
        super().__init__(log_q=sampler.log_q(counts), **kwargs)
        self.objective, self.sampler, self.dim = objective, sampler, dim
        self.weights_by_row = None
        if objective.propensity_power:
            weights = inverse_propensity(
                positives, power=objective.propensity_power, max_weight=MAX_PROPENSITY_WEIGHT
            )
            self.weights_by_row = tf.constant(weights, tf.float32)

    def _weight(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        weight = super()._weight(batch)
        if self.weights_by_row is None:
            return weight
        of_item = tf.gather(tf.gather(self.weights_by_row, batch[ROW]), batch[POSITIVE_OF])
        return of_item if weight is None else weight * of_item

    def _mean(self, losses: tf.Tensor, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The weighted mean of the losses float32 [n] of the interactions."""
        weight = self._weight(batch)
        return tf.reduce_mean(losses if weight is None else weight * losses)

    def _log_q(self, candidate: Candidate) -> tf.Tensor:
        batch_size = tf.size(candidate.metadata[QUERY_OF])
        return self.sampler.batch_log_q(super()._log_q(candidate), batch_size)


class SoftmaxOutput(ObjectiveOutput):
    """The softmax over all negatives of a step, wherever they come from.

    With label smoothing, corrected logQ or a queue, the scores of all interactions are held in
    memory as a matrix [batch, negatives]. Otherwise they are computed for some queries at a time,
    see `grouped_softmax`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.queue: CrossBatchQueue | None = None
        if self.sampler.queue_size:
            self.queue = CrossBatchQueue(self.sampler.queue_size, self.dim)

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        batch, given = candidate.metadata, self.objective
        if given.label_smoothing or given.corrected_logq or self.queue:
            return self._mean(self._loss_by_row(query, candidate), batch)
        return self._grouped_softmax(query, candidate)

    def _loss_by_row(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        """The loss of each interaction, float32 [n], from its scores of all candidates [n, c]."""
        batch, given = candidate.metadata, self.objective
        query_of, positive_of = batch[QUERY_OF], batch[POSITIVE_OF]
        positive = tf.reduce_sum(
            tf.gather(query, query_of) * tf.gather(candidate.embedding, positive_of), axis=1
        )
        count = tf.cast(batch[COUNT], tf.float32)
        items = candidate.embedding
        if self.queue is not None:
            items = _scale_gradient(items, self._queue_factor(self.queue, tf.size(query_of)))
        logits = tf.matmul(query, items, transpose_b=True) / self.temperature
        bias = self._bias(candidate)
        bias = tf.zeros_like(count) if bias is None else bias
        negative = tf.gather(logits + bias + tf.math.log(count), query_of)
        own_bias = tf.gather(bias, positive_of)
        valid = tf.range(tf.size(count)) != positive_of[:, None]
        valid = tf.logical_and(valid, count > 0)
        if given.mask_known:
            valid = tf.logical_and(valid, tf.logical_not(tf.gather(batch[KNOWN], query_of)))
        others = tf.reduce_sum(count) - tf.gather(count, positive_of)
        if self.queue is not None:
            queued, queued_valid = self._queued(self.queue, query, candidate, bias)
            negative = tf.concat([negative, queued], axis=1)
            valid = tf.concat([valid, queued_valid], axis=1)
            others += tf.reduce_sum(tf.cast(queued_valid, tf.float32), axis=1)
        if given.corrected_logq:
            own_bias = -corrected_log_q(-own_bias, others)
        return sampled_softmax(
            positive / self.temperature + own_bias,
            negative,
            valid,
            smoothing=given.label_smoothing,
        )

    def _queue_factor(self, queue: CrossBatchQueue, n: tf.Tensor) -> tf.Tensor:
        """The factor of the gradient of the batch's items as negatives, a float32 scalar.

        Queued items have no gradient. Only n of the n + m negatives would then push the batch's
        items away from queries, while all positives attract them: items converge to the mean of
        their users, and popular items become indistinguishable. An item is in the queue m / n times
        as often as in the batch, so its gradient as a negative is multiplied by (n + m) / n.

        The paper does not do this. Without it, valid NDCG@10 on ML-100K was .13 with a queue of one
        batch and .05 with a queue of four; with it, .23 and .24.
        """
        m = tf.reduce_sum(tf.cast(queue.read().valid, tf.float32))
        return 1.0 + m / tf.cast(n, tf.float32)

    def _queued(
        self, queue: CrossBatchQueue, query: tf.Tensor, candidate: Candidate, bias: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Score the queued items, then push the batch's positives, each as often as it is one.

        Returns the corrected scores float32 [n, m], and which of them are negatives, bool [n, m].
        """
        batch = candidate.metadata
        query_of, positive_of = batch[QUERY_OF], batch[POSITIVE_OF]
        queued = queue.read()
        scores = tf.matmul(query, queued.embeddings, transpose_b=True) / self.temperature
        scores = tf.gather(tf.where(queued.valid, scores - queued.log_q, 0.0), query_of)
        own = tf.cast(tf.gather(batch[ROW], positive_of), tf.int64)
        valid = tf.logical_and(queued.valid, queued.rows != own[:, None])
        vectors = tf.gather(candidate.embedding, positive_of)
        queue.push(vectors, own, -tf.gather(bias, positive_of))
        return scores, valid


class PairwiseOutput(ObjectiveOutput):
    """A loss of each positive against a few of the step's negatives, see `losses`."""

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        batch, given = candidate.metadata, self.objective
        own, items = tf.gather(query, batch[QUERY_OF]), candidate.embedding
        positive = tf.reduce_sum(own * tf.gather(items, batch[POSITIVE_OF]), axis=1)
        places = self._negatives(batch)
        negative = tf.einsum("nd,nmd->nm", own, tf.gather(items, places))
        valid = places != batch[POSITIVE_OF][:, None]
        if given.mask_known:
            rows = tf.repeat(batch[QUERY_OF][:, None], self._n_drawn, axis=1)
            known = tf.gather_nd(batch[KNOWN], tf.stack([rows, places], axis=-1))
            valid = tf.logical_and(valid, tf.logical_not(known))
        if given.hard > 1:
            columns, valid = hard_negatives(negative, valid, given.per_positive)
            negative = tf.gather(negative, columns, batch_dims=1)
        loss = LOSSES[given.loss]
        if loss.uses_temperature:
            positive, negative = positive / self.temperature, negative / self.temperature
        assert loss.function is not None, f"{given.loss} is not a pairwise loss"
        parameters = loss.parameters(given, self.sampler.n_items)
        return self._mean(loss.function(positive, negative, valid, **parameters), batch)

    @property
    def _n_drawn(self) -> int:
        """Number of negatives that are drawn for each positive."""
        return self.objective.per_positive * self.objective.hard

    def _negatives(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The candidates that are each interaction's negatives, int32 [n, m]."""
        if NEGATIVE_OF in batch:
            return batch[NEGATIVE_OF]
        n = tf.size(batch[POSITIVE_OF])
        places = sample_popularity(n * self._n_drawn, batch[COUNT], 1.0, batch[SEED])
        return tf.cast(tf.reshape(places, [n, self._n_drawn]), tf.int32)


class WholeDataOutput(ObjectiveOutput):
    """The squared error over all pairs of the batch's users and the catalogue."""

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        batch, items = candidate.metadata, candidate.embedding
        own, positives = tf.gather(query, batch[QUERY_OF]), tf.gather(items, batch[POSITIVE_OF])
        return whole_data_squared(
            query,
            items,
            tf.reduce_sum(own * positives, axis=1),
            batch[QUERY_OF],
            batch[POSITIVE_OF],
            share=batch[SHARE],
            unobserved_weight=self.objective.unobserved_weight,
            weight=self._weight(batch),
        )


OUTPUTS: dict[str, type[ObjectiveOutput]] = {
    "softmax": SoftmaxOutput,
    "pairwise": PairwiseOutput,
    "whole_data": WholeDataOutput,
}
"""The output of each kind of loss."""


def objective_output(objective: ObjectiveConfig, **kwargs: Any) -> ObjectiveOutput:
    """Create the output for an objective; for the parameters see `ObjectiveOutput`."""
    return OUTPUTS[LOSSES[objective.loss].kind](objective=objective, **kwargs)


def _scale_gradient(values: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return `values` with their gradient multiplied by `factor`."""
    return factor * values - tf.stop_gradient((factor - 1.0) * values)
