"""The dual augmented two-tower: what a user's tower knows of items, and an item's of users.

Yu et al., "A Dual Augmented Two-tower Model for Online Large-scale Recommendation" (DLP-KDD 2021).
Towers meet only in their last product. Here every user and every item has one more vector by its
id, which is an input of its own tower and learns to be like what the other tower answers for the
positives. Serving needs nothing for it: it is looked up within the tower.
"""

from __future__ import annotations

import tensorflow as tf
from merlin.schema import ColumnSchema

from twotower.models.objective.softmax import POSITIVE_OF, QUERY_OF

AUGMENTED = "_augmented"  # what a tower has it as among its inputs, beside columns of other names


class AugmentedVector(tf.keras.layers.Layer):
    """Features by name -> float32 [n, dim], the augmented vector of each id int [n, 1] in `column`.

    Unknown ids have that of the out-of-vocabulary one.
    """

    def __init__(self, column: ColumnSchema, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.column = column.name
        self.vectors = tf.keras.layers.Embedding(column.int_domain.max + 1, dim)

    def call(self, inputs):
        return self.vectors(tf.reshape(inputs[self.column], [-1]))

    def compute_output_shape(self, input_shape):
        """One vector a row."""
        return tf.TensorShape([input_shape[self.column][0], self.vectors.output_dim])


class MimicLoss(tf.keras.layers.Layer):
    """Hands on both towers' vectors; in training it adds the adaptive mimic loss, times `weight`.

    The mean of |a_u - p_v|^2 + |a_v - p_u|^2 over the interactions of user u and item v, where a
    are augmented vectors and p what the towers answer, held fixed. (The paper's mean is over
    negatives too, which add nothing to it.) Its category alignment loss, for catalogues where one
    category outnumbers the others, is left out.

    As the `pre` of one of Merlin's outputs it adds to whatever loss that has.
    """

    def __init__(self, query: AugmentedVector, candidate: AugmentedVector, weight: float, **kwargs):
        super().__init__(**kwargs)
        self.query, self.candidate, self.weight = query, candidate, weight

    def call(self, inputs, features, training=False):
        if training:
            users, items = inputs["query"], inputs["candidate"]
            own, others = self.query(features), self.candidate(features)
            # Distinct users and items; the batch has the rows of each interaction.
            query_of, positive_of = features[QUERY_OF], features[POSITIVE_OF]
            users, own = tf.gather(users, query_of), tf.gather(own, query_of)
            items, others = tf.gather(items, positive_of), tf.gather(others, positive_of)
            self.add_loss(self.weight * (_distance(own, items) + _distance(others, users)))
        return inputs

    def compute_output_shape(self, input_shape):
        """As the input's."""
        return input_shape


def _distance(augmented: tf.Tensor, answered: tf.Tensor) -> tf.Tensor:
    """Mean over the rows of [n, dim] of the squared distance; `answered` learns nothing by it."""
    difference = augmented - tf.stop_gradient(answered)
    return tf.reduce_mean(tf.reduce_sum(tf.square(difference), axis=1))
