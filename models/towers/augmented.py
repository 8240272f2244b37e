"""The dual augmented two-tower model: an additional vector that imitates the other tower.

Yu et al., "A Dual Augmented Two-tower Model for Online Large-scale Recommendation" (DLP-KDD 2021).
Plain towers meet only in their final product. Here each user and each item has one more vector,
looked up by its id. It is an input of its own tower, and learns to resemble the other tower's
output for the positives. Serving does not change, as the look-up is a part of the tower.
"""

from __future__ import annotations

import tensorflow as tf
from merlin.schema import ColumnSchema

from twotower.models.batch_keys import POSITIVE_OF, QUERY_OF, WEIGHT

AUGMENTED = "_augmented"  # the name of the vector among the inputs of a tower; not a column's name


class AugmentedVector(tf.keras.layers.Layer):
    """The augmented vectors of ids: features by name -> float32 [n, dim].

    Unknown ids have the vector of the out-of-vocabulary id.

    Parameters
    ----------
    column : ColumnSchema
        The id column, int [n, 1] among the features.
    dim : int
    """

    def __init__(self, column: ColumnSchema, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.column = column.name
        self.vectors = tf.keras.layers.Embedding(column.int_domain.max + 1, dim)

    def call(self, inputs):
        return self.vectors(tf.reshape(inputs[self.column], [-1]))

    def compute_output_shape(self, input_shape):
        """Return [n, dim]."""
        return tf.TensorShape([input_shape[self.column][0], self.vectors.output_dim])


class MimicLoss(tf.keras.layers.Layer):
    """Returns both towers' vectors unchanged; in training it adds the adaptive mimic loss.

    As the `pre` of a Merlin output, it adds to whatever loss that output has.

    Parameters
    ----------
    query, candidate : AugmentedVector
        The augmented vectors of users and of items.
    weight : float
        Factor of the loss.

    Notes
    -----
    The loss is the mean of |a_u - p_v|^2 + |a_v - p_u|^2 over the interactions of user u and item
    v, where a are augmented vectors and p are the towers' outputs, without a gradient. Weights of
    interactions are factors of these distances. (The paper's mean also runs over negatives, which
    add nothing to it.) The paper's category alignment loss, for catalogues that one category
    dominates, is left out.
    """

    def __init__(self, query: AugmentedVector, candidate: AugmentedVector, weight: float, **kwargs):
        super().__init__(**kwargs)
        self.query, self.candidate, self.weight = query, candidate, weight

    def call(self, inputs, features, training=False):
        if training:
            users, items = inputs["query"], inputs["candidate"]
            of_users, of_items = self.query(features), self.candidate(features)
            # The batch has distinct users and items; these are the rows of each interaction.
            query_of, positive_of = features[QUERY_OF], features[POSITIVE_OF]
            users, of_users = tf.gather(users, query_of), tf.gather(of_users, query_of)
            items, of_items = tf.gather(items, positive_of), tf.gather(of_items, positive_of)
            distance = _distance(of_users, items) + _distance(of_items, users)
            if WEIGHT in features:
                distance *= features[WEIGHT]
            self.add_loss(self.weight * tf.reduce_mean(distance))
        return inputs

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape


def _distance(augmented: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Squared distances [n] of the rows of [n, dim]; no gradient flows into `target`."""
    difference = augmented - tf.stop_gradient(target)
    return tf.reduce_sum(tf.square(difference), axis=1)
