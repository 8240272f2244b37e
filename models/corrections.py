"""Corrections for how candidates come to be seen: sampled often as negatives, shown often at all.

Everything that says Q is a probability by row of the catalogue. What samplers prefer is taken off
the scores as its logarithm: `contrastive_softmax(positive_bias=-log_q, negative_bias=-log_q)`.
"""

from __future__ import annotations

import tensorflow as tf


def log_q(counts: tf.Tensor, power: float = 1.0) -> tf.Tensor:
    """Logarithm of the share of counts ** power, float32 [catalogue].

    In-batch negatives are drawn with power 1, uniform ones with power 0, which is -log(catalogue)
    for all; in between are word2vec's (Mikolov et al., NIPS 2013: 0.75). -inf where nothing is
    drawn: for power > 0 at a count of 0.

    Parameters
    ----------
    counts : int or float [catalogue], 0 or more, some above 0
    """
    share = tf.pow(tf.cast(counts, tf.float64), power)
    return tf.cast(tf.math.log(share / tf.reduce_sum(share)), tf.float32)
