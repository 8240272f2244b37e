"""Training of sequence models: each position of a sequence predicts the next item, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from tensorflow.random.experimental import stateless_fold_in

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.errors import ModelError
from twotower.models.objective.losses import gbce, sampled_softmax
from twotower.models.objective.sampling import sample_distinct
from twotower.models.objective.softmax import grouped_softmax
from twotower.models.sequence.batches import Sequences, Windows, batch_of, epoch_windows
from twotower.models.sequence.layers import dropped
from twotower.models.sequence.tower import sequence_tower
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embed, embedding_tables

RARE = 0.1
"""Fraction of the items, those with the fewest positives, whose mean unknown items start from."""


class SequenceTrainer:
    """Trains a sequence model one epoch after another.

    Parameters
    ----------
    tower : TwoTower
        Its model has an optimizer, which counts the steps.
    data : TrainingData
        With the order of each user's positives.
    config : TrainingConfig

    Raises
    ------
    ModelError
        If no user has two items.
    """

    def __init__(self, tower: TwoTower, data: TrainingData, config: TrainingConfig):
        assert tower.config.sequence is not None
        self.tower, self.data, self.config = tower, data, config
        self.sequence, self.model = tower.config.sequence, tower.model
        self.query = sequence_tower(self.model)
        item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
        codes = data.items[item_id][:, 0]
        rows = np.flatnonzero((data.positives_per_item > 0) & (codes > OUT_OF_VOCABULARY))
        number = np.full(data.n_items, -1)
        number[rows] = np.arange(len(rows))
        self.sequences = Sequences(*data.sequences()).kept(number)
        if not (np.diff(self.sequences.offsets) > 1).any():
            raise ModelError(
                "model.sequence predicts each user's next item, but no user has two known items in "
                "the training part; remove this setting"
            )
        # A function, so that Keras does not track the tables.
        columns = {name: tf.constant(values[rows]) for name, values in data.items.items()}
        self.columns = columns
        self.codes = tf.constant(codes[rows])
        self.n_items = len(rows)

    @property
    def variables(self) -> list[tf.Variable]:
        """What the optimizer changes."""
        return self.model.trainable_variables

    def batches(self, epoch: int) -> list[Windows]:
        """Return the windows of each batch of an epoch, from 0."""
        return epoch_windows(
            self.sequences,
            length=self.query.length,
            stride=self.sequence.stride or self.query.length,
            batch_size=self.config.batch_size,
            seed=[self.config.seed, epoch],
        )

    def step(self, batch: Windows) -> float:
        """Train on a batch, and return its loss."""
        arrays = batch_of(self.sequences, batch)
        inputs, places, targets = map(tf.constant, (arrays.inputs, arrays.places, arrays.targets))
        return float(self._compiled_step(inputs, places, targets))

    def finish_epoch(self) -> None:
        """Bring the tables of the towers up to date."""
        copy_item_vectors(self.tower, self.data)

    @property
    def steps_per_epoch(self) -> int:
        """About how many steps an epoch has."""
        predicted = np.maximum(np.diff(self.sequences.offsets) - 1, 0).sum()
        return max(1, round(predicted / self.config.batch_size))

    @cached_property
    def _compiled_step(self) -> Callable[..., tf.Tensor]:
        matrix, vector = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
        function = tf.function(input_signature=[matrix, vector, vector], autograph=False)
        return function(self._update_weights)

    def _update_weights(
        self, inputs: tf.Tensor, places: tf.Tensor, targets: tf.Tensor
    ) -> tf.Tensor:
        optimizer, variables = self.model.optimizer, self.model.trainable_variables
        seed = stateless_fold_in([self.config.seed, 1], optimizer.iterations)
        with tf.GradientTape() as tape:
            loss, of_start = self.losses(inputs, places, targets, seed)
            total = loss + of_start
        gradients = tape.gradient(total, variables)
        optimizer.apply_gradients(
            (gradient, variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            if gradient is not None
        )
        return loss

    def losses(
        self, inputs: tf.Tensor, places: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute the loss of a batch, and that of the vector of an empty history.

        Parameters
        ----------
        inputs, places, targets : Tensor of int32
            See `Batch`.
        seed : Tensor of int32, shape (2,)

        Returns
        -------
        loss, of_start : Tensor of float32, shape ()
            The mean cross-entropy of the targets among all items, or among `negatives` of them.
        """
        negatives = min(self.sequence.negatives or self.n_items, self.n_items)
        if negatives == self.n_items and self.sequence.loss == "softmax":
            vectors = self._item_vectors()
            queries = self._queries(inputs, places, vectors, stateless_fold_in(seed, 1))
            return self._full_losses(queries, targets, vectors)
        drawn = sample_distinct(negatives, self.n_items, stateless_fold_in(seed, 0))
        read = tf.reshape(tf.maximum(inputs, 0), [-1])
        items, place = tf.unique(tf.concat([drawn, targets, read], 0))
        vectors, after = self._item_vectors(items), negatives + tf.size(targets)
        number = tf.where(inputs < 0, -1, tf.reshape(place[after:], tf.shape(inputs)))
        queries = self._queries(number, places, vectors, stateless_fold_in(seed, 1), items)
        others, own, _ = tf.split(tf.gather(vectors, place), [negatives, tf.size(targets), -1])
        return self._sampled_losses(queries, targets, drawn, own, others)

    def _full_losses(
        self, queries: tf.Tensor, targets: tf.Tensor, vectors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        config, each = self.tower.config, tf.range(tf.size(targets))
        precision = tf.as_dtype(config.softmax_precision)
        scores = {
            "count": tf.ones([self.n_items]),
            "temperature": config.temperature,
            "precision": precision,
        }
        loss = grouped_softmax(queries, vectors, each, targets, **scores)
        # An empty history learns from all targets, without an effect on the items.
        start, items = self._normalized(self.query.start[None]), tf.stop_gradient(vectors)
        return loss, grouped_softmax(start, items, tf.zeros_like(targets), targets, **scores)

    def _sampled_losses(
        self,
        queries: tf.Tensor,
        targets: tf.Tensor,
        drawn: tf.Tensor,
        own: tf.Tensor,
        others: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The losses with `drawn` items as negatives; `own` and `others` are the items' vectors.

        In a softmax a drawn item stands for n_items / negatives items, so that the sum over the
        drawn ones estimates that over all (Jean et al., ACL 2015).
        """
        valid = targets[:, None] != drawn[None, :]
        temperature = self.tower.config.temperature

        def loss_of(query, own, others):
            positive = tf.reduce_sum(query * own, axis=1) / temperature
            negative = tf.matmul(query, others, transpose_b=True) / temperature
            negative = tf.broadcast_to(negative, tf.shape(valid))
            if self.sequence.loss == "gbce":
                return tf.reduce_mean(gbce(positive, negative, valid, candidates=self.n_items))
            negative += math.log((self.n_items - 1) / drawn.shape[0])
            return tf.reduce_mean(sampled_softmax(positive, negative, valid))

        start = self._normalized(self.query.start[None])
        of_start = loss_of(start, tf.stop_gradient(own), tf.stop_gradient(others))
        return loss_of(queries, own, others), of_start

    def _item_vectors(self, items: tf.Tensor | None = None) -> tf.Tensor:
        """The candidate tower's vectors of `items`, by default of all, float32 [n, dim]."""
        columns = self.columns
        if items is not None:
            columns = {name: tf.gather(values, items) for name, values in columns.items()}
        return self.model.candidate_encoder(columns, training=True)

    def _queries(
        self,
        inputs: tf.Tensor,
        places: tf.Tensor,
        vectors: tf.Tensor,
        seed: tf.Tensor,
        items: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The query vectors at `places`, float32 [m, dim].

        `inputs` are rows of `vectors`, whose items are `items`, by default all.
        """
        known, rows = tf.cast(inputs >= 0, tf.float32), tf.maximum(inputs, 0)
        codes = self.codes if items is None else tf.gather(self.codes, items)
        x = self.query.inputs(vectors, codes, rows) * (known * self.query.scale)[..., None]
        x = dropped(x, self.sequence.dropout, stateless_fold_in(seed, 0))
        every = self.query.layer.every(x, known, stateless_fold_in(seed, 1))
        return self._normalized(tf.gather(tf.reshape(every, [-1, every.shape[-1]]), places))

    def _normalized(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(vectors, axis=-1) if self.tower.config.normalize else vectors


def copy_item_vectors(tower: TwoTower, data: TrainingData) -> None:
    """Give the query tower the input vectors of items, and an embedding to unknown items.

    The id of an unknown item gets the mean embedding of the rarest items, so that such an item is
    recommended as rarely as those, except for what its features say.

    Parameters
    ----------
    tower : TwoTower
        A sequence model, whose weights are changed.
    data : TrainingData
    """
    query = sequence_tower(tower.model)
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
    codes, counts = data.items[item_id][:, 0], data.positives_per_item
    known = np.flatnonzero(codes > OUT_OF_VOCABULARY)
    table = embedding_tables(tower.model)[item_id].table.embeddings
    rare = known[np.argsort(counts[known], kind="stable")[: max(1, round(RARE * len(known)))]]
    unknown = tf.reduce_mean(tf.gather(table, codes[rare]), axis=0, keepdims=True)
    table.scatter_update(tf.IndexedSlices(unknown, [OUT_OF_VOCABULARY]))
    if query.own is not None:
        # A new item has no vector of its own before it is trained.
        nothing = tf.zeros([OUT_OF_VOCABULARY + 1, query.own.shape[1]])
        query.own.scatter_update(tf.IndexedSlices(nothing, tf.range(OUT_OF_VOCABULARY + 1)))
    vectors = embed(tower.model.candidate_encoder, {n: v[known] for n, v in data.items.items()})
    inputs = query.inputs(vectors, codes[known], np.arange(len(known)))
    query.items.scatter_update(tf.IndexedSlices(inputs, codes[known]))
