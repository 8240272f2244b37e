"""The same two towers trained by TensorFlow Recommenders, with and without XLA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from merlin.schema import Schema, Tags

from benchmarks.training.subjects import (
    DIM,
    TEMPERATURE,
    EpochTimer,
    item_counts,
    training_columns,
)
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData

if TYPE_CHECKING:
    from benchmarks.training.process import Monitor


class _SumTower(tf.keras.Model):
    """The L2-normalised sum of the embeddings of integer columns of shape (n,) or (n, 1)."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.tables = {
            column.name: tf.keras.layers.Embedding(column.int_domain.max + 1, DIM)
            for column in schema
        }

    def call(self, features):
        vectors = [table(tf.reshape(features[name], [-1])) for name, table in self.tables.items()]
        return tf.math.l2_normalize(tf.add_n(vectors), axis=-1)


class _RetrievalModel(tfrs.Model):
    """The model of TFRS's retrieval tutorial, with logQ correction and without accidental hits."""

    def __init__(self, schema: Schema, counts: np.ndarray) -> None:
        super().__init__()
        self.query_encoder = _SumTower(schema.select_by_tag(Tags.USER))
        self.candidate_encoder = _SumTower(schema.select_by_tag(Tags.ITEM))
        self.item_id = schema.select_by_tag(Tags.ITEM_ID).first.name
        self.probability = tf.constant(counts / counts.sum(), tf.float32)
        self.task = tfrs.tasks.Retrieval(
            # The default sums over the rows; the other subjects take the mean.
            loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
            temperature=TEMPERATURE,
            remove_accidental_hits=True,
        )

    def compute_loss(self, inputs, training=False):
        ids = inputs[self.item_id]
        return self.task(
            self.query_encoder(inputs),
            self.candidate_encoder(inputs),
            candidate_sampling_probability=tf.gather(self.probability, ids),
            candidate_ids=ids,
            compute_metrics=False,
        )


class Recommenders:
    """Trains with the Retrieval task of TensorFlow Recommenders."""

    xla = False

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        tf.keras.utils.set_random_seed(config.seed)
        self.data, self.config = data, config
        self.model = _RetrievalModel(schema, item_counts(schema, data))

    def fit(self, monitor: Monitor) -> tuple[list[float], list[float]]:
        """Train; return the seconds and the last batch's loss of every epoch."""
        timer = EpochTimer(monitor)
        optimizer = tf.keras.optimizers.Adam(self.config.learning_rate)
        self.model.compile(optimizer, jit_compile=self.xla)
        self.model.fit(self._batches(), epochs=self.config.epochs, callbacks=[timer], verbose=0)
        return timer.seconds, timer.losses

    def _batches(self) -> tf.data.Dataset:
        """Shuffle all rows every epoch; batch the row numbers before gathering the columns.

        The tutorial's `.shuffle().batch().cache()` shuffles once and moves single rows.
        """
        columns = {
            name: tf.constant(values) for name, values in training_columns(self.data).items()
        }
        rows, size = len(self.data.user_rows), self.config.batch_size
        steps = rows // size

        def epoch(_):
            order = tf.random.shuffle(tf.range(rows))[: steps * size]
            return tf.data.Dataset.from_tensor_slices(tf.reshape(order, [steps, size]))

        return (
            tf.data.Dataset.range(1)
            .flat_map(epoch)
            .map(lambda order: {name: tf.gather(each, order) for name, each in columns.items()})
            .prefetch(tf.data.AUTOTUNE)
            .apply(tf.data.experimental.assert_cardinality(steps))
        )


class CompiledRecommenders(Recommenders):
    """Trains with steps compiled by XLA."""

    xla = True
