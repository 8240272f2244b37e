"""The same two towers trained by TensorFlow Recommenders, plainly and compiled by XLA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from merlin.schema import Schema, Tags

from benchmarks.training_subjects import DIM, TEMPERATURE, Timed, expanded, item_counts
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData

if TYPE_CHECKING:
    from benchmarks.training_process import Watch


class _SumTower(tf.keras.Model):
    """{name: int [n] or [n, 1]} -> float32 [n, DIM], the normalised sum of embeddings."""

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
    """The model of TFRS's retrieval tutorial with the parts that its Retrieval task offers."""

    def __init__(self, schema: Schema, counts: np.ndarray) -> None:
        super().__init__()
        self.query_encoder = _SumTower(schema.select_by_tag(Tags.USER))
        self.candidate_encoder = _SumTower(schema.select_by_tag(Tags.ITEM))
        self.item_id = schema.select_by_tag(Tags.ITEM_ID).first.name
        self.probability = tf.constant(counts / counts.sum(), tf.float32)
        self.task = tfrs.tasks.Retrieval(
            # Its default is the sum over the rows, the others' their mean.
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
    """TensorFlow Recommenders' Retrieval task."""

    xla = False

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        tf.keras.utils.set_random_seed(config.seed)
        self.data, self.config = data, config
        self.model = _RetrievalModel(schema, item_counts(schema, data))

    def fit(self, watch: Watch) -> tuple[list[float], list[float]]:
        """(seconds, loss of the last batch) of every epoch."""
        timed = Timed(watch)
        optimizer = tf.keras.optimizers.Adam(self.config.learning_rate)
        self.model.compile(optimizer, jit_compile=self.xla)
        self.model.fit(self._batches(), epochs=self.config.epochs, callbacks=[timed], verbose=0)
        return timed.seconds, timed.losses

    def _batches(self) -> tf.data.Dataset:
        """All rows in another order every epoch, batched before they are gathered.

        The tutorial's `.shuffle().batch().cache()` shuffles once and moves rows one by one.
        """
        columns = {name: tf.constant(values) for name, values in expanded(self.data).items()}
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
    """The same with every step compiled by XLA."""

    xla = True
