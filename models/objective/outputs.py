"""Losses other than the softmax over the batch, as an output of Merlin's two-tower model."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from merlin.models.tf.outputs.sampling.base import Candidate

from twotower.models.objective import losses
from twotower.models.objective.build import OF_COSINES, ObjectiveConfig
from twotower.models.objective.corrections import corrected_log_q, inverse_propensity, mixture_log_q
from twotower.models.objective.negatives import CrossBatchQueue, hard_negatives, sample_popularity
from twotower.models.objective.softmax import (
    COUNT,
    KNOWN,
    NEGATIVE_OF,
    POSITIVE_OF,
    QUERY_OF,
    ROW,
    SEED,
    SHARE,
    InBatchSoftmax,
    grouped_softmax,
)


class SampledOutput(InBatchSoftmax):
    """Merlin's ContrastiveOutput with the loss and the negatives of an `ObjectiveConfig`.

    Parameters
    ----------
    objective : what is minimised
    counts : float [cardinality of the item id], positives of one row of each id, above 0
    positives : int [n_items], positives of each row of the item table
    dim : of the towers' vectors, for a queue of them
    others : of InBatchSoftmax
    """

    def __init__(
        self,
        *args,
        objective: ObjectiveConfig,
        counts: np.ndarray,
        positives: np.ndarray,
        dim: int,
        **kwargs,
    ):
        super().__init__(*args, log_q=objective.log_q(counts, positives), **kwargs)
        self.objective, self.n_items, self.queue = objective, len(positives), None
        if objective.negatives == "cross_batch":
            self.queue = CrossBatchQueue(objective.drawn, dim)
        self.weights_by_row = None
        if objective.propensity_power:
            weights = inverse_propensity(positives, objective.propensity_power, 10.0)
            self.weights_by_row = tf.constant(weights, tf.float32)

    def loss_of(self, query: tf.Tensor, candidate: Candidate) -> tf.Tensor:
        """Scalar loss; see `grouped_softmax` for query [q, D], candidate [c, D] and the batch."""
        batch, loss = candidate.metadata, self.objective.loss
        query_of, positive_of = batch[QUERY_OF], batch[POSITIVE_OF]
        weight = None
        if self.weights_by_row is not None:
            weight = tf.gather(tf.gather(self.weights_by_row, batch[ROW]), positive_of)
        if loss == "softmax" and not self._needs_rows():
            return grouped_softmax(
                *(query, candidate.embedding, query_of, positive_of, batch[COUNT]),
                bias=self._bias(candidate),
                weight=weight,
                temperature=self.temperature,
            )
        own, items = tf.gather(query, query_of), candidate.embedding
        scores = tf.reduce_sum(own * tf.gather(items, positive_of), axis=1)
        if loss == "squared":
            return losses.whole_data_squared(
                query,
                items,
                scores,
                query_of,
                positive_of,
                share=batch[SHARE],
                unobserved_weight=self.objective.unobserved_weight,
            )
        if loss == "softmax":
            by_row = self._softmax_rows(query, candidate, scores)
        else:
            by_row = self._sampled_rows(own, items, scores, batch)
        return tf.reduce_mean(by_row if weight is None else weight * by_row)

    def _needs_rows(self) -> bool:
        """Whether the softmax needs each row's scores at once, [n, c] of them."""
        given = self.objective
        return bool(given.label_smoothing or given.corrected_logq or given.mask_known or self.queue)

    def _log_q(self, candidate: Candidate) -> tf.Tensor:
        """As for any output; that of mixed negatives depends on how many a batch has."""
        log_q = super()._log_q(candidate)
        if self.objective.negatives != "mixed":
            return log_q
        n = tf.size(candidate.metadata[QUERY_OF])
        return mixture_log_q(log_q, n, self.objective.drawn, self.n_items)

    def _softmax_rows(self, query, candidate: Candidate, score: tf.Tensor) -> tf.Tensor:
        """The softmax's loss of each row, float32 [n], from all its scores."""
        batch, given = candidate.metadata, self.objective
        query_of, positive_of = batch[QUERY_OF], batch[POSITIVE_OF]
        count = tf.cast(batch[COUNT], tf.float32)
        items = candidate.embedding
        if self.queue is not None:
            items = self._pushed_for_all(items, tf.size(query_of))
        logits = tf.matmul(query, items, transpose_b=True) / self.temperature
        bias = self._bias(candidate)
        bias = tf.zeros_like(count) if bias is None else bias
        negative = tf.gather(logits + bias + tf.math.log(count), query_of)
        score = score / self.temperature
        own = tf.gather(bias, positive_of)
        valid = tf.range(tf.size(count)) != positive_of[:, None]
        valid = tf.logical_and(valid, count > 0)
        if given.mask_known:
            valid = tf.logical_and(valid, tf.logical_not(tf.gather(batch[KNOWN], query_of)))
        others = tf.reduce_sum(count) - tf.gather(count, positive_of)
        if self.queue is not None:
            scores, there = self._queued(query, candidate, bias)
            negative = tf.concat([negative, scores], axis=1)
            valid = tf.concat([valid, there], axis=1)
            others += tf.reduce_sum(tf.cast(there, tf.float32), axis=1)
        if given.corrected_logq:
            own = -corrected_log_q(-own, others)
        return losses.sampled_softmax(score + own, negative, valid, smoothing=given.label_smoothing)

    def _pushed_for_all(self, items: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
        """`items`, the batch's candidates as negatives, with the gradient of the queue's as well.

        Items of the queue get no gradient. Only n of the n + m negatives would then push the items
        of the batch away from queries, while all positives pull: items end at the mean of their
        users, and popular items are not told from others. An item is in the queue m / n times as
        often as in the batch, so its push is multiplied by (n + m) / n. Not in the paper; without
        it valid
        NDCG@10 on ML-100K was .13 with a queue of a batch's size and .05 with one of four, with it
        .23 and .24.
        """
        m = tf.reduce_sum(tf.cast(self.queue.read()[-1], tf.float32))
        times = 1.0 + m / tf.cast(n, tf.float32)
        return times * items - tf.stop_gradient((times - 1.0) * items)

    def _queued(
        self, query: tf.Tensor, candidate: Candidate, bias: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores of the queue, corrected, float32 [n, m]; which are negatives, bool [n, m].

        Then the batch's positives enter it, each as often as it is one.
        """
        batch = candidate.metadata
        query_of, positive_of = batch[QUERY_OF], batch[POSITIVE_OF]
        embeddings, queued, minus_bias, filled = self.queue.read()
        scores = tf.matmul(query, embeddings, transpose_b=True) / self.temperature
        scores = tf.gather(tf.where(filled, scores - minus_bias, 0.0), query_of)
        own = tf.cast(tf.gather(batch[ROW], positive_of), tf.int64)
        valid = tf.logical_and(filled, queued != own[:, None])
        vectors = tf.gather(candidate.embedding, positive_of)
        self.queue.push(vectors, own, -tf.gather(bias, positive_of))
        return scores, valid

    def _sampled_rows(self, own, items, score: tf.Tensor, batch) -> tf.Tensor:
        """The loss of each row against a few negatives of the step's, float32 [n]."""
        given, positive_of = self.objective, batch[POSITIVE_OF]
        n, drawn = tf.size(positive_of), given.per_positive * given.hard
        if NEGATIVE_OF in batch:
            places = batch[NEGATIVE_OF]
        else:
            places = sample_popularity(n * drawn, batch[COUNT], 1.0, batch[SEED])
            places = tf.cast(tf.reshape(places, [n, drawn]), tf.int32)
        negative = tf.einsum("nd,nmd->nm", own, tf.gather(items, places))
        valid = places != positive_of[:, None]
        if given.mask_known:
            rows = tf.repeat(batch[QUERY_OF][:, None], drawn, axis=1)
            known = tf.gather_nd(batch[KNOWN], tf.stack([rows, places], axis=-1))
            valid = tf.logical_and(valid, tf.logical_not(known))
        if given.hard > 1:
            columns, valid = hard_negatives(negative, valid, given.per_positive)
            negative = tf.gather(negative, columns, batch_dims=1)
        if given.loss not in OF_COSINES:
            score, negative = score / self.temperature, negative / self.temperature
        return self._function()(score, negative, valid)

    def _function(self):
        """The loss of models/losses.py with its parameters."""
        given = self.objective
        margin = {} if given.margin is None else {"margin": given.margin}
        if given.loss == "hinge":
            return functools.partial(losses.hinge, **margin)
        if given.loss == "cosine_contrastive":
            parameters = {**margin, "weight": given.negative_weight}
            return functools.partial(losses.cosine_contrastive, **parameters)
        if given.loss == "gbce":
            parameters = {"candidates": max(self.n_items, 2), "t": given.calibration}
            return functools.partial(losses.gbce, **parameters)
        names = {"bce": losses.binary_cross_entropy, "bpr": losses.bpr}
        return names.get(given.loss, losses.cosine_regression)
